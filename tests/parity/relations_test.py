"""Tags of words against transformers' BertForTokenClassification, at random weights."""

import jax
import numpy as np
import torch
import transformers

from big_vision_like.models import bert, relations
from big_vision_like.weights import bert_names, tree

HEADS = 4
MODEL = relations.Relations(
  bert.Bert(
    vocab_size=61,
    width=24,
    depth=3,
    num_heads=HEADS,
    mlp_dim=40,
    max_length=20,
    pooler=False,
  ),
  num_kinds=3,
  num_relations=2,
)
TOKENS = np.random.default_rng(0).integers(0, 61, (3, 9))
SEEN = np.arange(9)[None] < np.array([[9], [6], [2]])


def test_tags():
  config = transformers.BertConfig(
    vocab_size=61,
    hidden_size=24,
    num_hidden_layers=3,
    num_attention_heads=HEADS,
    intermediate_size=40,
    max_position_embeddings=20,
    attn_implementation='eager',
    num_labels=7,
  )
  torch.manual_seed(0)
  model = transformers.BertForTokenClassification(config).eval()
  with torch.no_grad():
    for parameter in model.parameters():
      parameter.add_(0.2 * torch.randn_like(parameter))
    theirs = model(
      input_ids=torch.from_numpy(TOKENS), attention_mask=torch.from_numpy(SEEN * 1)
    ).logits.numpy()
  state = {name: x.detach().numpy() for name, x in model.state_dict().items()}
  head = {
    'tags/kernel': state.pop('classifier.weight').T,
    'tags/bias': state.pop('classifier.bias'),
  }
  encoder = tree.flatten(bert_names.from_state(state, HEADS))
  # Every token is the first piece of a word.
  inputs = TOKENS, SEEN, np.tile(np.arange(9)[None], (3, 1)), SEEN
  shapes = jax.eval_shape(MODEL.init, jax.random.key(0), *inputs)['params']
  flat = {f'encoder/{name}': array for name, array in encoder.items()} | head
  flat |= {
    name: np.zeros(x.shape, 'float32')
    for name, x in tree.flatten(shapes).items()
    if name.startswith(('subject', 'object', 'relations'))
  }
  assert flat.keys() == tree.flatten(shapes).keys()
  ours = jax.jit(MODEL.apply)({'params': tree.unflatten(flat)}, *inputs)['tags']
  assert np.abs(theirs).max() > 0.5
  np.testing.assert_allclose(np.asarray(ours)[SEEN], theirs[SEEN], atol=1e-5)
