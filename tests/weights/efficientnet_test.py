"""Tests of EfficientNets of TensorFlow, timm and transformers (also: tests/parity)."""

import dataclasses
import json

import jax
import numpy as np
import pytest
import random_weights
from random_weights import assert_same

from big_vision_like.errors import UserError
from big_vision_like.inference import hub_json, loading
from big_vision_like.models import efficientnet as models
from big_vision_like.weights import efficientnet, files, published
from big_vision_like.weights.families import efficientnet as families
from tools import convert_weights

AVERAGE = efficientnet.AVERAGE
SMALL = models.EfficientNet(num_classes=5, **models.scaled(0.25, 0.5))


@pytest.fixture(scope='module')
def golden():
  """Returns the golden file, and its variables under the names of a checkpoint."""
  with np.load('tests/golden/efficientnet_tf.npz') as file:
    arrays = dict(file)
  start = 'param/'
  state = {k.removeprefix(start): x for k, x in arrays.items() if k.startswith(start)}
  return arrays, state


@pytest.fixture(scope='module')
def variables():
  return random_weights.variables_of(SMALL)


def saved(folder, state, name='weights.npz', **jsons):
  files.write(folder / name, state)
  for file, content in jsons.items():
    (folder / f'{file}.json').write_text(json.dumps(content))
  return folder / name


def test_checkpoint_with_averages(golden, tmp_path):
  arrays, state = golden
  root = 'efficientnet-b0/'
  trained = {name: x + 1 for name, x in state.items()}
  averages = {f'{name}{AVERAGE}': x for name, x in state.items()}
  slots = {f'{root}stem/conv2d/kernel/{n}': x for n, x in [('RMSProp', np.ones(2))]}
  slots |= {f'{root}stem/conv2d/kernel/RMSProp_1': np.ones(2)}
  content = trained | averages | slots | {'global_step': np.int64(3)}
  weights = published.read(saved(tmp_path, content))
  (assumed,) = weights.assumed
  assert assumed.startswith('running averages (ExponentialMovingAverage) of 197 arrays')
  assert weights.architecture['depths'] == (1, 1, 1, 2, 2, 2, 1)
  assert weights.architecture['channels'] == (8, 8, 16, 24, 32, 48, 80)
  apply = jax.jit(weights.model.apply)
  logits = apply(weights.variables, arrays['input/image_normalised'])
  np.testing.assert_allclose(
    logits['logits'], arrays['output/eval/logits'], atol=1e-4, rtol=0
  )
  plain, _ = efficientnet.from_tensorflow(trained)
  without, told = efficientnet.from_tensorflow(state)
  assert told == ()
  assert_same(without, weights.variables)
  assert plain['params']['head']['bias'][0] == 1 + without['params']['head']['bias'][0]
  del averages[f'{root}head/dense/bias{AVERAGE}']
  mixed, told = efficientnet.from_tensorflow(trained | averages)
  assert told[1].startswith('1 array as trained: the file has no running average of')
  assert_same(mixed['params']['head']['bias'], plain['params']['head']['bias'])
  assert_same(mixed['params']['top'], without['params']['top'])


def test_names_of_units_without_expansion(golden):
  _, state = golden
  first = {name for name in state if '/blocks_0/' in name}
  got, _ = efficientnet.from_tensorflow(state)
  unit = got['params']['stage1']['unit1']
  assert unit.keys() == {'depthwise', 'squeeze_excite', 'project'}
  kernel = state['efficientnet-b0/blocks_0/conv2d/kernel']
  np.testing.assert_array_equal(unit['project']['conv']['kernel'], kernel)
  gamma = state['efficientnet-b0/blocks_0/tpu_batch_normalization_1/gamma']
  np.testing.assert_array_equal(unit['project']['norm']['scale'], gamma)
  back = efficientnet.to_tensorflow(got, 'efficientnet-b0/')
  assert first <= back.keys()
  assert_same(back, state)


@pytest.mark.parametrize('library', ['tensorflow', 'timm'])
def test_round_trip(library, variables):
  write = getattr(efficientnet, f'to_{library}')
  state = write(variables)
  assert all(array.flags.c_contiguous for array in state.values())
  read = getattr(efficientnet, f'from_{library}')(state)
  assert_same(read[0] if library == 'tensorflow' else read, variables)
  headless = {k: x for k, x in state.items() if 'head/dense' not in k}
  headless = {k: x for k, x in headless.items() if 'classifier' not in k}
  read = getattr(efficientnet, f'from_{library}')(headless)
  assert 'head' not in (read[0] if library == 'tensorflow' else read)['params']


def test_names_of_timm(variables):
  state = efficientnet.to_timm(variables)
  for name, shape in {
    'conv_stem.weight': (8, 3, 3, 3),
    'bn1.running_var': (8,),
    'blocks.0.0.conv_dw.weight': (8, 1, 3, 3),
    'blocks.0.0.conv_pw.weight': (8, 8, 1, 1),
    'blocks.0.0.bn2.bias': (8,),
    'blocks.3.1.conv_pwl.weight': (24, 144, 1, 1),
    'blocks.3.1.se.conv_reduce.weight': (6, 144, 1, 1),
    'blocks.3.1.se.conv_expand.bias': (144,),
    'blocks.3.1.bn3.running_mean': (24,),
    'conv_head.weight': (320, 80, 1, 1),
    'classifier.weight': (5, 320),
  }.items():
    assert state[name].shape == shape


def test_padding_and_epsilon_of_timm(variables, tmp_path):
  state = efficientnet.to_timm(variables)

  def read(name, **config):
    folder = tmp_path / name
    folder.mkdir()
    jsons = {'config': config} if config else {}
    return published.read(saved(folder, state, f'{name}.safetensors', **jsons))

  for name, padding, epsilon, words in (
    ('tf_efficientnet_b0_ns-c0e6a31c', 'same', 1e-3, 'the name of the file'),
    ('efficientnet_b0_ra', 'symmetric', 1e-5, 'the name of the file'),
    ('weights', 'same', 1e-3, 'as in most published files'),
  ):
    weights = read(name)
    told = weights.architecture
    assert (told['padding'], told['epsilon']) == (padding, epsilon)
    assert words in weights.assumed[0]
  weights = read('a', architecture='efficientnet_b0', model_args={'bn_eps': 0.01})
  assert weights.assumed == ()
  assert weights.architecture['padding'] == 'symmetric'
  assert weights.architecture['epsilon'] == 0.01
  with pytest.raises(UserError, match="'efficientnet_blur_b0' makes a different n"):
    read('b', architecture='efficientnet_blur_b0')
  with pytest.raises(UserError, match="pad_type='lama' is unsupp"):
    read('c', architecture='efficientnet_b0', model_args={'pad_type': 'lama'})


def test_shapes_that_do_not_fit(variables, tmp_path):
  state = efficientnet.to_timm(variables)
  state['blocks.3.1.conv_dw.weight'] = np.ones((144, 1, 5, 5), np.float32)
  with pytest.raises(UserError, match='shapes that do not fit: params/stage4/unit2/d'):
    published.read(saved(tmp_path, state, 'weights.safetensors'))
  del state['blocks.3.1.conv_dw.weight']
  with pytest.raises(UserError, match='nearest to timm EfficientNet. Names that diff'):
    published.read(saved(tmp_path, state, 'weights.safetensors'))


def test_config_of_timm():
  def config(name, **changes):
    told = models.variant(name) | dict(strides=models.STRIDES, stem_stride=2)
    told |= dict(padding='same', epsilon=1e-3) | changes
    weights = dataclasses.make_dataclass('Weights', ['architecture', 'num_classes'])
    weights.channels = 3
    return families.timm_config(weights(told, 1000), (224, 224))

  assert config('L2')['architecture'] == 'tf_efficientnet_l2'
  made = config('B3', padding='symmetric')
  assert made['architecture'] == 'efficientnet_b3'
  assert made['model_args'] == {'in_chans': 3, 'bn_eps': 1e-3}
  assert made['num_features'] == 1536
  for name, changes, words in (
    ('L0', {}, 'timm only has EfficientNets B0 to B8 and L2'),
    ('B0', dict(depths=(1, 1)), 'timm only has EfficientNets B0 to B8 and L2'),
    ('B0', dict(stem_stride=1), 'stem_stride=1: timm has no such'),
  ):
    with pytest.raises(UserError, match=words):
      config(name, **changes)


def test_sizes_tell_images():
  def side(name):
    return families.side(models.variant(name))

  assert [side(name) for name in ('B0', 'B7', 'L2')] == [224, 600, 800]
  assert families.side(models.scaled(0.25, 0.5)) is None
  assert families.as_published(
    'noisy_student_efficientnet-l2_475', (800, 800), 3
  ).size == (
    475,
    475,
  )
  images = families.as_published('efficientnet-b4', (380, 380), 3)
  assert (images.size, images.mean[0]) == ((380, 380), 0.485)
  for name in ('advprop_efficientnet-b0', 'tf_efficientnet_b0_ap-f262efe1'):
    assert families.as_published(name, None, 3).mean == (0.5,) * 3
  picture = np.random.default_rng(0).integers(0, 256, (500, 400, 3), np.uint8)
  assert images(picture).shape == (380, 380, 3)
  share = hub_json.to_timm(images)['crop_pct']
  assert (share, hub_json.to_timm(images)['crop_mode']) == (380 / 412, 'center')
  with pytest.raises(UserError, match=r'size=\(380, 400\) is not square'):
    images.with_size((380, 400))


def test_transformers_normalizes_twice():
  processor = dict(
    image_processor_type='EfficientNetImageProcessor',
    size=dict(height=224, width=224),
    image_mean=[0.485, 0.456, 0.406],
    image_std=[0.5, 0.4, 0.3],
    resample=0,
  )

  def std(**changes):
    metadata = {'preprocessor_config.json': processor | changes}
    return families.images(metadata, 'name', None, 5, 3).std

  assert std() == pytest.approx((0.25, 0.16, 0.09))
  assert std(include_top=False) == (0.5, 0.4, 0.3)
  assert std(image_processor_type='ViTImageProcessor') == (0.5, 0.4, 0.3)
  with pytest.raises(UserError, match='rescale_offset moves pixels'):
    std(rescale_offset=True)


def test_transformers_pads_for_one_size():
  """Checks the numbers of units in transformers' conversion script."""
  for name, padded in {
    'B0': [],
    'B1': [16],
    'B2': [5, 8, 16],
    'B3': [5, 18],
    'B4': [6],
    'B5': [13, 27],
    'B6': [31],
    'B7': [18],
  }.items():
    depths, size = models.variant(name)['depths'], models.size_of(name).resolution
    assert families.evenly_padded(depths, models.STRIDES, size) == padded


def test_converted_and_loaded(variables, tmp_path):
  small = tmp_path / 'small.safetensors'
  files.write(small, efficientnet.to_timm(variables))
  out = tmp_path / 'small.npz'
  convert_weights.main([str(small), str(out)])
  model, loaded, images = loading.load(out, image_size=64)
  assert model.padding == 'same'
  assert_same(jax.tree.map(np.asarray, loaded), variables)
  assert images.size == (64, 64)
