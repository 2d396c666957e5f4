"""Tests that a task of two networks and two optimizers works everywhere unchanged."""

import json

import gan_config
import jax
import numpy as np
import pytest

from big_vision_like import evaluate, plan, spec, train
from big_vision_like.errors import UserError
from big_vision_like.run import experiment, metrics
from tools import explain, report, show_input, smoke

CONFIG = gan_config.__file__


@pytest.fixture(scope='module')
def trained(data_dir, tmp_path_factory):
  """Returns the state and the folder of a run of 400 steps."""
  workdir = tmp_path_factory.mktemp('gan') / 'run'
  return train.train(gan_config.get_config(), workdir), workdir


def test_it_learns_the_look_of_digits(trained):
  records = metrics.read(trained[1])
  found = [r for r in records if r['kind'] == 'eval']
  assert [r['step'] for r in found] == [100, 200, 300, 400]
  run = experiment.make(gan_config.get_config())
  start = run.evaluators['val'].run(
    run.evaluators['val'].prediction(run.task), run.init(), run.mesh
  )
  assert found[-1]['val/distance'] < 0.6 * start.scalars['distance']
  assert all(r['val/distinct'] == 1.0 for r in found)  # no sample occurs twice
  losses = [r for r in records if r['kind'] == 'train']
  assert {'loss_generator', 'loss_discriminator'} <= losses[-1].keys()


def test_the_best_checkpoint_has_the_least_distance(trained):
  found = {
    r['step']: r['val/distance']
    for r in metrics.read(trained[1])
    if r['kind'] == 'eval'
  }
  best = min(found, key=found.get)
  kept = sorted(int(p.name) for p in (trained[1] / 'checkpoints').iterdir())
  assert kept == sorted({best, 300, 400})


def test_a_restart_ends_bit_equal(trained, tmp_path):
  config = gan_config.get_config()
  train.train(config, tmp_path / 'run', drill=150)
  state = train.train(config, tmp_path / 'run')
  jax.tree.map(np.testing.assert_array_equal, state, trained[0])


def test_it_is_evaluated_alone(trained, capsys):
  assert evaluate.main([f'--workdir={trained[1]}']) == 0
  found = json.loads((trained[1] / 'evaluation-400.json').read_text())
  last = [r for r in metrics.read(trained[1]) if r['kind'] == 'eval'][-1]
  assert found['val/distance'] == pytest.approx(last['val/distance'], rel=1e-5)
  words = [f'--workdir={trained[1]}', '--config.evals.val.predict=predict']
  assert evaluate.main(words) == 1
  assert "Gan has no prediction 'predict'; it has generate" in capsys.readouterr().err


def test_it_is_planned(data_dir):
  made = plan.plan(CONFIG, 'cpu:2')
  assert made.fits and made.frozen == 0
  assert made.parameters == 4 * sum(x.size for x in jax.tree.leaves(made_params()))
  task = spec.build(gan_config.get_config().task)
  every = plan.plan(CONFIG, 'cpu:2', overrides=['task.r1_every=1'])
  never = plan.plan(CONFIG, 'cpu:2', overrides=['task.r1_every=1000000'])
  penalty = every.flops - never.flops
  assert penalty > 0
  assert made.flops == pytest.approx(never.flops + penalty / task.r1_every, abs=2)


def made_params():
  run = experiment.make(gan_config.get_config(), planned_for=jax.devices()[:2])
  return run.abstract_state.params


def test_tools_show_both_networks(data_dir, tmp_path, capsys):
  assert explain.main([f'--config={CONFIG}']) == 0
  told = capsys.readouterr().out
  for text in (
    'generator: Generator, one example',
    'discriminator: Discriminator, one example',
    'generator: 9,408 parameters',
    'discriminator: 4,225 parameters',
  ):
    assert text in told
  words = [f'--config={CONFIG}', f'--out={tmp_path}', '--seconds=0.1']
  assert show_input.main(words) == 0
  found = json.loads((tmp_path / 'train_data.json').read_text())
  names = [row['name'] for row in found['arrays']]
  assert "generator's input 1 on the device" in names
  assert "discriminator's input 1 on the device" in names


def test_its_config_runs_in_small(capsys):
  assert smoke.main([CONFIG]) == 0
  assert '1 of 1 configs pass' in capsys.readouterr().out


def test_a_report_has_curves(trained):
  assert report.main([str(trained[1])]) == 0
  assert 'loss_generator' in (trained[1] / 'report.html').read_text()


def test_networks_of_a_run_start_another(trained):
  from big_vision_like.run import init_from

  found = init_from.from_run(str(trained[1]), network='generator')
  kernel = trained[0].ema['generator']['params']['hidden']['kernel']
  np.testing.assert_array_equal(found.params['hidden']['kernel'], kernel)
  with pytest.raises(UserError, match="network='judge' of .* is none of generator, di"):
    init_from.from_run(str(trained[1]), network='judge')


def test_its_predictions_take_their_own_arguments(trained):
  task = spec.build(gan_config.get_config().task)
  batch = {'image': np.zeros((3, 8, 8, 1), np.uint8)}
  generate = task.prediction('generate', truncation=0.0)
  images = generate(trained[0], batch, jax.random.key(0))['image']
  np.testing.assert_array_equal(images[0], images[1])
  with pytest.raises(UserError, match="takes no argument 'psi'; .* takes truncation"):
    task.prediction('generate', psi=0.5)
