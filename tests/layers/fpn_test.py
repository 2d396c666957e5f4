"""Axes: B batch, h w feature map, C channels."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import shapes

from big_vision_like.errors import UserError
from big_vision_like.layers import fpn

RNG = np.random.default_rng(0)


def test_nearest_takes_the_floor():
  x_BhwC = np.arange(6.0).reshape(1, 3, 2, 1)
  doubled = fpn.nearest(jnp.asarray(x_BhwC), (6, 4))
  np.testing.assert_array_equal(doubled, x_BhwC.repeat(2, 1).repeat(2, 2))
  odd = fpn.nearest(jnp.asarray(x_BhwC), (5, 3))
  np.testing.assert_array_equal(odd, x_BhwC[:, [0, 0, 1, 1, 2]][:, :, [0, 0, 1]])


def test_levels_are_sums_over_coarser_maps(key):
  """Checks with identity kernels that a level sums its map and all coarser ones."""
  maps = [
    RNG.normal(size=(2, *size, 3)).astype(np.float32)
    for size in ((9, 12), (5, 6), (3, 3))
  ]
  module = fpn.FPN(channels=3)
  with shapes.checked('big_vision_like/layers/fpn.py') as seen:
    variables = jax.eval_shape(module.init, key, maps)
  assert {'x_BuvC', 'x_BhwC'} <= seen.keys()

  def identity(path, x):
    kernel = np.zeros(x.shape, np.float32)
    if x.ndim == 4:
      kernel[x.shape[0] // 2, x.shape[1] // 2] = np.eye(3)
    return kernel

  levels = module.apply(jax.tree.map_with_path(identity, variables), maps)
  fine, middle, coarse = maps
  middle = middle + fpn.nearest(coarse, (5, 6))
  fine = fine + fpn.nearest(middle, (9, 12))
  expected = [fine, middle, coarse, coarse[:, ::2, ::2]]
  for level, want in zip(levels, expected, strict=True):
    np.testing.assert_allclose(level, want, rtol=1e-6)


def test_a_backbone_without_four_maps_is_named():
  with pytest.raises(UserError, match=r'returns 2 maps \(stage1, stage2\)'):
    fpn.stages({'stage1': np.zeros(1), 'stage2': np.zeros(1)})
