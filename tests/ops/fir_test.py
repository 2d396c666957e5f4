"""Tests of resampling, against zeros inserted, the filter and a correlation."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from big_vision_like.ops import fir

FILTER = np.outer(fir.TAPS, fir.TAPS) / 64


def correlated(x, kernel, pads, stride=1):
  """Returns the correlation of maps (B, h, w, C) with one filter for all channels."""
  x = np.pad(x, [(0, 0), pads, pads, (0, 0)])
  rows, columns = (size - len(kernel) + 1 for size in x.shape[1:3])
  y = sum(
    kernel[r, s] * x[:, r : r + rows, s : s + columns]
    for r in range(len(kernel))
    for s in range(len(kernel))
  )
  return y[:, ::stride, ::stride]


def dilated(x):
  y = np.zeros((len(x), 2 * x.shape[1], 2 * x.shape[2], x.shape[3]))
  y[:, ::2, ::2] = x
  return y


def convolved(x, kernel, stride=1):
  """Returns a VALID correlation with a kernel (r, s, I, O)."""
  parts = [
    np.stack(
      [
        correlated(x[..., i : i + 1], kernel[:, :, i, o], (0, 0), stride)[..., 0]
        for i in range(kernel.shape[2])
      ]
    ).sum(axis=0)
    for o in range(kernel.shape[3])
  ]
  return np.stack(parts, axis=-1)


@pytest.fixture(scope='module')
def drawn():
  rng = np.random.default_rng(0)
  return rng.normal(size=(2, 6, 4, 3)), rng.normal(size=(3, 3, 3, 5))


def test_maps_are_resampled(drawn):
  x, _ = drawn
  want = correlated(dilated(x), 4 * FILTER, (2, 1))
  np.testing.assert_allclose(fir.upsample(jnp.asarray(x)), want, atol=1e-5)
  want = correlated(x, FILTER, (1, 1), stride=2)
  np.testing.assert_allclose(fir.downsample(jnp.asarray(x)), want, atol=1e-5)


def test_convolutions_are_resampled(drawn):
  x, kernel = drawn
  filtered = correlated(dilated(x), 4 * FILTER, (3, 2))
  want = convolved(filtered, kernel[::-1, ::-1])  # a transposed convolution
  x, kernel = map(jnp.asarray, drawn)
  np.testing.assert_allclose(fir.convolve(x, kernel, 'up'), want, atol=1e-4)
  want = convolved(correlated(np.asarray(x), FILTER, (2, 2)), np.asarray(kernel), 2)
  np.testing.assert_allclose(fir.convolve(x, kernel, 'down'), want, atol=1e-4)
  one = kernel[1:2, 1:2]
  want = fir.upsample(jnp.einsum('bhwi,io->bhwo', x, one[0, 0]))
  np.testing.assert_allclose(fir.convolve(x, one, 'up'), want, atol=1e-5)
  want = jnp.einsum('bhwi,io->bhwo', fir.downsample(x), one[0, 0])
  np.testing.assert_allclose(fir.convolve(x, one, 'down'), want, atol=1e-5)


@pytest.mark.parametrize('resample', [None, 'up', 'down'])
def test_second_derivatives_are_finite_and_right(drawn, resample):
  x, kernel = (jnp.asarray(a, jnp.float32) for a in drawn)

  @jax.jit
  @jax.grad
  def penalty_gradient(kernel):
    def judged(x):
      return jnp.tanh(fir.convolve(x, kernel, resample)).sum()

    return jnp.square(jax.grad(judged)(x)).sum()

  found = penalty_gradient(kernel)
  assert np.isfinite(found).all() and np.abs(found).max() > 1e-3

  def penalty(kernel):
    def judged(x):
      return jnp.tanh(fir.convolve(x, kernel, resample)).sum()

    return jnp.square(jax.grad(judged)(x)).sum()

  step = jnp.zeros_like(kernel).at[1, 0, 1, 2].set(1e-2)
  slope = (penalty(kernel + step) - penalty(kernel - step)) / 2e-2
  np.testing.assert_allclose(found[1, 0, 1, 2], slope, rtol=2e-2, atol=0.05)


def test_other_kernels_are_not_upsampled(drawn):
  x = jnp.asarray(drawn[0])
  with pytest.raises(ValueError, match='size 5 cannot be upsampled, only 3'):
    fir.convolve(x, jnp.zeros((5, 5, 3, 2)), 'up')
