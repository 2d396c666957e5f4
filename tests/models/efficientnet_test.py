"""Tests of EfficientNets alone (against TensorFlow's: tools/check_golden.py)."""

import battery
import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import shapes

from big_vision_like.cost import flops
from big_vision_like.errors import UserError
from big_vision_like.layers import convolution
from big_vision_like.models import efficientnet
from big_vision_like.weights import tree as trees

SMALL = dict(num_classes=5, stem=4, channels=(4, 6, 6), depths=(1, 2, 1), top=7)
IMAGE = jax.random.normal(jax.random.key(1), (2, 33, 46, 3))
# Parameters with 1,000 classes, and products in 1e9 at the size, counted as timm does,
# with two for each number that a norm reads.
PUBLISHED = {
  'B0': (5_288_548, 0.40),
  'B1': (7_794_184, 0.71),
  'B2': (9_109_994, 1.02),
  'B3': (12_233_232, 1.87),
  'B4': (19_341_616, 4.49),
  'B5': (30_389_784, 10.46),
  'B6': (43_040_704, 19.4),
  'B7': (66_347_960, 38.3),
  'B8': (87_413_142, 63.5),
  'L2': (480_309_308, 172.1),
}


@pytest.mark.parametrize('name', PUBLISHED)
def test_published_sizes(name):
  model = efficientnet.EfficientNet(num_classes=1000, **efficientnet.variant(name))
  side = efficientnet.size_of(name).resolution
  image, normed = jax.ShapeDtypeStruct((1, side, side, 3), 'float32'), []

  def record(call, args, kwargs, context):
    is_norm = isinstance(context.module, convolution.BatchNorm)
    if is_norm and context.method_name == '__call__':
      normed.append(args[0].size)
    return call(*args, **kwargs)

  with nn.intercept_methods(record):
    variables = jax.eval_shape(model.init, jax.random.key(0), image)
  count, products = PUBLISHED[name]
  assert sum(x.size for x in jax.tree.leaves(variables['params'])) == count
  done = flops.count(lambda v, x: model.apply(v, x)['logits'], variables, image) / 2
  assert (done + 2 * sum(normed)) / 1e9 == pytest.approx(products, rel=0.01)


def test_units_of_the_largest():
  assert efficientnet.variant('L2') == dict(
    stem=136,
    channels=(72, 104, 176, 344, 480, 824, 1376),
    depths=(6, 11, 11, 16, 16, 22, 6),
    top=5504,
  )
  with pytest.raises(
    UserError, match="unknown EfficientNet 'B9': choose one of B0, B1"
  ):
    efficientnet.variant('B9')


def test_maps_have_the_sizes_of_their_strides():
  for options, sides in (
    (dict(), [112, 112, 56, 28, 14, 14, 7, 7, 7]),
    (efficientnet.SMALL_IMAGES, [112, 112, 112, 112, 56, 56, 28, 28, 28]),
  ):
    model = efficientnet.EfficientNet(num_classes=0, **options)
    image = jax.ShapeDtypeStruct((1, 224, 223, 3), 'float32')
    outputs, _ = jax.eval_shape(model.init_with_output, jax.random.key(0), image)
    maps = ['stem', *(f'stage{i}' for i in range(1, 8)), 'top']
    assert [outputs[name].shape[1] for name in maps] == sides
    assert [outputs[name].shape[2] for name in maps] == sides
    assert outputs['features'].shape == (1, 1280)
    assert 'logits' not in outputs


def test_init_is_the_published_one():
  model = efficientnet.EfficientNet(num_classes=1000)
  image = jnp.zeros((1, 32, 32, 3))
  params = jax.jit(model.init)(jax.random.key(0), image)['params']
  unit = params['stage6']['unit2']
  for kernel, deviation in (
    (unit['expand']['conv']['kernel'], (2 / 1152) ** 0.5),
    (unit['project']['conv']['kernel'], (2 / 192) ** 0.5),
    (unit['depthwise']['conv']['kernel'], (2 / 25) ** 0.5),
    (unit['squeeze_excite']['fc2']['kernel'], (2 / 1152) ** 0.5),
    (params['stem']['conv']['kernel'], (2 / (9 * 32)) ** 0.5),
    (params['head']['kernel'], (1 / 3 / 1000) ** 0.5),
  ):
    assert kernel.std() == pytest.approx(deviation, rel=0.1)
  assert np.abs(params['head']['kernel']).max() <= 1000**-0.5
  assert unit['depthwise']['conv']['kernel'].shape == (5, 5, 1, 1152)


def test_stochastic_depth_grows_with_units_and_needs_a_shortcut():
  model = efficientnet.EfficientNet(**SMALL, drop_path=0.4)
  model = model.clone(channels=(4, 6, 6), depths=(2, 2, 2))
  rates = {}

  def record(call, args, kwargs, context):
    if context.module.name == 'drop_path':
      rates['/'.join(context.module.path[:2])] = args[1]
    return call(*args, **kwargs)

  keys = {'params': jax.random.key(0), 'dropout': jax.random.key(1)}
  with nn.intercept_methods(record):
    jax.eval_shape(lambda: model.init(keys, IMAGE, train=True))
  want = {'stage1/unit1': 0.0, 'stage1/unit2': 1, 'stage2/unit2': 3, 'stage3/unit2': 5}
  del want['stage1/unit1']  # nothing is drawn at a rate of 0
  assert rates == pytest.approx({name: 0.4 * i / 6 for name, i in want.items()})


def test_running_variance_is_the_biased_one():
  model = efficientnet.EfficientNet(**SMALL)
  variables = battery.variables(model, IMAGE)

  def train(variables, image):
    return model.apply(variables, image, train=True, mutable=['batch_stats'])

  seen = jax.lax.conv_general_dilated(
    IMAGE,
    variables['params']['stem']['conv']['kernel'],
    (2, 2),
    'SAME',
    dimension_numbers=('NHWC', 'HWIO', 'NHWC'),
  )
  _, state = train(variables, IMAGE)
  old, new = (x['batch_stats']['stem']['norm'] for x in (variables, state))
  for name, of_batch in ('mean', seen.mean((0, 1, 2))), ('var', seen.var((0, 1, 2))):
    want = 0.99 * old[name] + 0.01 * of_batch
    np.testing.assert_allclose(new[name], want, rtol=1e-5, atol=1e-6)
  model = model.clone(momentum=0.0)
  _, state = train(variables, IMAGE)
  mean = state['batch_stats']['stem']['norm']['mean']
  np.testing.assert_allclose(mean, seen.mean((0, 1, 2)), rtol=1e-5, atol=1e-6)


def test_norm_groups_are_normalized_apart():
  model = efficientnet.EfficientNet(**SMALL)
  variables = battery.variables(model, IMAGE)

  @jax.jit
  def train(variables, image):
    return model.apply(variables, image, train=True, mutable=['batch_stats'])[0]

  alone = [train(variables, IMAGE[i : i + 1])['logits'][0] for i in range(2)]
  model = model.clone(norm_groups=2)
  apart = jax.jit(
    lambda v, x: model.apply(v, x, train=True, mutable=['batch_stats'])[0]
  )(variables, IMAGE)
  np.testing.assert_allclose(apart['logits'], np.stack(alone), atol=1e-4)
  model = model.clone(norm_groups=3)
  with pytest.raises(UserError, match='2 examples does not divide into 3 groups'):
    jax.eval_shape(lambda: model.init(jax.random.key(0), IMAGE, train=True))


def test_recomputation_changes_nothing():
  plain = efficientnet.EfficientNet(**SMALL, drop_path=0.5, dropout=0.5)
  variables = battery.variables(plain, IMAGE)

  def gradients(model):
    def loss(params):
      outputs, changed = model.apply(
        variables | {'params': params},
        IMAGE,
        train=True,
        mutable=['batch_stats'],
        rngs={'dropout': jax.random.key(3)},
      )
      return jnp.square(outputs['logits']).sum(), changed

    return jax.jit(jax.grad(loss, has_aux=True))(variables['params'])

  want, got = (gradients(plain.clone(remat=x)) for x in efficientnet.REMAT)
  for theirs, ours in zip(want, got, strict=True):
    theirs, ours = trees.flatten(theirs), trees.flatten(ours)
    assert theirs.keys() == ours.keys()
    for name, x in theirs.items():
      np.testing.assert_allclose(ours[name], x, rtol=1e-3, atol=1e-5, err_msg=name)


BAD = {
  'stages': (dict(depths=(1,) * 4), r'depths=\(1, 1, 1, 1\) must give at least 1 unit'),
  'units': (
    dict(depths=(1, 0)),
    r'depths=\(1, 0\) must give at least 1 unit for each',
  ),
  'padding': (dict(padding='valid'), "padding='valid' is not one of symmetric, same"),
  'remat': (dict(remat='dots'), "remat='dots' is not one of none, full"),
}


@pytest.mark.parametrize('case', BAD)
def test_bad_input(case):
  arguments, message = BAD[case]
  model = efficientnet.EfficientNet(**SMALL | arguments)
  with pytest.raises(UserError, match=message):
    jax.eval_shape(model.init, jax.random.key(0), IMAGE)


def test_array_names_match_their_axes():
  model = efficientnet.EfficientNet(**SMALL, drop_path=0.2)
  image = jnp.zeros((3, 64, 160, 10))
  keys = {'params': jax.random.key(0), 'dropout': jax.random.key(1)}
  with shapes.checked('big_vision_like/models', 'big_vision_like/layers') as seen:
    jax.eval_shape(lambda: model.init(keys, image, train=True))
  assert {'x_BhwI', 'y_BuvO', 'features_BD'} <= seen.keys()
