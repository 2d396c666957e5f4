"""Lists of numbers, and steps of sorting, merging, adding and multiplying them.

These are the data of arXiv:2006.08084. Numbers are from 0 to 255; larger ones mean
infinity, the end of a list, or padding.

Axes: S states of an algorithm, L slots, one of each state's numbers, N numbers.
"""

import dataclasses
import functools
from typing import Any

import numpy as np

from big_vision_like.data.sources.base import Source
from big_vision_like.errors import UserError, check_one_of

SPLITS = ('train', 'test')
OPERATIONS = ('sum', 'product')
LARGEST = 255
INFINITY, END = 256, 512
# Ends of lists that are merged, and the padding of lists before their end.
MERGE_END, PADDING = 256, 257
MOST = {'sum': LARGEST, 'product': 4095}
# Steps of arithmetic sequences, and the longest one.
STEPS, LONGEST = (1, 4), 60
# The importance of states in which both lists to merge are empty.
EMPTY = 0.005


@dataclasses.dataclass(frozen=True, kw_only=True)
class Generated(Source):
  """Examples that are drawn from the seed, the split and the index."""

  examples: int
  split: str = dataclasses.field()  # without the default of a source
  seed: int = 0

  tiny = dict(examples=20)

  def __post_init__(self) -> None:
    check_one_of(SPLITS, split=self.split)

  def __len__(self) -> int:
    return self.examples

  def rng(self, index: int) -> np.random.Generator:
    """Returns the random numbers of an example."""
    if not 0 <= index < self.examples:
      raise IndexError(f'example {index} of {self.examples}')
    return np.random.default_rng([self.seed, SPLITS.index(self.split), index])


@dataclasses.dataclass(frozen=True, kw_only=True)
class NumberLists(Generated):
  """Lists to sort: `items` int32 (L,), `target`, the same numbers sorted, and `id`.

  A share of `arithmetic` has an arithmetic sequence of at most 60 numbers, shuffled
  among the others.
  """

  tiny = dict(examples=20, length=8)

  length: int
  arithmetic: float = 0.4

  def __post_init__(self) -> None:
    super().__post_init__()
    if self.length < 1:
      raise UserError(f'length={self.length} must be at least 1')

  def __getitem__(self, index: int) -> dict[str, Any]:
    rng = self.rng(index)
    items_L = rng.integers(0, LARGEST + 1, self.length)
    if rng.random() < self.arithmetic:
      first = arithmetic(rng, min(self.length, LONGEST))
      items_L[: len(first)] = first
      rng.shuffle(items_L)
    items_L = items_L.astype(np.int32)
    return {'items': items_L, 'target': np.sort(items_L), 'id': np.int64(index)}


@dataclasses.dataclass(frozen=True, kw_only=True)
class SortSteps(Generated):
  """All states of a selection sort, of `length` numbers and the end token (512).

  Numbers are from 0 to 255, or infinity (256) or the end, both of which are twice as
  likely as others. A share of `arithmetic` are shuffled arithmetic sequences. Fields
  are those of `states`.
  """

  length: int = 8
  arithmetic: float = 1 / 6

  def __getitem__(self, index: int) -> dict[str, Any]:
    rng = self.rng(index)
    if rng.random() < self.arithmetic:
      items_N = arithmetic(rng, self.length)
      rng.shuffle(items_N)
    else:
      items_N = rng.integers(0, LARGEST + 5, self.length)
      items_N = np.where(items_N > LARGEST + 2, END, np.minimum(items_N, INFINITY))
    items_L = np.append(items_N, END)
    order_S = np.argsort(items_L, kind='stable')
    hidden_SL = np.argsort(order_S)[None] < np.arange(len(order_S) + 1)[:, None]
    return states(np.tile(items_L, (len(order_S), 1)), hidden_SL, order_S, index)


@dataclasses.dataclass(frozen=True, kw_only=True)
class MergeSteps(Generated):
  """All states of merging two sorted lists of `length` numbers, with an end (256) each.

  Numbers of both lists are close to each other. A share of `padded` lists has fewer
  numbers, and padding (257) instead; it comes after all numbers, the end after both.
  Fields are those of `states`; once both lists are empty, `importance` is 0.005.
  """

  length: int = 8
  arithmetic: float = 1 / 11
  padded: float = 0.25

  def __getitem__(self, index: int) -> dict[str, Any]:
    rng, length = self.rng(index), self.length
    if rng.random() < self.arithmetic:
      items_N = arithmetic(rng, 2 * length)
    else:
      items_N = np.sort(rng.integers(0, LARGEST + 1, 2 * length))
    order_N = rng.permutation(2 * length)
    lists = []
    for own in (order_N[:length], order_N[length:]):
      list_L = np.sort(items_N[own])
      if rng.random() < self.padded:
        list_L[rng.integers(0, length + 1) :] = PADDING
      lists.append(np.append(list_L, MERGE_END))
    items_L = np.concatenate(lists)
    # The end is infinite.
    rank_L = np.where(items_L == MERGE_END, END, items_L)
    heads, pointer_S = [0, length + 1], []
    hidden_SL = np.ones((2 * length + 2, len(items_L)), bool)
    for hidden_L in hidden_SL[:-1]:
      hidden_L[heads] = False
      first = int(rank_L[heads[1]] < rank_L[heads[0]])
      pointer_S.append(heads[first])
      heads[first] += 1
    hidden_SL[-1, heads[:1]] = False
    if heads[1] < len(items_L):
      hidden_SL[-1, heads[1]] = False
    numbers_SL = np.tile(items_L, (len(pointer_S), 1))
    found = states(numbers_SL, hidden_SL, np.array(pointer_S), index)
    found['importance'][-1] = EMPTY
    return found


@dataclasses.dataclass(frozen=True, kw_only=True)
class Arithmetic(Source):
  """Pairs of numbers with their sum up to 255, or their product up to 4,095.

  Sums of infinity (256) are infinite. Every pair comes in both orders. Pairs are
  shuffled, and a share of `tested` is in the split 'test'. With `holdout`, this many
  numbers are in no pair for training, and in all pairs for testing. Examples have
  `numbers` int32 (1, 2), `hidden`, `target` (1,), `importance`, and `id`. There are at
  most `most` pairs.
  """

  tiny = dict(most=12)

  operation: str
  split: str = dataclasses.field()  # without the default of a source
  holdout: int = 0
  tested: float = 1 / 11
  most: int = 1_000_000
  seed: int = 0

  def __post_init__(self) -> None:
    check_one_of(SPLITS, split=self.split)
    check_one_of(OPERATIONS, operation=self.operation)
    if not 0 <= self.holdout <= 192:
      raise UserError(f'holdout={self.holdout} must be from 0 to 192 numbers')

  @functools.cached_property
  def pairs(self) -> np.ndarray:
    """The unordered pairs of the split, int (pairs, 2)."""
    most, rng = MOST[self.operation], np.random.default_rng(self.seed)
    if self.operation == 'sum':
      pairs = [(a, b) for a in range(most + 1) for b in range(a, most + 1 - a)]
      pairs += [(a, INFINITY) for a in range(INFINITY + 1)]
    else:
      pairs = [(0, b) for b in range(most + 1)]
      pairs += [(a, b) for a in range(1, 64) for b in range(a, most // a + 1)]
    pairs_N2 = rng.permutation(np.array(pairs, np.int32))
    if self.holdout:
      held = rng.permutation(LARGEST + 1)[: self.holdout]
      test_N = np.isin(pairs_N2, held).any(axis=1)
    else:
      test_N = np.arange(len(pairs_N2)) < self.tested * len(pairs_N2)
    return pairs_N2[test_N == (self.split == 'test')][: self.most]

  def __len__(self) -> int:
    return 2 * len(self.pairs)

  def __getitem__(self, index: int) -> dict[str, Any]:
    if not 0 <= index < len(self):
      raise IndexError(f'example {index} of {len(self)}')
    pair_2 = self.pairs[index // 2][:: 1 if index % 2 else -1]
    if self.operation == 'sum':
      result = min(int(pair_2.sum()), INFINITY)
    else:
      result = int(pair_2.prod())
    return {
      'numbers': pair_2[None],
      'hidden': np.zeros((1, 2), bool),
      'target': np.array([result], np.int32),
      'importance': np.ones(1, np.float32),
      'id': np.int64(index),
    }


def arithmetic(rng: np.random.Generator, length: int) -> np.ndarray:
  """Returns an arithmetic sequence of numbers up to 255, with a random step."""
  step = rng.integers(STEPS[0], STEPS[1] + 1)
  step = min(int(step), LARGEST // max(length - 1, 1))
  return rng.integers(0, LARGEST + 1 - step * (length - 1)) + step * np.arange(length)


def states(
  numbers_SL: np.ndarray, hidden_SL: np.ndarray, pointer_S: np.ndarray, index: int
) -> dict[str, Any]:
  """Returns an example for `tasks.algorithm_execution` from S states.

  It has int32 `numbers` (S, L), `target` (S,), the number to find, and its slot
  `pointer` (S,), bool `hidden` (S, L) and `next_hidden` (S, L), and the `importance`
  float32 (S,) of losses. `hidden_SL` has one state more.
  """
  numbers_SL, pointer_S = numbers_SL.astype(np.int32), pointer_S.astype(np.int32)
  return {
    'numbers': numbers_SL,
    'hidden': hidden_SL[:-1],
    'next_hidden': hidden_SL[1:],
    'pointer': pointer_S,
    'target': np.take_along_axis(numbers_SL, pointer_S[:, None], axis=1)[:, 0],
    'importance': np.ones(len(pointer_S), np.float32),
    'id': np.int64(index),
  }
