"""Extension of a finished run to more steps: its learning rates from then on."""

import pathlib

import numpy as np

from big_vision_like.errors import UserError
from big_vision_like.run import checkpoint, metrics
from big_vision_like.tasks.task import Task

# The number of remaining steps at which the rates are computed.
SAMPLES = 50


def rates(task: Task, workdir: pathlib.Path, total: int) -> str:
  """Returns a sentence about the learning rate of an extended run.

  The schedule is the one of a run with `total` steps from the start, so the rate may
  jump where the run resumes. Raises if it is 0 in all remaining steps.
  """
  last = checkpoint.steps(workdir)[-1]
  steps = np.unique(np.linspace(last, total - 1, SAMPLES).astype(int))
  optimizers = [x for x in task.optimizers().values() if x is not None]
  found = [[float(x.rate_at(int(step))) for step in steps] for x in optimizers]
  if not np.any(found):
    raise UserError(
      f'{workdir} cannot be extended from {last:,} to {total:,} steps: the learning'
      ' rate is 0 in all of them, because its schedule does not follow total_steps.'
      ' Give the config file that the run was started with, not the saved config.json,'
      ' or set the length of the schedule too, and accept it:'
      f' --config.task.optimizer.rate.decay_steps={total} --accept=config'
    )
  logged = [r['rate'] for r in metrics.read(workdir) if 'rate' in r]
  before = f', {logged[-1]:.3g} before' if logged else ''
  first = found[0]
  return (
    f'from {last:,} to {total:,} steps; the learning rate is {first[0]:.3g} at step'
    f' {last + 1:,}{before}, {first[-1]:.3g} at the end'
  )
