"""Base classes of inputs that draw from several others, in turn or together."""

import abc
import dataclasses
from collections.abc import Mapping
from typing import ClassVar, Self

from big_vision_like.data.input import base
from big_vision_like.data.input.pipeline import SingleBatches, TrainInput
from big_vision_like.errors import UserError, check_one_of


@dataclasses.dataclass(frozen=True, kw_only=True)
class Several(base.Input):
  """Batches {name: batch} of several inputs; subclasses choose the inputs of each step.

  `epoch_of` names the input whose examples count epochs. Without it, an epoch has as
  many examples as all inputs together.
  """

  inputs: Mapping[str, TrainInput]
  epoch_of: str | None = None

  def __post_init__(self) -> None:
    if not self.inputs:
      raise UserError(f'{type(self).__name__} needs inputs')
    for name, data in self.inputs.items():
      if not isinstance(data, TrainInput):
        raise UserError(
          f'inputs.{name} must be a TrainInput, not {type(data).__name__}'
        )
    if self.epoch_of is not None:
      check_one_of(self.inputs, epoch_of=self.epoch_of)

  @abc.abstractmethod
  def steps_of(self, step: int) -> dict[str, int]:
    """Returns how many of the first `step` steps each input has had."""

  @property
  def parts(self) -> dict[str, TrainInput]:
    return dict(self.inputs)

  def planned(self) -> Self:
    inputs = {name: data.planned() for name, data in self.inputs.items()}
    return dataclasses.replace(self, inputs=inputs)


class SeveralBatches(base.Batches):
  """Batches of several inputs, each with its own workers.

  The position is a single number, the step. `how` describes in messages how the inputs
  are combined.
  """

  how: ClassVar[str]

  def __init__(self, data: Several, rows_of: base.RowsOf, place: str):
    self._data, self._step = data, 0
    self._parts: dict[str, SingleBatches] = {
      name: part.batches(rows_of, f'{place}.inputs.{name}')
      for name, part in data.inputs.items()
    }

  @property
  def replaced(self) -> int:
    return sum(part.replaced for part in self._parts.values())

  @property
  def cpu_seconds(self) -> float:
    return sum(part.cpu_seconds for part in self._parts.values())

  def news(self) -> list[str]:
    return [f'{n}: {line}' for n, part in self._parts.items() for line in part.news()]

  def get_state(self) -> dict[str, int]:
    return {'step': self._step}

  def set_state(self, state: Mapping[str, int]) -> None:
    if 'step' not in state:
      raise UserError(
        f'the checkpoint is from a run with one input, not with several {self.how}:'
        ' start a new run, with init_from to load its weights'
      )
    self._step = state['step']
    for name, step in self._data.steps_of(self._step).items():
      self._parts[name].set_state({'step': step})

  def close(self) -> None:
    for part in self._parts.values():
      part.close()
