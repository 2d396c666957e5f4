"""Several inputs in every step: labelled and pseudo-labelled examples together."""

import dataclasses
import math
from collections.abc import Hashable
from typing import Any

import numpy as np

from big_vision_like.data.input import base
from big_vision_like.data.input.several import Several, SeveralBatches
from big_vision_like.errors import UserError


@dataclasses.dataclass(frozen=True, kw_only=True)
class Joined(Several):
  """Batches {name: batch} of all inputs at each step, each with its own batch size.

  The batch of an input at step s is its own batch s. The position is therefore a single
  number and equal in all processes. Each process reads its rows of every part.

  `epoch_of` names the input whose examples count epochs. Without it, an epoch has as
  many examples as all inputs together.
  """

  def __post_init__(self) -> None:
    super().__post_init__()
    for name, data in self.inputs.items():
      if data.bucket is not None:
        raise UserError(
          f'inputs.{name} pads to several shapes, but joined batches must have one:'
          ' crop or resize its images to one size'
        )

  @property
  def batch_size(self) -> int:
    """The number of examples in a batch, over all inputs."""
    return sum(data.batch_size for data in self.inputs.values())

  @property
  def examples_per_epoch(self) -> int:
    if self.epoch_of is None:
      return sum(data.examples_per_epoch for data in self.inputs.values())
    data = self.inputs[self.epoch_of]
    return math.ceil(data.examples_per_epoch * self.batch_size / data.batch_size)

  @property
  def exact_shares(self) -> dict[str, float]:
    return dict.fromkeys(self.inputs, 1.0)

  def steps_of(self, step: int) -> dict[str, int]:
    return dict.fromkeys(self.inputs, step)

  def batches(
    self, rows_of: base.RowsOf = np.arange, place: str = 'train_data'
  ) -> 'JoinedBatches':
    """Returns a stream of batches; `place` names this input in messages."""
    return JoinedBatches(self, rows_of, place)

  def signatures(self, steps: int) -> dict[Hashable, float]:
    del steps
    return {(): 1.0}

  def label(self, signature: Hashable) -> str:
    del signature
    return ''

  def abstract(self, signature: Hashable = None) -> dict[str, dict[str, Any]]:
    del signature
    return {name: data.abstract() for name, data in self.inputs.items()}

  def padded_share(self, steps: int) -> float:
    del steps
    raise UserError('padded_share needs an input whose Pad has several sizes.')


class JoinedBatches(SeveralBatches):
  """Joint batches of several inputs, each with its own workers."""

  how = 'together'

  def __next__(self) -> base.Batch:
    batch = {name: next(part) for name, part in self._parts.items()}
    self._step += 1
    return batch
