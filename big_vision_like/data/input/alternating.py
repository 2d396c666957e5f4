"""Interleaved inputs, one per step: training on several tasks at once."""

import dataclasses
import functools
import math
from collections.abc import Hashable, Mapping
from typing import Any

import numpy as np

from big_vision_like.data.input import base
from big_vision_like.data.input.proportions import Proportions
from big_vision_like.data.input.several import Several, SeveralBatches
from big_vision_like.errors import UserError

# Number of steps in a window; the order of inputs is drawn window by window.
WINDOW = 64
# Largest allowed difference between the sum of shares and 1, for thirds written as
# 0.333333.
ROUNDING = 1e-5


@dataclasses.dataclass(frozen=True, kw_only=True)
class Alternating(Several):
  """Batches {name: batch}, each from one of several inputs.

  `shares` is the share of the steps that each input gets. The shares sum to one. By
  default they are proportional to the number of examples in an epoch of each input.

  The order of inputs is drawn from `seed` and the window number, within windows of
  `WINDOW` steps and in exact proportions: after any number of whole windows, an input
  with share s has had the fraction s of the steps, up to rounding. The k-th batch drawn
  from an input is always its own batch k, whatever comes in between. The position is
  therefore a single number, the step, and is equal on all hosts.

  `epoch_of` names the input whose examples count epochs. Without it, an epoch has as
  many examples as all inputs together.
  """

  shares: Mapping[str, float] | None = None
  seed: int = 0

  def __post_init__(self) -> None:
    super().__post_init__()
    if self.shares is None:
      return
    names = ', '.join(self.inputs)
    for name in self.shares:
      if name not in self.inputs:
        raise UserError(
          f'shares names {name!r}, which is not an input; the inputs are {names}'
        )
    for name in self.inputs:
      if name not in self.shares:
        raise UserError(f'shares has no share for the input {name!r}')
      if not self.shares[name] > 0:
        raise UserError(f'shares.{name}={self.shares[name]} is not above 0')
    total = math.fsum(self.shares.values())
    if abs(total - 1) > ROUNDING:
      raise UserError(f'shares sum to {total:g}, not to 1')

  @functools.cached_property
  def proportions(self) -> Proportions:
    """The exact proportions of the steps that the inputs get."""
    if self.shares is None:
      return Proportions.of([d.examples_per_epoch for d in self.inputs.values()])
    return Proportions.of([self.shares[name] for name in self.inputs])

  @functools.cached_property
  def exact_shares(self) -> dict[str, float]:
    weights = self.proportions.weights
    total = sum(weights)
    return {n: w / total for n, w in zip(self.inputs, weights, strict=True)}

  @functools.cached_property
  def batch_size(self) -> float:
    """The mean number of examples in a batch."""
    shares = self.exact_shares
    return math.fsum(shares[n] * data.batch_size for n, data in self.inputs.items())

  @property
  def examples_per_epoch(self) -> int:
    if self.epoch_of is None:
      return sum(data.examples_per_epoch for data in self.inputs.values())
    data = self.inputs[self.epoch_of]
    steps = data.examples_per_epoch / data.batch_size / self.exact_shares[self.epoch_of]
    return math.ceil(steps * self.batch_size)

  def part(self, step: int) -> str:
    """Returns the name of the input that provides the batch of a step."""
    window, number = divmod(step, WINDOW)
    return list(self.inputs)[self._window(window)[number]]

  def steps_of(self, step: int) -> dict[str, int]:
    """Returns how many of the first `step` steps each input has had."""
    window, number = divmod(step, WINDOW)
    counts = np.array(self.proportions.counts(window * WINDOW))
    counts += np.bincount(self._window(window)[:number], minlength=len(self.inputs))
    return dict(zip(self.inputs, counts.tolist(), strict=True))

  def _window(self, window: int) -> np.ndarray:
    """Returns the index of the input for each step of a window."""
    return _window(self.proportions, self.seed, window)

  def batches(
    self, rows_of: base.RowsOf = np.arange, place: str = 'train_data'
  ) -> 'AlternatingBatches':
    """Returns a stream of batches; `place` names this input in messages."""
    return AlternatingBatches(self, rows_of, place)

  def first(self, rows_of: base.RowsOf = np.arange) -> base.Batch:
    return {name: data.first(rows_of) for name, data in self.inputs.items()}

  def signatures(self, steps: int) -> dict[Hashable, float]:
    found = {}
    for name, count in self.steps_of(steps).items():
      if count:
        for inner, share in self.inputs[name].signatures(count).items():
          found[name, inner] = share * count / steps
    return found

  def label(self, signature: tuple[str, Hashable]) -> str:
    name, inner = signature
    return f'{name} {self.inputs[name].label(inner)}'.strip()

  def abstract(
    self, signature: tuple[str, Hashable] | None = None
  ) -> dict[str, dict[str, Any]]:
    if signature is None:
      return {name: data.abstract() for name, data in self.inputs.items()}
    name, inner = signature
    return {name: self.inputs[name].abstract(inner)}

  def padded_share(self, steps: int) -> float:
    """Returns the mean share of padding over steps of inputs with several shapes."""
    counts = {n: c for n, c in self.steps_of(steps).items() if self.inputs[n].bucket}
    total = sum(counts.values())
    if not total:
      raise UserError('padded_share needs an input whose Pad has several sizes.')
    shares = [c * self.inputs[n].padded_share(c) for n, c in counts.items() if c]
    return math.fsum(shares) / total


@functools.lru_cache(maxsize=16)
def _window(proportions: Proportions, seed: int, window: int) -> np.ndarray:
  start = window * WINDOW
  parts = [proportions.place(step)[0] for step in range(start, start + WINDOW)]
  return np.random.default_rng((seed, window)).permutation(parts)


class AlternatingBatches(SeveralBatches):
  """Interleaved batches of several inputs, each with its own workers."""

  how = 'in turn'

  def __next__(self) -> base.Batch:
    name = self._data.part(self._step)
    batch = next(self._parts[name])
    self._step += 1
    return {name: batch}
