"""Axes: B batch, N regions, h w map, C channels, P bins of a side, M side of a mask."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import shapes

from big_vision_like.ops import roi

RNG = np.random.default_rng(0)
STRIDES = (4, 8)


def value(x_hwC, y, x):
  """Returns a map's value between cells, clamped at its border, 0 far outside."""
  height, width, _ = x_hwC.shape
  if not (-1 <= y <= height and -1 <= x <= width):
    return np.zeros(x_hwC.shape[-1])
  y, x = np.clip(y, 0, height - 1), np.clip(x, 0, width - 1)
  top, left = min(int(y), height - 2), min(int(x), width - 2)
  down, right = y - top, x - left
  upper = x_hwC[top, left] * (1 - right) + x_hwC[top, left + 1] * right
  lower = x_hwC[top + 1, left] * (1 - right) + x_hwC[top + 1, left + 1] * right
  return upper * (1 - down) + lower * down


def expected(x_hwC, box, size, samples, aligned):
  """Returns RoIAlign of a box in cells, point by point."""
  left, top, right, bottom = box - (0.5 if aligned else 0.0)
  sides = np.array([bottom - top, right - left])
  if not aligned:
    sides = np.maximum(sides, 1)
  rows, columns = (samples or max(int(np.ceil(side / size)), 1) for side in sides)
  result = np.zeros((size, size, x_hwC.shape[-1]))
  for p, q in np.ndindex(size, size):
    for i, j in np.ndindex(rows, columns):
      y = top + sides[0] / size * (p + (i + 0.5) / rows)
      x = left + sides[1] / size * (q + (j + 0.5) / columns)
      result[p, q] += value(x_hwC, y, x) / (rows * columns)
  return result


@pytest.mark.parametrize('samples, aligned', [(2, False), (0, True), (3, True)])
def test_align_is_the_mean_of_points(samples, aligned):
  maps = [RNG.normal(size=(2, *hw, 3)).astype(np.float32) for hw in ((9, 14), (5, 7))]
  boxes_BN4 = np.float32(
    [
      [[3, 2, 50, 31], [0, 0, 6, 3], [20.5, 8.25, 24.5, 36], [0, 0, 56, 36]],
      [[40, 1, 56, 3], [1, 1, 1, 1], [5, 5, 55, 9], [0, 30, 56, 36]],
    ]
  )
  levels = roi.level_of(boxes_BN4 * 7, STRIDES)  # both levels occur
  assert set(np.unique(levels)) == {0, 1}
  own = np.asarray(roi.level_of(boxes_BN4, STRIDES))
  with shapes.checked('big_vision_like/ops/roi.py') as seen:
    jax.eval_shape(lambda m, b: roi.align(m, b, STRIDES, 5, samples), maps, boxes_BN4)
  assert {'table_BTC', 'place_BNPP', 'points_BNPS'} <= seen.keys()
  found = roi.align(maps, boxes_BN4, STRIDES, 3, samples, aligned)
  for b, n in np.ndindex(2, 4):
    level = own[b, n]
    want = expected(
      maps[level][b], boxes_BN4[b, n] / STRIDES[level], 3, samples, aligned
    )
    np.testing.assert_allclose(found[b, n], want, atol=2e-6)


@pytest.mark.parametrize('samples', (0, 2))
def test_align_is_linear_and_its_gradient_the_transpose(samples):
  maps = [RNG.normal(size=(1, 6, 8, 2)).astype(np.float32)]
  boxes_BN4 = jnp.asarray([[[1.0, 2, 30, 20], [0, 0, 5, 5], [2, 2, 9, 24]]])
  y, transpose = jax.vjp(
    lambda maps: roi.align(maps, boxes_BN4, (4,), 2, samples), maps
  )
  d = RNG.normal(size=y.shape).astype(np.float32)
  [[dx]] = jax.jit(transpose)(d)
  np.testing.assert_allclose((dx * maps[0]).sum(), (d * y).sum(), rtol=1e-4)
  # Interpolating ones gives ones.
  ones = roi.align([np.ones((1, 6, 8, 2), np.float32)], boxes_BN4, (4,), 2, samples)
  np.testing.assert_allclose(ones, np.ones_like(ones), rtol=1e-5)


def test_levels_follow_the_size():
  sides = np.float32([0, 111, 112, 223, 224, 448, 2000])
  boxes_BN4 = np.stack([0 * sides, 0 * sides, sides, sides], -1)[None]
  [levels] = roi.level_of(boxes_BN4, (4, 8, 16, 32))
  np.testing.assert_array_equal(levels, [0, 0, 1, 1, 2, 3, 3])


def test_pool_takes_the_maximum():
  x_BhwC = np.arange(20.0, dtype=np.float32).reshape(1, 4, 5, 1)
  boxes_N4 = jnp.asarray([[0.0, 0, 3, 3], [1.5, 0.4, 2.5, 1.6], [8, 8, 9, 9]])
  found = roi.pool(jnp.asarray(x_BhwC), jnp.zeros(3, int), boxes_N4, 1.0, (2, 2))[
    ..., 0
  ]
  np.testing.assert_array_equal(found[0], [[6, 8], [16, 18]])
  # The corners are 2, 0 and 3, 2: columns 2 and 3, rows 0 to 1 and 1 to 2.
  np.testing.assert_array_equal(found[1], [[7, 8], [12, 13]])
  np.testing.assert_array_equal(found[2], np.zeros((2, 2)))  # outside


def test_mask_targets_are_shares_of_bins():
  mask_MM = np.zeros((4, 4), np.uint8)
  mask_MM[:, :2] = 255  # the left half of the object's box
  true_BN4 = jnp.asarray([[[10.0, 10, 18, 18]] * 2])
  boxes_BN4 = jnp.asarray([[[10.0, 10, 18, 18], [6.0, 14, 14, 22]]])
  masks_BNMM = np.tile(mask_MM, (1, 2, 1, 1))
  own, other = roi.mask_targets(masks_BNMM, true_BN4, boxes_BN4, 4)[0]
  np.testing.assert_allclose(own, mask_MM / 255)
  # The box reaches to the lower left: the object covers only its top right.
  np.testing.assert_allclose(other, [[0, 0, 1, 1]] * 2 + [[0] * 4] * 2)
  half = roi.mask_targets(masks_BNMM, true_BN4, true_BN4, 1)
  np.testing.assert_allclose(half.ravel(), [0.5, 0.5])
