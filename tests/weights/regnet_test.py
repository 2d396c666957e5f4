"""Tests of properties of RegNet files (others: published_test, tests/parity)."""

import numpy as np
import pytest
import random_weights
from random_weights import assert_same, calm, small_regnet, variables_of

from big_vision_like import spec
from big_vision_like.errors import UserError
from big_vision_like.inference import loading
from big_vision_like.models import regnet as models
from big_vision_like.run import experiment, init_from
from big_vision_like.weights import files, published, torch_regnet
from big_vision_like.weights.families import regnet
from tools import convert_weights as tool

SMALL = small_regnet()
VARIABLES = calm(variables_of(SMALL))
STATE = torch_regnet.write(VARIABLES)
HF = torch_regnet.write(VARIABLES, torch_regnet.TRANSFORMERS)


def read(tmp_path, state, config=None):
  files.write(tmp_path / 'model.safetensors', state)
  if config is not None:
    files.files.write_json(tmp_path / 'config.json', config)
  return published.read(tmp_path)


def test_statistics_come_with_the_weights(tmp_path):
  weights = read(tmp_path, STATE | {'stem.bn.num_batches_tracked': np.int64(3)})
  assert weights.source == 'timm RegNet'
  assert weights.variables.keys() == {'params', 'batch_stats'}
  assert_same(weights.variables, VARIABLES)
  model, variables, images = loading.load(tmp_path)
  assert model.clone(parent=None) == SMALL.clone(parent=None)
  assert_same(variables, VARIABLES)
  assert (images.size, images.resize) == ((224, 224), 256)


def test_a_teacher_is_filled_from_a_file(tmp_path):
  files.write(tmp_path / 'model.safetensors', STATE)
  weights = init_from.from_file(str(tmp_path))
  assert (weights.mean, weights.std)[0] == (0.485, 0.456, 0.406)
  filled = init_from.complete(weights, variables_of(SMALL, seed=1), {})
  assert_same(filled, VARIABLES)
  lacking = {k: dict(v) for k, v in weights.variables.items()}
  del lacking['batch_stats']['root']
  with pytest.raises(UserError, match='root/norm/mean'):
    init_from.complete(lacking, VARIABLES, {})


def test_the_statistics_of_a_run_are_written(data_dir, tmp_path):
  config = spec.load('tests/tiny_config.py', root=experiment.Settings)
  sizes = dict(depths=(1,), widths=(8,), group_width=4, num_classes=10)
  config.task.model = spec.spec(models.RegNet, **sizes)
  ours = calm(variables_of(models.RegNet(**sizes), (8, 8), channels=1))
  mutable = {'batch_stats': ours['batch_stats']}
  random_weights.save_run(tmp_path / 'run', config, ours['params'], mutable=mutable)
  words = [str(tmp_path / 'run'), str(tmp_path / 'out.safetensors')]
  assert tool.main(words) == 0
  assert_same(published.read(tmp_path / 'out.safetensors').variables, ours)


@pytest.mark.parametrize(
  'config, words',
  [
    (dict(architecture='regnetz_005'), "'regnetz_005' makes other RegNets than ours"),
    (dict(architecture='regnety_040_sgn'), "'regnety_040_sgn' makes other"),
    (dict(downsample_in_first_stage=False), 'downsample_in_first_stage=False makes'),
    (dict(hidden_act='silu'), "hidden_act='silu' makes other"),
  ],
)
def test_variants_with_the_same_arrays_are_refused(tmp_path, config, words):
  with pytest.raises(UserError, match=f'config.json: {words}'):
    read(tmp_path, STATE, config)


@pytest.mark.parametrize('name', ['regnety_160', 'regnety_008_tv', 'regnetx_004'])
def test_equivalent_models(tmp_path, name):
  assert read(tmp_path, STATE, dict(architecture=name)).assumed == ()


BAD = {
  's1.b1.se.fc1.weight': ((2, 8, 3, 3), 'se.fc1.weight. .2, 8, 3, 3. is not 1x1'),
  's1.b1.se.fc2.bias': ((9,), r'unit1/se/fc2/bias \(9,\) is not \(8,\)'),
  's2.b2.conv2.conv.weight': ((24, 8, 3, 3), r'unit2/conv2.* is not \(3, 3, 12, 24\)'),
  's2.b1.conv3.bn.running_var': ((23,), r'batch_stats/stage2/unit1/conv3/norm/var'),
}


@pytest.mark.parametrize('name', BAD)
def test_shapes_that_do_not_fit(tmp_path, name):
  shape, words = BAD[name]
  with pytest.raises(UserError, match=words):
    read(tmp_path, STATE | {name: np.ones(shape, np.float32)})


def test_groups_that_do_not_divide(tmp_path):
  state = dict(STATE)
  for unit in ('s2.b1', 's2.b2'):
    state[f'{unit}.conv2.conv.weight'] = np.ones((24, 9, 3, 3), np.float32)
  with pytest.raises(UserError, match='24 channels do not divide .* group_width=9'):
    read(tmp_path, state)


def test_the_share_of_squeeze_excite_follows_from_shapes(tmp_path):
  other = small_regnet(squeeze=0.5, num_classes=0)
  weights = read(tmp_path, torch_regnet.write(variables_of(other)))
  assert weights.model.clone(parent=None) == other.clone(parent=None)
  with pytest.raises(UserError, match='squeeze=0.5: .* squeeze to a quarter'):
    torch_regnet.config(weights.architecture, 0)


def test_configs_for_timm_and_transformers(tmp_path):
  told = models.variant('Y-1.6GF') | dict(squeeze=0.25, root=32)
  config = regnet.timm_config(told, 10, 3)
  assert (config['architecture'], config['num_features']) == ('regnety_016', 888)
  with pytest.raises(
    UserError, match=r'timm has no RegNet with stages of \(1, 2\) uni'
  ):
    weights = read(tmp_path, HF)
    tool.write(weights, weights.images('m'), tmp_path / 'out', 'timm', None)
  assert not (tmp_path / 'out').exists()
  tool.write(weights, weights.images('m'), tmp_path / 'out', 'transformers', None)
  again = published.read(tmp_path / 'out')
  assert again.source == 'transformers RegNet' and again.assumed == ()
  assert_same(again.variables, VARIABLES)
  assert files.read(tmp_path / 'out' / 'model.safetensors').keys() == HF.keys()
