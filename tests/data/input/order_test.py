import pickle

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from big_vision_like.data.input import order
from big_vision_like.data.sources.base import InMemory
from big_vision_like.errors import UserError


class Grouped(InMemory):
  """A source with groups."""

  groups = None

  def __init__(self, sizes):
    super().__init__(range(sum(sizes)))
    self.groups = np.cumsum([0, *sizes])


def epochs(order, length, count=3):
  return [[order.index(e * length + i) for i in range(length)] for e in range(count)]


@given(size=st.integers(1, 60), seed=st.integers(0, 2**32 - 1))
@settings(max_examples=30, deadline=None)
def test_each_epoch_is_a_permutation(size, seed):
  found = epochs(order.Order(range(size), seed), size)
  assert all(sorted(epoch) == list(range(size)) for epoch in found)


@pytest.mark.parametrize('size', [2**14, 2**14 + 1, 2**16 + 1, 20_011])
def test_each_epoch_is_a_permutation_of_many(size, monkeypatch):
  monkeypatch.setattr(order, 'SMALL', 1000)
  found = epochs(order.Order(range(size), 3), size, 2)
  for epoch in found:
    assert np.array_equal(np.sort(epoch), np.arange(size))
  assert found[0] != found[1]


@pytest.mark.parametrize('small', [0, order.SMALL])
def test_epochs_and_seeds_share_no_permutation(small, monkeypatch):
  monkeypatch.setattr(order, 'SMALL', small)
  orders = [tuple(e) for s in range(4) for e in epochs(order.Order(range(50), s), 50)]
  assert len(set(orders)) == 4 * 3
  assert orders[:3] == [tuple(e) for e in epochs(order.Order(range(50), 0), 50)]


@given(
  sizes=st.lists(st.integers(1, 7), min_size=1, max_size=9),
  window=st.integers(1, 4),
  seed=st.integers(0, 99),
)
@settings(max_examples=50, deadline=None)
def test_groups_are_shuffled_in_windows(sizes, window, seed):
  source = Grouped(sizes)
  length = len(source)
  for epoch in epochs(order.Order(source, seed, window=window), length):
    assert sorted(epoch) == list(range(length))
    groups = np.searchsorted(source.groups, epoch, side='right') - 1
    # At no time are more groups in use than fit into a window.
    seen = []
    for group in groups:
      if group not in seen:
        seen.append(group)
    first = {group: list(groups).index(group) for group in seen}
    last = {group: length - list(groups)[::-1].index(group) for group in seen}
    for i in range(length):
      assert sum(first[g] <= i < last[g] for g in seen) <= window


def test_windows_mix_their_groups():
  source = Grouped([50] * 8)
  epoch = epochs(order.Order(source, 0, window=4), 400, 1)[0]
  assert len({i // 50 for i in epoch[:40]}) == 4
  assert epoch != epochs(order.Order(source, 1, window=4), 400, 1)[0]


def test_repeats():
  plain = order.Order(range(600), seed=3)
  repeated = order.Order(range(600), seed=3, repeats=3)
  assert order.epoch_length(600, repeats=3) == 512
  for epoch in (0, 1):
    found = [repeated.index(epoch * 512 + i) for i in range(512)]
    want = [plain.index(epoch * 600 + i // 3) for i in range(512)]
    assert found == want
  assert order.epoch_length(100, repeats=3) == 100  # too few examples to cut
  assert order.epoch_length(600, repeats=1) == 600


def test_replacements_are_the_same_each_time():
  own = order.Order(range(100), seed=1)
  found = [own.index(7, attempt) for attempt in range(1, 6)]
  assert found == [order.Order(range(100), seed=1).index(7, a) for a in range(1, 6)]
  assert len(set(found)) > 1 and all(0 <= i < 100 for i in found)
  assert found != [own.index(8, attempt) for attempt in range(1, 6)]


@pytest.mark.parametrize('source', [list(range(30)), Grouped([3, 4, 5])])
def test_an_order_can_be_pickled(source):
  own = order.Order(source, seed=5, window=2)
  before = [own.index(i) for i in range(40)]
  copy = pickle.loads(pickle.dumps(own))
  assert [copy.index(i) for i in range(40)] == before


def test_wrong_arguments_are_refused():
  with pytest.raises(UserError, match='repeats=0 is less than 1'):
    order.Order(range(3), 0, repeats=0)
  with pytest.raises(UserError, match='holds no examples'):
    order.Order([], 0)
