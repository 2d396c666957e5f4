"""Measures the cost of checksums when a state of random numbers is saved and restored.

  python tools/benchmark/checkpoints.py --megabytes=1024 --rounds=5

Prints JSON with medians in seconds: of the checksums, of `save` until training can
continue (with checksums), of the write until it is durable, and of a restore with its
checksums. It also has the share of a save that checksums take.
"""

import functools
import json
import pathlib
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from typing import Any

# The package, if this file is started as a script.
sys.path.insert(0, str(pathlib.Path(__file__).parents[2]))

import jax
import numpy as np

from big_vision_like import cli, errors
from big_vision_like.run import checkpoint
from big_vision_like.tasks.task import State

SHAPES = [(768, 3072), (3072, 768), (768, 12, 64), (768,), (3072,)]


def state_of(megabytes: int, step: int) -> State:
  """Returns a state of this size with the shapes of a Transformer."""
  rng, params, left = np.random.default_rng(0), {}, megabytes * 10**6
  while left > 0:
    for shape in SHAPES:
      x = rng.standard_normal(shape, np.float32)
      params[f'kernel_{len(params)}'] = jax.device_put(x)
      left -= x.nbytes
  return State(step=jax.device_put(np.int32(step)), params=params, opt_state=())


def seconds_of(call: Callable[[], Any]) -> float:
  """Returns the duration of a call in seconds."""
  started = time.perf_counter()
  call()
  return time.perf_counter() - started


def measure(megabytes: int, rounds: int) -> dict[str, Any]:
  """Returns medians after one warm-up round, with a new folder for each round."""
  state, found = state_of(megabytes, 0), []
  like = jax.tree.map(
    lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=x.sharding), state
  )
  for _ in range(rounds + 1):
    with tempfile.TemporaryDirectory() as folder:
      times = {'checksums': seconds_of(lambda: checkpoint.checksums(state))}
      with checkpoint.Checkpoints(pathlib.Path(folder)) as checkpoints:
        save = functools.partial(checkpoints.save, 1, state, {'step': 1}, 0.0)
        times['save'] = seconds_of(save)
        times['durable'] = times['save'] + seconds_of(checkpoints.wait)
      with checkpoint.Checkpoints(pathlib.Path(folder)) as checkpoints:
        restore = functools.partial(checkpoints.restore, like)
        times['restore'] = seconds_of(restore)
    found.append(times)
  medians = {name: statistics.median(t[name] for t in found[1:]) for name in found[0]}
  written = medians['durable'] - medians['checksums']
  return {
    'megabytes': megabytes,
    'device': jax.devices()[0].device_kind,
    'seconds': {name: round(value, 3) for name, value in medians.items()},
    'checksums_of_save': round(medians['checksums'] / written, 4),
  }


@errors.told_plainly
def main(argv: Sequence[str] | None = None) -> None:
  """Prints the measurements as JSON."""
  parser = errors.parser(__doc__)
  parser.add_argument(
    '--megabytes', type=int, default=1024, help='size of the state; %(default)s'
  )
  parser.add_argument(
    '--rounds', type=int, default=5, help='measured rounds; %(default)s'
  )
  args = parser.parse_args(argv)
  cli.set_up_jax()
  print(json.dumps(measure(args.megabytes, args.rounds), indent=2))


if __name__ == '__main__':
  raise SystemExit(main())
