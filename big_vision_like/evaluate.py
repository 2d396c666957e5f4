"""A config's evaluators on a checkpoint: `python -m big_vision_like.evaluate`.

`--workdir=runs/x` uses the saved config and the newest checkpoint; `--step` another
one, `--config` and overrides other evaluators.
"""

import argparse
import dataclasses
import json
import pathlib
import time
from collections.abc import Sequence

import jax
import ml_collections as mlc
import numpy as np

from big_vision_like import checkpoint, errors, experiment, processes, spec
from big_vision_like import mesh as meshes
from big_vision_like.evals.evaluator import Evaluator
from big_vision_like.metrics import listed, say
from big_vision_like.tasks.task import State, Task


@dataclasses.dataclass(frozen=True)
class LoadedRun:
  """A finished or running run, as evaluation and reports see it."""

  workdir: pathlib.Path
  config: mlc.ConfigDict
  task: Task
  state: State


def load_run(
  workdir: str | pathlib.Path, step: int | None = None, config: mlc.ConfigDict = None
) -> LoadedRun:
  """Loads what prediction needs of a run: task, parameters, averages, statistics."""
  workdir = pathlib.Path(workdir)
  if config is None:
    config = spec.load(str(workdir / 'config.json'), root=experiment.Settings)
  # Schedules are built and not used: any length of an epoch does.
  plain = spec.in_steps(config, experiment.NOMINAL_EPOCH, 1)
  step, saved = checkpoint.load(workdir, step)
  state = State(step=jax.numpy.int32(step), opt_state=None, **saved)
  return LoadedRun(workdir, config, spec.build(plain['task'], 'config.task'), state)


def measure(
  evaluator: Evaluator, task: Task, state: State, mesh: jax.sharding.Mesh
) -> tuple[dict[str, float], dict[str, np.ndarray], float]:
  """Runs an evaluator: the scalars it finds, its pictures, and the seconds it took."""
  started = time.perf_counter()
  found = evaluator.run(task.predict, state, mesh)
  pictures = {k: v for k, v in found.items() if getattr(v, 'ndim', 0)}
  scalars = {k: float(v) for k, v in found.items() if k not in pictures}
  return scalars, pictures, time.perf_counter() - started


@errors.told_plainly
@processes.stopping_together
def main(argv: Sequence[str] | None = None) -> None:
  """Prints what every evaluator finds; writes `evaluation-STEP.json` in the workdir."""
  parser = argparse.ArgumentParser(
    prog='python -m big_vision_like.evaluate', description=__doc__, allow_abbrev=False
  )
  parser.add_argument('--step', type=int, help='the checkpoint; default the newest')
  processes.add_flags(parser)
  args, config = experiment.parse(parser, argv)
  if args.workdir is None:
    raise errors.UserError('name the folder of a run: --workdir=runs/NAME')
  processes.start(args)
  with processes.together():
    made = experiment.make(config, training=False)
  loaded = load_run(args.workdir, args.step, config)
  step = int(loaded.state.step)
  say('run', f'{args.workdir}, step {step:,}')
  if not made.evaluators:
    raise errors.UserError('the config has no evaluators (config.evals is empty).')
  state = meshes.put_tree(loaded.state, made.lay_out(loaded.state))
  results = {}
  for name, evaluator in made.evaluators.items():
    scalars, _, seconds = measure(evaluator, loaded.task, state, made.mesh)
    say(name, f'{listed(scalars)}  ({seconds:.1f} s)')
    results |= {f'{name}/{key}': value for key, value in scalars.items()}
  if jax.process_index() == 0:
    path = pathlib.Path(args.workdir) / f'evaluation-{step}.json'
    path.write_text(json.dumps(results, indent=2) + '\n')


if __name__ == '__main__':
  raise SystemExit(main())
