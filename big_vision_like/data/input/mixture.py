"""A mixture of several sources in one stream, in exact proportions."""

import dataclasses
import functools
import math
from collections.abc import Mapping, Sequence
from typing import Any

import grain

from big_vision_like.data.input.proportions import Proportions
from big_vision_like.data.sources.base import Source, as_source, digest
from big_vision_like.errors import UserError, check_one_of

Transforms = Sequence[grain.transforms.Map | grain.transforms.RandomMap]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Part:
  """A source of a mixture, with its own transforms before the transforms of all parts.

  `weight` is relative to the weights of the other parts. None stands for the number of
  examples.
  """

  source: Source
  weight: float | None = None
  transforms: Transforms = ()

  def __post_init__(self) -> None:
    object.__setattr__(self, 'source', as_source(self.source))


@dataclasses.dataclass(frozen=True, kw_only=True)
class Mixture(Source):
  """A source for training that interleaves its parts according to their weights.

  A part with share s provides n * s of the first n examples, up to rounding. Each of
  its records comes once before any is repeated. `epoch_of` names the part whose
  examples count epochs. Without it, an epoch has as many examples as all parts
  together.

  Each example has a field `part`, the index of its part, unless a transform drops it.
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
    if self.epoch_of is not None:
      check_one_of(self.parts, epoch_of=self.epoch_of)

  @functools.cached_property
  def proportions(self) -> Proportions:
    """The exact proportions of the parts in the stream."""
    return Proportions.of(
      [len(p.source) if p.weight is None else p.weight for p in self.parts.values()]
    )

  def place(self, position: int) -> tuple[int, int]:
    """Returns the part of an example of the stream, and its position in that part."""
    return self.proportions.place(position)

  def counts(self, examples: int) -> dict[str, int]:
    """Returns how many of the first examples of the stream come from each part."""
    return dict(zip(self.parts, self.proportions.counts(examples), strict=True))

  def planned(self) -> 'Mixture':
    """Returns the mixture with stand-ins for sources whose data are not available."""
    parts = {
      name: dataclasses.replace(part, source=part.source.planned())
      for name, part in self.parts.items()
    }
    return dataclasses.replace(self, parts=parts)

  @property
  def inner(self) -> dict[str, Source]:
    """The sources of the parts."""
    return {name: part.source for name, part in self.parts.items()}

  def fingerprint(self) -> str:
    """Returns a digest of the parts, their transforms and their proportions."""
    parts = {name: [p.source, p.transforms] for name, p in self.parts.items()}
    return digest('Mixture', parts, self.proportions, len(self))

  def __getitem__(self, index: int) -> dict[str, Any]:
    """Returns the record at a place of the mixture; parts keep their own order."""
    if not 0 <= index < len(self):
      raise IndexError(f'example {index} of {len(self)}')
    part, place = self.place(index)
    source = list(self.parts.values())[part].source
    return source[place % len(source)]

  def __len__(self) -> int:
    """Returns the number of examples in an epoch."""
    if self.epoch_of is None:
      return sum(len(part.source) for part in self.parts.values())
    index = list(self.parts).index(self.epoch_of)
    own = len(self.parts[self.epoch_of].source)
    weights = self.proportions.weights
    return math.ceil(own * sum(weights) / weights[index])

  def __getstate__(self) -> dict[str, Any]:
    return {f.name: getattr(self, f.name) for f in dataclasses.fields(self)}
