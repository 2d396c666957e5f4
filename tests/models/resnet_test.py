"""Tests of ResNets alone (their numbers: tests/parity, and golden files of DETR)."""

import battery
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import shapes

from big_vision_like.cost import flops
from big_vision_like.errors import UserError
from big_vision_like.models import resnet
from big_vision_like.weights import tree as trees

SMALL = dict(depths=(1, 1, 1), root=6, channels=(2, 3, 4))
IMAGE = jax.random.normal(jax.random.key(1), (2, 33, 50, 3))
# Parameters in torchvision's documentation, and multiplications at 224 x 224 in 1e9.
PUBLISHED = {
  'R18': (11_689_512, 1.81),
  'R34': (21_797_672, 3.66),
  'R50': (25_557_032, 4.09),
  'R101': (44_549_160, 7.80),
}


@pytest.mark.parametrize('name', PUBLISHED)
def test_published_sizes(name):
  model = resnet.ResNet(num_classes=1000, **resnet.variant(name))
  image = jax.ShapeDtypeStruct((1, 224, 224, 3), 'float32')
  variables = jax.eval_shape(model.init, jax.random.key(0), image)
  count, products = PUBLISHED[name]
  assert sum(x.size for x in jax.tree.leaves(variables['params'])) == count
  done = flops.count(lambda v, x: model.apply(v, x)['logits'], variables, image)
  assert done / 2e9 == pytest.approx(products, rel=0.01)


@pytest.mark.parametrize('bottleneck', [True, False])
def test_frozen_norms_are_live_ones_in_evaluation(bottleneck):
  live = resnet.ResNet(**SMALL, bottleneck=bottleneck, num_classes=5)
  variables = battery.variables(live, IMAGE)
  flat = trees.flatten(variables)
  frozen = {}
  for name, array in flat.items():
    collection, _, rest = name.partition('/')
    of_norm = 'norm' in rest.split('/')[-2]
    frozen[f'{"constants" if of_norm else collection}/{rest}'] = array
  other = jax.jit(live.clone(norm='frozen').apply)(trees.unflatten(frozen), IMAGE)
  for name, want in jax.jit(live.apply)(variables, IMAGE).items():
    largest = np.abs(want).max()
    np.testing.assert_allclose(other[name], want, atol=1e-5 * largest, err_msg=name)
    assert largest > 0.1


def test_constants_are_not_parameters():
  model = resnet.ResNet(**SMALL, norm='frozen')
  variables = jax.eval_shape(model.init, jax.random.key(0), IMAGE)
  assert variables.keys() == {'params', 'constants'}
  assert all(name.endswith('/kernel') for name in trees.flatten(variables['params']))
  ends = {name.split('/')[-1] for name in trees.flatten(variables['constants'])}
  assert ends == {'scale', 'bias', 'mean', 'var'}


def test_live_norms_see_the_batch_in_training():
  model = resnet.ResNet(depths=(1,), root=6, channels=(2,))
  variables = battery.variables(model, IMAGE)

  @jax.jit
  def train(variables, image):
    return model.apply(variables, image, train=True, mutable=['batch_stats'])

  _, state = train(variables, IMAGE)
  # The input of the first norm: a convolution padded with zeros.
  padded = jnp.pad(IMAGE, ((0, 0), (3, 3), (3, 3), (0, 0)))
  kernel = variables['params']['conv_root']['kernel']
  seen = jax.lax.conv_general_dilated(
    padded, kernel, (2, 2), 'VALID', dimension_numbers=('NHWC', 'HWIO', 'NHWC')
  )
  old, new = (x['batch_stats']['norm_root'] for x in (variables, state))
  mean, variance = seen.mean((0, 1, 2)), seen.var((0, 1, 2), ddof=1)
  for name, of_batch in ('mean', mean), ('var', variance):
    want = 0.9 * old[name] + 0.1 * of_batch
    np.testing.assert_allclose(new[name], want, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize('dilated', [False, True])
def test_maps_have_the_sizes_of_their_strides(dilated):
  model = resnet.ResNet(**SMALL, dilated=dilated)
  maps = jax.eval_shape(model.init_with_output, jax.random.key(0), IMAGE)[0]
  got = {name: x.shape[1:] for name, x in maps.items() if name != 'features'}
  last = (5, 7, 16) if dilated else (3, 4, 16)
  assert got == {
    'root': (9, 13, 6),
    'stage1': (9, 13, 8),
    'stage2': (5, 7, 12),
    'stage3': last,
  }


def test_dilation_takes_the_place_of_the_stride():
  """Checks that every second cell of the dilated map equals the cell with a stride."""
  plain = resnet.Stage(1, 3, bottleneck=True, stride=2)
  holes = resnet.Stage(1, 3, bottleneck=True, stride=1, dilation=2)
  x = jax.random.normal(jax.random.key(2), (1, 8, 10, 5))
  # A second unit sees as far as it would after the stride.
  for depth in (1, 2):
    plain, holes = (module.clone(depth=depth) for module in (plain, holes))
    variables = battery.variables(plain, x)
    want = jax.jit(plain.apply)(variables, x)
    got = jax.jit(holes.apply)(variables, x)[:, ::2, ::2]
    np.testing.assert_allclose(got, want, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize('frozen', [0, 1, 2])
def test_frozen_stages_take_no_gradient(frozen):
  model = resnet.ResNet(**SMALL, norm='frozen', frozen_stages=frozen)
  variables = battery.variables(model, IMAGE)

  @jax.jit
  @jax.grad
  def gradient(params):
    outputs = model.apply(variables | {'params': params}, IMAGE)
    return jnp.square(outputs['features']).sum() + outputs['stage1'].sum()

  still = ('conv_root', 'stage1', 'stage2')[: frozen + 1] if frozen else ()
  for name, grad in trees.flatten(gradient(variables['params'])).items():
    assert np.any(grad) != name.startswith(still), name


BAD = {
  'norm': (dict(norm='layer'), "norm='layer' is not one of batch, frozen"),
  'stages': (
    dict(depths=(1, 1, 1, 1)),
    r'are for 4 stages, but channels=\(2, 3, 4\) are for',
  ),
  'frozen': (dict(frozen_stages=4), 'frozen_stages=4 must be between 0 and 3'),
}


@pytest.mark.parametrize('case', BAD)
def test_bad_input(case):
  arguments, message = BAD[case]
  model = resnet.ResNet(**SMALL | arguments)
  with pytest.raises(UserError, match=message):
    jax.eval_shape(model.init, jax.random.key(0), IMAGE)


def test_variant_unknown():
  with pytest.raises(
    UserError, match="unknown ResNet 'R26': choose one of R18, R34, R50"
  ):
    resnet.variant('R26')


def test_array_names_match_their_axes():
  with shapes.checked('big_vision_like/models'):
    for norm in resnet.NORMS:
      model = resnet.ResNet(**SMALL, norm=norm, num_classes=11)
      jax.eval_shape(model.init, jax.random.key(0), jnp.zeros((5, 64, 160, 3)))
