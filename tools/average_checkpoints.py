"""Averages the parameters of the last checkpoints of a run, for evaluation.

  python tools/average_checkpoints.py runs/wmt14_ende_base --last 5 --out runs/average
  python -m big_vision_like.evaluate --workdir=runs/average

This follows arXiv:1706.03762, section 6.1. The new folder has the run's config and one
checkpoint, which can be evaluated, reported on or used by `init_from`, but not trained
further. The run must have kept enough checkpoints: see `keep_last` of its config.
"""

import pathlib
import shutil
from collections.abc import Sequence

import jax
import numpy as np

from big_vision_like import cli, errors, files, spec
from big_vision_like.devices.processes import say
from big_vision_like.errors import UserError
from big_vision_like.run import checkpoint, experiment, learned
from big_vision_like.tasks.task import State


def last_steps(workdir: pathlib.Path, count: int) -> list[int]:
  """Returns the steps of the newest checkpoints; `UserError` if there are too few."""
  steps = checkpoint.steps(workdir)
  if len(steps) < count:
    raise UserError(
      f'{workdir} holds {len(steps)} checkpoint{"" if len(steps) == 1 else "s"}'
      f' ({", ".join(map(str, steps)) or "none"}), not {count}: average fewer with'
      f' --last, or train with --config.keep_last={count}'
    )
  return steps[-count:]


def average(workdir: pathlib.Path, steps: Sequence[int]) -> State:
  """Returns the newest state with the mean of all parameters, summed in float64."""
  total = None
  for step in steps:
    _, saved = checkpoint.load(workdir, step)
    params = jax.tree.map(lambda x: np.asarray(x, np.float64), saved['params'])
    total = params if total is None else jax.tree.map(np.add, total, params)
  mean = jax.tree.map(
    lambda x, like: (x / len(steps)).astype(like.dtype), total, saved['params']
  )
  return State(
    step=np.int32(steps[-1]), params=mean, opt_state=None, mutable=saved['mutable']
  )


@errors.told_plainly
def main(argv: Sequence[str] | None = None) -> None:
  """Writes the averaged checkpoint to a new folder; refuses an existing one."""
  parser = errors.parser(__doc__)
  parser.add_argument('workdir', type=pathlib.Path, help='directory of a run')
  parser.add_argument(
    '--last', type=int, default=5, help='number of checkpoints to average; default: 5'
  )
  parser.add_argument(
    '--out', type=pathlib.Path, required=True, help='new folder to write'
  )
  args = parser.parse_args(argv)
  cli.set_up_jax()
  if args.last < 1:
    raise UserError(f'--last={args.last}: average at least 1 checkpoint')
  if args.out.exists():
    raise UserError(f'{args.out} already exists: name a new folder')
  config = args.workdir / 'config.json'
  if not config.is_file():
    raise UserError(f'{args.workdir} is not a run directory: it has no config.json')
  spec.load(str(config), root=experiment.Settings)  # raises if it is damaged
  facts = learned.read(args.workdir)
  steps = last_steps(args.workdir, args.last)
  state = average(args.workdir, steps)
  with files.atomic(args.out) as part:
    part.mkdir()
    with checkpoint.Checkpoints(part) as checkpoints:
      checkpoints.save(steps[-1], state, position={'step': 0}, seconds=0.0, wait=True)
    shutil.copy(config, part)
    if facts is not None:
      learned.write(part, facts)
    about = {'workdir': str(args.workdir), 'steps': steps}
    files.write_json(part / 'averaged.json', about)
  say('averaged', f'steps {", ".join(map(str, steps))} of {args.workdir}')
  say('', f'python -m big_vision_like.evaluate --workdir={args.out}')


if __name__ == '__main__':
  raise SystemExit(main())
