"""Which record of a source each position of the training stream has.

Pure functions of seed and position, so that nothing has to be remembered but the
position: epochs that are permutations, repeated augmentation, windows over groups.
"""

import dataclasses
import functools
from collections.abc import Callable
from typing import Any

import grain
import numpy as np

from big_vision_like.data.sources.base import Source, as_source
from big_vision_like.errors import UserError

# An epoch with repeats is cut to a multiple of this, as the sampler of DeiT does.
REPEATED_MULTIPLE = 256
# Permutations of so many things are kept, 8 bytes each; Grain makes those of more.
SMALL = 2**21
# Names what a draw is for, beside the seed.
EPOCHS, OTHERS, WINDOWS = range(3)


@dataclasses.dataclass(frozen=True, eq=False)
class Order:
  """The order of a source's records: new in each epoch, each record once.

  With `repeats` every record comes that many times in a row, and an epoch ends where
  it would without them: repeated augmentation (arXiv:1901.09335; arXiv:2012.12877 deals
  the copies to different devices, as rows of one batch are here).

  A source with `groups`, the starts of runs of records that are cheap only when they
  are read together, is shuffled by groups and then within windows of `window` of them.
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
    """The record at a position; or what to try, the same each time, in its place."""
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
    """What is at a place of an epoch's permutation of `count` things."""
    # Of 2**(2k) + 1 things Grain 0.2.18 leaves one out and takes another twice.
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
    """Permutations one after the other, of which Grain makes any place at a time."""
    seed = np.random.SeedSequence((self.seed, EPOCHS)).generate_state(1).item()
    count = len(self.source) if self._groups is None else len(self._groups) - 1
    return grain.MapDataset.range(count).shuffle(seed=seed).repeat(None)

  @functools.cached_property
  def _windows(self) -> Callable[[int], tuple[np.ndarray, list[int]]]:
    """Where the windows of an epoch end, and all groups in their order."""

    def windows(epoch: int) -> tuple[np.ndarray, list[int]]:
      count = len(self._groups) - 1
      order = [self._permuted(epoch, i, count) for i in range(count)]
      sizes = np.diff(self._groups)[order]
      return np.add.reduceat(sizes, np.arange(0, count, self.window)).cumsum(), order

    return functools.lru_cache(maxsize=2)(windows)

  @functools.cached_property
  def _within(self) -> Callable[[int, int], np.ndarray]:
    """The records of a window of an epoch in their order."""

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
  """The epoch of a position, and which record of its permutation comes there."""
  epoch, within = divmod(position, epoch_length(examples, repeats))
  return epoch, within // repeats


def epoch_length(examples: int, repeats: int) -> int:
  """How many positions an epoch over so many examples has."""
  if repeats == 1 or examples < REPEATED_MULTIPLE:
    return examples
  return examples // REPEATED_MULTIPLE * REPEATED_MULTIPLE
