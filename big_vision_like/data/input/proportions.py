"""Interleaving in exact proportions."""

import dataclasses
import fractions
import math
from collections.abc import Sequence


@dataclasses.dataclass(frozen=True)
class Proportions:
  """An endless, evenly spread sequence of turns of parts with integer `weights`.

  A part with share s has n * s of the first n turns, up to rounding.
  """

  weights: tuple[int, ...]

  @classmethod
  def of(cls, weights: Sequence[float]) -> 'Proportions':
    """Returns the proportions of decimal numbers, taken exactly: 0.1 is a tenth."""
    exact = [fractions.Fraction(str(weight)) for weight in weights]
    common = math.lcm(*(weight.denominator for weight in exact))
    whole = [int(weight * common) for weight in exact]
    divisor = math.gcd(*whole)
    return cls(tuple(weight // divisor for weight in whole))

  def place(self, position: int) -> tuple[int, int]:
    """Returns the part that has a turn, and the number of its earlier turns."""
    total = sum(self.weights)
    for part, weight in enumerate(self.weights):
      before, after = (n * weight // total for n in (position, position + 1))
      if after > before:
        return part, before
      position, total = position - before, total - weight
    raise AssertionError('the last part takes all remaining turns')

  def counts(self, turns: int) -> list[int]:
    """Returns how many of the first `turns` turns each part has."""
    total, counts = sum(self.weights), []
    for weight in self.weights:
      counts.append(turns * weight // total)
      turns, total = turns - counts[-1], total - weight
    return counts
