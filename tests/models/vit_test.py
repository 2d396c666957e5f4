"""Tests of the ViT alone; the battery tests what all models share."""

import functools

import battery
import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from big_vision_like.cost import flops
from big_vision_like.layers import resnet
from big_vision_like.models import vit
from big_vision_like.weights import tree as trees

SMALL = dict(num_classes=5, patch=4, width=16, depth=2, num_heads=2, mlp_dim=24)


@pytest.mark.parametrize(
  ('name', 'pool', 'count'),
  [
    ('Ti/16', 'token', 5_717_416),
    ('S/32', 'token', 22_878_952),
    ('S/16', 'token', 22_050_664),
    ('B/32', 'token', 88_224_232),
    ('B/16', 'token', 86_567_656),
    ('B/8', 'token', 86_576_872),
    ('L/32', 'token', 306_535_400),
    ('L/16', 'token', 304_326_632),
    ('H/14', 'token', 632_045_800),
    ('g/14', 'token', 1_012_611_432),
    ('G/14', 'token', 1_844_440_680),
    ('R+Ti/16', 'token', 6_337_704),
    ('R26+S/32', 'token', 36_431_912),
    ('R26+B/32', 'token', 101_383_976),
    ('R50+B/16', 'token', 98_659_112),
    ('R50+L/32', 'token', 328_994_856),
    ('S/16', 'gap', 22_049_896),
    ('B/16', 'gap', 86_566_120),
    ('S/32', 'gap', 22_878_184),
    ('B/32', 'gap', 88_222_696),
  ],
)
def test_published_parameter_count(name, pool, count):
  model = vit.ViT(num_classes=1000, **vit.variant(name), pool=pool, scan=True)
  image = jnp.zeros((1, 224, 224, 3))
  params = jax.eval_shape(model.init, jax.random.key(0), image)
  assert sum(leaf.size for leaf in jax.tree.leaves(params)) == count


# Billions of multiply-accumulates at 224 pixels (huggingface/pytorch-image-models,
# results/model_benchmark): products and convolutions and, for ResNets, five operations
# per normalized activation and four per standardized weight.
GMACS = {
  'Ti/16': 1.26,
  'S/32': 1.15,
  'S/16': 4.61,
  'M/16': 8.0,
  'B/32': 4.41,
  'B/16': 17.58,
  'B/8': 78.2,
  'L/16': 61.6,
  'H/14': 167.4,
  'g/14': 267.2,
  'G/14': 484.0,
  'R+Ti/16': 0.44,
  'R26+S/32': 3.56,
  'R50+B/16': 21.7,
  'R50+L/32': 19.6,
}


@pytest.mark.parametrize('name', GMACS)
def test_published_operations(name):
  model = vit.ViT(num_classes=1000, **vit.variant(name), scan=True)
  image = jax.ShapeDtypeStruct((1, 224, 224, 3), jnp.float32)
  variables = jax.eval_shape(model.init, jax.random.key(0), image)
  counted = flops.count(model.apply, variables, image) / 2  # multiply and add
  if model.resnet is not None:
    counted += norm_operations(resnet.Trunk(model.resnet), image)
  np.testing.assert_allclose(counted / 1e9, GMACS[name], rtol=0.01)


def norm_operations(trunk: resnet.Trunk, image: jax.ShapeDtypeStruct) -> int:
  params = trees.flatten(jax.eval_shape(trunk.init, jax.random.key(0), image)['params'])
  weights = sum(leaf.size for name, leaf in params.items() if name.endswith('kernel'))

  def apply(params, image):
    kinds = lambda module, _: isinstance(module, nn.GroupNorm)  # noqa: E731
    return trunk.apply(
      {'params': params}, image, capture_intermediates=kinds, mutable=['intermediates']
    )[1]

  normed = jax.eval_shape(apply, trees.unflatten(params), image)
  return 5 * sum(leaf.size for leaf in jax.tree.leaves(normed)) + 4 * weights


def shuffled(image_BHWC: np.ndarray, order: list[int]) -> np.ndarray:
  """Returns the image with its 4x4 patches in another order."""
  b, height, width, c = image_BHWC.shape
  grid = image_BHWC.reshape(b, height // 4, 4, width // 4, 4, c).swapaxes(2, 3)
  patches = grid.reshape(b, -1, 4, 4, c)[:, order]
  grid = patches.reshape(b, height // 4, width // 4, 4, 4, c).swapaxes(2, 3)
  return grid.reshape(b, height, width, c)


@pytest.fixture(scope='module', params=['token', 'gap', 'map'])
def pooled(request):
  model = vit.ViT(**SMALL, pool=request.param)
  image = jax.random.normal(jax.random.key(1), (2, 8, 12, 3))
  params = battery.variables(model, image)['params']
  apply = jax.jit(lambda params, image: model.apply({'params': params}, image))
  return request.param, params, np.asarray(image), apply


@settings(max_examples=10, deadline=None)
@given(st.permutations(range(6)))
def test_moving_patches_with_their_positions_changes_nothing(pooled, order):
  pool, params, image, apply = pooled
  first = int(pool == 'token')
  rows = [*range(first), *(first + i for i in order)]
  moved = params | {'pos_embedding': params['pos_embedding'][:, rows]}
  before, after = apply(params, image), apply(moved, shuffled(image, order))
  np.testing.assert_allclose(before['logits'], after['logits'], atol=1e-5)
  if order != sorted(order):
    alone = apply(params, shuffled(image, order))
    assert np.abs(before['logits'] - alone['logits']).max() > 1e-5


def test_without_positions_order_is_invisible():
  model = vit.ViT(**SMALL, pool='gap', posemb='none')
  image = np.asarray(jax.random.normal(jax.random.key(1), (2, 8, 12, 3)))
  variables = battery.variables(model, image)
  apply = jax.jit(model.apply)
  one = apply(variables, image)['features']
  other = apply(variables, shuffled(image, [3, 5, 0, 1, 4, 2]))['features']
  np.testing.assert_allclose(one, other, atol=1e-5)


def test_head_starts_at_its_bias():
  model = vit.ViT(**SMALL, head_bias=-6.9)
  init = jax.jit(model.init_with_output)
  outputs, _ = init(jax.random.key(0), jnp.ones((2, 8, 8, 3)))
  np.testing.assert_array_equal(outputs['logits'], np.full((2, 5), -6.9, np.float32))


@pytest.mark.parametrize(
  ('change', 'sentence'),
  [
    (dict(patch=5), 'images of 8x12 do not divide into patches of 5x5'),
    (dict(pool='mean'), "pool='mean' is not one of 'token', 'gap', 'map'"),
    (dict(posemb='sin'), "posemb='sin' is not one of"),
    (dict(posemb_at='top'), "posemb_at='top' is not one of"),
    (dict(posemb='relative'), "posemb_at must be 'every' or 'shared'"),
    (dict(resnet=()), 'feature maps of 2x3 do not divide into patches of 4x4'),
    (dict(num_heads=3), 'width 16 is not divisible by 3 heads'),
    (dict(remat='all'), "remat='all' is not one of none, dots, full"),
  ],
)
def test_invalid_options_are_reported(change, sentence):
  model = vit.ViT(**SMALL | change)
  with pytest.raises(ValueError, match=sentence):
    jax.eval_shape(model.init, jax.random.key(0), jnp.zeros((1, 8, 12, 3)))


@pytest.mark.parametrize(
  'fields',
  [
    dict(),
    dict(posemb='learned2d'),
    dict(posemb='learned2d', posemb_at='every'),
    dict(posemb='relative', posemb_at='shared'),
  ],
)
def test_another_grid_is_refused_by_name(fields):
  model = vit.ViT(**SMALL | fields)
  variables = jax.eval_shape(model.init, jax.random.key(0), jnp.zeros((1, 8, 12, 3)))
  with pytest.raises(ValueError, match=r'has shape .* a grid of 3x4 that needs'):
    jax.eval_shape(model.apply, variables, jnp.zeros((1, 12, 16, 3)))


@pytest.mark.parametrize('posemb', ['learned', 'learned2d', 'sincos2d'])
def test_shared_positions_equal_repeated_ones_in_every_layer(posemb):
  image = jax.random.normal(jax.random.key(1), (2, 8, 12, 3))
  shared = vit.ViT(**SMALL, posemb=posemb, posemb_at='shared')
  alone = shared.clone(posemb_at='every')
  params = battery.variables(shared, image)['params']
  repeated = {
    name: jnp.concatenate([value] * 2)
    for name, value in params.items()
    if name.startswith('pos_')
  }
  one = jax.jit(shared.apply)({'params': params}, image)
  other = jax.jit(alone.apply)({'params': params | repeated}, image)
  stem = jax.jit(shared.clone(posemb_at='stem').apply)({'params': params}, image)
  np.testing.assert_allclose(one['tokens'], other['tokens'], atol=1e-6)
  assert np.abs(one['tokens'] - stem['tokens']).max() > 1e-3


def test_relative_keys_depend_on_distances():
  # All patches are equal: only the keys by distance distinguish queries.
  model = vit.ViT(**SMALL, posemb='relative', posemb_at='every', pool='gap')
  image = jnp.ones((1, 4, 24, 3))
  params = battery.variables(model, image)['params']
  assert params['relative_keys'].shape == (2, 11, 2, 8)
  apply = jax.jit(functools.partial(model.apply, mutable=['intermediates']))
  outputs, found = apply({'params': params}, image)
  same = outputs['tokens']
  np.testing.assert_allclose(same, same[:, :1].repeat(6, axis=1), atol=1e-6)
  (probs_1HNN,) = found['intermediates']['encoder']['block_0']['attention']['probs']
  logits_HNN = np.log(probs_1HNN[0])
  # Except for a constant per row, a logit is a function of the distance alone.
  step_HN = logits_HNN[:, :, 1:] - logits_HNN[:, :, :-1]
  np.testing.assert_allclose(step_HN[:, 1:, 1:], step_HN[:, :-1, :-1], atol=1e-4)
  assert np.abs(step_HN).max() > 1e-4


def test_registers_are_seen_and_not_given():
  image = jax.random.normal(jax.random.key(1), (2, 8, 12, 3))
  model = vit.ViT(**SMALL, registers=3)
  params = battery.variables(model, image)['params']
  apply = jax.jit(model.apply)
  outputs = apply({'params': params}, image)
  assert params['registers'].shape == (1, 3, 16)
  assert params['pos_embedding'].shape == (1, 7, 16)
  assert outputs['tokens'].shape == (2, 7, 16)
  moved = params | {'registers': params['registers'][..., ::-1]}
  other = apply({'params': moved}, image)
  assert np.abs(outputs['tokens'] - other['tokens']).max() > 1e-3


def test_unknown_hybrid_lists_the_known_ones():
  with pytest.raises(ValueError, match='unknown hybrid .*R26/32, R50/16, R50/32'):
    vit.variant('R26+B/16')


def test_unknown_variant_lists_the_sizes():
  with pytest.raises(
    ValueError, match="unknown ViT variant 'X/16'.*Ti, S, M, B, L, So400m"
  ):
    vit.variant('X/16')
