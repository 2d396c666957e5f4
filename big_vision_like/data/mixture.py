"""Several sources in one stream, in exact proportions."""

import dataclasses
import fractions
import functools
import math
from collections.abc import Mapping, Sequence
from typing import Any

import grain

from big_vision_like.errors import UserError

Transforms = Sequence[grain.transforms.Map | grain.transforms.RandomMap]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Part:
  """A source of a mixture, with transforms of its own before those of all.

  `weight` is relative to those of the other parts; None: the number of examples.
  """

  source: Any
  weight: float | None = None
  transforms: Transforms = ()


@dataclasses.dataclass(frozen=True, kw_only=True)
class Mixture:
  """A source for training that takes from its parts in turn, by their weights.

  Of the first n examples a part of share s gives n * s but for rounding, each of its
  records once before any comes again. `epoch_of` names the part whose examples count
  epochs; without it, an epoch has as many examples as all parts together.

  Examples get `part`, the index of theirs among the names, if no transform drops it.
  """

  parts: Mapping[str, Part]
  epoch_of: str | None = None

  def __post_init__(self) -> None:
    if not self.parts:
      raise UserError('a mixture needs parts')
    for name, part in self.parts.items():
      if part.weight is not None and not part.weight > 0:
        raise UserError(f'weight={part.weight} of part {name!r} is not above 0')
    given = [part.weight is not None for part in self.parts.values()]
    if any(given) and not all(given):
      raise UserError('either all parts of a mixture have a weight, or none')
    if self.epoch_of is not None and self.epoch_of not in self.parts:
      raise UserError(
        f'epoch_of={self.epoch_of!r} is not one of {", ".join(self.parts)}'
      )

  @functools.cached_property
  def weights(self) -> tuple[int, ...]:
    """Whole numbers in the proportion of the parts."""
    exact = [
      fractions.Fraction(len(p.source) if p.weight is None else str(p.weight))
      for p in self.parts.values()
    ]
    common = math.lcm(*(weight.denominator for weight in exact))
    whole = [int(weight * common) for weight in exact]
    divisor = math.gcd(*whole)
    return tuple(weight // divisor for weight in whole)

  def place(self, position: int) -> tuple[int, int]:
    """Which part an example of the stream is from, and its number among those."""
    total = sum(self.weights)
    for part, weight in enumerate(self.weights):
      before, after = (n * weight // total for n in (position, position + 1))
      if after > before:
        return part, before
      position, total = position - before, total - weight
    raise AssertionError('the last part takes what is left')

  def counts(self, examples: int) -> dict[str, int]:
    """How many of the first examples of the stream are from each part."""
    total, counts = sum(self.weights), {}
    for name, weight in zip(self.parts, self.weights, strict=True):
      counts[name] = examples * weight // total
      examples, total = examples - counts[name], total - weight
    return counts

  def planned(self) -> 'Mixture':
    """With what stands in for data that are not there in a plan."""
    parts = {
      name: dataclasses.replace(part, source=part.source.planned())
      if hasattr(part.source, 'planned')
      else part
      for name, part in self.parts.items()
    }
    return dataclasses.replace(self, parts=parts)

  def __len__(self) -> int:
    """How many examples an epoch has."""
    if self.epoch_of is None:
      return sum(len(part.source) for part in self.parts.values())
    index = list(self.parts).index(self.epoch_of)
    own = len(self.parts[self.epoch_of].source)
    return math.ceil(own * sum(self.weights) / self.weights[index])

  def __getstate__(self) -> dict[str, Any]:
    return {f.name: getattr(self, f.name) for f in dataclasses.fields(self)}
