import json
import re

import jax
import numpy as np
import pytest

from big_vision_like import spec
from big_vision_like.inference import loading
from big_vision_like.run import checkpoint, experiment, init_from, learned
from big_vision_like.tasks.task import State

STEPS = (2, 4, 6)
FACTS = {'format': 1, 'inputs': {'': {'label_names': ['no', 'yes']}}}


@pytest.fixture(scope='module')
def average():
  from tools import average_checkpoints

  return average_checkpoints


def params_of(step):
  rng = np.random.default_rng(step)
  return {'embedding': rng.normal(size=(20, 4)).astype(np.float32)}


@pytest.fixture(scope='module')
def workdir(tmp_path_factory):
  """Returns a run with three checkpoints, each with an optimizer's state."""
  folder = tmp_path_factory.mktemp('run')
  config = spec.load('configs/transformer/reverse.py', root=experiment.Settings)
  (folder / 'config.json').write_text(config.to_json())
  learned.write(folder, FACTS)
  with checkpoint.Checkpoints(folder, keep_last=3) as checkpoints:
    for step in STEPS:
      params = params_of(step)
      state = State(step=np.int32(step), params=params, opt_state={'mu': params})
      checkpoints.save(step, state, {'examples': step}, seconds=1.0, wait=True)
  return folder


def test_the_mean_of_the_last(average, workdir, tmp_path, capsys):
  out = tmp_path / 'average'
  assert average.main([str(workdir), '--last=2', f'--out={out}']) == 0
  run = loading.load_run(out)
  assert int(run.state.step) == 6 and run.state.ema is None
  want = np.mean([params_of(step)['embedding'] for step in (4, 6)], axis=0)
  np.testing.assert_allclose(run.state.params['embedding'], want, rtol=1e-6)
  assert type(run.task).__name__ == 'Seq2Seq'
  assert json.loads((out / 'averaged.json').read_text())['steps'] == [4, 6]
  assert 'evaluate --workdir' in capsys.readouterr().out
  # A run can start from it.
  weights = init_from.from_run(str(out)).params
  assert jax.tree.map(np.shape, weights) == {'embedding': (20, 4)}
  # It contains the names of classes.
  assert learned.read(out) == FACTS
  # The averaged checkpoints are unchanged.
  assert checkpoint.steps(workdir) == list(STEPS)


@pytest.mark.parametrize(
  'options, words',
  [
    (['--last=4'], r'holds 3 checkpoints \(2, 4, 6\), not 4'),
    (['--last=0'], 'at least 1 checkpoint'),
  ],
)
def test_checkpoints_that_cannot_be_averaged_are_reported(
  options, words, average, workdir, tmp_path, capsys
):
  out = tmp_path / 'average'
  assert average.main([str(workdir), *options, f'--out={out}']) == 1
  assert re.search(words, capsys.readouterr().err)
  assert not out.exists()


def test_folders_are_looked_at_first(average, workdir, tmp_path, capsys):
  assert average.main([str(workdir), '--last=1', f'--out={tmp_path}']) == 1
  assert 'already exists' in capsys.readouterr().err
  assert average.main([str(tmp_path), f'--out={tmp_path / "new"}']) == 1
  assert 'has no config.json' in capsys.readouterr().err
  (tmp_path / 'config.json').write_text('null')
  assert average.main([str(tmp_path), f'--out={tmp_path / "new"}']) == 1
  assert 'holds a NoneType' in capsys.readouterr().err
