"""Damage to the newest checkpoint of a run that also has an older one."""

import pathlib
from typing import Any

import jax
import numpy as np

from big_vision_like.errors import UserError
from big_vision_like.run import checkpoint
from big_vision_like.tasks.task import State
from tools.faults import common

SHAPES = {'kernel': (64, 48), 'bias': (48,), 'table': (3, 5, 7)}


def state_of(step: int) -> State:
  """Returns a state with values that do not depend on the step, except the step."""
  rng = np.random.default_rng(0)
  params = {k: rng.standard_normal(shape, np.float32) for k, shape in SHAPES.items()}
  moments = jax.tree.map(np.zeros_like, params)
  return State(
    step=np.int32(step), params=params, opt_state=(moments,), ema={'params': params}
  )


def make(folder: pathlib.Path) -> None:
  """Saves two checkpoints."""
  with checkpoint.Checkpoints(folder) as checkpoints:
    for step in (5, 6):
      checkpoints.save(step, state_of(step), {'step': step}, 1.0, wait=True)


def damage(folder: pathlib.Path, rng: np.random.Generator) -> str:
  """Damages one file of the newest checkpoint."""
  ways = (*common.BYTES, common.delete)
  return common.any_file(*ways)(folder / 'checkpoints' / '6', rng)


def restore(folder: pathlib.Path) -> Any:
  """Restores for training; falling back to the older checkpoint must be reported."""
  like = jax.eval_shape(lambda: jax.tree.map(jax.numpy.asarray, state_of(0)))
  with checkpoint.Checkpoints(folder) as checkpoints:
    state, position, seconds = checkpoints.restore(like)
  step = int(state.step)
  wanted = jax.tree.leaves(state_of(step))
  pairs = zip(jax.tree.leaves(state), wanted, strict=True)
  same = all(np.array_equal(x, y) for x, y in pairs)
  if step == 5 and same and (folder / 'unreadable-6').exists():
    raise UserError('checkpoint 6 was set aside, and checkpoint 5 is intact')
  return step, position, seconds, same


def load(folder: pathlib.Path) -> Any:
  """Loads parameters for prediction."""
  step, saved = checkpoint.load(folder)
  wanted = state_of(step).params
  same = all(np.array_equal(saved['params'][name], wanted[name]) for name in wanted)
  if step == 5 and same:
    raise UserError('checkpoint 6 was skipped, and checkpoint 5 is intact')
  return step, same


KINDS = (
  common.Kind('checkpoint, resumed', make, damage, restore, checked=True),
  common.Kind('checkpoint, loaded', make, damage, load, checked=True),
)
