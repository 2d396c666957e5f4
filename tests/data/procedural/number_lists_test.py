"""Axes: S states, L slots."""

import dataclasses

import numpy as np
import pytest

from big_vision_like.data.procedural import number_lists
from big_vision_like.errors import UserError

SORT = number_lists.SortSteps(examples=300, split='train')
MERGE = number_lists.MergeSteps(examples=300, split='train')
SUM = number_lists.Arithmetic(operation='sum', split='train')


def visible(example, state):
  return example['numbers'][state][~example['hidden'][state]]


def check_states(example):
  """Checks the fields that all states have, and that masks follow each other."""
  numbers_SL, pointer_S = example['numbers'], example['pointer']
  for state, slot in enumerate(pointer_S):
    assert not example['hidden'][state, slot]
    assert numbers_SL[state, slot] == example['target'][state]
    assert example['next_hidden'][state, slot]
  assert numbers_SL.dtype == np.int32 and example['importance'].dtype == np.float32


def test_steps_of_a_sort():
  kinds = set()
  for example in SORT:
    check_states(example)
    items_L = example['numbers'][0]
    assert items_L[-1] == 512 and (items_L >= 0).all()
    np.testing.assert_array_equal(example['target'], np.sort(items_L))
    for state in range(9):
      assert example['target'][state] == visible(example, state).min()
      assert example['hidden'][state].sum() == state
    np.testing.assert_array_equal(example['hidden'][1:], example['next_hidden'][:-1])
    kinds.add(len(set(np.diff(np.sort(items_L[:-1])).tolist())) == 1)
  assert kinds == {True, False}


def test_infinity_and_the_end_are_twice_as_likely():
  source = dataclasses.replace(SORT, examples=4000, arithmetic=0.0)
  drawn = np.concatenate([example['numbers'][0, :-1] for example in source])
  assert drawn.max() == 512 and set(np.unique(drawn)) <= {*range(257), 512}
  for number in (256, 512):
    assert abs((drawn == number).mean() - 2 / 260) < 0.002


def test_steps_of_a_merge():
  padded = 0
  for example in MERGE:
    check_states(example)
    items_L = example['numbers'][0]
    assert items_L[8] == items_L[17] == 256
    numbers = np.delete(items_L, [8, 17])
    np.testing.assert_array_equal(example['target'][:-1], np.sort(numbers))
    assert example['target'][-1] == 256
    for state in range(17):
      assert (~example['hidden'][state]).sum() == 2
    np.testing.assert_array_equal(example['hidden'][1:], example['next_hidden'][:-1])
    assert example['importance'].tolist() == [1.0] * 16 + [np.float32(0.005)]
    padded += (items_L == 257).any()
  assert 0.2 * 300 < padded < 0.6 * 300


def test_all_sums_are_there_once_in_both_orders():
  test = dataclasses.replace(SUM, split='test')
  assert len(SUM) + len(test) == 2 * (128 * 129 + 257)  # a <= b, a + b <= 255
  seen = {tuple(sorted(pair)) for pair in SUM.pairs.tolist()}
  assert not seen & {tuple(sorted(pair)) for pair in test.pairs.tolist()}
  first, other = SUM[0], SUM[1]
  assert first['numbers'].tolist() == [other['numbers'][0, ::-1].tolist()]
  for example in (SUM[i] for i in range(0, len(SUM), 97)):
    a, b = example['numbers'][0].tolist()
    assert example['target'].tolist() == [256 if 256 in (a, b) else a + b]
    assert example['numbers'].shape == (1, 2) and not example['hidden'].any()


def test_held_out_numbers_are_never_trained_on():
  train, test = (
    number_lists.Arithmetic(operation='sum', split=split, holdout=166)
    for split in number_lists.SPLITS
  )
  seen = set(np.unique(train.pairs)) - {256}
  assert len(seen) <= 90
  assert all(set(pair) - seen - {256} for pair in test.pairs.tolist())


def test_products():
  source = number_lists.Arithmetic(operation='product', split='train')
  targets = [int(source[i]['target'][0]) for i in range(0, len(source), 53)]
  assert max(targets) <= 4095 and 0 in targets
  assert all(
    int(source[i]['numbers'].prod()) == source[i]['target'][0] for i in range(50)
  )


def test_lists_to_sort():
  source = number_lists.NumberLists(length=80, examples=40, split='test')
  for example in source:
    assert example['items'].shape == (80,) and example['items'].max() <= 255
    np.testing.assert_array_equal(example['target'], np.sort(example['items']))


def test_examples_repeat_and_splits_differ():
  other = dataclasses.replace(SORT, split='test')
  np.testing.assert_array_equal(SORT[7]['numbers'], SORT[7]['numbers'])
  assert any((SORT[i]['numbers'] != other[i]['numbers']).any() for i in range(3))
  with pytest.raises(IndexError):
    SORT[300]
  with pytest.raises(IndexError):
    SUM[len(SUM)]


@pytest.mark.parametrize(
  ('make', 'sentence'),
  [
    (lambda: dataclasses.replace(SORT, split='val'), 'split'),
    (lambda: dataclasses.replace(SUM, operation='power'), 'operation'),
    (lambda: dataclasses.replace(SUM, holdout=200), 'holdout=200 must be from 0'),
    (
      lambda: number_lists.NumberLists(length=0, examples=2, split='test'),
      'length=0 must be at least 1',
    ),
  ],
)
def test_wrong_fields_are_reported(make, sentence):
  with pytest.raises(UserError, match=sentence):
    make()
