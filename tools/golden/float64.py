"""A second comparison in float64, for files that are ill-conditioned in float32.

Two correct float32 programs may differ by more than a tolerance if rounding is
amplified, by an amount that depends on the CPU. Our program in float64 has no such
error, and gives the same numbers on every CPU. It is the reference for two errors, of
the file and of our float32 program. Each must be within a limit: the tolerance or, if
larger, ROUNDINGS times the effect of rounding. This effect is the largest change of the
float64 values when each float32 number in the file (parameters and inputs) is replaced
by one of its two neighbors, at random. It is computed without the compared values, so a
wrong value, or a bug in a program, does not widen its own limit.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import numpy as np

from tools.golden.common import Fields, Results

# The files of DETR differ from float64 by 2.5 times the effect of one rounding.
ROUNDINGS = 8
# In a single draw, a number may change little by chance.
DRAWS = 3


class Float64(NamedTuple):
  """Our values in float64, and the effect of rounding on each array, by name."""

  values: dict[str, np.ndarray]
  rounding: dict[str, float]


def largest_error(a: Any, b: Any) -> float:
  """Returns the largest absolute difference of two arrays; NaN if either has a NaN."""
  difference = np.asarray(a, np.float64) - np.asarray(b, np.float64)
  return float(np.abs(difference).max(initial=0.0))


def recompute(
  function: Callable[[Fields, Fields], Results],
  description: Fields,
  given: Fields,
  compared: Fields,
) -> Float64:
  """Runs a check in float64: once with the given arrays, then with neighbors of them.

  `compared` has the golden values, from which checks read which values are needed.
  """

  names = [name for name, array in compared.items() if array.dtype.kind == 'f']

  def run(given: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    arrays = {
      name: array.astype(np.float64) if array.dtype == np.float32 else array
      for name, array in {**given, **compared}.items()
    }
    with jax.enable_x64(True):
      results = function(description, Fields(arrays))
      return {name: np.asarray(results[name][0]) for name in names if name in results}

  values = run(given)
  draws = [run(neighbors(given, seed)) for seed in range(DRAWS)]
  rounding = {
    name: max(largest_error(draw[name], value) for draw in draws)
    for name, value in values.items()
  }
  return Float64(values, rounding)


def neighbors(given: dict[str, np.ndarray], seed: int) -> dict[str, np.ndarray]:
  """Returns float32 arrays with each nonzero number moved to a random neighbor."""
  rng = np.random.default_rng(seed)

  def moved(array: np.ndarray) -> np.ndarray:
    if array.dtype != np.float32:
      return array
    direction = np.where(rng.random(array.shape) < 0.5, -np.inf, np.inf)
    neighbor = np.nextafter(array, direction.astype(np.float32))
    return np.where(array == 0, array, neighbor)

  return {name: moved(array) for name, array in given.items()}


def verdict(
  name: str, want: np.ndarray, ours: Any, allowed: float, float64: Float64
) -> tuple[str, bool]:
  """Returns the comparison in float64 as text, and whether the array passes."""
  truth, rounding = float64.values[name], float64.rounding[name]
  if truth.dtype != np.float64:
    return f'TOO LARGE, and computed in {truth.dtype} even under jax.enable_x64', False
  limit = max(allowed, ROUNDINGS * rounding)
  of_file, of_ours = largest_error(want, truth), largest_error(ours, truth)
  ok = of_file <= limit and of_ours <= limit  # false for NaN
  return (
    f'{"ok in" if ok else "TOO LARGE,"} float64: error of the file {of_file:.1e}, of'
    f' our float32 {of_ours:.1e}, limit {limit:.1e}'
    f' (one rounding {rounding:.1e})'
  ), ok
