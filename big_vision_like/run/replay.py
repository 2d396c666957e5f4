"""Handling of non-finite losses: stop, save the evidence, and replay the same step."""

import contextlib
import pathlib
import traceback
from collections.abc import Mapping
from typing import Any

import jax
import numpy as np
from flax import traverse_util

from big_vision_like import files, optim
from big_vision_like.data.input.base import Batch
from big_vision_like.devices.processes import say
from big_vision_like.errors import UserError, listed
from big_vision_like.ops import sharding
from big_vision_like.run.experiment import Experiment
from big_vision_like.tasks.task import State
from big_vision_like.weights import files as weight_files

ROWS = 'rows_in_batch'  # row numbers of the other arrays of a capsule
INSIDE = '::'  # joins names of nested arrays; '/' would create folders


def check_finite(
  run: Experiment,
  workdir: pathlib.Path,
  step: int,
  position: Mapping[str, int],
  scalars: Mapping[str, np.ndarray],
  last_good: int | None,
) -> None:
  """Raises if a scalar is not finite, after saving a capsule of the step.

  `position` is the input's position before the step, from which its batch is reread.
  """
  bad = [name for name, value in scalars.items() if not np.isfinite(value)]
  if not bad:
    return
  verb = 'is' if len(bad) == 1 else 'are'
  folder = workdir / f'capsule-{step}'
  with contextlib.closing(run.batches()) as batches:
    batches.set_state(position)
    batch = traverse_util.flatten_dict(next(batches), sep=INSIDE)
    count = sharding.global_rows(run.mesh, len(next(iter(batch.values()))))
    rows = sharding.local_rows(run.mesh, count)
    files.write_npz(folder / f'batch-{jax.process_index()}.npz', {ROWS: rows, **batch})
  values = {name: str(value) for name, value in scalars.items()}
  story = {'step': step, 'scalars': values, 'last_good_checkpoint': last_good}
  if jax.process_index() == 0:
    files.write_json(folder / 'capsule.json', story)
  kept = 'none was saved yet' if last_good is None else f'step {last_good:,} is kept'
  raise UserError(
    f'{", ".join(bad)} {verb} not finite at step {step:,} (loss {values["loss"]}).'
    f' Last good checkpoint: {kept}. Its batch and scalars are in {folder}.'
    f' To replay the step: python -m big_vision_like.train --workdir={workdir}'
    f' --replay={step}'
  )


def replay(run: Experiment, workdir: pathlib.Path, step: int) -> None:
  """Replays from the last good checkpoint to `step`; names the first bad value."""
  batches = run.batches()
  batch = _saved_batch(run, workdir, step)
  with run.checkpoints(workdir) as checkpoints:
    state, position, _ = run.start(checkpoints, run.frozen())
  if position is not None:
    batches.set_state(position)
  if int(state.step) >= step:
    raise UserError(f'the checkpoint is at step {int(state.step)}, after {step}.')
  say('replay', f'from step {int(state.step):,} to {step:,}')
  while int(state.step) < step - 1:
    state, _ = run.compiled_step(state, sharding.put(next(batches), run.mesh))
  again = next(batches)
  same = jax.tree.structure(batch) == jax.tree.structure(again) and all(
    map(np.array_equal, jax.tree.leaves(batch), jax.tree.leaves(again))
  )
  batches.close()
  say('replay', f'the batch of step {step:,} is {"the same" if same else "DIFFERENT"}')
  _report(run, state, sharding.put(batch, run.mesh), step)


def _saved_batch(run: Experiment, workdir: pathlib.Path, step: int) -> Batch:
  """Returns this process's rows of the capsule, whichever processes saved it."""
  paths = sorted((workdir / f'capsule-{step}').glob('batch-*.npz'))
  if not paths:
    found = sorted(p.name for p in workdir.glob('capsule-*')) or ['none']
    raise UserError(
      f'{workdir} has no capsule of step {step}; found: {", ".join(found)}.'
    )
  parts = [weight_files.read_npz(path) for path in paths]
  rows = [part.pop(ROWS) for part in parts]
  count = 1 + max(own.max() for own in rows)
  whole = {
    name: np.zeros((count, *x.shape[1:]), x.dtype) for name, x in parts[0].items()
  }
  for own, part in zip(rows, parts, strict=True):
    for name, x in part.items():
      whole[name][own] = x
  mine = sharding.local_rows(run.mesh, count)
  flat = {name: x[mine] for name, x in whole.items()}
  return traverse_util.unflatten_dict(flat, sep=INSIDE)


def _report(run: Experiment, state: State, batch: Any, step: int) -> None:
  for name, tree in [('parameters', state.params), ('batch', batch)]:
    say('replay', f'{name} before the step: {_not_finite(tree)}')
  after, scalars = jax.jit(run.step)(state, batch)
  for name, value in jax.device_get(scalars).items():
    say('replay', f'{name} = {value}')
  say('replay', f'parameters after the step: {_not_finite(after.params)}')
  with jax.debug_nans(True), jax.debug_infs(True), jax.disable_jit():
    try:
      run.step(state, batch)
    except FloatingPointError as error:
      frames = _our_frames(error)
      say('replay', f'first: {error} {frames}')
    else:
      say('replay', f'step {step:,} is finite when run operation by operation')


def _not_finite(tree: Any) -> str:
  names = [
    optim.path_of(keys)
    for keys, leaf in jax.tree_util.tree_leaves_with_path(tree)
    if jax.numpy.issubdtype(leaf.dtype, jax.numpy.floating)
    and not np.isfinite(np.asarray(leaf, np.float32)).all()
  ]
  return f'not finite in {listed(names, most=5)}' if names else 'all finite'


def _our_frames(error: BaseException) -> str:
  frames = traceback.extract_tb(error.__traceback__)
  ours = [f for f in frames if 'big_vision_like' in f.filename]
  return f'at {ours[-1].filename}:{ours[-1].lineno} ({ours[-1].line})' if ours else ''
