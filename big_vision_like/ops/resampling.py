"""Resizing of feature grids by matrix products over rows and columns.

The matrices are float64, on the host. Bilinear enlargement by a whole number needs no
products.  Axes: B batch, h w the old size, H W the new size, C channels.
"""

import jax
import jax.numpy as jnp
import numpy as np

from big_vision_like.errors import UserError, check_one_of
from big_vision_like.ops import precision


def resize(x_BhwC: jax.Array, size: tuple[int, int], method: str) -> jax.Array:
  """Resizes to (B, *size, C), like `torch.nn.functional.interpolate`.

  `method` is 'bilinear' or 'bicubic' (a = -0.75), with align_corners=False: half-pixel
  centres, no antialiasing. 'tf1_bilinear' keeps the first pixel in place instead, as
  TensorFlow 1 does without aligned corners. It computes in float32 and returns the type
  of `x_BhwC`.
  """
  check_one_of(MATRICES, method=method)
  if min(size) < 1:
    raise UserError(f'size={size} is not positive')
  old_size = x_BhwC.shape[1:3]
  factors = [new // old for new, old in zip(size, old_size, strict=True)]
  whole = [new % old == 0 for new, old in zip(size, old_size, strict=True)]
  if method == 'bilinear' and all(whole):
    return _enlarged(x_BhwC, *factors)
  matrix = MATRICES[method]
  rows_Hh = matrix(old_size[0], size[0])
  columns_Ww = matrix(old_size[1], size[1])
  return _product(x_BhwC, rows_Hh, columns_Ww)


def adaptive_average(x_BhwC: jax.Array, size: int) -> jax.Array:
  """Returns means over size x size parts that cover the grid: (B, size, size, C).

  It follows `torch.nn.functional.adaptive_avg_pool2d`: if sides do not divide,
  neighbouring parts share rows and columns. It computes in float32 and returns the type
  of `x_BhwC`.
  """
  if size < 1:
    raise UserError(f'size={size} is not positive')
  rows_Hh = average_matrix(x_BhwC.shape[1], size)
  columns_Ww = average_matrix(x_BhwC.shape[2], size)
  return _product(x_BhwC, rows_Hh, columns_Ww)


def linear_matrix(size: int, new_size: int) -> np.ndarray:
  """Returns linear weights (new_size, size) of the two pixels around `centres`."""
  return _between(centres(size, new_size), size)


def first_in_place_matrix(size: int, new_size: int) -> np.ndarray:
  """Returns linear weights (new_size, size) around i * size / new_size."""
  return _between(np.arange(new_size) * size / new_size, size)


def _between(source: np.ndarray, size: int) -> np.ndarray:
  """Returns linear weights (places, size) of the two pixels around each place."""
  source = np.clip(source, 0, size - 1)
  return np.maximum(0.0, 1.0 - np.abs(source[:, None] - np.arange(size)[None, :]))


def cubic_matrix(size: int, new_size: int, a: float = -0.75) -> np.ndarray:
  """Returns cubic weights (new_size, size) of the four pixels around `centres`.

  Taps beyond the border repeat the border pixel.
  """
  source = centres(size, new_size)
  base = np.floor(source).astype(int)
  weights = np.zeros((new_size, size))
  for tap in range(-1, 3):
    distance = np.abs(source - (base + tap))
    near = ((a + 2) * distance - (a + 3)) * distance**2 + 1
    far = a * (((distance - 5) * distance + 8) * distance - 4)
    column = np.clip(base + tap, 0, size - 1)
    np.add.at(
      weights, (np.arange(new_size), column), np.where(distance <= 1, near, far)
    )
  return weights


def average_matrix(size: int, new_size: int) -> np.ndarray:
  """Returns weights (new_size, size) of means over floor(i * s) to ceil((i + 1) * s).

  s is size / new_size.
  """
  part = np.arange(new_size)
  first, last = part * size // new_size, -(-(part + 1) * size // new_size)
  place = np.arange(size)[None, :]
  inside = (place >= first[:, None]) & (place < last[:, None])
  return inside / (last - first)[:, None]


def centres(size: int, new_size: int) -> np.ndarray:
  """Returns the centres of `new_size` pixels on the axis of `size` pixels 0, 1, ..."""
  return (np.arange(new_size) + 0.5) * size / new_size - 0.5


MATRICES = {
  'bilinear': linear_matrix,
  'bicubic': cubic_matrix,
  'tf1_bilinear': first_in_place_matrix,
}


def _enlarged(x_BhwC: jax.Array, rows: int, columns: int) -> jax.Array:
  """Enlarges bilinearly by whole numbers of rows and columns for each old one."""
  y = precision.at_least_float32(x_BhwC)
  for axis, factor in (1, rows), (2, columns):
    shape = list(y.shape)
    padded = jnp.pad(y, [(1, 1) if i == axis else (0, 0) for i in range(4)], 'edge')
    # Each new pixel is between two of three old ones: the last, its own and the next.
    last, own, following = (
      jax.lax.slice_in_dim(padded, i, i + shape[axis], axis=axis) for i in range(3)
    )
    found = []
    for offset in (np.arange(factor) + 0.5) / factor - 0.5:
      share, other = abs(float(offset)), last if offset < 0 else following
      found.append((1.0 - share) * own + share * other if share else own)
    shape[axis] *= factor
    y = jnp.stack(found, axis=axis + 1).reshape(shape)
  return y.astype(x_BhwC.dtype)


def _product(
  x_BhwC: jax.Array, rows_Hh: np.ndarray, columns_Ww: np.ndarray
) -> jax.Array:
  # Accelerators would otherwise multiply in bfloat16, which is off in the third digit.
  highest = jax.lax.Precision.HIGHEST
  y_BhwC = precision.at_least_float32(x_BhwC)
  rows_Hh, columns_Ww = (jnp.asarray(m, y_BhwC.dtype) for m in (rows_Hh, columns_Ww))
  y_BHwC = jnp.einsum('Hh,BhwC->BHwC', rows_Hh, y_BhwC, precision=highest)
  y_BHWC = jnp.einsum('Ww,BHwC->BHWC', columns_Ww, y_BHwC, precision=highest)
  return y_BHWC.astype(x_BhwC.dtype)
