"""What is kept. Killing and resuming: train_test."""

import argparse

import jax
import ml_collections as mlc
import numpy as np
import pytest

from big_vision_like import cli
from big_vision_like.errors import UserError
from big_vision_like.run import checkpoint
from big_vision_like.tasks.task import State


def state_of(step: int) -> State:
  return State(
    step=np.int32(step), params={'w': np.full(3, step, np.float32)}, opt_state=()
  )


def kept(folder) -> set[int]:
  return {int(path.name) for path in (folder / 'checkpoints').iterdir()}


def test_keeps_the_last_every_tenth_and_the_best(tmp_path):
  accuracy = {3: 0.9, 6: 0.8, 9: 0.7, 12: 0.1, 15: 0.2}
  with checkpoint.Checkpoints(
    tmp_path, keep_last=2, keep_every=6, keep_best='val/top1'
  ) as checkpoints:
    for step in range(1, 16):
      found = {'val/top1': accuracy[step]} if step in accuracy else None
      checkpoints.save(step, state_of(step), {'examples': step}, 1.5, found, wait=True)
  assert kept(tmp_path) == {3, 6, 12, 14, 15}
  step, saved = checkpoint.load(tmp_path)
  assert step == 15
  np.testing.assert_array_equal(saved['params']['w'], np.full(3, 15.0))
  assert checkpoint.load(tmp_path, 3)[0] == 3
  with pytest.raises(UserError, match='no checkpoint of step 4, only of 3, 6, 12'):
    checkpoint.load(tmp_path, 4)


def test_restores_state_position_and_seconds(tmp_path):
  with checkpoint.Checkpoints(tmp_path) as checkpoints:
    assert checkpoints.restore(state_of(0)) is None
    checkpoints.save(7, state_of(7), {'examples': 70}, 12.5)
  with checkpoint.Checkpoints(tmp_path) as checkpoints:
    shapes = jax.eval_shape(lambda: jax.tree.map(jax.numpy.asarray, state_of(0)))
    state, position, seconds = checkpoints.restore(shapes)
  assert int(state.step) == 7 and position == {'examples': 70} and seconds == 12.5


def test_folder_without_checkpoints_says_so(tmp_path):
  with pytest.raises(UserError, match='holds no checkpoint: has that run been started'):
    checkpoint.load(tmp_path / 'nothing')


def test_a_folder_belongs_to_one_config_wherever_it_computes(tmp_path):
  config = mlc.ConfigDict(dict(total_steps=3, mesh=dict(data=-1), task=dict(a=1)))
  checkpoint.claim(tmp_path, config)
  config.mesh = dict(data=2, fsdp=4)
  config.sharding = [('head/kernel', ('fsdp',))]
  config.name = 'configs/vit/plain.py:90'
  checkpoint.claim(tmp_path, config)
  assert 'fsdp' not in (tmp_path / 'config.json').read_text()  # as it was begun
  config.task.a = 2
  with pytest.raises(UserError, match=r'another config:\n  config.task.a: 1 -> 2\nUse'):
    checkpoint.claim(tmp_path, config)


def test_a_bucket_is_no_folder():
  with pytest.raises(UserError, match=r'--workdir=gs://b/x is not a folder: mount'):
    cli.parse(argparse.ArgumentParser(), ['--workdir=gs://b/x'])
