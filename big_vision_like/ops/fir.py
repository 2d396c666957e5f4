"""Resampling by two with the filter [1, 3, 3, 1], as in StyleGAN2 (arXiv:1912.04958).

The filter is the outer product of [1, 3, 3, 1] / 8 with itself. Borders are zeros.
Everything is linear, so gradients of any order exist.

Axes: B batch, h w map, u v the same after resampling, r s rows and columns of a kernel,
a b rows and columns of a composed kernel, p q phases of rows and columns, I O input and
output channels, C channels.
"""

import jax
import jax.numpy as jnp
import numpy as np

from big_vision_like.ops import convolution

TAPS = (1.0, 3.0, 3.0, 1.0)
UP, DOWN = 'up', 'down'


def upsample(x_BhwC: jax.Array) -> jax.Array:
  """Returns the map with twice the rows and columns, (B, 2h, 2w, C)."""
  for axis in (1, 2):
    size = x_BhwC.shape[axis]
    padded = jnp.pad(x_BhwC, [(1, 1) if i == axis else (0, 0) for i in range(4)])
    # A new value has three quarters of the old one and a quarter of the next nearest.
    before, own, after = (
      jax.lax.slice_in_dim(padded, i, i + size, axis=axis) for i in range(3)
    )
    both = jnp.stack([0.25 * before + 0.75 * own, 0.75 * own + 0.25 * after], axis + 1)
    shape = list(x_BhwC.shape)
    shape[axis] *= 2
    x_BhwC = both.reshape(shape)
  return x_BhwC


def downsample(x_BhwC: jax.Array) -> jax.Array:
  """Returns the map with half the rows and columns, (B, h/2, w/2, C)."""
  for axis in (1, 2):
    x_BhwC = _filtered(x_BhwC, axis, padding=1, stride=2)
  return x_BhwC


def _filtered(x: jax.Array, axis: int, padding: int, stride: int = 1) -> jax.Array:
  """Returns an axis filtered, with this number of zeros on both sides."""
  padded = jnp.pad(x, [(padding, padding) if i == axis else (0, 0) for i in range(4)])
  stop = padded.shape[axis] - len(TAPS) + 1
  a, b, c, d = (
    jax.lax.slice_in_dim(padded, i, i + stop, stride, axis) for i in range(len(TAPS))
  )
  return 0.125 * (a + d) + 0.375 * (b + c)


def convolve(
  x_BhwI: jax.Array, kernel_rsIO: jax.Array, resample: str | None = None
) -> jax.Array:
  """Returns the correlation with a square kernel, resampled: (B, u, v, O).

  `resample='up'` is a transposed convolution that doubles the map, followed by the
  filter; 'down' is the filter, followed by a convolution of stride 2. A kernel of size
  1 is applied to the smaller map.
  """
  size = len(kernel_rsIO)
  if size == 1:
    if resample == DOWN:
      x_BhwI = downsample(x_BhwI)
    y_BuvO = _correlate(x_BhwI, kernel_rsIO, 0)
    return upsample(y_BuvO) if resample == UP else y_BuvO
  if resample == UP:
    return _convolve_up(x_BhwI, kernel_rsIO)
  if resample == DOWN:
    for axis in (1, 2):
      x_BhwI = _filtered(x_BhwI, axis, padding=size // 2 + 1)
    return _correlate(x_BhwI, kernel_rsIO, 0, stride=2)
  return _correlate(x_BhwI, kernel_rsIO, size // 2)


def _correlate(
  x_BhwI: jax.Array, kernel_rsIO: jax.Array, zeros: int, stride: int = 1
) -> jax.Array:
  pads = ((zeros, zeros), (zeros, zeros))
  layout = jax.lax.conv_dimension_numbers(
    x_BhwI.shape, kernel_rsIO.shape, ('NHWC', 'HWIO', 'NHWC')
  )
  return convolution.convolve(
    x_BhwI, kernel_rsIO, (stride, stride), pads, dimension_numbers=layout
  )


def _convolve_up(x_BhwI: jax.Array, kernel_rsIO: jax.Array) -> jax.Array:
  """Returns a 3x3 transposed convolution and the filter as one 3x3 convolution.

  The convolution gives the four phases of the doubled map as channels. On a CPU this
  takes 0.4 times the time of filtering the doubled map and convolving it, with 128
  channels of 16x16 and the gradients; with 256 channels of 8x8 both take the same.
  """
  if len(kernel_rsIO) != 3:
    raise ValueError(f'a kernel of size {len(kernel_rsIO)} cannot be upsampled, only 3')
  batch, height, width, _ = x_BhwI.shape
  channels = kernel_rsIO.shape[-1]
  taps_par = jnp.asarray(_composition(), kernel_rsIO.dtype)
  columns_rbqIO = jnp.einsum('qbs,rsIO->rbqIO', taps_par, kernel_rsIO)
  composed_abIpqO = jnp.einsum('par,rbqIO->abIpqO', taps_par, columns_rbqIO)
  composed = composed_abIpqO.reshape(*composed_abIpqO.shape[:3], 4 * channels)
  y = _correlate(x_BhwI, composed, 1)
  y = y.reshape(batch, height, width, 2, 2, channels).swapaxes(2, 3)
  return y.reshape(batch, 2 * height, 2 * width, channels)


def _composition() -> np.ndarray:
  """Returns weights (2, 3, 3) of a kernel's rows, by phase and row of the map.

  Value 2 i + phase of the filtered transposed convolution is the sum over a, r of
  weight[phase, a, r] * kernel[r] * x[i + a - 1].
  """
  weight = np.zeros((2, 3, 3))
  for phase in range(2):
    for tap, value in enumerate(TAPS):
      for r in range(3):
        twice = phase + tap - 1 - r  # the row of the map with zeros inserted
        if twice % 2 == 0:
          weight[phase, twice // 2 + 1, r] += value / 4
  return weight
