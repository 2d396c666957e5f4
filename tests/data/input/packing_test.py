import dataclasses
import pathlib
import pickle

import hypothesis
import numpy as np
import pytest
import texts
from hypothesis import strategies as st

from big_vision_like.data.input import packing, pipeline
from big_vision_like.data.procedural import sequences
from big_vision_like.data.sources import tfds
from big_vision_like.data.text import vocabulary
from big_vision_like.data.transforms import text
from big_vision_like.errors import UserError

NAMES = {'source', 'source_segment', 'source_position'}
NAMES |= {'target', 'target_segment', 'target_position'}
NAMES_OF_PAIRS = ('source', 'target')


def pairs_of(lengths, padding=0):
  """Returns pairs of ids with these lengths, all different, each ending with EOS."""

  def ids(index, length):
    body = [3 + index] * (length - 1)
    return np.int32([*body, 2, *[0] * padding])

  return [
    {'source': ids(i, s), 'target': ids(i, t)} for i, (s, t) in enumerate(lengths)
  ]


def unpacked(row, side):
  """Returns the sequences of a row; checks segments, positions and padding."""
  ids, segments = row[side], row[f'{side}_segment']
  count = segments.max()
  used = np.count_nonzero(segments)
  assert (np.diff(segments[:used]) >= 0).all() and not segments[used:].any()
  assert not ids[used:].any() and not row[f'{side}_position'][used:].any()
  sequences = [ids[segments == k].tolist() for k in range(1, count + 1)]
  positions = [row[f'{side}_position'][segments == k] for k in range(1, count + 1)]
  for sequence, position in zip(sequences, positions, strict=True):
    assert position.tolist() == list(range(len(sequence))) and sequence[-1] == 2
  return sequences


def pairs_in(packed):
  """Returns all pairs of ids of all rows, sorted."""
  found = []
  for i in range(len(packed)):
    row = packed[i]
    assert row.keys() == NAMES
    for name, array in row.items():
      length = getattr(packed, name.split('_')[0] + '_length')
      assert array.shape == (length,) and array.dtype == np.int32
    found += zip(unpacked(row, 'source'), unpacked(row, 'target'), strict=True)
  return sorted(found)


LENGTHS = st.lists(st.tuples(st.integers(1, 14), st.integers(1, 14)), max_size=60)


@hypothesis.settings(deadline=None, max_examples=60)
@hypothesis.given(LENGTHS, st.integers(0, 2**32 - 1), st.integers(0, 2))
def test_each_pair_that_fits_is_in_one_row(lengths, seed, padding):
  source = pairs_of(lengths, padding)
  packed = packing.Packed(source=source, source_length=12, target_length=10, seed=seed)
  kept = [(s, t) for s, t in lengths if 1 < s <= 12 and t <= 10]
  want = sorted(
    (pair['source'].tolist(), pair['target'].tolist())
    for pair, (s, t) in zip(pairs_of(lengths), lengths, strict=True)
    if (s, t) in kept
  )
  assert pairs_in(packed) == want
  empty = sum(s == 1 for s, _ in lengths)
  long = len(lengths) - len(kept) - empty
  assert packed.left_out == {'too long': long, 'without a source': empty}


@hypothesis.settings(deadline=None, max_examples=20)
@hypothesis.given(st.integers(0, 100), st.sampled_from([1, 7, 100]))
def test_lanes_pack_each_pair_once(seed, per_lane):
  with pytest.MonkeyPatch.context() as patch:
    patch.setattr(packing, 'PAIRS_PER_LANE', per_lane)
    rng = np.random.default_rng(seed)
    lengths_2N = rng.integers(2, 30, (2, 501)).astype(np.int32)
    plan = packing.pack(lengths_2N, (40, 50), seed)
  assert sorted(plan.pairs_N.tolist()) == list(range(501))
  assert plan.starts[0] == 0 and plan.starts[-1] == 501
  assert (np.diff(plan.starts) > 0).all()
  used_2R = np.add.reduceat(lengths_2N[:, plan.pairs_N], plan.starts[:-1], axis=1)
  assert (used_2R <= [[40], [50]]).all()
  assert plan.fill_2 == pytest.approx(used_2R.mean(axis=1) / [40, 50])


def test_the_plan_depends_on_lengths_and_seed_alone():
  lengths = np.random.default_rng(0).integers(2, 12, (200, 2)).tolist()

  def rows(seed):
    source = pairs_of(lengths)
    packed = packing.Packed(
      source=source, source_length=24, target_length=24, seed=seed
    )
    return [packed[i]['source'].tolist() for i in range(len(packed))]

  assert rows(3) == rows(3) and rows(3) != rows(4)


def sentence_lengths(count):
  """Returns skewed and correlated lengths, like those of sentences and translations."""
  rng = np.random.default_rng(0)
  source_N = np.exp(rng.normal(3.13, 0.65, count))
  target_N = source_N * np.exp(rng.normal(0.03, 0.18, count))
  return np.maximum(np.stack([source_N, target_N]).round(), 1).astype(np.int32) + 1


def test_rows_of_sentences_are_full():
  plan = packing.pack(sentence_lengths(100_000), (256, 256), 0)
  source, target = plan.fill_2
  assert source > 0.9 and target > 0.95


def test_padded_sequences_of_ids_are_packed():
  source = sequences.Reverse(examples=50, split='train')
  packed = packing.Packed(source=source, source_length=64, target_length=64)
  found = pairs_in(packed)
  assert len(found) == 50 and all(t == s[-2::-1] + [2] for s, t in found)
  assert len(packed) < 50 / 4


@pytest.fixture(scope='module')
def folder(tmp_path_factory):
  folder = tmp_path_factory.mktemp('texts')
  for builder in texts.TinyTranslation, texts.TinyTexts:
    texts.prepared(builder, folder)
  return str(folder)


@pytest.fixture
def packed(folder, vocabulary):
  return packing.Packed(
    source=tfds.Tfds('tiny_texts', data_dir=folder),
    tokenize=text.Tokenize(vocabulary, source='de', target='en'),
    source_length=64,
    target_length=32,
  )


def test_rows_decode_to_the_texts(packed, vocabulary, capsys):
  found = [tuple(map(vocabulary.decode, pair)) for pair in pairs_in(packed)]
  lengths = [len(vocabulary.encode(pair['en'])) for pair in texts.PAIRS]
  assert sorted(found) == sorted((pair['de'], pair['en']) for pair in texts.PAIRS)
  assert max(lengths) < 32 and len(packed) < len(texts.PAIRS) / 2
  said = capsys.readouterr().err
  assert said.startswith(f'packed 192 pairs into {len(packed)} rows of 64 + 32 tokens')
  assert said.endswith('full; left out: 0 too long, 1 without a source\n')


def test_a_second_start_reads_the_lengths(packed, home, monkeypatch):
  lengths_2N = packed.lengths_2N
  (file,) = (home / '.cache' / 'big_vision_like' / 'packing').glob('*.npz')
  again = dataclasses.replace(packed, target_length=40, seed=1)  # uses the same lengths
  with monkeypatch.context() as patch:
    patch.delattr(packing.Packed, '_measure')
    np.testing.assert_array_equal(again.lengths_2N, lengths_2N)
  assert {f.suffix for f in file.parent.iterdir()} == {'.npz', '.lock'}


def test_other_texts_or_another_vocabulary_are_measured_again(packed, folder, tmp_path):
  copy = tmp_path / 'copy.model'
  model = pathlib.Path(packed.tokenize.vocabulary.path).read_bytes()
  copy.write_bytes(model + b'\x1a\x00')  # tokenizes alike, but is another file
  changes = [
    dict(source='en', target='de'),
    dict(max_length=9),
    dict(vocabulary=vocabulary.SentencePiece(str(copy))),
  ]
  translation = tfds.Tfds('tiny_translation', data_dir=folder)
  others = [packed, dataclasses.replace(packed, source=translation)]
  for change in changes:
    tokenize = dataclasses.replace(packed.tokenize, **change)
    others.append(dataclasses.replace(packed, tokenize=tokenize))
  assert len({other._cache() for other in others}) == len(others)


def test_lists_are_measured_again_when_they_change():
  lengths = [(3, 4)], [(5, 4)]
  for pairs in (*map(pairs_of, lengths), pairs_of(lengths[0], padding=2)):
    packed = packing.Packed(source=pairs, source_length=8, target_length=8)
    want = [[np.count_nonzero(pair[name]) for pair in pairs] for name in NAMES_OF_PAIRS]
    np.testing.assert_array_equal(packed.lengths_2N, want)


def test_texts_that_have_changed_are_reported(packed, monkeypatch):
  assert len(packed)
  longer = [texts.PAIRS[1] | {'de': 40 * 'Hund '}] * len(packed.source)
  changed = dataclasses.replace(packed, source=longer)
  changed.__dict__['plan'] = packed.plan
  with pytest.raises(UserError, match='has changed since it was packed: delete'):
    changed[0]


def test_rows_in_workers(packed):
  data = pipeline.EvalInput(source=packed, batch_size=8, workers=1)
  batches = list(data.epoch())
  rows = np.concatenate([b['target'] for b in batches])
  masks = np.concatenate([b['mask'] for b in batches])
  want = [packed[i]['target'].tolist() for i in range(len(packed))]
  assert rows[masks].tolist() == want
  copy = pickle.loads(pickle.dumps(packed))
  assert 'plan' in copy.__dict__ and 'lengths_2N' not in copy.__dict__


def test_rows_beyond_the_last_end_a_loop(packed):
  assert len(list(packed)) == len(packed)
  with pytest.raises(IndexError):
    packed[-1]


def test_data_or_a_vocabulary_that_are_not_there_have_a_stand_in(packed, tmp_path):
  assert packed.planned() is packed
  no_data = tfds.Tfds('tiny_texts', data_dir=str(tmp_path))
  nothing = vocabulary.SentencePiece(str(tmp_path / 'none.model'))
  no_vocabulary = dataclasses.replace(packed.tokenize, vocabulary=nothing)
  for missing in dict(source=no_data), dict(tokenize=no_vocabulary):
    stand_in = dataclasses.replace(packed, rows=1000, **missing).planned()
    assert len(stand_in) == 1000
    want, got = packed[0], stand_in[0]
    assert got.keys() == want.keys()
    for name in want:
      assert (got[name].shape, got[name].dtype) == (want[name].shape, want[name].dtype)
    assert (got['source_segment'][0], got['source_position'][25]) == (1, 0)
    unknown = dataclasses.replace(packed, **missing).planned()
    with pytest.raises(UserError, match='rows with --config.train_data.source.row'):
      len(unknown)


def test_missing_files_are_reported_at_the_start(packed, tmp_path):
  nothing = vocabulary.SentencePiece(str(tmp_path / 'none.model'))
  tokenize = dataclasses.replace(packed.tokenize, vocabulary=nothing)
  with pytest.raises(UserError, match='there is no vocabulary'):
    len(dataclasses.replace(packed, tokenize=tokenize))
