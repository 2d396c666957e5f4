"""Measures the sort of lists by an engine: one compiled loop.

  python tools/benchmark/sorting.py [1x100x6 16x100x6]

Sizes are lists x numbers x layers of the encoder and of the decoder; the published
engine has six. Its weights are random, which changes no time. Results are medians of
whole sorts after compilation. JSON is written to stdout or --output, a table to stderr.
"""

import pathlib
import sys
import time
from collections.abc import Sequence

import jax
import numpy as np
import rich.console
import rich.table

from big_vision_like import cli, errors, optim
from big_vision_like.data.procedural import number_lists
from big_vision_like.models import neural_execution
from big_vision_like.tasks import algorithm_execution
from big_vision_like.tasks.task import State

# Other modules of tools, if this file is started as a script.
sys.path.insert(0, str(pathlib.Path(__file__).parents[2]))

from tools.benchmark import step as benchmark

SIZES = ('1x100x6', '16x100x6')


def measure(lists: int, length: int, depth: int, repeats: int) -> dict:
  """Returns the times of compiling and of running a sort, and its temporaries."""
  subroutine = neural_execution.Subroutine(10, depth=depth, scan=True)
  engine = neural_execution.Engine(subroutine, neural_execution.MaskNetwork())
  task = algorithm_execution.AlgorithmExecution(
    model=engine, optimizer=optim.adamw(0.1)
  )
  slots_111 = np.zeros((1, 1, 1), np.int32)
  inputs = slots_111, slots_111 > 0, slots_111[0]
  params = jax.jit(engine.init)(jax.random.key(0), *inputs)['params']
  state = State(step=np.int32(0), params=params, opt_state=None)
  source = number_lists.NumberLists(length=length, examples=lists, split='test')
  batch = {'items': np.stack([example['items'] for example in source])}
  started = time.perf_counter()
  program = jax.jit(lambda *call: task.selection_sort(*call)['sorted'])
  program = program.lower(state, batch, jax.random.key(0)).compile()
  compiled = time.perf_counter() - started

  def work(times: int) -> None:
    for _ in range(times):
      found = program(state, batch, jax.random.key(0))
    jax.block_until_ready(found)

  [seconds] = benchmark.measured([work], repeats, None)
  return dict(
    size=f'{lists}x{length}x{depth}',
    compile_s=compiled,
    sort_ms=1e3 * float(np.median(seconds)),
    bytes=program.memory_analysis().temp_size_in_bytes,
  )


@errors.told_plainly
def main(argv: Sequence[str] | None = None) -> None:
  """Parses the command line, measures, and prints the results."""
  parser = errors.parser(__doc__)
  parser.add_argument('sizes', nargs='*', metavar='size', help=', '.join(SIZES))
  parser.add_argument(
    '--repeats', type=int, default=5, help='number of measurements; default: 5'
  )
  parser.add_argument(
    '--output', metavar='FILE', help='file for the JSON; default: stdout'
  )
  args = parser.parse_args(argv)
  sizes = [
    benchmark.size(text, 'lists x numbers x layers', SIZES[0])
    for text in args.sizes or SIZES
  ]
  if args.repeats < 1:
    raise errors.UserError('--repeats must be 1 or more.')
  cli.set_up_jax()
  rows = [measure(*size, args.repeats) for size in sizes]
  table = rich.table.Table(box=None)
  for column in rows[0]:
    table.add_column(column.replace('_', ' '), justify='right')
  for row in rows:
    times = f'{row["compile_s"]:.1f}', f'{row["sort_ms"]:.1f}'
    table.add_row(row['size'], *times, f'{row["bytes"]:,}')
  rich.console.Console(stderr=True, width=88, highlight=False).print(table)
  result = {'device': jax.devices()[0].device_kind, 'jax': jax.__version__}
  benchmark.write(result | {'sorting': rows}, args.output)


if __name__ == '__main__':
  raise SystemExit(main())
