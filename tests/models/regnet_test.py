"""Tests of RegNets alone (their numbers: tests/parity, and the golden file)."""

import re

import battery
import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import shapes

from big_vision_like.cost import flops
from big_vision_like.errors import UserError
from big_vision_like.layers import transformer
from big_vision_like.models import regnet
from big_vision_like.weights import tree as trees

SMALL = dict(depths=(1, 2), widths=(4, 12), group_width=6, root=8)
IMAGE = jax.random.normal(jax.random.key(1), (4, 13, 18, 3))
# Widths, depths, parameters, and multiplications at 224 x 224 in 1e9: the model zoo of
# facebookresearch/pycls, whose definitions have these parameters.
PUBLISHED = {
  'Y-200MF': ((24, 56, 152, 368), (1, 1, 4, 7), 3_162_996, 0.2),
  'Y-400MF': ((48, 104, 208, 440), (1, 3, 6, 6), 4_344_144, 0.4),
  'Y-600MF': ((48, 112, 256, 608), (1, 3, 7, 4), 6_055_160, 0.6),
  'Y-800MF': ((64, 128, 320, 768), (1, 3, 8, 2), 6_263_168, 0.8),
  'Y-1.6GF': ((48, 120, 336, 888), (2, 6, 17, 2), 11_202_430, 1.6),
  'Y-3.2GF': ((72, 216, 576, 1512), (2, 5, 13, 1), 19_436_338, 3.2),
  'Y-4GF': ((128, 192, 512, 1088), (2, 6, 12, 2), 20_646_656, 4.0),
  'Y-6.4GF': ((144, 288, 576, 1296), (2, 7, 14, 2), 30_583_252, 6.4),
  'Y-8GF': ((168, 448, 896, 2016), (2, 4, 10, 1), 39_180_068, 8.0),
  'Y-12GF': ((224, 448, 896, 2240), (2, 5, 11, 1), 51_822_544, 12.1),
  'Y-16GF': ((224, 448, 1232, 3024), (2, 4, 11, 1), 83_590_140, 15.9),
  'Y-32GF': ((232, 696, 1392, 3712), (2, 5, 12, 1), 145_046_770, 32.3),
}


def trained(model, variables, image=IMAGE, seed=0):
  """Returns outputs in training, and the next statistics."""

  @jax.jit
  def run(variables, image, key):
    rngs = {'dropout': key}
    return model.apply(variables, image, True, rngs=rngs, mutable=['batch_stats'])

  return run(variables, image, jax.random.key(seed))


@pytest.mark.parametrize('name', PUBLISHED)
def test_published_sizes(name):
  widths, depths, count, products = PUBLISHED[name]
  sizes = regnet.variant(name)
  assert (sizes['widths'], sizes['depths']) == (widths, depths)
  model = regnet.RegNet(**sizes, num_classes=1000)
  image = jax.ShapeDtypeStruct((1, 224, 224, 3), 'float32')
  variables = jax.eval_shape(model.init, jax.random.key(0), image)
  assert sum(x.size for x in jax.tree.leaves(variables['params'])) == count
  done = flops.count(lambda v, x: model.apply(v, x)['logits'], variables, image)
  assert done / 2e9 == pytest.approx(products, rel=0.01)


def test_widths_are_multiples_of_their_groups():
  # The quantized widths 24 and 48 are in groups of 20: 24 becomes 20, and 48 becomes
  # 40.
  sizes = regnet.sizes(depth=3, initial=24, slope=12, quantization=2, group_width=20)
  assert sizes == dict(depths=(1, 2), widths=(20, 40), group_width=20)


def test_all_sizes_are_published():
  assert PUBLISHED.keys() == regnet.SIZES.keys()
  with pytest.raises(
    UserError, match="unknown RegNet 'Y-5GF': .*one of Y-200MF, .*Y-32GF"
  ):
    regnet.variant('Y-5GF')


def test_a_unit_starts_as_its_shortcut():
  model = regnet.RegNet(**SMALL, num_classes=3)
  variables = jax.jit(model.init)(jax.random.key(0), IMAGE)
  flat = trees.flatten(variables['params'])
  for name, array in flat.items():
    if name.endswith('/scale'):
      assert array.all() != ('conv3' in name), name
    # The deviation in pycls: sqrt(2 / (size^2 * outputs)).
    elif re.search('conv.*/kernel', name) and array.size > 400:
      height, width, _, outputs = array.shape
      want = np.sqrt(2 / (height * width * outputs))
      assert array.std() == pytest.approx(want, rel=0.2), name
  assert np.std(flat['head/kernel']) == pytest.approx(0.01, rel=0.5)


def test_drop_path_grows_linearly_and_is_off_in_evaluation():
  model = regnet.RegNet(**SMALL | dict(depths=(2, 3)), drop_path=0.4)
  variables, rates = battery.variables(model, IMAGE), []

  def record(call, args, kwargs, context):
    if isinstance(context.module, transformer.DropPath):
      rates.append(args[1])
    return call(*args, **kwargs)

  with nn.intercept_methods(record):
    one, _ = trained(model, variables)
  np.testing.assert_allclose(rates, [0.1, 0.2, 0.3, 0.4])  # the first never drops
  other, _ = trained(model, variables, seed=1)
  assert np.any(one['features'] != other['features'])
  jax.eval_shape(model.apply, variables, IMAGE)  # draws no random numbers


def test_a_dropped_branch_leaves_the_shortcut():
  sizes = dict(depths=(2,), widths=(6,), group_width=3)
  model = regnet.RegNet(**sizes, drop_path=1 - 1e-6)
  variables = battery.variables(model, IMAGE)
  outputs, _ = trained(model, variables)
  alone, _ = trained(model.clone(depths=(1,), drop_path=0.0), variables)
  np.testing.assert_array_equal(outputs['stage1'], alone['stage1'])


def test_remat_changes_nothing():
  model = regnet.RegNet(**SMALL, num_classes=3, drop_path=0.5)
  variables = battery.variables(model, IMAGE)

  def gradients(model):
    @jax.jit
    def run(variables):
      def loss(params):
        outputs, changed = model.apply(
          variables | {'params': params},
          IMAGE,
          True,
          rngs={'dropout': jax.random.key(0)},
          mutable=['batch_stats'],
        )
        return jnp.square(outputs['logits']).sum(), changed

      return jax.grad(loss, has_aux=True)(variables['params'])

    return run(variables)

  want, got = map(gradients, (model, model.clone(remat='full')))
  jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, 1e-4, 1e-4), want, got)


def test_groups_of_examples_are_normalized_apart():
  model = regnet.RegNet(**SMALL)
  variables = battery.variables(model, IMAGE)
  apart, _ = trained(model.clone(norm_groups=2), variables)
  halves = [trained(model, variables, half)[0] for half in jnp.split(IMAGE, 2)]
  want = np.concatenate([half['features'] for half in halves])
  np.testing.assert_allclose(apart['features'], want, rtol=1e-4, atol=1e-4)
  together, _ = trained(model, variables)
  assert np.abs(together['features'] - want).max() > 1e-2


def test_maps_have_the_sizes_of_their_strides():
  model = regnet.RegNet(**SMALL)
  outputs, _ = jax.eval_shape(model.init_with_output, jax.random.key(0), IMAGE)
  assert {name: x.shape[1:] for name, x in outputs.items()} == {
    'root': (7, 9, 8),
    'stage1': (4, 5, 4),
    'stage2': (2, 3, 12),
    'features': (12,),
  }


BAD = {
  'stages': (dict(widths=(4,)), r'depths=\(1, 2\) and widths=\(4,\) .* for each stage'),
  'depth': (dict(depths=(1, 0)), 'give at least 1 unit'),
  'groups': (dict(widths=(4, 14)), 'widths=.*: 14 channels .* group_width=6'),
  'remat': (dict(remat='dots'), "remat='dots' is not one of none, full"),
}


@pytest.mark.parametrize('case', BAD)
def test_bad_input(case):
  arguments, message = BAD[case]
  model = regnet.RegNet(**SMALL | arguments)
  with pytest.raises(UserError, match=message):
    jax.eval_shape(model.init, jax.random.key(0), IMAGE)


def test_array_names_match_their_axes():
  model = regnet.RegNet(**SMALL, num_classes=11, drop_path=0.1)
  image = jnp.zeros((5, 24, 68, 3))

  def run():
    variables = model.init(jax.random.key(0), image)
    rngs = {'dropout': jax.random.key(1)}
    return model.apply(variables, image, True, rngs=rngs, mutable=['batch_stats'])

  with shapes.checked('big_vision_like/models', 'big_vision_like/layers') as seen:
    jax.eval_shape(run)
  assert {'image_BHWI', 'y_BuvC', 'shortcut_BuvC', 'logits_BC'} <= seen.keys()
