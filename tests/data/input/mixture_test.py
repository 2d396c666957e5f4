import dataclasses
import itertools

import grain
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from big_vision_like.data.input import mixture, pipeline
from big_vision_like.data.input.mixture import Mixture, Part
from big_vision_like.errors import UserError


def examples(count, start=0):
  return [{'id': np.int64(start + i)} for i in range(count)]


@dataclasses.dataclass(frozen=True)
class Add(grain.transforms.Map):
  name: str
  value: int = 1

  def map(self, example):
    return example | {self.name: np.int32(self.value)}


@dataclasses.dataclass(frozen=True)
class Draw(grain.transforms.RandomMap):
  def random_map(self, example, rng):
    return example | {'drawn': rng.random()}


def taken(data, count, state=None):
  batches = iter(data)
  if state is not None:
    batches.set_state(state)
  found = list(itertools.islice(batches, count))
  batches.close()
  return {name: np.concatenate([b[name] for b in found]) for name in found[0]}


@given(
  weights=st.lists(st.integers(1, 50), min_size=1, max_size=5),
  start=st.integers(0, 10**12),
)
@settings(max_examples=60, deadline=None)
def test_shares_are_exact(weights, start):
  parts = {str(i): Part(source=[0], weight=w) for i, w in enumerate(weights)}
  mixed = Mixture(parts=parts)
  total = sum(weights)
  before, after = mixed.counts(start), mixed.counts(start + 100)
  places = [mixed.place(start + i) for i in range(100)]
  for i, (name, weight) in enumerate(zip(parts, weights, strict=True)):
    own = [number for part, number in places if part == i]
    # The examples of each part come in order, none left out, none repeated.
    assert own == list(range(before[name], after[name]))
    assert abs(before[name] - start * weight / total) < len(weights)
  assert sum(after.values()) == start + 100


def test_decimal_weights_are_exact():
  parts = dict(a=Part(source=[0], weight=0.7), b=Part(source=[0], weight=0.3))
  assert Mixture(parts=parts).proportions.weights == (7, 3)
  assert Mixture(parts=parts).counts(10**9) == {'a': 7 * 10**8, 'b': 3 * 10**8}


def test_without_weights_all_examples_come_once():
  parts = dict(a=Part(source=examples(12)), b=Part(source=examples(6, 100)))
  data = pipeline.TrainInput(source=Mixture(parts=parts), batch_size=6)
  assert data.examples_per_epoch == 18
  found = taken(data, 6)
  for epoch in np.split(found['id'], 2):
    assert sorted(epoch) == [*range(12), *range(100, 106)]
  np.testing.assert_array_equal(found['part'], found['id'] >= 100)


def test_an_epoch_may_be_that_of_a_part():
  parts = dict(
    labelled=Part(source=examples(10), weight=1), web=Part(source=[0], weight=3)
  )
  assert len(Mixture(parts=parts, epoch_of='labelled')) == 40


def test_parts_have_transforms_of_their_own():
  parts = dict(
    a=Part(source=examples(10), weight=1, transforms=[Add('label', 1), Draw()]),
    b=Part(source=examples(10), weight=1, transforms=[Add('label', 2), Draw()]),
  )
  data = pipeline.TrainInput(
    source=Mixture(parts=parts), batch_size=8, transforms=[Add('all', 7)]
  )
  found = taken(data, 5)
  np.testing.assert_array_equal(found['label'], found['part'] + 1)
  assert (found['all'] == 7).all() and len(np.unique(found['drawn'])) == 40
  again = taken(data, 3, {'examples': 16})
  for name, values in again.items():
    np.testing.assert_array_equal(values, found[name][16:])


def test_parts_must_give_the_same_features():
  parts = dict(
    a=Part(source=examples(10), weight=1, transforms=[Add('label')]),
    b=Part(source=examples(10), weight=1),
  )
  data = pipeline.TrainInput(source=Mixture(parts=parts), batch_size=4)
  with pytest.raises(UserError, match="some examples have 'label' and some do not"):
    taken(data, 1)


@pytest.mark.parametrize(
  'arguments, message',
  [
    (dict(parts={}), 'a mixture needs parts'),
    (dict(parts=dict(a=Part(source=[0], weight=0))), "weight=0 of part 'a'"),
    (
      dict(parts=dict(a=Part(source=[0], weight=1), b=Part(source=[0]))),
      'either all parts of a mixture have a weight, or none',
    ),
    (dict(parts=dict(a=Part(source=[0])), epoch_of='b'), "epoch_of='b' is not one of"),
  ],
)
def test_wrong_arguments_are_refused(arguments, message):
  with pytest.raises(UserError, match=message):
    mixture.Mixture(**arguments)
