"""Tests of the checkpoints that are kept. Killing and resuming: train_test."""

import argparse

import jax
import numpy as np
import pytest

from big_vision_like import cli
from big_vision_like.errors import UserError
from big_vision_like.run import checkpoint
from big_vision_like.tasks.task import State
from tools.faults import checkpoints as faults
from tools.faults import common


def state_of(step: int) -> State:
  return State(
    step=np.int32(step), params={'w': np.full(3, step, np.float32)}, opt_state=()
  )


def kept(folder) -> set[int]:
  return {int(path.name) for path in (folder / 'checkpoints').iterdir()}


def test_keeps_the_last_every_sixth_and_the_best(tmp_path):
  with checkpoint.Checkpoints(tmp_path, keep_last=2, keep_every=6) as checkpoints:
    for step in range(1, 16):
      checkpoints.save(step, state_of(step), {'examples': step}, 1.5, wait=True)
      checkpoints.best = 3 if step >= 3 else None
  assert kept(tmp_path) == {3, 6, 12, 14, 15}
  step, saved = checkpoint.load(tmp_path)
  assert step == 15
  np.testing.assert_array_equal(saved['params']['w'], np.full(3, 15.0))
  assert checkpoint.load(tmp_path, 3)[0] == 3
  with pytest.raises(UserError, match='only of steps 3, 6, 12'):
    checkpoint.load(tmp_path, 4)


def test_restores_state_position_and_seconds(tmp_path):
  with checkpoint.Checkpoints(tmp_path) as checkpoints:
    assert checkpoints.restore(abstract()) is None
    checkpoints.data = {'config.train_data.source': {'examples': 21}}
    checkpoints.save(7, state_of(7), {'examples': 70}, 12.5)
  with checkpoint.Checkpoints(tmp_path) as checkpoints:
    state, position, seconds = checkpoints.restore(abstract())
  assert int(state.step) == 7 and position == {'examples': 70} and seconds == 12.5
  assert checkpoint.data_of(tmp_path) == {'config.train_data.source': {'examples': 21}}


def abstract() -> State:
  return jax.eval_shape(lambda: jax.tree.map(jax.numpy.asarray, state_of(0)))


@pytest.mark.parametrize('kind', faults.KINDS, ids=lambda kind: kind.name)
def test_no_damage_goes_unnoticed(kind):
  """Runs each fault in another process: readers that fail leave tasks running."""
  found = list(common.campaign(kind, count=30, seed=0))
  assert not [result for result in found if result.outcome not in common.GOOD]
  # Orbax names its files by hash, so chance decides how many faults hit a file in use.
  assert any(result.outcome == 'one sentence' for result in found)


def test_a_damaged_checkpoint_names_the_others(tmp_path):
  with checkpoint.Checkpoints(tmp_path) as checkpoints:
    for step in (5, 6):
      checkpoints.save(step, state_of(step), {'examples': step}, 1.0, wait=True)
  progress = tmp_path / 'checkpoints/6/progress/metadata'
  progress.write_text(progress.read_text().replace('"examples": 6', '"examples": 7'))
  with pytest.raises(UserError, match=r'checkpoint 6: DamagedError: .* also steps 5'):
    checkpoint.load(tmp_path, 6)
  assert checkpoint.load(tmp_path)[0] == 5


def test_folder_without_checkpoints_says_so(tmp_path):
  with pytest.raises(UserError, match='holds no checkpoint: has that run been started'):
    checkpoint.load(tmp_path / 'nothing')


def test_a_bucket_is_not_a_folder():
  with pytest.raises(UserError, match=r'--workdir=gs://b/x is not a folder: mount'):
    cli.parse(argparse.ArgumentParser(), ['--workdir=gs://b/x'])
