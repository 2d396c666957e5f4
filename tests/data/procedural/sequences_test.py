import dataclasses
import time

import numpy as np
import pytest

from big_vision_like.data.input import pipeline
from big_vision_like.data.procedural import sequences
from big_vision_like.errors import UserError

TRAIN = sequences.Reverse(examples=3000, split='train')
TEST = dataclasses.replace(TRAIN, examples=400, split='test')


def symbols(ids):
  """Returns the symbols before EOS; checks that only padding follows."""
  (end,) = np.flatnonzero(ids == 2)
  assert not ids[end + 1 :].any() and (ids[:end] >= 3).all()
  return ids[:end].tolist()


@pytest.mark.parametrize(
  'target, of', [('reverse', lambda x: x[::-1]), ('copy', list), ('sort', sorted)]
)
def test_targets(target, of):
  source = dataclasses.replace(TRAIN, target=target)
  for i in range(200):
    example = source[i]
    assert example.keys() == {'source', 'target', 'id'} and example['id'] == i
    for name in 'source', 'target':
      assert example[name].shape == (13,) and example[name].dtype == np.int32
    assert symbols(example['target']) == of(symbols(example['source']))


def test_lengths_and_symbols_are_uniform():
  drawn = [symbols(TRAIN[i]['source']) for i in range(3000)]
  _, lengths = np.unique([len(x) for x in drawn], return_counts=True)
  values, counts = np.unique(np.concatenate(drawn), return_counts=True)
  assert len(lengths) == 9 and values.tolist() == list(range(3, 20))
  # Chi-square with 8 and 16 degrees of freedom: 1 draw in 10,000 exceeds these bounds.
  assert ((lengths - 3000 / 9) ** 2 / (3000 / 9)).sum() < 31.8
  assert ((counts - counts.mean()) ** 2 / counts.mean()).sum() < 44.3


def test_no_test_string_occurs_in_training():
  seen = {tuple(TRAIN[i]['source']) for i in range(3000)}
  seen |= {tuple(dataclasses.replace(TRAIN, seed=5)[i]['source']) for i in range(3000)}
  assert not seen & {tuple(TEST[i]['source']) for i in range(400)}
  # All short strings of few symbols occur; 1 in 10 is reserved for tests.
  few = dict(vocab_size=7, min_length=4, max_length=4)
  strings = {
    split: {
      tuple(dataclasses.replace(TRAIN, split=split, **few)[i]['source'])
      for i in range(3000)
    }
    for split in ('train', 'test')
  }
  assert not strings['train'] & strings['test']
  assert len(strings['train'] | strings['test']) == 4**4
  assert 0.05 < len(strings['test']) / 4**4 < 0.2


def test_examples_depend_on_seed_split_and_index_alone():
  def strings(source):
    return [source[i]['source'].tolist() for i in range(20)]

  again = sequences.Reverse(examples=20, split='train')
  assert strings(again) == strings(TRAIN)
  assert strings(dataclasses.replace(TRAIN, seed=1)) != strings(TRAIN)
  assert len({tuple(x) for x in strings(TRAIN)}) == 20
  # The numbers are the same on every machine.
  assert symbols(TRAIN[0]['source']) == [18, 4, 15, 19, 3, 12, 16, 9, 15, 15]


def test_reading_is_fast():
  start = time.process_time()
  for i in range(2000):
    TRAIN[i]
  # A free core reads 100,000 examples a second; require at least a twentieth of that.
  assert time.process_time() - start < 0.4


def test_it_is_a_source_of_the_pipeline():
  data = pipeline.TrainInput(source=TRAIN, batch_size=4)
  batch = next(iter(data))
  assert batch['source'].shape == (4, 13) and batch['id'].dtype == np.int32
  assert len(list(TEST)) == 400


@pytest.mark.parametrize(
  'wrong, sentence',
  [
    (dict(split='val'), "split='val' is not one of train, test"),
    (dict(target='x'), "target='x' is not one of reverse, copy, sort"),
    (dict(min_length=0), 'min_length=0 and max_length=12'),
    (dict(min_length=13), 'min_length=13 and max_length=12'),
    (dict(vocab_size=3), 'vocab_size=3 leaves no symbols'),
  ],
)
def test_wrong_fields_are_reported(wrong, sentence):
  with pytest.raises(UserError, match=sentence):
    dataclasses.replace(TRAIN, **wrong)


def test_too_few_strings_for_two_splits_are_reported():
  one = dict(vocab_size=4, min_length=1, max_length=1)
  with pytest.raises(UserError, match='of 1 symbols was found for the split'):
    for split in ('train', 'test'):
      dataclasses.replace(TRAIN, split=split, **one)[0]
