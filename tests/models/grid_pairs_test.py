import jax
import jax.numpy as jnp
import numpy as np
import pytest
import shapes

from big_vision_like.errors import UserError
from big_vision_like.layers import pairs
from big_vision_like.models import grid_pairs, vilbert

TINY = vilbert.ViLBERT.tiny | dict(heads=dict(answer=pairs.Classes(2)))


def text(batch=2, length=5):
  rng = np.random.default_rng(0)
  tokens = jnp.asarray(rng.integers(5, 100, (batch, length)))
  return tokens, jnp.zeros_like(tokens), jnp.ones_like(tokens, bool)


def test_patches_and_their_locations():
  image = np.arange(2 * 4 * 6 * 3).reshape(2, 4, 6, 3).astype(np.float32)
  patches = grid_pairs.Patches(2)(jnp.asarray(image))['patches']
  assert patches.shape == (2, 2, 3, 12)
  np.testing.assert_array_equal(patches[1, 1, 2], image[1, 2:4, 4:6].ravel())
  found = grid_pairs.locations(2, 3)
  np.testing.assert_allclose(found[0], [0, 0, 1, 1, 1])
  np.testing.assert_allclose(found[6], [2 / 3, 0.5, 1, 1, 1 / 6], rtol=1e-6)
  with pytest.raises(UserError, match='4x6 pixels do not divide into patches of 4'):
    grid_pairs.Patches(4)(jnp.asarray(image))


def test_cells_are_regions_of_the_same_model(key):
  image = jax.random.normal(key, (2, 4, 6, 3))
  inner = vilbert.ViLBERT(**TINY)
  model = grid_pairs.GridPairs(grid_pairs.Patches(2), inner)
  with shapes.checked('big_vision_like/models') as seen:
    variables = jax.jit(model.init)(key, *text(), image)
  assert {'x_BhwPPI', 'regions_BRF', 'locations_R5'} <= {*seen}
  found = jax.jit(model.apply)(variables, *text(), image)
  cells = grid_pairs.Patches(2)(image)['patches'].reshape(2, 6, 12)
  regions = jnp.concatenate([cells.mean(1, keepdims=True), cells], axis=1)
  places = jnp.broadcast_to(jnp.asarray(grid_pairs.locations(2, 3))[None], (2, 7, 5))
  inputs = (*text(), regions, places, jnp.ones((2, 7), bool))
  own = {'params': variables['params']['pairs']}
  expected = jax.jit(inner.apply)(own, *inputs)
  for name in ('answer', 'text', 'image'):
    np.testing.assert_allclose(found[name], expected[name], rtol=1e-5, atol=1e-5)
  with pytest.raises(UserError, match="no output cells='stage9'; it has patches"):
    model.clone(cells='stage9').init(key, *text(), image)
