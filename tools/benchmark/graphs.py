"""Measures a training step of graph attention in each form of edges.

  python tools/benchmark/graphs.py [32x96x440]

Batches have these sizes: graphs x nodes x edges. Measured are the loss of
`SuperpixelGAT` (2 heads, as on MNIST) and its gradient, interleaved after a warm-up;
results are medians. `bytes` are the temporaries of the compiled program. JSON is
written to stdout or --output, a table to stderr.
"""

import pathlib
import sys
from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np
import rich.console
import rich.table

from big_vision_like import cli, errors
from big_vision_like.models import superpixel_gat
from big_vision_like.ops import graphs

# Other modules of tools, if this file is started as a script.
sys.path.insert(0, str(pathlib.Path(__file__).parents[2]))

from tools.benchmark import step as benchmark

SIZES = ('32x96x440',)
FEATURES, CLASSES = 3, 10


def inputs(batch: int, nodes: int, edges: int) -> tuple[np.ndarray, ...]:
  """Returns random graphs without padding."""
  rng = np.random.default_rng(0)
  return (
    rng.normal(size=(batch, nodes, FEATURES)).astype(np.float32),
    rng.integers(0, nodes, (batch, edges, 2)).astype(np.int32),
    np.ones((batch, edges), np.float32),
    np.ones((batch, nodes), bool),
  )


def measure(batch: int, nodes: int, edges: int, repeats: int) -> list[dict]:
  """Returns the median time of each form in milliseconds, and its temporaries."""
  arrays = jax.device_put(inputs(batch, nodes, edges))
  model = superpixel_gat.SuperpixelGAT(CLASSES)
  params = jax.jit(model.init)(jax.random.key(0), *arrays)['params']
  works, compiled = [], []
  for form in graphs.FORMS:

    def loss(params, *arrays, form=form):
      logits_BC = model.clone(form=form).apply({'params': params}, *arrays)['logits']
      return jnp.square(logits_BC).mean()

    program = jax.jit(jax.grad(loss)).lower(params, *arrays).compile()
    compiled.append(program)

    def work(times: int, program=program) -> None:
      for _ in range(times):
        result = program(params, *arrays)
      jax.block_until_ready(result)

    works.append(work)
  times = benchmark.measured(works, repeats, None)
  return [
    dict(
      size=f'{batch}x{nodes}x{edges}',
      form=form,
      step_ms=1e3 * float(np.median(seconds)),
      bytes=program.memory_analysis().temp_size_in_bytes,
    )
    for form, seconds, program in zip(graphs.FORMS, times, compiled, strict=True)
  ]


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
    benchmark.size(text, 'graphs x nodes x edges', SIZES[0])
    for text in args.sizes or SIZES
  ]
  if args.repeats < 1:
    raise errors.UserError('--repeats must be 1 or more.')
  cli.set_up_jax()
  rows = [row for size in sizes for row in measure(*size, args.repeats)]
  table = rich.table.Table(box=None)
  for column in rows[0]:
    table.add_column(column.replace('_', ' '), justify='right')
  for row in rows:
    table.add_row(
      row['size'], row['form'], f'{row["step_ms"]:.1f}', f'{row["bytes"]:,}'
    )
  rich.console.Console(stderr=True, width=88, highlight=False).print(table)
  result = {'device': jax.devices()[0].device_kind, 'jax': jax.__version__}
  benchmark.write(result | {'graphs': rows}, args.output)


if __name__ == '__main__':
  raise SystemExit(main())
