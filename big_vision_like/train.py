"""The loop: `python -m big_vision_like.train --config=FILE --workdir=FOLDER`.

It knows the contracts of task, input and evaluator and nothing else; methods live in
tasks. Any field of the config can be overridden: `--config.total_steps=200`.
"""

import argparse
import contextlib
import os
import pathlib
import time
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import jax
import ml_collections as mlc
import numpy as np

from big_vision_like import cli, errors
from big_vision_like.cost import flops
from big_vision_like.data.input.base import Batches
from big_vision_like.devices import processes
from big_vision_like.devices.processes import say
from big_vision_like.devices.replicas import Replicas
from big_vision_like.evaluate import measure
from big_vision_like.ops import sharding
from big_vision_like.run import checkpoint, learned, metrics, preflight, replay
from big_vision_like.run import experiment as experiments
from big_vision_like.run.experiment import Experiment
from big_vision_like.run.metrics import (
  Metrics,
  Unread,
  compilations_told,
  duration,
  shapes_of,
)
from big_vision_like.tasks.task import State


def train(
  config: mlc.ConfigDict,
  workdir: str | os.PathLike,
  import_seconds: float = 0.0,
  drill: int | None = None,
) -> State:
  """Trains to the config's last step, resuming from what the folder holds.

  At step `drill` the run is interrupted as machines that are taken away interrupt it.
  """
  workdir = pathlib.Path(workdir)
  phases = {'import': import_seconds}
  with timed(phases, 'data'), processes.together():
    run = experiments.make(config, inputs=preflight.require(config))
    batches = run.batches()
    run.task.check(run.example)
  checkpoint.claim(workdir, config)
  learned.keep(run, workdir)
  with contextlib.ExitStack() as stack:
    stack.callback(batches.close)
    checkpoints = stack.enter_context(run.checkpoints(workdir))
    started = time.perf_counter()
    state, position, seconds = run.start(checkpoints)
    phase = 'init' if position is None else 'restore'
    phases[phase] = time.perf_counter() - started
    if position is not None:
      batches.set_state(position)
    start, total = int(state.step), run.settings.total_steps
    describe(run, workdir, state, resumed_at=None if position is None else start)
    log = stack.enter_context(
      Metrics(workdir, start, total, run.data.batch_size, seconds)
    )
    if start >= total:
      log.say('done', f'{workdir} is already at step {start:,} of {total:,}.')
      return state
    return loop(run, state, batches, checkpoints, log, workdir, phases, drill)


def loop(
  run: Experiment,
  state: State,
  batches: Batches,
  checkpoints: checkpoint.Checkpoints,
  log: Metrics,
  workdir: pathlib.Path,
  phases: dict[str, float],
  drill: int | None = None,
) -> State:
  """Steps until the last one, or until SIGTERM."""
  start, total = int(state.step), run.settings.total_steps
  if start == 0:
    for name, images_BHWC in pictures_of(run.example).items():
      log.pictures(0, f'train/{name}', images_BHWC[:32])
  replicas = Replicas(run.mesh, run.abstract_state.trained)
  every = run.settings.check_replicas_every
  unread = Unread()
  operations: dict[tuple[str, ...], int] = {}  # of a step, by the shapes of its batch

  def look(until: int) -> None:
    """Fetches what was measured up to this step, and raises if something is wrong."""
    for step, position, scalars, sums in unread.take(until):
      replay.check_finite(run, workdir, step, position, scalars, checkpoints.latest)
      replicas.check(step, sums, checkpoints.latest)
      if is_due(step, run.settings.log_every) or step == total:
        log.train(step, scalars, done=until)
        checkpoints.check()

  with processes.preemption(drill) as preempted:
    for step in range(start + 1, total + 1):
      position = batches.get_state()
      with log.waiting():
        batch = next(batches)
      log.bad_records(step, batches.news())
      run.task.check(batch)
      arrays = sharding.put(batch, run.mesh)
      shapes = shapes_of(arrays)
      if step == start + 1:
        with timed(phases, 'compile'):
          operations[shapes] = prepare(run, state, arrays)
          state, scalars = jax.block_until_ready(run.compiled_step(state, arrays))
        first_step(log, phases, step, operations[shapes], sharding.num_rows(arrays))
      else:
        if shapes not in operations:
          operations[shapes] = new_shapes(run, state, arrays, operations, step, log)
        log.work(step, operations[shapes])
        # The second step may compile again: its state comes from the first.
        steady = step > start + 2
        watch = (
          compilations_told(log, step, arrays) if steady else contextlib.nullcontext()
        )
        with watch, jax.transfer_guard('disallow'):
          state, scalars = run.compiled_step(state, arrays)

      last, stop = step == total, preempted(step)
      due = [n for n, e in run.evaluators.items() if last or is_due(step, e.every)]
      save = last or stop or is_due(step, run.settings.checkpoint_every)
      compare = every > 0 and (save or is_due(step, every))
      unread.add(
        step, position, scalars, replicas.sums(state.trained) if compare else None
      )
      done = step if due or save else unread.wait()
      if due or save or is_due(done, run.settings.log_every):
        look(done)
      results = evaluate(run, due, state, step, log)
      if save:
        stalled = checkpoints.save(
          step, state, batches.get_state(), log.seconds, results, wait=last or stop
        )
        log.write(step, 'info', {'save_seconds': stalled})
      if stop and not last:
        log.say('stopped', f'on SIGTERM at step {step:,}, saved; run it again to go on')
        return state
  log.say('done', f'{total:,} steps in {duration(log.seconds)}; see {workdir}')
  return state


def prepare(run: Experiment, state: State, arrays: Any) -> int:
  """Compiles the step for batches of these shapes; returns its operations."""
  traced = run.compiled_step.trace(state, arrays)
  traced.lower().compile()  # which the call finds again
  return flops.total(traced.jaxpr)


def new_shapes(
  run: Experiment,
  state: State,
  arrays: Any,
  known: Iterable[tuple[str, ...]],
  step: int,
  log: Metrics,
) -> int:
  """`prepare` while a run goes on: tells why it stalls, and stops its clock."""
  jax.block_until_ready(state)  # the steps before have their own time
  started = time.perf_counter()
  operations = prepare(run, state, arrays)
  seconds = time.perf_counter() - started
  before, own = set().union(*known), shapes_of(arrays)
  new = ', '.join([shape for shape in own if shape not in before] or own)
  each = f'{operations / sharding.num_rows(arrays) / 1e9:.3g} G per example and step'
  log.say('compiled', f'in {seconds:.1f} s at step {step:,} for {new}; {each}')
  log.write(step, 'info', {'compile_seconds': seconds})
  log.pause(seconds)
  return operations


def is_due(step: int, every: int) -> bool:
  """Whether something done `every` so many steps is done now; 0 is never."""
  return every > 0 and step % every == 0


def evaluate(
  run: Experiment, names: Sequence[str], state: State, step: int, log: Metrics
) -> dict[str, float]:
  """Runs these evaluators and logs what they find, as 'NAME/WHAT'."""
  results = {}
  for name in names:
    found, seconds = measure(run.evaluators[name], run.task, state, run.mesh)
    for key, images_BHWC in found.pictures.items():
      log.pictures(step, f'{name}/{key}', images_BHWC)
    for key, lines in found.texts.items():
      log.texts(step, f'{name}/{key}', lines)
    log.evaluation(step, name, found.scalars, seconds)
    log.pause(seconds)
    results |= {f'{name}/{key}': value for key, value in found.scalars.items()}
  return results


def pictures_of(batch: Any, name: str = '') -> dict[str, np.ndarray]:
  """Returns a batch's images by 'images', or 'TASK/images' where it is of tasks."""
  if 'image' in batch:
    return {f'{name}images': batch['image']}
  parts = [(k, x) for k, x in batch.items() if isinstance(x, dict)]
  return {k: x for key, part in parts for k, x in pictures_of(part, f'{key}/').items()}


def describe(
  run: Experiment, workdir: pathlib.Path, state: State, resumed_at: int | None
) -> None:
  """Prints what is about to run."""
  mesh, data = run.mesh, run.data
  how = 'new' if resumed_at is None else f'resumed at step {resumed_at:,}'
  sizes = ' '.join(f'{axis}={size}' for axis, size in mesh.shape.items())
  count = sum(leaf.size for leaf in jax.tree.leaves(state.params))
  epochs = run.settings.total_steps * data.batch_size / data.examples_per_epoch
  say('run', f'{workdir} ({how})')
  count_processes = jax.process_count()
  where = f' in {count_processes} processes' if count_processes > 1 else ''
  kind = mesh.devices.flat[0].device_kind
  say('devices', f'{mesh.size} x {kind}{where}, mesh {sizes}')
  say('params', f'{count:,}')
  say(
    'data',
    f'{data.examples_per_epoch:,} examples, batch {data.batch_size:,.0f},'
    f' {run.settings.total_steps:,} steps ({epochs:.1f} epochs)',
  )


def first_step(
  log: Metrics, phases: dict[str, float], step: int, operations: int, batch_size: int
) -> None:
  """Prints where the time before the first step went; starts the clock."""
  each = '  '.join(f'{name} {seconds:.1f} s' for name, seconds in phases.items())
  log.say('flops', f'{operations / batch_size / 1e9:.3g} G per example and step')
  log.say('start', f'{each}  = {sum(phases.values()):.1f} s to the first step')
  log.write(step, 'info', {f'{k}_seconds': v for k, v in phases.items()})
  log.measure(step)


@contextlib.contextmanager
def timed(phases: dict[str, float], name: str) -> Iterator[None]:
  """Adds the seconds inside to `phases[name]`."""
  started = time.perf_counter()
  yield
  phases[name] = phases.get(name, 0.0) + time.perf_counter() - started


@errors.told_plainly
@processes.stopping_together
def main(argv: Sequence[str] | None = None) -> None:
  """Parses the command line and trains."""
  import_seconds = metrics.process_seconds()
  parser = argparse.ArgumentParser(
    prog='python -m big_vision_like.train',
    description='Trains a config; the same command goes on where it stopped.',
    allow_abbrev=False,
  )
  parser.add_argument(
    '--replay', type=int, metavar='STEP', help='replay the step that was not finite'
  )
  parser.add_argument(
    '--drill',
    metavar='preempt@STEP',
    help='rehearse: at this step the process gets SIGTERM from itself',
  )
  processes.add_flags(parser)
  args, config = cli.parse(parser, argv)
  if args.workdir is None:
    raise errors.UserError('name a folder for the run: --workdir=runs/NAME')
  drill = processes.drill_step(args.drill)
  processes.start(args)
  if args.replay is not None:
    run = experiments.make(config, inputs=preflight.require(config))
    replay.replay(run, pathlib.Path(args.workdir), args.replay)
    return
  train(config, args.workdir, import_seconds, drill)


if __name__ == '__main__':
  raise SystemExit(main())
