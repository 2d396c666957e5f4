"""Measures the cost of matching targets to queries on this machine.

  python tools/benchmark/matching.py [64x10x10] [8x20x100]

Batches have these sizes (examples x targets x queries). Measured are
`ops.matching.match`, `optax.assignment.hungarian_algorithm` under `vmap`, and
`scipy.optimize.linear_sum_assignment` for one example after the other, with costs that
are already on the host. There are three kinds of costs: `uniform` in [0, 1], `sets` as
predicted by an untrained model (half of the targets are zeros, which are matched too),
and `padded` sets in which these zeros are masked (optax has no mask and gets costs of
0).

All measurements are interleaved after a warm-up; results are medians. `error` is the
largest difference between the total costs of `match` and scipy. JSON is written to
stdout or --output, a table to stderr.
"""

import pathlib
import sys
from collections.abc import Sequence
from typing import Any

import jax
import numpy as np
import optax
import rich.console
import rich.table
from scipy import optimize

from big_vision_like import cli, errors
from big_vision_like.ops import matching

# Other modules of tools, if this file is started as a script.
sys.path.insert(0, str(pathlib.Path(__file__).parents[2]))

from tools.benchmark import step as benchmark

SIZES = ('64x10x10', '8x20x100')
COSTS = ('uniform', 'sets', 'padded')
PROPERTIES = 19


def costs(
  name: str, batch: int, targets: int, queries: int
) -> tuple[np.ndarray, np.ndarray]:
  """Returns costs (B, T, Q) float32, and a mask of the valid targets (B, T)."""
  rng = np.random.default_rng(0)
  valid_BT = np.ones((batch, targets), bool)
  if name == 'uniform':
    return rng.random((batch, targets, queries), np.float32), valid_BT
  target_BTP = (rng.random((batch, targets, PROPERTIES)) < 0.3).astype(np.float32)
  target_BTP[:, (targets + 1) // 2 :] = 0.0
  query_BQP = rng.uniform(0.45, 0.55, (batch, queries, PROPERTIES))
  cost_BTQ = 0.5 * np.square(target_BTP[:, :, None] - query_BQP[:, None]).mean(axis=-1)
  if name == 'padded':
    valid_BT[:, (targets + 1) // 2 :] = False
    cost_BTQ[~valid_BT] = 0.0
  return cost_BTQ.astype(np.float32), valid_BT


def measure(name: str, batch: int, targets: int, queries: int, repeats: int) -> dict:
  """Returns medians in milliseconds, and the error of `match`."""
  cost_BTQ, valid_BT = costs(name, batch, targets, queries)
  arguments = jax.device_put((cost_BTQ, valid_BT) if name == 'padded' else (cost_BTQ,))
  ours = jax.jit(matching.match)
  theirs = jax.jit(jax.vmap(optax.assignment.hungarian_algorithm))
  tables = [table[valid] for table, valid in zip(cost_BTQ, valid_BT, strict=True)]

  def on_host(times: int) -> None:
    for _ in range(times):
      for table in tables:
        optimize.linear_sum_assignment(table)

  works = [on_device(ours, *arguments), on_device(theirs, arguments[0]), on_host]
  times = benchmark.measured(works, repeats, None)
  match_ms, optax_ms, scipy_ms = (1e3 * np.median(seconds) for seconds in times)
  query_BT1 = np.asarray(ours(*arguments))[..., None]
  matched_BT = np.take_along_axis(np.float64(cost_BTQ), query_BT1, axis=2)[..., 0]
  found_B = (matched_BT * valid_BT).sum(axis=1)
  least_B = [
    np.float64(table)[optimize.linear_sum_assignment(table)].sum() for table in tables
  ]
  return dict(
    size=f'{batch}x{targets}x{queries}',
    costs=name,
    match_ms=match_ms,
    optax_ms=optax_ms,
    scipy_ms=scipy_ms,
    error=np.abs(found_B - least_B).max(),
  )


def on_device(f: Any, *arrays: jax.Array) -> benchmark.Work:
  def work(times: int) -> None:
    for _ in range(times):
      result = f(*arrays)
    jax.block_until_ready(result)

  return work


@errors.told_plainly
def main(argv: Sequence[str] | None = None) -> None:
  """Parses the command line, measures, and prints the results."""
  parser = errors.parser(__doc__)
  parser.add_argument('sizes', nargs='*', metavar='size', help=', '.join(SIZES))
  parser.add_argument(
    '--repeats',
    type=int,
    default=10,
    help='number of measurements; default: %(default)s',
  )
  parser.add_argument(
    '--output', metavar='FILE', help='file for the JSON; default: stdout'
  )
  args = parser.parse_args(argv)
  sizes = [
    benchmark.size(text, 'examples x targets x queries', SIZES[0])
    for text in args.sizes or SIZES
  ]
  if args.repeats < 1:
    raise errors.UserError('--repeats must be 1 or more.')
  cli.set_up_jax()
  rows = [measure(name, *size, args.repeats) for size in sizes for name in COSTS]
  table = rich.table.Table(box=None)
  for column in rows[0]:
    table.add_column(column.replace('_', ' '), justify='right')
  for row in rows:
    table.add_row(*(f'{v:.3g}' if isinstance(v, float) else v for v in row.values()))
  rich.console.Console(stderr=True, width=88, highlight=False).print(table)
  result = {'device': jax.devices()[0].device_kind, 'jax': jax.__version__}
  benchmark.write(result | {'match': rows}, args.output)


if __name__ == '__main__':
  raise SystemExit(main())
