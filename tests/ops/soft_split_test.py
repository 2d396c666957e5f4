"""Tests of the soft split against a loop in torch's layout."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from big_vision_like.errors import UserError
from big_vision_like.ops.soft_split import soft_split


@pytest.mark.parametrize(
  'shape, split',
  [
    ((2, 3, 32, 48), (7, 4, 2)),
    ((2, 5, 9, 7), (3, 2, 1)),
    ((1, 2, 6, 5), (3, 1, 0)),
  ],
)
def test_it_is_a_loop(shape, split):
  size, stride, padding = split
  x_BCHW = np.random.default_rng(0).normal(size=shape).astype('float32')
  batch, channels, height, width = shape
  rows = (height + 2 * padding - size) // stride + 1
  columns = (width + 2 * padding - size) // stride + 1
  want = np.zeros((batch, rows, columns, channels * size * size), 'float32')
  for b, h, w, c, i, j in np.ndindex(batch, rows, columns, channels, size, size):
    row, column = h * stride + i - padding, w * stride + j - padding
    if 0 <= row < height and 0 <= column < width:
      want[b, h, w, c * size * size + i * size + j] = x_BCHW[b, c, row, column]
  got = jax.jit(soft_split, static_argnums=(1, 2, 3))(
    x_BCHW.transpose(0, 2, 3, 1), *split
  )
  np.testing.assert_array_equal(got, want)
  assert (want[:, 0, 0, 0] == 0).all() == (padding > 0)


def test_it_multiplies_nothing():
  """Checks this because the precision of products could round the copied values."""
  x_BHWC = jnp.zeros((2, 16, 16, 3))
  told = str(jax.make_jaxpr(lambda x: soft_split(x, 7, 4, 2))(x_BHWC))
  assert 'dot_general' not in told and 'conv_general' not in told


def test_a_map_without_a_patch():
  with pytest.raises(UserError, match='is smaller than a patch of 7x7'):
    soft_split(jnp.zeros((1, 2, 40, 3)), 7, 4, 2)
