"""What is kept. Killing and resuming: train_test."""

import argparse
import json

import jax
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
  with pytest.raises(UserError, match='no checkpoint of step 4, only of 3, 6, 12'):
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


# Flips one bit in the newest of two checkpoints, COUNT times, and reads what is there.
# In a process of its own, as readers that fail leave coroutines of Orbax behind.
FLIPS = """
import json, pathlib, shutil, sys
import jax, numpy as np
from big_vision_like import cli
from big_vision_like.run import checkpoint
from big_vision_like.tasks.task import State

cli.set_up_jax()
top, count = pathlib.Path(sys.argv[1]), int(sys.argv[2])
params = {name: np.arange(4096, dtype=np.float32) for name in ('a', 'b')}
like = State(step=np.int32(5), params=params, opt_state=(), ema={'params': params})
with checkpoint.Checkpoints(top / 'good') as checkpoints:
  for step in (5, 6):
    state = like.replace(step=np.int32(step))
    checkpoints.save(step, state, {'examples': step}, 1.0, wait=True)
shapes = jax.eval_shape(lambda: jax.tree.map(jax.numpy.asarray, like))
for seed in range(count):
  rng, folder = np.random.default_rng(seed), top / str(seed)
  shutil.copytree(top / 'good', folder)
  files = sorted(p for p in (folder / 'checkpoints/6').rglob('*') if p.is_file())
  file = rng.choice([p for p in files if p.stat().st_size])
  content = bytearray(file.read_bytes())
  content[rng.integers(len(content))] ^= 1 << rng.integers(8)
  file.write_bytes(content)
  step, loaded = checkpoint.load(folder)
  with checkpoint.Checkpoints(folder) as checkpoints:
    state, position, _ = checkpoints.restore(shapes)
  equal = [
    np.array_equal(tree[name], params[name])
    for tree in (loaded['params'], state.params, state.ema['params']) for name in params
  ]
  aside = (folder / 'unreadable-6').exists()
  print('FOUND', json.dumps([str(file.relative_to(folder)), step, int(state.step),
    position['examples'], aside, all(equal)]))
"""


def test_no_flipped_bit_goes_unnoticed(spawn, tmp_path):
  done = spawn('-c', FLIPS, str(tmp_path), '60')
  assert done.returncode == 0, done.stderr
  found = [line[6:] for line in done.stdout.splitlines() if line.startswith('FOUND')]
  assert len(found) == 60
  for name, loaded, restored, position, aside, equal in map(json.loads, found):
    assert equal, name
    assert restored == position == (5 if aside else 6), name
    assert loaded == restored or 'checkpoints/6/state' in name
  assert sum('true, true' in line for line in found) > 10  # set aside, and right
  assert 'Traceback' not in done.stderr, done.stderr


def test_a_damaged_checkpoint_that_is_asked_for_names_the_others(tmp_path):
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


def test_a_bucket_is_no_folder():
  with pytest.raises(UserError, match=r'--workdir=gs://b/x is not a folder: mount'):
    cli.parse(argparse.ArgumentParser(), ['--workdir=gs://b/x'])
