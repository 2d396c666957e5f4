"""Tests of BiT alone; the battery tests what all models share."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from big_vision_like.models import bit
from big_vision_like.weights import tree as trees

COUNTS = {
  'R50x1': 25_549_352,
  'R50x3': 217_319_080,
  'R101x1': 44_541_480,
  'R101x3': 387_934_888,
  'R152x2': 236_335_208,
  'R152x4': 936_533_224,
}
IMAGE = jax.random.uniform(jax.random.key(1), (2, 32, 40, 3), minval=-1.0)


@pytest.mark.parametrize('name', COUNTS)
def test_published_parameter_count(name):
  model = bit.BiT(num_classes=1000, **bit.variant(name))
  params = jax.eval_shape(model.init, jax.random.key(0), jnp.zeros((1, 64, 64, 3)))
  assert sum(leaf.size for leaf in jax.tree.leaves(params)) == COUNTS[name]


def test_parameter_count_of_the_i21k_head():
  model = bit.BiT(num_classes=21_843, **bit.variant('R50x1'))
  params = jax.eval_shape(model.init, jax.random.key(0), jnp.zeros((1, 64, 64, 3)))
  assert sum(leaf.size for leaf in jax.tree.leaves(params)) == 68_256_659


@pytest.fixture(params=[bit.BiT, bit.BiTv1])
def case(request, key):
  model = request.param(num_classes=5, depths=(1, 1))
  params = jax.jit(model.init)(key, IMAGE)['params']
  # The last norm of a unit and the head start at zero.
  params['head']['kernel'] += jax.random.normal(key, params['head']['kernel'].shape)
  for unit in params['resnet']['stage1'].values():
    unit['norm3']['scale'] += 0.5
  return params, jax.jit(lambda params: model.apply({'params': params}, IMAGE))


def test_size_and_mean_of_a_kernel_do_not_matter(case):
  params, apply = case
  flat = trees.flatten(params)
  changed = {
    name: 3.0 * x + 0.5 if name.endswith('kernel') and 'head' not in name else x
    for name, x in flat.items()
  }
  one, other = apply(params)['logits'], apply(trees.unflatten(changed))['logits']
  np.testing.assert_allclose(one, other, atol=1e-3)
  assert np.abs(one).max() > 0.1


def test_v1_starts_as_its_shortcuts():
  model = bit.BiTv1(num_classes=5, depths=(2,))
  image = IMAGE[:, :32, :32]
  outputs, variables = jax.jit(model.init_with_output)(jax.random.key(0), image)
  unit = variables['params']['resnet']['stage1']['unit2']
  assert not unit['norm3']['scale'].any()
  assert not outputs['logits'].any()


def test_unknown_variant():
  with pytest.raises(
    ValueError, match="unknown BiT variant 'R50'.*26, 50, 101, 152, 200"
  ):
    bit.variant('R50')
