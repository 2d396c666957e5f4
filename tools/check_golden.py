"""Compares our code with golden files: numbers computed by original implementations.

  python tools/check_golden.py tests/golden/*.npz tests/golden/bit_hyperrule.json

Each FILE.npz holds inputs, parameters under the reference's own names, and outputs,
losses and gradients; FILE.json next to it names the reference and its configuration.
Every array under output/, loss/, grad/ and converted/ is compared. Some files are only
a FILE.json, whose numbers are compared. If a float32 array is outside its tolerance,
our program runs again in float64, and the errors of both the file and our float32
result are measured and printed (see golden/float64.py). The exit status is 0 if all
arrays are within tolerance, 1 if one is not or has no counterpart, and 2 if a file
cannot be checked.

A new kind of file needs one function in a module of golden/, listed in its CHECKS.
"""

import importlib
import json
import pathlib
import pkgutil
import sys
import zipfile
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import numpy as np

from big_vision_like import cli, errors
from big_vision_like.errors import UserError, shape_text

# Other modules of tools, if this file is started as a script.
sys.path.insert(0, str(pathlib.Path(__file__).parents[1]))

from tools import golden as checks
from tools.golden import float64 as golden_float64
from tools.golden.common import EXACT, Check, Fields, Results, Tolerance

COMPARED = ('output/', 'loss/', 'grad/', 'converted/')


def declared() -> list[Check]:
  """Returns the checks of all modules of golden/."""
  found = []
  for _, name, _ in pkgutil.iter_modules(checks.__path__, f'{checks.__name__}.'):
    here = getattr(importlib.import_module(name), 'CHECKS', ())
    if type(here) is not tuple or not all(getattr(x, 'reference', '') for x in here):
      raise UserError(
        f'CHECKS of {name} is not a tuple of checks that name a reference'
      )
    found += here
  return found


def check_of(description: Fields, alone: bool) -> Check:
  """Returns the check for files of this description, with arrays or `alone`."""
  fitting = [check for check in declared() if check.fits(description, alone)]
  if not fitting:
    reference = description['reference']
    raise UserError(f'no module of tools/golden checks the reference {reference!r}')
  most = max(len(check.fields) for check in fitting)
  best = [check for check in fitting if len(check.fields) == most]
  if len(best) > 1:
    names = [f'{x.function.__module__}.{x.function.__name__}' for x in best]
    raise UserError(f'{" and ".join(names)} claim the same files')
  return best[0]


def described(path: pathlib.Path) -> Fields:
  """Reads a FILE.json."""
  try:
    return json.loads(path.read_text(), object_hook=Fields)
  except FileNotFoundError:
    raise UserError(f'{path.name} is missing next to it') from None
  except json.JSONDecodeError as error:
    raise UserError(f'{path.name} cannot be parsed: {error}') from None


class Computed(NamedTuple):
  """The reference of a file, its golden arrays, our values, and a float64 rerun.

  Files without arrays have no `recompute`.
  """

  reference: str
  golden: dict[str, np.ndarray]
  results: Results
  recompute: Callable[[], golden_float64.Float64] | None


def compute(path: pathlib.Path) -> Computed:
  """Reads a file and computes our values for it."""
  if (
    path.suffix == '.json' and path.is_file() and not path.with_suffix('.npz').exists()
  ):
    description = described(path)
    kind = check_of(description, alone=True)
    return Computed(description['reference'], *kind.function(description), None)
  path = path.with_suffix('.npz') if path.suffix == '.json' else path
  if path.suffix != '.npz' or not zipfile.is_zipfile(path):
    raise UserError('there is no such .npz file')
  description = described(path.with_suffix('.json'))
  kind = check_of(description, alone=False)
  with np.load(path, allow_pickle=False) as file:
    arrays = Fields(file)
  wanted = {name: array for name, array in arrays.items() if name.startswith(COMPARED)}
  if not wanted:
    raise UserError('it has no arrays to compare')
  given = {name: array for name, array in arrays.items() if name not in wanted}
  function = jax.default_matmul_precision('highest')(kind.function)

  def recompute() -> golden_float64.Float64:
    return golden_float64.recompute(function, description, given, wanted)

  reference = description.get('reference', kind.reference)
  return Computed(reference, wanted, function(description, arrays), recompute)


def compare(want: np.ndarray, result: tuple[Any, Tolerance] | None) -> tuple[str, bool]:
  """Returns errors, tolerance and verdict of an array as text, and whether it is ok."""
  if result is None:
    return 'no counterpart', False
  got, tolerance = np.asarray(result[0]), result[1]
  if got.shape != want.shape:
    return f'ours has shape {shape_text(got.shape)}', False
  error = golden_float64.largest_error(got, want)
  largest, allowed = magnitude(want), allowed_error(want, tolerance)
  ok = error <= allowed  # false for NaN
  relative = error / largest if largest else float(error > 0)
  verdict = 'ok' if ok else 'TOO LARGE'
  return f'{error:9.1e}  {relative:9.1e}  {allowed:9.1e}  {verdict}', ok


def magnitude(array: np.ndarray) -> float:
  return golden_float64.largest_error(array, 0.0)


def allowed_error(want: np.ndarray, tolerance: Tolerance) -> float:
  """Returns the largest absolute error that a tolerance allows for an array."""
  return tolerance.absolute + tolerance.relative * magnitude(want)


def needs_float64(want: np.ndarray, result: tuple[Any, Tolerance] | None) -> bool:
  """Returns whether rounding may explain why an array missed its tolerance."""
  if result is None or np.shape(result[0]) != want.shape:
    return False
  return want.dtype.kind == 'f' and result[1] != EXACT


def check(path: pathlib.Path) -> bool:
  """Prints the table of one file; returns whether all arrays are within tolerance."""
  reference, golden, results, recompute = compute(path)
  names = max(map(len, golden))
  shapes = max(len('shape'), *(len(shape_text(x.shape)) for x in golden.values()))
  print(f'{path}: {reference}')
  head = f'{"max abs":>9}  {"max rel":>9}  {"allowed":>9}'
  print(f'  {"name":{names}}  {"shape":{shapes}}  {head}')
  count, float64 = 0, None
  for name, want in golden.items():
    text, ok = compare(want, results.get(name))
    if not ok and recompute is not None and needs_float64(want, results.get(name)):
      float64 = recompute() if float64 is None else float64
      ours, tolerance = results[name]
      allowed = allowed_error(want, tolerance)
      second, ok = golden_float64.verdict(name, want, ours, allowed, float64)
      text = f'{text.removesuffix("TOO LARGE")}{second}'
    count += ok
    print(f'  {name:{names}}  {shape_text(want.shape):{shapes}}  {text}')
  print(f'  {count} of {len(golden)} within tolerance\n')
  return count == len(golden)


def main(arguments: list[str] | None = None) -> int:
  parser = errors.parser(__doc__)
  parser.add_argument(
    'files',
    nargs='+',
    type=pathlib.Path,
    metavar='FILE.npz',
    help='golden arrays; FILE.json describes them',
  )
  status, files = 0, parser.parse_args(arguments).files
  cli.set_up_jax()
  for path in files:
    try:
      status = max(status, 0 if check(path) else 1)
    except ValueError as error:
      print(f'{path}: {str(error).rstrip(".")}.', file=sys.stderr)
      status = 2
  return status


if __name__ == '__main__':
  sys.exit(main())
