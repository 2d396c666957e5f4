"""The training loop: `python -m big_vision_like.train --config=FILE --workdir=FOLDER`.

The loop relies only on the interfaces of tasks, inputs and evaluators; methods are
implemented in tasks. Any field of the config can be overridden:
`--config.total_steps=200`.
"""

from big_vision_like.devices import signals

if __name__ == '__main__':
  signals.catch()  # early, because the imports below take seconds

import contextlib
import dataclasses
import json
import os
import pathlib
import time
import traceback
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
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
from big_vision_like.errors import UserError
from big_vision_like.evaluate import measure
from big_vision_like.ops import sharding
from big_vision_like.run import (
  checkpoint,
  extension,
  learned,
  leftovers,
  metrics,
  preflight,
  progress,
  replay,
  writers,
)
from big_vision_like.run import experiment as experiments
from big_vision_like.run import overwrite as overwriting
from big_vision_like.run import workdir as workdirs
from big_vision_like.run.experiment import Experiment
from big_vision_like.run.metrics import (
  Metrics,
  Unread,
  compilations_told,
  shapes_of,
)
from big_vision_like.tasks.task import State


def train(
  config: mlc.ConfigDict,
  workdir: str | os.PathLike,
  import_seconds: float = 0.0,
  drill: int | None = None,
  accept: Sequence[str] = (),
  overwrite: bool = False,
) -> State:
  """Trains to the config's last step, resuming from a checkpoint in the workdir.

  At step `drill` the run is interrupted as a preempted machine would interrupt it.
  `accept` lists what may differ from the run in the workdir: 'config', 'data'. With
  `overwrite`, a run in the workdir is removed, once the new one has its first state.
  """
  workdir = pathlib.Path(workdir)
  phases = {'import': import_seconds}
  with timed(phases, 'data'), processes.together():
    run = experiments.make(config, inputs=preflight.require(config))
    own_writers = writers.build(run.settings.writers)
    batches = run.batches()
    run.task.check(run.example)
  with contextlib.ExitStack() as stack:
    stack.callback(batches.close)
    stack.enter_context(workdirs.owned(workdir))
    for name in leftovers.clean(workdir) if jax.process_index() == 0 else ():
      say('removed', f'{name}, left incomplete by a killed run')
    frozen = run.frozen()
    sums = {name: checkpoint.checksums(x) for name, x in (frozen or {}).items()}
    first = None
    if overwrite:
      say('compiling', 'the first state')
      with timed(phases, 'init'):
        first = experiments.Start(run.first_state().replace(frozen=frozen))
      with processes.together():
        if jax.process_index() == 0:
          tell_removed(workdir, *overwriting.remove_run(workdir))
    with processes.together():
      facts = learned.of(run)
      if checkpoint.steps(workdir) and 'data' not in accept:
        learned.check(learned.read(workdir), facts)
      data = workdirs.identities(run.data, run.evaluators, sums)
      total = run.settings.total_steps
      changes = workdirs.claim(workdir, config, data, accept, total)
      rates = extension.rates(run.task, workdir, total) if changes.extended else ''
    checkpoints = stack.enter_context(run.checkpoints(workdir))
    checkpoints.data = data
    if first is None and not checkpoints.steps:
      say('compiling', 'the first state')
    with timed(phases, 'restore' if checkpoints.steps else 'init'):
      state, position, seconds = first or run.start(checkpoints, frozen)
    if position is not None:
      batches.set_state(position)
    start = int(state.step)
    describe(run, workdir, state, resumed_at=None if position is None else start)
    if rates:
      say('extended', rates)
    plain = json.loads(config.to_json())
    stack.enter_context(writers.started(own_writers, workdir, plain, start))
    log = stack.enter_context(
      Metrics(workdir, start, total, run.data.batch_size, seconds, own_writers)
    )
    workdirs.record(workdir, config, start, changes)
    # Not for runs of earlier versions without facts: their data may have changed since.
    if jax.process_index() == 0 and (start == 0 or learned.read(workdir)):
      learned.write(workdir, facts)
    session = Session(run, workdir, batches, checkpoints, log)
    if overwrite:
      session.rerun = 'rerun the command without --overwrite'
    with processes.preemption(drill) as preempted:
      if position is not None and not session.evaluate_missed(state):
        session.stopped(start)
        return state
      if start >= total:
        log.say('done', f'{workdir} is already at step {start:,} of {total:,}.')
        return state
      return loop(session, state, phases, preempted)


@dataclasses.dataclass
class Session:
  """The objects of a running training: the experiment, its input and its outputs."""

  run: Experiment
  workdir: pathlib.Path
  batches: Batches
  checkpoints: checkpoint.Checkpoints
  log: Metrics
  rerun: str = 'rerun the command'  # how to resume, for messages

  def __post_init__(self) -> None:
    self.saved = self.checkpoints.latest
    self.compiled: set[str] = set()  # evaluators
    self.best: tuple[int, float] | None = None  # step and value of `keep_best`
    if self.run.settings.keep_best:
      self.best = metrics.best(
        self.workdir, *self.run.best, steps=self.checkpoints.steps
      )
      self.checkpoints.best = self.best and self.best[0]

  def save(self, step: int, state: State, wait: bool = False) -> None:
    """Saves a checkpoint of this step, unless it is saved already."""
    if self.saved != step:
      position, seconds = self.batches.get_state(), self.log.seconds
      stalled = self.checkpoints.save(step, state, position, seconds)
      self.log.write(step, 'info', {'save_seconds': stalled})
      self.saved = step
    if wait:
      self.checkpoints.wait()

  def evaluate(self, names: Sequence[str], state: State, step: int) -> bool:
    """Runs these evaluators and logs their results as 'NAME/METRIC'.

    Saves the step if it is the best so far, or if an evaluator fails; in that case it
    raises or continues as `on_failed_evaluation` says. Returns False if a signal to
    stop arrived in between.
    """
    several = jax.process_count() > 1  # a process cannot stop on its own
    results = {}
    for name in names:
      if name not in self.compiled:
        say('compiling', f'the evaluator {name}, which runs for the first time')
        self.compiled.add(name)
      self.log.busy(f'evaluating {name}')
      try:
        with contextlib.nullcontext() if several else signals.interrupting():
          found, seconds = measure(
            self.run.evaluators[name], self.run.task, state, self.run.mesh
          )
      except signals.Interrupted:
        return False
      except Exception as error:  # any error of an evaluator or its data
        if several:
          raise
        self.save(step, state, wait=True)
        self._failed(name, step, error)
        continue
      for key, images_BHWC in found.pictures.items():
        self.log.pictures(step, f'{name}/{key}', images_BHWC)
      for key, lines in found.texts.items():
        self.log.texts(step, f'{name}/{key}', lines)
      self.log.evaluation(step, name, found.scalars, seconds)
      self.log.pause(seconds)
      results |= {f'{name}/{key}': value for key, value in found.scalars.items()}
    self._keep_best(results, state, step)
    return True

  def _failed(self, name: str, step: int, error: Exception) -> None:
    if not isinstance(error, (UserError, OSError)):
      traceback.print_exception(error)
    told = f'evals.{name} failed at step {step:,}, which is saved: {error}'
    if self.run.settings.on_failed_evaluation == 'stop':
      raise UserError(
        f'{told} (Fix it and {self.rerun} to resume, or train without its results:'
        ' --config.on_failed_evaluation=continue)'
      ) from error
    self.log.say('failed', told)
    self.log.write(step, 'info', {f'{name}/failed': 1.0})

  def _keep_best(self, results: Mapping[str, float], state: State, step: int) -> None:
    if (name := self.run.settings.keep_best) not in results:
      return
    value, sign = results[name], {'max': 1, 'min': -1}[self.run.best[1]]
    worst = -np.inf if self.best is None else sign * self.best[1]
    if not sign * value > worst:  # also if the value is NaN
      return
    self.save(step, state)
    self.best, self.checkpoints.best = (step, value), step
    self.log.say('best', f'{name} {value:.4g} at step {step:,}; checkpoint kept')

  def stopped(self, step: int) -> None:
    """Prints that a signal ended the run at a step."""
    name = signals.received() or 'SIGTERM'  # received by JAX only
    self.log.finish(step)
    told = f'on {name} at step {step:,}, saved; {self.rerun} to resume'
    self.log.say('stopped', told)

  def evaluate_missed(self, state: State) -> bool:
    """Runs the evaluators that were due at a restored step but did not finish.

    Returns False if a signal to stop arrived.
    """
    step = int(state.step)
    done = {
      key.partition('/')[0]
      for record in metrics.read(self.workdir)
      if record['kind'] == 'eval' and record['step'] == step
      for key in record
    }
    due = [name for name in due_evaluators(self.run, step) if name not in done]
    # All processes follow the first, which writes the metrics.
    due = processes.gather('\n'.join(due))[0].splitlines()
    return self.evaluate(due, state, step)


def due_evaluators(run: Experiment, step: int) -> list[str]:
  """Returns the names of the evaluators that run after a step."""
  last = step == run.settings.total_steps
  return [n for n, e in run.evaluators.items() if last or is_due(step, e.every)]


def loop(
  session: Session,
  state: State,
  phases: dict[str, float],
  preempted: Callable[[int], bool],
) -> State:
  """Runs steps until the last one, or until `preempted` asks to stop at a step."""
  run, batches, log = session.run, session.batches, session.log
  start, total = int(state.step), run.settings.total_steps
  if start == 0:
    for name, images_BHWC in pictures_of(run.example).items():
      log.pictures(0, f'train/{name}', images_BHWC[:32])
  replicas = Replicas(run.mesh, run.abstract_state.trained)
  every = run.settings.check_replicas_every
  unread = Unread()
  operations: dict[tuple[str, ...], int] = {}  # per step, by the shapes of its batch

  def look(until: int) -> None:
    """Fetches the metrics of steps up to `until`; raises if something is wrong."""
    good = session.checkpoints.latest
    for step, position, scalars, sums in unread.take(until):
      replay.check_finite(run, session.workdir, step, position, scalars, good)
      replicas.check(step, sums, good)
      if is_due(step, run.settings.log_every) or step == total:
        log.train(step, scalars, done=until)
        session.checkpoints.check()

  for step in range(start + 1, total + 1):
    position = batches.get_state()
    with log.waiting():
      batch = next(batches)
    log.input_cpu(batches.cpu_seconds)
    log.bad_records(step, batches.news())
    run.task.check(batch)
    arrays = sharding.put(batch, run.mesh)
    shapes = shapes_of(arrays)
    if step == start + 1:
      say('compiling', f'the training step for batches of {sharding.num_rows(arrays)}')
      with timed(phases, 'compile'):
        operations[shapes] = prepare(run, state, arrays)
        state, scalars = jax.block_until_ready(run.compiled_step(state, arrays))
      first_step(log, phases, step, operations[shapes], sharding.num_rows(arrays))
      log.write(step, 'info', {'total_steps': total})  # where configs count epochs
    else:
      if shapes not in operations:
        operations[shapes] = new_shapes(run, state, arrays, operations, step, log)
      log.work(step, operations[shapes])
      # The second step may compile again, because its state comes from the first.
      steady = step > start + 2
      watch = (
        compilations_told(log, step, arrays) if steady else contextlib.nullcontext()
      )
      with watch, jax.transfer_guard('disallow'):
        state, scalars = run.compiled_step(state, arrays)

    last, stop = step == total, preempted(step)
    due = due_evaluators(run, step)
    save = last or stop or is_due(step, run.settings.checkpoint_every)
    compare = every > 0 and (save or is_due(step, every))
    unread.add(
      step, position, scalars, replicas.sums(state.trained) if compare else None
    )
    done = step if due or save else unread.wait()
    log.tick(done)
    if due or save or is_due(done, run.settings.log_every):
      look(done)
    if save:  # before evaluators, because they may fail
      session.save(step, state, wait=last or stop)
    if stop or not session.evaluate(due, state, step):
      session.save(step, state, wait=True)
      session.stopped(step)
      return state
  session.checkpoints.wait()
  log.finish(total)
  took = progress.duration(log.seconds)
  log.say('done', f'{total:,} steps in {took}; see {session.workdir}')
  return state


def prepare(run: Experiment, state: State, arrays: Any) -> int:
  """Compiles the step for batches of these shapes; returns its operation count."""
  traced = run.compiled_step.trace(state, arrays)
  traced.lower().compile()  # cached for the call of the step
  return flops.total(traced.jaxpr)


def new_shapes(
  run: Experiment,
  state: State,
  arrays: Any,
  known: Iterable[tuple[str, ...]],
  step: int,
  log: Metrics,
) -> int:
  """Compiles the step for new shapes during a run; logs the stall, pauses the clock."""
  jax.block_until_ready(state)  # so that earlier steps are not timed as compilation
  before, own = set().union(*known), shapes_of(arrays)
  new = ', '.join([shape for shape in own if shape not in before] or own)
  say('compiling', f'the training step for {new}')
  started = time.perf_counter()
  operations = prepare(run, state, arrays)
  seconds = time.perf_counter() - started
  each = f'{operations / sharding.num_rows(arrays) / 1e9:.3g} G per example and step'
  log.say('compiled', f'in {seconds:.1f} s at step {step:,} for {new}; {each}')
  log.write(step, 'info', {'compile_seconds': seconds})
  log.pause(seconds)
  return operations


def is_due(step: int, every: int) -> bool:
  """Returns whether a step is a multiple of `every`; 0 means never."""
  return every > 0 and step % every == 0


def pictures_of(batch: Any, name: str = '') -> dict[str, np.ndarray]:
  """Returns a batch's images as 'images', or as 'TASK/images' for several tasks."""
  if 'image' in batch:
    return {f'{name}images': batch['image']}
  parts = [(k, x) for k, x in batch.items() if isinstance(x, dict)]
  return {k: x for key, part in parts for k, x in pictures_of(part, f'{key}/').items()}


def tell_removed(
  workdir: pathlib.Path, removed: Sequence[str], kept: Sequence[str]
) -> None:
  """Prints what `--overwrite` removed from a run directory, and what it kept."""
  if removed:
    rest = f'; kept {errors.listed(kept)}, not written by training' if kept else ''
    say('removed', f'the run in {workdir}: {", ".join(removed)}{rest}')
    say('note', 'leave out --overwrite when you rerun the command to resume this run')


def describe(
  run: Experiment, workdir: pathlib.Path, state: State, resumed_at: int | None
) -> None:
  """Prints a summary of the run that is about to start."""
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
  if run.settings.keep_best:
    name, best = run.best
    better = {'max': 'higher', 'min': 'lower'}[best]
    say('keeps', f'the best checkpoint by {name} ({better} is better)')


def first_step(
  log: Metrics, phases: dict[str, float], step: int, operations: int, batch_size: int
) -> None:
  """Prints a breakdown of the time before the first step; starts the clock."""
  each = '  '.join(f'{name} {seconds:.1f} s' for name, seconds in phases.items())
  log.say('flops', f'{operations / batch_size / 1e9:.3g} G per example and step')
  log.say('start', f'{each}  = {sum(phases.values()):.1f} s to the first step')
  log.write(step, 'info', {f'{k}_seconds': v for k, v in phases.items()})
  log.measure(step)


@contextlib.contextmanager
def timed(phases: dict[str, float], name: str) -> Iterator[None]:
  """Adds the seconds spent inside to `phases[name]`."""
  started = time.perf_counter()
  yield
  phases[name] = phases.get(name, 0.0) + time.perf_counter() - started


@errors.told_plainly
@processes.stopping_together
@signals.caught()
def main(argv: Sequence[str] | None = None) -> None:
  """Parses the command line and trains."""
  import_seconds = metrics.process_seconds()
  parser = errors.parser(
    prog='python -m big_vision_like.train',
    description='Trains a config; rerun the same command to resume.',
    allow_abbrev=False,
  )
  parser.add_argument(
    '--replay', type=int, metavar='STEP', help='replay a step with non-finite values'
  )
  parser.add_argument(
    '--drill',
    metavar='preempt@STEP',
    help='rehearse a preemption: the process sends itself SIGTERM at this step',
  )
  parser.add_argument(
    '--accept',
    action='append',
    choices=workdirs.ACCEPT,
    default=[],
    help='resume even though the config or the data differ from the run so far',
  )
  parser.add_argument(
    '--overwrite',
    action='store_true',
    help='start over in a used folder: remove the run in it, and no other files',
  )
  processes.add_flags(parser)
  args, config = cli.parse(parser, argv)
  if args.workdir is None:
    raise UserError('name a folder for the run: --workdir=runs/NAME')
  drill = processes.drill_step(args.drill)
  processes.start(args)
  if args.overwrite and args.accept:
    raise UserError(
      '--overwrite starts over and --accept resumes another run: give one of them'
    )
  if args.replay is not None:
    run = experiments.make(config, inputs=preflight.require(config))
    replay.replay(run, pathlib.Path(args.workdir), args.replay)
    return
  train(config, args.workdir, import_seconds, drill, args.accept, args.overwrite)


if __name__ == '__main__':
  raise SystemExit(main())
