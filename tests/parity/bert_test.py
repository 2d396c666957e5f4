"""BERT and VisualBERT against transformers at random weights, and ViLBERT's text.

Runs under `make parity`, where torch and transformers are installed.
"""

import jax
import numpy as np
import pytest
import torch
import transformers

from big_vision_like.data.text import wordpiece
from big_vision_like.layers import pairs
from big_vision_like.models import bert, vilbert, visual_bert
from big_vision_like.weights import bert_names, tree, visual_bert_names

SIZES = dict(vocab_size=61, width=24, depth=3, num_heads=4, mlp_dim=40, max_length=20)
THEIRS = dict(
  vocab_size=61,
  hidden_size=24,
  num_hidden_layers=3,
  num_attention_heads=4,
  intermediate_size=40,
  max_position_embeddings=20,
  attn_implementation='eager',
)
RNG = np.random.default_rng(0)
TOKENS = RNG.integers(0, 61, (3, 9))
TYPES = np.repeat([[0] * 5 + [1] * 4], 3, axis=0)
SEEN = np.arange(9)[None] < np.array([[9], [6], [2]])
REGIONS = RNG.normal(size=(3, 5, 14)).astype(np.float32)
SEEN_REGIONS = np.arange(5)[None] < np.array([[5], [3], [1]])
LOCATIONS = RNG.uniform(size=(3, 5, 5)).astype(np.float32)


def moved(model):
  """Returns the model in evaluation mode, all parameters away from their start."""
  torch.manual_seed(0)
  with torch.no_grad():
    for parameter in model.parameters():
      parameter.add_(0.2 * torch.randn_like(parameter))
  return model.eval()


def state_of(model):
  return {name: x.numpy() for name, x in model.state_dict().items()}


def assert_near(ours, theirs, seen=None):
  theirs = theirs.numpy()
  error = np.abs(np.asarray(ours) - theirs)
  assert (error if seen is None else error[seen]).max() < 1e-5
  assert np.abs(theirs).max() > 0.5  # the compared values are not all small


@pytest.fixture(scope='module')
def pretrained():
  config = transformers.BertConfig(**THEIRS)
  return moved(transformers.BertForPreTraining(config))


def ids(array):
  return torch.from_numpy(np.asarray(array, np.int64))


def test_bert(pretrained):
  given = dict(
    input_ids=ids(TOKENS), token_type_ids=ids(TYPES), attention_mask=ids(SEEN)
  )
  with torch.no_grad():
    want = pretrained(**given)
    encoded = pretrained.bert(**given)
  model = bert.Bert(**SIZES, heads=bert.HEADS)
  params = bert_names.from_state(state_of(pretrained), num_heads=4)
  got = jax.jit(model.apply)({'params': params}, TOKENS, TYPES, SEEN)
  assert_near(got['text'], encoded.last_hidden_state, SEEN)
  assert_near(got['pooled_text'], encoded.pooler_output)
  assert_near(got['words'], want.prediction_logits, SEEN)
  assert_near(got['next_text'], want.seq_relationship_logits)


def test_names_of_bert_go_both_ways(pretrained):
  state = state_of(pretrained)
  back = bert_names.to_state(bert_names.from_state(state, num_heads=4))
  assert state.keys() - back.keys() == {*bert_names.TIED}
  for name in back:
    np.testing.assert_array_equal(back[name], state[name], err_msg=name)
  state = {name: torch.from_numpy(x) for name, x in back.items()}
  missing, unexpected = pretrained.load_state_dict(state, strict=False)
  assert {*missing} <= {*bert_names.TIED} and not unexpected


def test_streams_without_connections_are_berts(pretrained):
  params = bert_names.from_state(state_of(pretrained), num_heads=4)
  model = vilbert.ViLBERT(
    **SIZES,
    image_width=16,
    image_depth=1,
    image_heads=2,
    image_mlp_dim=24,
    joint_width=24,
    joint_heads=2,
    text_places=(),
    image_places=(),
  )
  inputs = TOKENS, TYPES, SEEN, REGIONS, LOCATIONS, SEEN_REGIONS
  own = jax.jit(model.init)(jax.random.key(0), *inputs)['params']
  text = {f'text_{name}': params[name] for name in ('embeddings', 'encoder')}
  got = jax.jit(model.apply)({'params': {**own, **text}}, *inputs)
  with torch.no_grad():
    want = pretrained.bert(
      input_ids=ids(TOKENS), token_type_ids=ids(TYPES), attention_mask=ids(SEEN)
    )
  assert_near(got['text'], want.last_hidden_state, SEEN)


def test_visual_bert():
  config = transformers.VisualBertConfig(**THEIRS, visual_embedding_dim=14)
  theirs = moved(transformers.VisualBertForPreTraining(config))
  given = dict(
    input_ids=ids(TOKENS),
    token_type_ids=ids(TYPES),
    attention_mask=ids(SEEN),
    visual_embeds=torch.from_numpy(REGIONS),
    visual_attention_mask=ids(SEEN_REGIONS),
  )
  with torch.no_grad():
    want = theirs(**given)
    encoded = theirs.visual_bert(**given)
  heads = dict(words=pairs.Words(), alignment=pairs.Classes(2))
  model = visual_bert.VisualBert(**SIZES, heads=heads)
  state = state_of(theirs)
  params = visual_bert_names.from_state(state, num_heads=4)
  inputs = TOKENS, TYPES, SEEN, REGIONS, LOCATIONS, SEEN_REGIONS
  got = jax.jit(model.apply)({'params': params}, *inputs)
  length = TOKENS.shape[1]
  assert_near(got['text'], encoded.last_hidden_state[:, :length], SEEN)
  assert_near(got['image'], encoded.last_hidden_state[:, length:], SEEN_REGIONS)
  assert_near(got['pooled_text'], encoded.pooler_output)
  assert_near(got['words'], want.prediction_logits[:, :length], SEEN)
  assert_near(got['alignment'], want.seq_relationship_logits)
  back = visual_bert_names.to_state(params)
  assert state.keys() - back.keys() == {*bert_names.TIED}
  for name in back:
    np.testing.assert_array_equal(back[name], state[name], err_msg=name)
  assert (
    tree.flatten(params).keys()
    == tree.flatten(
      jax.eval_shape(model.init, jax.random.key(0), *inputs)['params']
    ).keys()
  )


TEXTS = [
  'A man riding a wave on top of a surfboard.',
  "It's NOT the dog's ball, is it?",
  'Café naïve ÅNGSTRÖM Straße 3.5kg',
  '北京 is a city; \u200bzero\u00a0width\tand\nlines\x85end',
  'unbelievablyverylongword' * 6,
  '',
  '@#$%^&*() […] “quotes” — dash',
]


def test_word_pieces(tmp_path):
  path = tmp_path / 'vocab.txt'
  path.write_bytes(wordpiece.train(TEXTS[:3] + TEXTS[6:], 150))
  theirs = transformers.BertTokenizer.from_pretrained(str(tmp_path))
  ours = wordpiece.WordPiece(str(path))
  unknown = 0
  for text in TEXTS:
    want = theirs(text)['input_ids']
    assert [ours.cls_id, *ours.encode(text), ours.sep_id] == want, text
    unknown += ours.unk_id in want
  assert unknown  # pieces that are missing are compared as well
  assert ours.decode(ours.encode(TEXTS[0])) == theirs.decode(
    ours.encode(TEXTS[0]), clean_up_tokenization_spaces=False
  )
