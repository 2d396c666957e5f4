"""The ViT's own properties; the battery has what all models share."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from big_vision_like.models import vit

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


def shuffled(image_BHWC: np.ndarray, order: list[int]) -> np.ndarray:
  """The image with its 4x4 patches in another order."""
  b, height, width, c = image_BHWC.shape
  grid = image_BHWC.reshape(b, height // 4, 4, width // 4, 4, c).swapaxes(2, 3)
  patches = grid.reshape(b, -1, 4, 4, c)[:, order]
  grid = patches.reshape(b, height // 4, width // 4, 4, 4, c).swapaxes(2, 3)
  return grid.reshape(b, height, width, c)


@pytest.fixture(scope='module', params=['token', 'gap', 'map'])
def pooled(request):
  model = vit.ViT(**SMALL, pool=request.param)
  image = jax.random.normal(jax.random.key(1), (2, 8, 12, 3))
  params = model.init(jax.random.key(0), image)['params']
  head = jax.random.normal(jax.random.key(2), params['head']['kernel'].shape)
  params['head']['kernel'] = head
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
  variables = model.init(jax.random.key(0), image)
  one = model.apply(variables, image)['features']
  other = model.apply(variables, shuffled(image, [3, 5, 0, 1, 4, 2]))['features']
  np.testing.assert_allclose(one, other, atol=1e-5)


def test_head_starts_at_its_bias():
  model = vit.ViT(**SMALL, head_bias=-6.9)
  outputs, _ = model.init_with_output(jax.random.key(0), jnp.ones((2, 8, 8, 3)))
  np.testing.assert_array_equal(outputs['logits'], np.full((2, 5), -6.9, np.float32))


def test_attention_is_sown_and_sums_to_one():
  model = vit.ViT(**SMALL)
  image = jax.random.normal(jax.random.key(1), (2, 8, 12, 3))
  variables = model.init(jax.random.key(0), image)
  _, found = model.apply(
    {'params': variables['params']}, image, mutable=['intermediates']
  )
  (probs_BHNN,) = found['intermediates']['encoder']['block_1']['attention']['probs']
  assert probs_BHNN.shape == (2, 2, 7, 7)
  np.testing.assert_allclose(probs_BHNN.sum(axis=-1), 1.0, rtol=1e-5)


@pytest.mark.parametrize(
  ('change', 'sentence'),
  [
    (dict(patch=5), 'images of 8x12 do not divide into patches of 5x5'),
    (dict(pool='mean'), "pool='mean' is not one of 'token', 'gap', 'map'"),
    (dict(posemb='sin'), "posemb='sin' is not one of"),
    (dict(num_heads=3), 'width 16 is not divisible by 3 heads'),
    (dict(remat='all'), "remat='all' is not one of none, dots, full"),
  ],
)
def test_what_cannot_be_is_said(change, sentence):
  model = vit.ViT(**SMALL | change)
  with pytest.raises(ValueError, match=sentence):
    jax.eval_shape(model.init, jax.random.key(0), jnp.zeros((1, 8, 12, 3)))


def test_unknown_variant_lists_the_sizes():
  with pytest.raises(ValueError, match="no ViT variant 'X/16'.*Ti, S, M, B, L, H, g"):
    vit.variant('X/16')
