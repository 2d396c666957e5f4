"""Axes: B batch, h w map, u v the same after a stride, r s kernel, I O C channels."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from big_vision_like.ops import convolution

LAYOUT = convolution.LAYOUT


def arrays(seed, batch, size, kernel, inputs, channels, groups, dtype=np.float32):
  rng = np.random.default_rng(seed)
  x_BhwI = rng.normal(size=(batch, *size, inputs))
  kernel_rsIO = rng.normal(size=(*kernel, inputs // groups, channels))
  return jnp.asarray(x_BhwI, dtype), jnp.asarray(kernel_rsIO, dtype)


def both(x, kernel, stride, padding, dilation, groups):
  """Our convolution and JAX's, as functions of input and kernel."""
  return [
    functools.partial(
      fn,
      window_strides=(stride, stride),
      padding=padding,
      rhs_dilation=(dilation, dilation),
      dimension_numbers=LAYOUT,
      feature_group_count=groups,
    )
    for fn in (convolution.convolve, jax.lax.conv_general_dilated)
  ]


def with_gradients(fn, x, kernel):
  """The output, and both gradients of a weighted sum of it."""
  y, transposed = jax.vjp(fn, x, kernel)
  dy = jnp.asarray(np.random.default_rng(9).normal(size=y.shape), y.dtype)
  return y, *transposed(dy)


def check(ours, theirs, tolerance):
  for our, their in zip(ours, theirs, strict=True):
    assert our.shape == their.shape and our.dtype == their.dtype
    our, their = np.asarray(our, np.float64), np.asarray(their, np.float64)
    np.testing.assert_allclose(our, their, atol=tolerance * np.abs(their).max())


# Batch, size, kernel, input and output channels, groups, stride, padding, dilation.
CASES = {
  '3x3': (2, (6, 5), (3, 3), 4, 4, 4, 1, ((1, 1), (1, 1)), 1),
  '3x3 by 2': (3, (7, 6), (3, 3), 4, 4, 4, 2, ((1, 1), (1, 1)), 1),
  '5x5 by 2': (2, (8, 9), (5, 5), 3, 3, 3, 2, ((2, 2), (2, 2)), 1),
  '5x5 by 2, same': (2, (8, 9), (5, 5), 3, 3, 3, 2, 'SAME', 1),
  '7x7': (1, (5, 6), (7, 7), 3, 3, 3, 1, 'SAME', 1),
  '3x3 dilated': (2, (8, 7), (3, 3), 3, 3, 3, 1, ((2, 2), (2, 2)), 2),
  '3x3 dilated by 2': (2, (8, 7), (3, 3), 3, 3, 3, 2, 'SAME', 2),
  '2x3 valid by 3': (2, (9, 8), (2, 3), 3, 3, 3, 3, 'VALID', 1),
  'a part of the map': (2, (9, 8), (3, 3), 3, 3, 3, 1, ((-1, 0), (0, -2)), 1),
  '1x1 depthwise by 2': (2, (4, 5), (1, 1), 3, 3, 3, 2, 'VALID', 1),
  'large batch': (34, (5, 4), (3, 3), 2, 2, 2, 1, 'SAME', 1),
  '1x1': (2, (4, 5), (1, 1), 3, 6, 1, 1, 'VALID', 1),
  '1x1 by 2': (2, (4, 5), (1, 1), 3, 6, 1, 2, 'SAME', 1),
  '1x1 padded': (2, (4, 5), (1, 1), 3, 6, 1, 1, ((1, 1), (0, 1)), 1),
  'groups': (2, (6, 5), (3, 3), 6, 12, 3, 1, ((1, 1), (1, 1)), 1),
  'groups by 2': (2, (6, 5), (3, 3), 6, 4, 2, 2, 'SAME', 1),
  'multiplier': (2, (6, 5), (3, 3), 3, 6, 3, 1, 'SAME', 1),
  'dense': (2, (6, 5), (3, 3), 3, 4, 1, 2, 'SAME', 1),
}


@pytest.mark.parametrize('name', CASES)
def test_outputs_and_gradients_are_those_of_jax(name):
  *shapes, stride, padding, dilation = CASES[name]
  x, kernel = arrays(0, *shapes)
  ours, theirs = both(x, kernel, stride, padding, dilation, shapes[-1])
  found = [jax.jit(functools.partial(with_gradients, f))(x, kernel) for f in (ours, theirs)]
  check(*found, 1e-5)
