"""Nothing is lost: saving and resuming.

A run's folder holds `config.json` and `checkpoints/STEP/`, each with the state, the
position of the input and the seconds spent, committed at once when it is complete.
"""

import contextlib
import json
import os
import pathlib
import re
import shutil
import time
from collections.abc import Iterator, Mapping
from typing import Any

import jax
import ml_collections as mlc
import numpy as np
import orbax.checkpoint as ocp
from orbax.checkpoint import checkpoint_managers as managers

from big_vision_like import files, spec, upgrade
from big_vision_like.devices import processes
from big_vision_like.devices.processes import say
from big_vision_like.errors import UserError

Tree = dict[str, Any]

# Fields of a config that say where a run computes and what it is called, not what it
# does.
BESIDE = ('mesh', 'sharding', 'name')


# Counted up when the layout of checkpoints changes. Those of format 1, which had no
# number, kept an average of the parameters alone, not of variables by collection.
FORMAT = 2


class Checkpoints:
  """The checkpoints of one run.

  Keeps the last `keep_last`, every one at a multiple of `keep_every` steps, and the
  best by the evaluation scalar `keep_best` (such as 'val/top1'); `best_is` says whether
  the best value is the 'max' or the 'min'.
  """

  def __init__(
    self,
    workdir: pathlib.Path,
    keep_last: int = 2,
    keep_every: int | None = None,
    keep_best: str | None = None,
    best_is: str | None = 'max',
  ):
    self.folder = workdir.absolute() / 'checkpoints'
    policies = [managers.LatestN(keep_last)]
    if keep_every:
      policies.append(managers.EveryNSteps(keep_every))
    if keep_best:
      best = managers.BestN(
        get_metric_fn=lambda scalars: scalars[keep_best],
        reverse=best_is == 'min',
        n=1,
        keep_checkpoints_without_metrics=False,
      )
      policies.append(best)
    self._keep_best = keep_best
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
    with contextlib.suppress(Exception) if kind else _saving(self):
      self._manager.wait_until_finished()
      self._manager.close()

  @property
  def latest(self) -> int | None:
    """The step of the newest complete checkpoint."""
    return self._manager.latest_step()

  def save(
    self,
    step: int,
    state: Any,
    position: Mapping[str, Any],
    seconds: float,
    scalars: Mapping[str, float] | None = None,
    wait: bool = False,
  ) -> float:
    """Starts to write a checkpoint; the state may be donated when this returns.

    Returns the seconds that it took: the copy to the host, and whatever was left to
    write of the checkpoint before.
    """
    started = time.perf_counter()
    best = None
    if scalars and self._keep_best in scalars:
      best = {self._keep_best: float(scalars[self._keep_best])}
    items = ocp.args.Composite(
      state=ocp.args.StandardSave(state.trained),
      progress=ocp.args.JsonSave(
        {'position': position, 'seconds': seconds, 'format': FORMAT}
      ),
    )
    with _saving(self):
      with processes.together():
        self._check_space(state.trained)
      self._manager.save(step, args=items, metrics=best)
      if wait:
        self._manager.wait_until_finished()
    return time.perf_counter() - started

  def check(self) -> None:
    """Raises if writing in the background has failed."""
    with _saving(self):
      self._manager.check_for_errors()

  def _check_space(self, state: Any) -> None:
    # Not to start is quieter than to fail in the middle, in threads of the writers.
    needed = sum(x.nbytes for x in jax.tree.leaves(state)) // jax.process_count()
    free = shutil.disk_usage(self.folder).free
    if free < needed:
      raise OSError(f'{needed / 1e6:,.1f} MB needed, {free / 1e6:,.1f} MB free')

  def restore(self, state: Any) -> tuple[Any, Mapping[str, Any], float] | None:
    """The newest readable state, input position and seconds; None where none is.

    `state` is abstract, with shardings. Unreadable checkpoints newer than the one
    taken are set aside under another name, never deleted.
    """
    reasons = {}
    for step in sorted(self._manager.all_steps(), reverse=True):
      try:
        with processes.together():
          restored = self._restore(step, state.trained)
        break
      except Exception as error:  # whatever a damaged file makes the readers raise
        reasons[step] = _briefly(error)
    else:
      if reasons:
        listed = '; '.join(f'step {step}: {why}' for step, why in reasons.items())
        raise UserError(
          f'no checkpoint in {self.folder} can be read ({listed}). Was the model'
          ' changed since? Move the folder away to start anew.'
        )
      return None
    for bad, why in reasons.items():
      aside = self.folder.parent / f'unreadable-{bad}'
      with processes.together():
        if jax.process_index() == 0:
          os.replace(self.folder / str(bad), aside)
      say('restore', f'checkpoint {bad} is unreadable ({why}): set aside as {aside}')
    if reasons:
      self._manager.reload()
      say('restore', f'going on from the previous good checkpoint, step {step}')
    state, progress = restored
    return state, progress['position'], progress['seconds']

  def _restore(self, step: int, state: Any) -> tuple[Any, Any]:
    """Reads a checkpoint, also one from before averages were variables."""
    like, like_ema = state, state.ema
    old = state.ema is not None and _format(self.folder, step) < 2
    if old:
      like = state.replace(ema=state.ema['params'])
    items = ocp.args.Composite(
      state=ocp.args.StandardRestore(like), progress=ocp.args.JsonRestore()
    )
    restored = self._manager.restore(step, args=items)
    state = restored.state
    if old:  # statistics were not averaged: their averages start here
      rest = {name: state.mutable[name] for name in like_ema if name != 'params'}
      state = state.replace(ema={'params': state.ema, **rest})
    return state, restored.progress


class _Manager(ocp.CheckpointManager):
  def reached_preemption(self, step: int) -> bool:
    # JAX says so once, at the agreed step, to the first who asks: that is the loop.
    return False


@contextlib.contextmanager
def _saving(checkpoints: Checkpoints) -> Iterator[None]:
  """Turns whatever writing raises into one sentence."""
  try:
    yield
  except Exception as error:
    with contextlib.suppress(Exception):
      checkpoints._manager.reload()
    good = checkpoints.latest
    last = 'there is none yet' if good is None else f'the last good one is step {good}'
    raise UserError(
      f'saving a checkpoint to {checkpoints.folder} failed ({_briefly(error)});'
      f' {last}. Free space there and run the same command again.'
    ) from error


def _briefly(error: BaseException) -> str:
  text = ' '.join(str(error).split())
  if len(text) > 200:  # what went wrong, and the system's word for it at the end
    text = f'{text[:90]} ... {text[-90:]}'
  return f'{type(error).__name__}: {text}'


def claim(workdir: pathlib.Path, config: mlc.ConfigDict) -> None:
  """Saves the config in a new folder; refuses the folder of another config.

  What is `BESIDE` may change, as when a run goes on with other devices. Process 0
  claims the folder, then all compare: they may have been told differently.
  """
  path = workdir / 'config.json'
  plain = json.loads(config.to_json())
  with processes.together():
    if jax.process_index() == 0 and not path.exists():
      files.write_json(path, plain)
  with processes.together():
    saved = upgrade.upgraded(files.read_json(path))
    before, now = (dict(spec.leaves(c)) for c in (saved, upgrade.upgraded(plain)))
    changes = [
      f'  config.{key}: {before.get(key, "absent")} -> {now.get(key, "absent")}'
      for key in sorted({*before, *now})
      if re.split(r'[.\[]', key)[0] not in BESIDE
      and before.get(key, ...) != now.get(key, ...)
    ]
    if changes:
      listed = '\n'.join(changes)
      raise UserError(
        f'{workdir} belongs to a run with another config:\n{listed}\nUse another'
        ' --workdir, or the saved config: --config=' + str(path)
      )


def steps(workdir: str | pathlib.Path) -> list[int]:
  """The steps of a run's checkpoints, oldest first."""
  folder = pathlib.Path(workdir).absolute() / 'checkpoints'
  names = [p.name for p in folder.iterdir() if p.is_dir()] if folder.is_dir() else []
  return sorted(int(name) for name in names if name.isdigit())


def load(workdir: str | pathlib.Path, step: int | None = None) -> tuple[int, Tree]:
  """Parameters, averages and batch statistics of a run, as numpy: (step, dict).

  The dict has `params`, `ema` (None where not kept) and `mutable`.
  """
  folder, there = pathlib.Path(workdir).absolute() / 'checkpoints', steps(workdir)
  if not there:
    raise UserError(f'{workdir} holds no checkpoint: has that run been started?')
  if step is not None and step not in there:
    listed = ', '.join(map(str, there))
    raise UserError(f'{workdir} has no checkpoint of step {step}, only of {listed}.')
  step = there[-1] if step is None else step
  try:
    with ocp.Checkpointer(ocp.PyTreeCheckpointHandler()) as reader:
      path = folder / str(step) / 'state'
      saved = reader.metadata(path).item_metadata.tree
      wanted = {k: saved[k] for k in ('params', 'ema', 'mutable') if k in saved}
      like = jax.tree.map(lambda x: np.zeros(x.shape, x.dtype), wanted)
      kind = jax.tree.map(lambda _: ocp.RestoreArgs(restore_type=np.ndarray), wanted)
      arguments = ocp.args.PyTreeRestore(
        item=like, restore_args=kind, partial_restore=True
      )
      found = {'ema': None, 'mutable': {}} | reader.restore(path, arguments)
  except (ValueError, OSError, KeyError) as error:
    raise UserError(
      f'checkpoint {step} of {workdir} cannot be read ({_briefly(error)}).'
    ) from error
  if found['ema'] is not None and _format(folder, step) < 2:
    found['ema'] = {'params': found['ema']}
  return step, found


def _format(folder: pathlib.Path, step: int) -> int:
  """Returns the `FORMAT` that a checkpoint was written in."""
  with ocp.Checkpointer(ocp.JsonCheckpointHandler()) as reader:
    return reader.restore(folder / str(step) / 'progress').get('format', 1)
