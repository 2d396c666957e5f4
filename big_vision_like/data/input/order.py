"""The order in which training reads the records of a source.

It covers epochs that are permutations, repeated augmentation, and shuffling within
windows of groups. All are pure functions of seed and position, so the position is the
only state to save.
"""

import dataclasses
import functools
from collections.abc import Callable
from typing import Any

import grain
import numpy as np

from big_vision_like.data.sources.base import Source, as_source
from big_vision_like.errors import UserError

# An epoch with repeats is truncated to a multiple of this number, as in DeiT's sampler.
REPEATED_MULTIPLE = 256
# Permutations of up to this many items are kept in memory, 8 bytes per item; Grain
# computes larger ones.
SMALL = 2**21
# The purpose of a random draw, used together with the seed.
EPOCHS, OTHERS, WINDOWS = range(3)


@dataclasses.dataclass(frozen=True, eq=False)
class Order:
  """The order of a source's records: each record once per epoch, reshuffled each epoch.

  With `repeats`, every record comes that many times in a row, and an epoch has as many
  positions as without repeats, truncated to a multiple of `REPEATED_MULTIPLE`. This is
  repeated augmentation (arXiv:1901.09335). arXiv:2012.12877 distributes the copies over
  devices, as this package distributes the rows of a batch.

  A source may have `groups`, the starts of runs of records that are cheap to read only
  together. Such a source is shuffled by groups, and then within windows of `window`
  groups.
  """

  source: Source
  seed: int
  repeats: int = 1
  window: int = 16

  def __post_init__(self) -> None:
    object.__setattr__(self, 'source', as_source(self.source))
    for name in ('repeats', 'window'):
      if getattr(self, name) < 1:
        raise UserError(f'{name}={getattr(self, name)} is less than 1')
    if len(self.source) == 0:
      raise UserError(f'{self.source} holds no examples.')

  def index(self, position: int, attempt: int = 0) -> int:
    """Returns the index of the record at a position.

    For `attempt` of 1 or more, returns the index of another record to try instead,
    always the same for the same attempt.
    """
    if attempt:
      rng = np.random.default_rng((self.seed, OTHERS, position, attempt))
      return int(rng.integers(len(self.source)))
    return self._shuffled(*place(position, len(self.source), self.repeats))

  def _shuffled(self, epoch: int, rank: int) -> int:
    count = len(self.source)
    if self._groups is None:
      return self._permuted(epoch, rank, count)
    ends, _ = self._windows(epoch)
    window = int(np.searchsorted(ends, rank, side='right'))
    start = ends[window - 1] if window else 0
    return int(self._within(epoch, window)[rank - start])

  @functools.cached_property
  def _groups(self) -> np.ndarray | None:
    return self.source.groups

  def _permuted(self, epoch: int, rank: int, count: int) -> int:
    """Returns the item at a place in an epoch's permutation of `count` items."""
    # Grain 0.2.18 omits one of 2**(2k) + 1 items and repeats another.
    if count <= SMALL or (count - 1).bit_count() == 1:
      return int(self._small(epoch, count)[rank])
    return self._large[epoch * count + rank]

  @functools.cached_property
  def _small(self) -> Callable[[int, int], np.ndarray]:
    def permutation(epoch: int, count: int) -> np.ndarray:
      return np.random.default_rng((self.seed, EPOCHS, epoch)).permutation(count)

    return functools.lru_cache(maxsize=2)(permutation)

  @functools.cached_property
  def _large(self) -> grain.MapDataset:
    """Concatenated permutations of which Grain computes any single place."""
    seed = np.random.SeedSequence((self.seed, EPOCHS)).generate_state(1).item()
    count = len(self.source) if self._groups is None else len(self._groups) - 1
    return grain.MapDataset.range(count).shuffle(seed=seed).repeat(None)

  @functools.cached_property
  def _windows(self) -> Callable[[int], tuple[np.ndarray, list[int]]]:
    """A function that returns the window ends of an epoch and its order of groups."""

    def windows(epoch: int) -> tuple[np.ndarray, list[int]]:
      count = len(self._groups) - 1
      order = [self._permuted(epoch, i, count) for i in range(count)]
      sizes = np.diff(self._groups)[order]
      return np.add.reduceat(sizes, np.arange(0, count, self.window)).cumsum(), order

    return functools.lru_cache(maxsize=2)(windows)

  @functools.cached_property
  def _within(self) -> Callable[[int, int], np.ndarray]:
    """A function that returns the shuffled records of a window of an epoch."""

    def within(epoch: int, window: int) -> np.ndarray:
      _, order = self._windows(epoch)
      starts = self._groups
      records = np.concatenate(
        [
          np.arange(starts[group], starts[group + 1])
          for group in order[window * self.window : (window + 1) * self.window]
        ]
      )
      rng = np.random.default_rng((self.seed, WINDOWS, epoch, window))
      return rng.permutation(records)

    return functools.lru_cache(maxsize=4)(within)

  def __getstate__(self) -> dict[str, Any]:
    return {f.name: getattr(self, f.name) for f in dataclasses.fields(self)}


def place(position: int, examples: int, repeats: int) -> tuple[int, int]:
  """Returns the epoch of a position and the position's place in its permutation."""
  epoch, within = divmod(position, epoch_length(examples, repeats))
  return epoch, within // repeats


def epoch_length(examples: int, repeats: int) -> int:
  """Returns the number of positions in an epoch of `examples` examples."""
  if repeats == 1 or examples < REPEATED_MULTIPLE:
    return examples
  return examples // REPEATED_MULTIPLE * REPEATED_MULTIPLE
