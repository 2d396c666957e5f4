"""Tests of our Transformer against transformers' MarianMTModel with random weights.

Ours is read from a folder. Runs under `make parity`, where torch and transformers are
installed.
"""

import functools

import jax
import marian_folder
import numpy as np
import pytest
import torch
import transformers

from big_vision_like.data.text import marian as marian_vocabulary
from big_vision_like.models import transformer
from big_vision_like.ops import losses
from big_vision_like.tasks import seq2seq
from big_vision_like.weights import marian, tree

PAD, EOS = 39, 0
SIZES = dict(
  vocab_size=40,
  d_model=32,
  encoder_layers=2,
  decoder_layers=3,
  encoder_attention_heads=4,
  decoder_attention_heads=4,
  encoder_ffn_dim=64,
  decoder_ffn_dim=64,
  max_position_embeddings=64,
  dropout=0.0,
  pad_token_id=PAD,
  eos_token_id=EOS,
  decoder_start_token_id=PAD,
  forced_eos_token_id=None,
)
SOURCE = np.full((4, 9), PAD)
for row, ids in enumerate([[5, 9, 3, 7, 2, 30, 31, 8], [4, 4], [1, 38, 2, 6, 5], []]):
  SOURCE[row, : len(ids) + 1] = [*ids, EOS]
TARGET = np.full((4, 6), PAD)
for row, ids in enumerate([[6, 7, 8, 9, 10], [2], [], [11, 3, 12]]):
  TARGET[row, : len(ids) + 1] = [*ids, EOS]
REAL = TARGET != PAD
EXTRA = 6  # how much longer than the source an output may be


def make(seed=0, activation='swish', scale=True):
  """Returns their model, with no parameter at a constant."""
  torch.manual_seed(seed)
  config = transformers.MarianConfig(
    **SIZES, activation_function=activation, scale_embedding=scale
  )
  theirs = transformers.MarianMTModel(config).eval()
  with torch.no_grad():
    for name, parameter in theirs.named_parameters():
      if 'embed_positions' not in name:
        parameter.add_(0.2 * torch.randn_like(parameter))
    theirs.final_logits_bias.copy_(0.5 * torch.randn(1, 40))
  return theirs


@functools.cache
def learnt(seed, steps=150):
  """Returns their model after it has learned a little to copy, so that outputs end.

  With random weights it repeats one token forever.
  """
  theirs = make(seed)
  optimizer = torch.optim.Adam(theirs.parameters(), 3e-3)
  for _ in range(steps):
    ids = torch.randint(1, PAD, (64, 9))
    column, length = torch.arange(9)[None], torch.randint(1, 9, (64, 1))
    ids = torch.where(column < length, ids, EOS).where(column <= length, PAD)
    loss = theirs(
      input_ids=ids,
      attention_mask=(ids != PAD).long(),
      labels=ids.masked_fill(ids == PAD, -100),
    ).loss
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()
  return theirs


def read(theirs, folder, **search):
  theirs.save_pretrained(folder)
  config, params = marian.read_folder(folder)
  task = seq2seq.Seq2Seq(
    model=transformer.Transformer(**config.model_args),
    optimizer=None,
    bos_id=config.bos_id,
    eos_id=config.eos_id,
    never=config.never,
    extra_length=EXTRA,
    **search,
  )
  return task, {'params': params}


def generate(theirs, **arguments):
  source = torch.from_numpy(SOURCE)
  found = theirs.generate(
    source,
    attention_mask=(source != PAD).long(),
    do_sample=False,
    bad_words_ids=[[PAD]],
    max_new_tokens=SOURCE.shape[1] + EXTRA,
    return_dict_in_generate=True,
    **arguments,
  )
  return cut(found.sequences.numpy()[:, 1:]), found


def cut(ids):
  """Truncates rows after the first EOS."""
  rows = []
  for row in np.asarray(ids).tolist():
    rows.append(row[: row.index(EOS) + 1] if EOS in row else row)
  return rows


@pytest.mark.parametrize('activation', ['swish', 'relu', 'gelu'])
@pytest.mark.parametrize('scale', [True, False])
def test_layers_logits_and_loss(tmp_path, activation, scale):
  theirs = make(activation=activation, scale=scale)
  task, variables = read(theirs, tmp_path)
  labels = torch.from_numpy(np.where(REAL, TARGET, -100))
  source = torch.from_numpy(SOURCE)
  with torch.no_grad():
    want = theirs(
      input_ids=source,
      attention_mask=(source != PAD).long(),
      labels=labels,
      output_hidden_states=True,
    )
  inputs = task.model_inputs({'source': SOURCE, 'target': TARGET})
  got, collected = jax.jit(
    lambda v, *x: task.model.apply(
      v, *x, capture_intermediates=True, mutable=['intermediates']
    )
  )(variables, *inputs)
  layers = collected['intermediates']
  pairs = [
    (got['memory'], want.encoder_last_hidden_state, SOURCE != PAD),
    (got['logits'], want.logits, REAL),
  ]
  stacks = {
    'encoder': (want.encoder_hidden_states, SOURCE != PAD),
    'decoder': (want.decoder_hidden_states, REAL),
  }
  for stack, (states, real) in stacks.items():
    for i, state in enumerate(states[1:]):
      pairs.append((layers[stack][f'block_{i}']['__call__'][0], state, real))
  assert len(pairs) == 2 + 2 + 3
  for mine, other, real in pairs:
    assert np.abs(np.asarray(mine) - other.numpy())[real].max() < 2e-5
  loss = losses.smoothed_cross_entropy(got['logits'], TARGET, 0.0)[REAL].mean()
  np.testing.assert_allclose(loss, want.loss, rtol=0, atol=1e-5)


def log_probability(theirs, row, ids):
  """Returns their model's log probability of ids, including EOS, for one source."""
  source, target = torch.from_numpy(SOURCE[row : row + 1]), torch.tensor([ids])
  with torch.no_grad():
    logits = theirs(
      input_ids=source,
      attention_mask=(source != PAD).long(),
      decoder_input_ids=torch.tensor([[PAD, *ids[:-1]]]),
    ).logits
  return logits.log_softmax(-1).gather(2, target[..., None]).sum().item()


@pytest.mark.parametrize('seed', range(3))
def test_greedy(tmp_path, seed):
  theirs = learnt(seed)
  task, variables = read(theirs, tmp_path)
  want, _ = generate(theirs, num_beams=1)
  assert len(set(map(tuple, want))) == 4 and all(row[-1] == EOS for row in want)
  got = cut(jax.jit(task.search_greedy)(variables, SOURCE))
  assert got == want


@pytest.mark.parametrize('seed', range(3))
def test_beams(tmp_path, seed):
  """Checks beam search without length normalization, where both scoring rules agree.

  The searches differ in two points: ours lets any of the 2 K best candidates end,
  theirs only those among the K best; and theirs counts truncated sequences as ended.
  """
  beams = 5
  theirs = learnt(seed)
  task, variables = read(theirs, tmp_path, beams=beams, alpha=0.0)
  want, found = generate(
    theirs,
    num_beams=beams,
    num_return_sequences=beams,
    length_penalty=0.0,
    early_stopping='never',
    output_scores=True,
  )
  want_scores = found.sequences_scores.reshape(-1, beams).numpy()
  ids, scores = jax.tree.map(np.asarray, jax.jit(task.search_beams)(variables, SOURCE))
  same_best = 0
  for row in range(len(SOURCE)):
    mine = dict(zip(map(tuple, cut(ids[row])), scores[row].tolist(), strict=True))
    other = dict(zip(map(tuple, want[row * beams :]), want_scores[row], strict=False))
    assert len(mine) == len(other) == beams
    for sequence, score in mine.items():
      assert abs(score - log_probability(theirs, row, list(sequence))) < 1e-4
    shared = mine.keys() & other.keys()
    assert shared and all(abs(mine[x] - other[x]) < 1e-4 for x in shared)
    assert scores[row, 0] > want_scores[row, 0] - 1e-4
    same_best += max(mine, key=mine.get) == max(other, key=other.get)
  assert same_best >= 3


def test_parameters_go_back(tmp_path):
  theirs = make()
  _, variables = read(theirs, tmp_path)
  back = marian.to_marian(tree.stack_blocks(variables['params']))
  other = make(seed=1)
  result = other.load_state_dict(
    {name: torch.from_numpy(x) for name, x in back.items()}, strict=False
  )
  assert not result.unexpected_keys
  source, target = torch.from_numpy(SOURCE), torch.from_numpy(TARGET)
  with torch.no_grad():
    want = theirs(input_ids=source, decoder_input_ids=target).logits
    got = other(input_ids=source, decoder_input_ids=target).logits
  assert torch.equal(got, want)


TEXTS = [
  'The dog sees the beetle often, very often.',
  '>>nds<< The tomcat likes the bear!',
  '>>xyz<<The dog',
  '  two  spaces and   a tab\there ',
  'жук, and other unknown things: 漢字',
  '>> no code',
  'ﬁne print, ½ and ＡＢＣ',
  'The dog >>nds<< sees',
]


# The tokenizer asks for the package sacremoses, but only initializes it.
@pytest.mark.filterwarnings('ignore:Recommended. pip install sacremoses:UserWarning')
def test_tokens_and_texts(tmp_path):
  folder = marian_folder.write(tmp_path)
  theirs = transformers.MarianTokenizer.from_pretrained(folder)
  source, target = (
    marian_vocabulary.MarianVocabulary(str(folder), side)
    for side in ('source', 'target')
  )
  for text in TEXTS:
    assert [*source.encode(text), source.eos_id] == theirs(text).input_ids
    ids = theirs(text_target=text).input_ids
    assert [*target.encode(text), target.eos_id] == ids
  # They omit unknown tokens, while we write what sentencepiece does.
  rng = np.random.default_rng(0)
  for ids in rng.integers(2, len(target.ids), (50, 12)).tolist():
    assert target.decode([*ids, 0]) == theirs.decode(ids, skip_special_tokens=True)
  assert theirs.decode([1], skip_special_tokens=True) == ''
  assert target.decode([1]) == '⁇'
