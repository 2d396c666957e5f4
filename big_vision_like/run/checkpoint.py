"""Checkpoints of a run: saving and resuming without losing anything.

A run directory holds `checkpoints/STEP/`. Each checkpoint contains the state, the
position of the input, the seconds spent and the identity of the data, and is committed
atomically once it is complete. Checksums of all of these are saved with it and verified
on every read.
"""

import contextlib
import functools
import logging
import os
import pathlib
import shutil
import sys
import time
import warnings
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import jax
import numpy as np
import orbax.checkpoint as ocp
from orbax.checkpoint import checkpoint_managers as managers

from big_vision_like import files, optim
from big_vision_like.devices import processes
from big_vision_like.devices.processes import say
from big_vision_like.errors import UserError, listed
from big_vision_like.ops import sharding
from big_vision_like.ops.checksums import checksum

Tree = dict[str, Any]

# Incremented when the layout of checkpoints changes. Format 1 stored no number, and its
# average covered the parameters only, not variables by collection. Formats before 3
# stored no checksums.
FORMAT = 3


class DamagedError(UserError):
  """A checkpoint with contents that differ from what was saved."""


class Checkpoints:
  """The checkpoints of one run.

  Keeps the last `keep_last`, every one at a multiple of `keep_every` steps, and the one
  at step `best`, which the evaluation sets.
  """

  def __init__(
    self, workdir: pathlib.Path, keep_last: int = 2, keep_every: int | None = None
  ):
    self.folder = workdir.absolute() / 'checkpoints'
    self.best: int | None = None
    self.data: Mapping[str, Any] = {}
    policies = [managers.LatestN(keep_last), _Best(self)]
    if keep_every:
      policies.append(managers.EveryNSteps(keep_every))
    self._manager = _Manager(
      self.folder,
      options=ocp.CheckpointManagerOptions(
        preservation_policy=managers.AnyPreservationPolicy(policies),
        cleanup_tmp_directories=True,
      ),
    )

  def __enter__(self) -> 'Checkpoints':
    return self

  def __exit__(self, kind: type | None, *_) -> None:
    # An error raised in the block says more than a write that also fails.
    with contextlib.suppress(Exception) if kind else _saving(self):
      self._manager.wait_until_finished()
      self._manager.close()

  @property
  def latest(self) -> int | None:
    """The step of the newest complete checkpoint, None if there is none."""
    return self._manager.latest_step()

  @property
  def steps(self) -> list[int]:
    """The steps of all complete checkpoints, oldest first."""
    return sorted(self._manager.all_steps())

  def save(
    self,
    step: int,
    state: Any,
    position: Mapping[str, Any],
    seconds: float,
    wait: bool = False,
  ) -> float:
    """Starts writing a checkpoint; the state may be donated when this returns.

    `data` is saved with it. Returns the seconds this call took: the checksums, the copy
    to the host, and writing the rest of the previous checkpoint.
    """
    started = time.perf_counter()
    progress = {
      'position': position,
      'seconds': seconds,
      'data': self.data,
      'format': FORMAT,
      'checksums': checksums(state.trained),
    }
    items = ocp.args.Composite(
      state=ocp.args.StandardSave(state.trained),
      progress=ocp.args.JsonSave({**progress, 'sha256': files.sha256(progress)}),
    )
    with _saving(self):
      with processes.together():
        self._check_space(state.trained)
      self._manager.save(step, args=items)
      if wait:
        self._manager.wait_until_finished()
    return time.perf_counter() - started

  def wait(self) -> None:
    """Waits until everything is written; raises if a write has failed."""
    with _saving(self):
      self._manager.wait_until_finished()

  def check(self) -> None:
    """Raises if a write in the background has failed."""
    with _saving(self):
      self._manager.check_for_errors()

  def _check_space(self, state: Any) -> None:
    # Failing before the write is quieter than failing halfway, in the writers' threads.
    needed = sum(x.nbytes for x in jax.tree.leaves(state)) // jax.process_count()
    free = shutil.disk_usage(self.folder).free
    if free < needed:
      raise OSError(f'{needed / 1e6:,.1f} MB needed, {free / 1e6:,.1f} MB free')

  def restore(self, state: Any) -> tuple[Any, Mapping[str, Any], float] | None:
    """Restores the state, input position and seconds of the newest good checkpoint.

    Returns None if there are no checkpoints. `state` is abstract, with shardings.
    Damaged checkpoints newer than the restored one are renamed, never deleted.
    """
    reasons = {}
    for step in reversed(self.steps):
      try:
        with processes.together():
          restored, progress = self._restore(step, state.trained)
        with processes.together():  # separate, as all processes compute checksums
          verify(restored, progress)
        break
      except Exception as error:  # readers raise anything on a damaged file
        if processes.lost_connection(error):
          raise
        reasons[step] = _briefly(error)
    else:
      if reasons:
        each = '; '.join(f'step {step}: {why}' for step, why in reasons.items())
        raise UserError(
          f'no checkpoint in {self.folder} can be read ({each}). Has the model'
          ' changed since? Move the folder away to start again.'
        )
      return None
    for bad, why in reasons.items():
      with processes.together():
        if jax.process_index() == 0:
          aside = _unused(self.folder.parent / f'unreadable-{bad}')
          os.replace(self.folder / str(bad), aside)
          say(
            'restore', f'checkpoint {bad} is unreadable ({why}): set aside as {aside}'
          )
    if reasons:
      self._manager.reload()
      say('restore', f'resuming from the previous good checkpoint, step {step}')
    restored = _with_averages(restored, state.ema, progress)
    return restored, progress['position'], progress['seconds']

  def _restore(self, step: int, state: Any) -> tuple[Any, Mapping[str, Any]]:
    """Reads a checkpoint in the format it was written in, including older formats."""
    progress = read_progress(self.folder, step)
    if state.ema is not None and progress['format'] < 2:
      state = state.replace(ema=state.ema['params'])
    items = ocp.args.Composite(state=ocp.args.StandardRestore(state))
    return self._manager.restore(step, args=items).state, progress


class _Best:
  """An Orbax preservation policy that keeps the best checkpoint."""

  def __init__(self, checkpoints: Checkpoints):
    self._checkpoints = checkpoints

  def should_preserve(self, checkpoints: Sequence[Any], *, context: Any) -> list[bool]:
    del context
    return [info.step == self._checkpoints.best for info in checkpoints]


def keep_quiet() -> None:
  """Suppresses Python's tracebacks of other readers and writers after one has failed.

  When one of many files cannot be read or written, Orbax raises and closes its event
  loop. The remaining ones cannot report their results, and each prints a traceback.
  """
  sys.unraisablehook = _unless_reported
  warnings.filterwarnings('ignore', r"coroutine '.+' was never awaited")
  logging.getLogger('asyncio').setLevel(logging.CRITICAL)


def _unless_reported(what: Any) -> None:
  if what.object is not None or str(what.exc_value) != 'Event loop is closed':
    sys.__unraisablehook__(what)


class _Manager(ocp.CheckpointManager):
  def reached_preemption(self, step: int) -> bool:
    # JAX reports preemption once, at the agreed step, to the first caller: the loop.
    return False


@contextlib.contextmanager
def _saving(checkpoints: Checkpoints) -> Iterator[None]:
  """Converts any exception of a write into a `UserError` with one sentence."""
  try:
    yield
  except Exception as error:  # Orbax's writers raise many types
    if processes.lost_connection(error):
      raise
    with contextlib.suppress(Exception):  # may fail too, on the same disk
      checkpoints._manager.reload()
    good = checkpoints.latest
    last = 'there is none yet' if good is None else f'the last good one is step {good}'
    raise UserError(
      f'saving a checkpoint to {checkpoints.folder} failed ({_briefly(error)});'
      f' {last}. Free space there and rerun the same command.'
    ) from error


def _briefly(error: BaseException) -> str:
  text = ' '.join(str(error).split())
  if len(text) > 200:  # keep the start, and the system's error text at the end
    text = f'{text[:90]} ... {text[-90:]}'
  return f'{type(error).__name__}: {text}'


def _unused(path: pathlib.Path) -> pathlib.Path:
  """Returns the path, with a number appended if it already exists."""
  number = 2
  while path.exists():
    path, number = path.with_name(f'{path.name.partition(".")[0]}.{number}'), number + 1
  return path


def _with_averages(state: Any, ema: Any, progress: Mapping[str, Any]) -> Any:
  """Adds the collections of averages that `ema` has to a restored state."""
  if ema is None or progress['format'] >= 2:
    return state
  # Format 1 did not average statistics: their averages start from the current values.
  rest = {name: state.mutable[name] for name in ema if name != 'params'}
  return state.replace(ema={'params': state.ema, **rest})


def checksums(tree: Any) -> dict[str, str]:
  """Returns the dtype, shape and checksum of every array of a tree, by its path."""
  leaves = jax.tree_util.tree_leaves_with_path(tree)
  sums = jax.device_get([_sums_of(leaf) for _, leaf in leaves])
  return {
    optim.path_of(keys): f'{leaf.dtype}{list(leaf.shape)} {int(total):08x}'
    for (keys, leaf), total in zip(leaves, sums, strict=True)
  }


def _sums_of(x: Any) -> jax.Array:
  placed = getattr(x, 'sharding', None)
  mesh = getattr(placed, 'mesh', None)
  return _compiled(None if mesh is None else sharding.replicated(mesh))(x)


@functools.cache
def _compiled(shardings: Any) -> Any:
  return jax.jit(checksum, out_shardings=shardings)


def verify(tree: Any, progress: Mapping[str, Any]) -> None:
  """Raises a `DamagedError` unless all arrays of a tree match their saved checksums."""
  if progress['format'] < 3:
    return
  saved = progress['checksums']
  wrong = [name for name, own in checksums(tree).items() if saved.get(name) != own]
  if wrong:
    raise DamagedError(f'values differ from those saved in {listed(wrong, most=3)}')


def read_progress(folder: pathlib.Path, step: int) -> Mapping[str, Any]:
  """Reads what a checkpoint stores alongside its state; raises if it is damaged."""
  with ocp.Checkpointer(ocp.JsonCheckpointHandler()) as reader:
    progress = dict(reader.restore(folder / str(step) / 'progress'))
  progress.setdefault('format', 1)
  said = progress.pop('sha256', None)
  if progress['format'] >= 3 and said != files.sha256(progress):
    raise DamagedError('values differ from those saved in progress')
  return progress


def data_of(workdir: str | pathlib.Path) -> Mapping[str, Any] | None:
  """Returns the data that the newest readable checkpoint of a run was trained on.

  Returns None if there is no checkpoint, or none that records its data.
  """
  folder = pathlib.Path(workdir).absolute() / 'checkpoints'
  for step in reversed(steps(workdir)):
    with contextlib.suppress(Exception):  # reported when it is restored
      return read_progress(folder, step).get('data') or None
  return None


def steps(workdir: str | pathlib.Path) -> list[int]:
  """Returns the steps of a run's checkpoints, oldest first."""
  folder = pathlib.Path(workdir).absolute() / 'checkpoints'
  names = [p.name for p in folder.iterdir() if p.is_dir()] if folder.is_dir() else []
  return sorted(int(name) for name in names if name.isdigit())


def load(workdir: str | pathlib.Path, step: int | None = None) -> tuple[int, Tree]:
  """Loads parameters, averages and batch statistics of a run as NumPy: (step, dict).

  The dict has `params`, `ema` (None if not kept) and `mutable`. Without `step`, loads
  the newest checkpoint that is not damaged; damaged ones are reported and skipped.
  """
  there = steps(workdir)
  if not there:
    raise UserError(f'{workdir} holds no checkpoint: has that run been started?')
  if step is not None and step not in there:
    raise UserError(
      f'{workdir} has no checkpoint of step {step}, only of'
      f' step{"s" if len(there) > 1 else ""} {listed(there)}.'
    )
  reasons = {}
  for tried in reversed(there) if step is None else [step]:
    try:
      found = _load(pathlib.Path(workdir).absolute() / 'checkpoints', tried)
    except Exception as error:  # readers raise anything on a damaged file
      reasons[tried] = _briefly(error)
      continue
    for bad, why in reasons.items():
      say('damaged', f'checkpoint {bad} of {workdir} ({why}): using step {tried}')
    return tried, found
  each = '; '.join(f'checkpoint {bad}: {why}' for bad, why in reasons.items())
  others = [other for other in there if other not in reasons]
  rest = f'there are also steps {listed(others)}' if others else 'there are no others'
  raise UserError(f'{workdir} cannot be read ({each}); {rest}.')


def _load(folder: pathlib.Path, step: int) -> Tree:
  progress = read_progress(folder, step)
  with ocp.Checkpointer(ocp.PyTreeCheckpointHandler()) as reader:
    path = folder / str(step) / 'state'
    saved = reader.metadata(path).item_metadata.tree
    wanted = {k: saved[k] for k in ('params', 'ema', 'mutable') if k in saved}
    like = jax.tree.map(lambda x: np.zeros(x.shape, x.dtype), wanted)
    kind = jax.tree.map(lambda _: ocp.RestoreArgs(restore_type=np.ndarray), wanted)
    arguments = ocp.args.PyTreeRestore(
      item=like, restore_args=kind, partial_restore=True
    )
    read = reader.restore(path, arguments)
  verify(read, progress)
  found = {'ema': None, 'mutable': {}} | read
  if found['ema'] is not None and progress['format'] < 2:
    found['ema'] = {'params': found['ema']}
  return found
