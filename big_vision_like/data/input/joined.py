"""Several inputs in every step: labelled and pseudo-labelled examples together."""

import dataclasses
import math
from collections.abc import Hashable, Mapping
from typing import Any

import numpy as np

from big_vision_like.data.input import base
from big_vision_like.data.input.pipeline import SingleBatches, TrainInput
from big_vision_like.errors import UserError, check_one_of


@dataclasses.dataclass(frozen=True, kw_only=True)
class Joined(base.Input):
  """Batches {name: batch} of all inputs at each step, each with its own batch size.

  The batch of an input at step s is its own batch s, so the position is one number and
  the same for all processes, of which each reads its rows of every part.

  `epoch_of` names the input whose examples count epochs; without it, an epoch has as
  many examples as all inputs together.
  """

  inputs: Mapping[str, TrainInput]
  epoch_of: str | None = None

  def __post_init__(self) -> None:
    if not self.inputs:
      raise UserError('Joined needs inputs')
    for name, data in self.inputs.items():
      if not isinstance(data, TrainInput):
        raise UserError(
          f'inputs.{name} must be a TrainInput, not {type(data).__name__}'
        )
      if data.bucket is not None:
        raise UserError(
          f'inputs.{name} pads to several shapes; batches that are joined have one:'
          ' crop or resize its images to one size'
        )
    if self.epoch_of is not None:
      check_one_of(self.inputs, epoch_of=self.epoch_of)

  @property
  def batch_size(self) -> int:
    """The number of examples in a batch, of all inputs together."""
    return sum(data.batch_size for data in self.inputs.values())

  @property
  def examples_per_epoch(self) -> int:
    if self.epoch_of is None:
      return sum(data.examples_per_epoch for data in self.inputs.values())
    data = self.inputs[self.epoch_of]
    return math.ceil(data.examples_per_epoch * self.batch_size / data.batch_size)

  @property
  def parts(self) -> dict[str, TrainInput]:
    return dict(self.inputs)

  @property
  def exact_shares(self) -> dict[str, float]:
    return dict.fromkeys(self.inputs, 1.0)

  def planned(self) -> 'Joined':
    inputs = {name: data.planned() for name, data in self.inputs.items()}
    return dataclasses.replace(self, inputs=inputs)

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
    raise UserError('padded_share is of inputs whose Pad has several sizes.')


class JoinedBatches(base.Batches):
  """The batches of several inputs together, each with workers of its own."""

  def __init__(self, data: Joined, rows_of: base.RowsOf, place: str):
    self._step = 0
    self._parts: dict[str, SingleBatches] = {
      name: part.batches(rows_of, f'{place}.inputs.{name}')
      for name, part in data.inputs.items()
    }

  @property
  def replaced(self) -> int:
    return sum(part.replaced for part in self._parts.values())

  def __next__(self) -> base.Batch:
    batch = {name: next(part) for name, part in self._parts.items()}
    self._step += 1
    return batch

  def news(self) -> list[str]:
    return [f'{n}: {line}' for n, part in self._parts.items() for line in part.news()]

  def get_state(self) -> dict[str, int]:
    return {'step': self._step}

  def set_state(self, state: Mapping[str, int]) -> None:
    if 'step' not in state:
      raise UserError(
        'the checkpoint is of a run with one input, not of several together: start a'
        ' new run, with init_from for its weights'
      )
    self._step = state['step']
    for part in self._parts.values():
      part.set_state({'step': self._step})

  def close(self) -> None:
    for part in self._parts.values():
      part.close()
