import collections
import dataclasses

import numpy as np
import pytest
import texts

from big_vision_like.data.input import grouping, pipeline
from big_vision_like.data.transforms import text
from big_vision_like.errors import BadRecordError, UserError

PAIR = {'de': 'Der Hund mag den Bär.', 'en': 'The dog likes the bear.'}


@pytest.fixture
def tokenize(vocabulary):
  return text.Tokenize(vocabulary, source='de', target='en')


@pytest.mark.parametrize('as_bytes', [False, True])
def test_texts_become_ids_that_end_with_eos(tokenize, vocabulary, as_bytes):
  pair = {k: v.encode() if as_bytes else v for k, v in PAIR.items()}
  example = tokenize.map(pair)
  assert example.keys() == {'source', 'target'}
  for name, feature in (('source', 'de'), ('target', 'en')):
    assert example[name].dtype == np.int32
    assert example[name].tolist() == [*vocabulary.encode(PAIR[feature]), 2]


def test_id_and_mask_stay_and_nothing_else(tokenize):
  example = tokenize.map(PAIR | {'id': 5, 'mask': np.bool_(True), 'url': 'x'})
  assert example.keys() == {'source', 'target', 'id', 'mask'}
  assert (example['id'], example['mask']) == (5, True)


def test_max_length_keeps_eos(tokenize):
  whole = tokenize.map(PAIR)
  cut = dataclasses.replace(tokenize, max_length=4).map(PAIR)
  for name in 'source', 'target':
    assert cut[name].tolist() == [*whole[name][:3], 2]
  same = dataclasses.replace(tokenize, max_length=len(whole['source'])).map(PAIR)
  assert same['source'].tolist() == whole['source'].tolist()
  with pytest.raises(UserError, match='max_length=1 leaves no room'):
    dataclasses.replace(tokenize, max_length=1)


@pytest.mark.parametrize('empty', ['', '  \n', b''])
def test_an_empty_source_is_reported_with_the_example(tokenize, empty):
  with pytest.raises(UserError) as error:
    tokenize.map(PAIR | {'de': empty, 'id': 12})
  assert str(error.value).startswith(
    "the text 'de' of the example with id 12 is empty ('en' is 'The dog likes the bear."
  )


def test_an_empty_target_is_eos(tokenize):
  assert tokenize.map(PAIR | {'en': ''})['target'].tolist() == [2]


def test_features_that_are_not_texts_are_reported(tokenize):
  with pytest.raises(UserError, match="no text 'en'; they have de, id"):
    tokenize.map({'de': 'Hund', 'id': 1})
  with pytest.raises(UserError, match="'en' is not a text, but int"):
    tokenize.map({'de': 'Hund', 'en': 1})


def test_padding_follows_eos():
  example = {'source': np.int32([5, 6, 2]), 'target': np.int32([7, 2]), 'id': 3}
  padded = text.Pad(source_length=5, target_length=2).map(example)
  assert padded['source'].tolist() == [5, 6, 2, 0, 0]
  assert padded['target'].tolist() == [7, 2]
  assert padded['source'].dtype == padded['target'].dtype == np.int32
  assert padded['id'] == 3


def test_a_longer_sequence_is_an_error_or_cut():
  example = {'source': np.int32([5, 2]), 'target': np.int32([7, 8, 9, 2]), 'id': 3}
  with pytest.raises(UserError) as error:
    text.Pad(source_length=3, target_length=3).map(example)
  assert str(error.value) == (
    'the target of the example with id 3 has 4 tokens with EOS: more than'
    ' target_length=3; raise the length, or set truncate.'
  )
  cut = text.Pad(source_length=3, target_length=3, truncate=True).map(example)
  assert cut['target'].tolist() == [7, 8, 2]
  assert cut['source'].tolist() == [5, 2, 0]


def test_batches_of_texts_in_workers(tokenize):
  source = [PAIR | {'id': np.int64(i)} for i in range(3)]
  data = pipeline.EvalInput(
    source=source, batch_size=2, transforms=[tokenize, text.Pad(16, 16)], workers=1
  )
  batches = list(data.epoch())
  assert [batch['mask'].tolist() for batch in batches] == [[True, True], [True, False]]
  assert batches[0]['source'].shape == batches[0]['target'].shape == (2, 16)
  want = [*tokenize.map(PAIR)['target'], *[0] * 16][:16]
  assert batches[1]['target'].tolist() == [want, want]


# Buckets


def bucketed(lengths, batch_size=4, **options):
  """Returns an input of pairs with these lengths, in batches of several shapes."""
  pairs = [
    {
      'source': np.int32([*[3 + i] * (s - 1), 2]),
      'target': np.int32([*[3 + i] * (t - 1), 2, 0, 0]),
      'id': np.int64(i),
    }
    for i, (s, t) in enumerate(lengths)
  ]
  buckets = text.Buckets([(4, 5), (8, 8), (16, 20)])
  return dict(source=pairs, batch_size=batch_size, transforms=[buckets]) | options


def test_batches_have_sequences_of_one_of_several_lengths():
  lengths = np.random.default_rng(0).integers(2, 17, (150, 2)).tolist()
  data = pipeline.TrainInput(**bucketed(lengths), seed=1)
  batches, ids, real, padded = iter(data), [], 0, 0
  shapes = collections.Counter()
  for _ in range(2 * grouping.WINDOW):
    batch = next(batches)
    shape = batch['source'].shape[1], batch['target'].shape[1]
    shapes[shape] += 1
    for row, i in enumerate(batch['id'].tolist()):
      rows = batch['source'][row].tolist(), batch['target'][row].tolist()
      for own, length in zip(rows, lengths[i], strict=True):
        assert own == [*[3 + i] * (length - 1), 2, *[0] * (len(own) - length)]
    ids += batch['id'].tolist()
    real += np.count_nonzero(batch['source']) + np.count_nonzero(batch['target'])
    padded += batch['source'].size + batch['target'].size
  batches.close()
  assert set(shapes) == {(4, 5), (8, 8), (16, 20)}
  assert set(ids[:150]) | set(ids) == set(range(150))
  steps = 2 * grouping.WINDOW
  assert data.signatures(steps) == {s: count / steps for s, count in shapes.items()}
  assert data.padded_share(steps) == pytest.approx(1 - real / padded)
  assert data.example()['source'].shape == (16,)
  assert data.abstract((8, 8))['target'].shape == (4, 8)


def test_buckets_resume_at_any_step():
  lengths = np.random.default_rng(0).integers(2, 17, (150, 2)).tolist()
  data = pipeline.TrainInput(**bucketed(lengths), seed=1)
  batches = iter(data)
  want = [next(batches) for _ in range(40)][35:]
  batches.set_state({'step': 35})
  for batch in want:
    found = next(batches)
    for name in batch:
      np.testing.assert_array_equal(found[name], batch[name])
  batches.close()


def test_texts_are_measured_by_their_tokens(vocabulary):
  tokenize = text.Tokenize(vocabulary, source='de', target='en')
  transforms = [tokenize, text.Buckets([(10, 12), (40, 40)], tokenize=tokenize)]
  data = pipeline.EvalInput(source=texts.PAIRS, batch_size=16, transforms=transforms)
  found = list(data.epoch())
  assert {batch['source'].shape[1:] for batch in found} == {(10,), (40,)}
  index_N, real_N = data.order
  assert sorted(index_N[real_N].tolist()) == list(range(len(texts.PAIRS)))
  rows = np.concatenate([np.pad(b['source'], [(0, 0), (0, 40)])[:, :40] for b in found])
  for row, index in zip(rows, index_N, strict=True):
    assert vocabulary.decode(row.tolist()) == texts.PAIRS[index]['de']


def test_pairs_that_are_too_long_are_replaced():
  lengths = [(3, 3)] * 7 + [(17, 3)]
  data = pipeline.TrainInput(**bucketed(lengths), seed=1, bad_share=1.0)
  batches = iter(data)
  ids = np.concatenate([next(batches)['id'] for _ in range(8)])
  assert 7 not in ids and batches.replaced > 0
  (line, *_) = batches.news()
  assert '17x3 tokens in source, target, more than 16x20: add a larger shape' in line
  batches.close()
  with pytest.raises(BadRecordError, match='the example with id 7 has 17x3 tokens'):
    list(pipeline.EvalInput(**bucketed(lengths)).epoch())


@pytest.mark.parametrize(
  'lengths, told',
  [
    ([(4, 8), (8, 4)], r'lengths=\[\(4, 8\), \(8, 4\)\] must asc'),
    ([(4,), (8,)], r'lengths=\(4,\) must have one number for each of source, t'),
  ],
)
def test_lengths_must_grow(lengths, told):
  with pytest.raises(UserError, match=told):
    text.Buckets(lengths)


def test_texts_without_tokenize_are_reported():
  data = pipeline.TrainInput(**bucketed([(3, 3)], source=texts.PAIRS))
  with pytest.raises(
    UserError, match="no ids 'source'; they have de, en: give Buckets"
  ):
    next(iter(data))
