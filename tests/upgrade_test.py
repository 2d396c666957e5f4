"""Tests of configs that earlier versions saved with their runs."""

import importlib
import json
import tarfile

import numpy as np
import pytest
import tiny_config

from big_vision_like import evaluate, spec, train, upgrade
from big_vision_like.inference import loading
from big_vision_like.run import experiment, init_from, metrics, workdir


@pytest.mark.parametrize('old, new', upgrade.MODULES.items())
def test_a_module_that_moved_is_found(old, new):
  assert upgrade.upgraded({'_fn': f'{old}:name'}) == {'_fn': f'{new}:name'}
  assert upgrade.moved(f'{new}:name') == f'{new}:name'
  importlib.import_module(new)


@pytest.mark.parametrize('old, new', upgrade.SYMBOLS.items())
def test_a_symbol_that_moved_is_found(old, new):
  assert upgrade.upgraded({'_fn': old}) == {'_fn': new}
  assert callable(spec.symbol({'_fn': new}))


@pytest.mark.parametrize('module', ['checkpoint', 'init_from', 'run.init_from'])
def test_a_symbol_that_moved_twice_is_found(module):
  path = upgrade.moved(f'big_vision_like.{module}:InitFrom')
  assert path == 'big_vision_like.run.init_from:InitFrom'


def test_a_general_module_may_take_a_name_that_became_free():
  for path in ('tasks.detection:Boxes', 'evals.segmentation:MeanIoU'):
    assert upgrade.moved(f'big_vision_like.{path}') == f'big_vision_like.{path}'


def test_an_old_run_that_started_from_another_still_builds(tmp_path):
  config = spec.load('configs/vit/transfer_digits.py', root=experiment.Settings)
  saved = json.loads(config.to_json())
  saved['init_from'] = {
    '_fn': 'big_vision_like.checkpoint:InitFrom',
    'weights': {'_fn': 'big_vision_like.checkpoint:from_run', 'workdir': 'runs/a'},
    'leave_out': ['head/.*'],
    'resize': 'linear',
    'grid': None,
  }
  (tmp_path / 'config.json').write_text(json.dumps(saved))
  loaded = spec.load(str(tmp_path / 'config.json'), root=experiment.Settings)
  assert spec.symbol(loaded.init_from) is init_from.InitFrom
  assert spec.symbol(loaded.init_from.weights) is init_from.from_run
  built = spec.build(loaded.init_from.to_dict() | {'weights': {}})
  assert built == init_from.InitFrom({}, ['head/.*'], resize='linear')
  # The run resumes with its config under the current names.
  (tmp_path / 'checkpoints' / '1').mkdir(parents=True)
  assert workdir.claim(tmp_path, loaded) == workdir.Changes()


@pytest.fixture
def old_run(golden, tmp_path):
  """Returns a run of tests/tiny_config.py that an old version stopped at step 14."""
  with tarfile.open(golden / 'old_run.tar.gz') as archive:
    archive.extractall(tmp_path, filter='data')
  saved = json.loads((tmp_path / 'run' / 'config.json').read_text())
  assert saved['task']['mixup'] == 0.2 and saved['task']['ema_decay'] == 0.99
  return tmp_path / 'run'


def test_an_old_run_ends_as_it_would_have_then(golden, old_run, data_dir):
  """Checks that the old kinds of average and of input position are understood."""
  config = tiny_config.get_config()
  config.keep_last = 1
  state = train.train(config, old_run)
  assert int(state.step) == 30 and state.ema.keys() == {'params'}
  then = json.loads((golden / 'old_run.json').read_text())['metrics']
  now = {}
  for record in metrics.read(old_run):
    now.setdefault(str(record['step']), {}).update(record)
  for step, values in then.items():
    for name, value in values.items():
      assert now[step][name] == pytest.approx(value, rel=1e-4), (step, name)


def test_an_old_run_is_loaded_and_evaluated(old_run, data_dir):
  run = loading.load_run(old_run)
  assert run.state.step == 14 and run.task.augment.mixup == 0.2
  averaged, last = run.variables['params'], run.state.params
  assert not np.array_equal(averaged['head']['kernel'], last['head']['kernel'])
  weights = init_from.from_run(str(old_run))
  np.testing.assert_array_equal(
    weights.params['head']['kernel'], averaged['head']['kernel']
  )
  assert evaluate.main([f'--workdir={old_run}']) == 0
  found = json.loads((old_run / 'evaluation-14.json').read_text())
  assert 0 <= found['val/top1'] <= 1


@pytest.mark.parametrize(
  'old, new',
  [
    (
      {'_fn': 'big_vision_like.evals.translation:Bleu', 'output': 'beam'},
      {'_fn': 'big_vision_like.evals.translation:Bleu', 'predict': 'translate'},
    ),
    (
      {'_fn': 'big_vision_like.evals.sequences:ExactMatch', 'output': 'greedy'},
      {'_fn': 'big_vision_like.evals.sequences:ExactMatch', 'predict': 'greedy'},
    ),
    (
      {
        '_fn': 'big_vision_like.evals.segmentation:Segmentation',
        'num_slots': 11,
        'iterations': None,
      },
      {
        '_fn': 'big_vision_like.evals.object_discovery:Segmentation',
        'predict_args': {'num_slots': 11},
      },
    ),
  ],
)
def test_arguments_have_current_names(old, new):
  assert upgrade.upgraded({'evals': [old]}) == {'evals': [new]}
  assert upgrade.upgraded(new) == new
