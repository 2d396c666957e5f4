"""What every model must pass; a new one joins with a line in MODELS.

`python tests/models/battery_test.py` writes the golden parameter trees anew: the diff
of tests/golden/params then shows what a change did.
"""

import pathlib

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from big_vision_like import mesh as meshes
from big_vision_like.models import vit
from big_vision_like.ops import sharding
from big_vision_like.weights import tree as trees

GOLDEN = pathlib.Path(__file__).parent.parent / 'golden' / 'params'
SMALL = dict(num_classes=5, width=24, depth=2, num_heads=3, mlp_dim=40)

# name: (model, shape of its images)
MODELS = {
  'vit_token': (vit.ViT(**SMALL, patch=8, rep_size=7), (4, 16, 32, 3)),
  'vit_gap_sincos2d': (
    vit.ViT(**SMALL, patch=(4, 8), pool='gap', posemb='sincos2d'),
    (4, 16, 32, 3),
  ),
  'vit_map': (vit.ViT(**SMALL, patch=8, pool='map'), (4, 16, 32, 1)),
  'vit_no_position': (vit.ViT(**SMALL, patch=8, posemb='none'), (4, 16, 32, 3)),
  'vit_b16': (vit.ViT(num_classes=1000, **vit.variant('B/16')), (4, 224, 224, 3)),
}
RUNNABLE = [name for name in MODELS if name != 'vit_b16']


def listed(model: nn.Module, shape: tuple[int, ...]) -> str:
  """Names and shapes of all parameters, one a line."""
  params = jax.eval_shape(model.init, jax.random.key(0), jnp.zeros(shape))['params']
  flat = trees.flatten(params)
  lines = [f'{name} {"x".join(map(str, flat[name].shape))}' for name in sorted(flat)]
  total = sum(leaf.size for leaf in flat.values())
  return '\n'.join([*lines, f'total {total:,}']) + '\n'


def started(name: str) -> tuple[nn.Module, dict, jax.Array]:
  """The model, variables away from their special starting points, and images."""
  model, shape = MODELS[name]
  image = jax.random.uniform(jax.random.key(1), shape, minval=-1.0)
  variables = jax.jit(model.init)(jax.random.key(0), image)
  leaves, structure = jax.tree.flatten(variables)
  keys = jax.random.split(jax.random.key(2), len(leaves))
  noisy = [
    x + 0.1 * jax.random.normal(k, x.shape) for x, k in zip(leaves, keys, strict=True)
  ]
  return model, jax.tree.unflatten(structure, noisy), image


@pytest.fixture(params=RUNNABLE, scope='module')
def case(request) -> tuple[nn.Module, dict, jax.Array]:
  return started(request.param)


@pytest.mark.parametrize('name', MODELS)
def test_parameter_tree_is_the_golden_one(name):
  assert listed(*MODELS[name]) == (GOLDEN / f'{name}.txt').read_text()


def test_gradient_reaches_every_parameter(case):
  model, variables, image = case

  def loss(params):
    logits = model.apply(variables | {'params': params}, image)['logits']
    return (logits * jnp.arange(logits.size).reshape(logits.shape)).sum()

  grads = trees.flatten(jax.jit(jax.grad(loss))(variables['params']))
  largest = max(np.abs(g).max() for g in grads.values())
  for name, grad in grads.items():
    assert np.isfinite(grad).all(), name
    # Softmax does not see what is added to all keys alike.
    if not name.endswith('key/bias'):
      assert np.abs(grad).max() > 1e-6 * largest, name


def test_examples_do_not_see_each_other(case):
  model, variables, image = case
  apply = jax.jit(lambda image: model.apply(variables, image))
  one, other = apply(image), apply(image.at[1].multiply(-0.5))
  for name in one:
    np.testing.assert_allclose(one[name][0], other[name][0], atol=1e-6, err_msg=name)
    assert np.abs(one[name][1] - other[name][1]).max() > 1e-3, name


def test_training_is_random_and_evaluation_is_not(case):
  model, variables, image = case
  model = model.clone(dropout=0.3, drop_path=0.3)

  @jax.jit
  def train(key):
    return model.apply(variables, image, train=True, rngs={'dropout': key})['logits']

  evaluate = jax.jit(lambda: model.apply(variables, image, train=False)['logits'])
  keys = jax.random.split(jax.random.key(3))
  assert np.abs(train(keys[0]) - train(keys[1])).max() > 1e-3
  np.testing.assert_array_equal(train(keys[0]), train(keys[0]))
  np.testing.assert_array_equal(evaluate(), evaluate())
  assert np.abs(train(keys[0]) - evaluate()).max() > 1e-3


def test_bfloat16_is_finite_and_near(case):
  model, variables, image = case
  exact = jax.jit(model.apply)(variables, image)
  rough = jax.jit(model.clone(dtype='bfloat16').apply)(variables, image)
  assert rough['logits'].dtype == jnp.float32
  assert rough['tokens'].dtype == jnp.bfloat16
  for name, value in rough.items():
    assert np.isfinite(value.astype(jnp.float32)).all(), name
  scale = np.abs(exact['logits']).max()
  assert np.abs(rough['logits'] - exact['logits']).max() < 0.05 * scale


@pytest.mark.parametrize('remat', ['none', 'dots', 'full'])
def test_scanned_is_unrolled(case, remat):
  model, variables, image = case
  scanned = model.clone(scan=True, remat=remat)
  stacked = {'params': trees.stack_blocks(variables['params'])}

  def results(model, variables):
    def loss(variables):
      return (model.apply(variables, image)['logits'] ** 2).mean()

    return jax.jit(jax.value_and_grad(loss))(variables)

  loss, grads = results(model, variables)
  loss_scanned, grads_scanned = results(scanned, stacked)
  np.testing.assert_allclose(loss, loss_scanned, rtol=1e-5)
  back = trees.flatten(trees.unstack_blocks(grads_scanned['params']))
  for name, grad in trees.flatten(grads['params']).items():
    np.testing.assert_allclose(grad, back[name], atol=1e-5, rtol=1e-3, err_msg=name)


def test_four_devices_are_one(case):
  model, variables, image = case
  mesh = meshes.make_mesh(devices=jax.devices()[:4])
  spread = sharding.put({'image': np.asarray(image)}, mesh)['image']
  assert len(spread.sharding.device_set) == 4
  one = jax.jit(model.apply)(variables, image)
  four = jax.jit(model.apply)(variables, spread)
  for name in one:
    np.testing.assert_allclose(one[name], four[name], atol=2e-5, err_msg=name)


if __name__ == '__main__':
  for name, (model, shape) in MODELS.items():
    (GOLDEN / f'{name}.txt').write_text(listed(model, shape))
