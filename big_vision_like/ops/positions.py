"""Position embeddings of patch grids.

Axes: N positions of a grid in raster order, D width, h w the grid they come from,
H W the grid they go to; P prefix positions (class token) in front, G = h*w, M = H*W.
"""

import math

import jax
import jax.numpy as jnp
import numpy as np


def sincos2d(
  height: int,
  width: int,
  dim: int,
  temperature: float = 10_000.0,
  dtype: jnp.dtype = jnp.float32,
) -> jax.Array:
  """Returns fixed sine-cosine embeddings of a height x width grid: (1, h*w, dim).

  Channels are [sin x, cos x, sin y, cos y], each dim/4 wide (arXiv:2205.01580). The
  frequencies run from 1 to 1/temperature inclusive, hence the division by dim/4 - 1.
  """
  if dim % 4:
    raise ValueError(f'sincos2d needs a width divisible by 4, got {dim}.')
  count = dim // 4
  omega_F = temperature ** (-jnp.arange(count) / max(count - 1, 1))
  y_h, x_w = jnp.arange(height), jnp.arange(width)
  y_hwF = jnp.broadcast_to(
    y_h[:, None, None] * omega_F[None, None, :], (height, width, count)
  )
  x_hwF = jnp.broadcast_to(
    x_w[None, :, None] * omega_F[None, None, :], (height, width, count)
  )
  grid_hwD = jnp.concatenate(
    [jnp.sin(x_hwF), jnp.cos(x_hwF), jnp.sin(y_hwF), jnp.cos(y_hwF)], axis=-1
  )
  return grid_hwD.reshape(1, height * width, dim).astype(dtype)


def square_grid(num_positions: int) -> tuple[tuple[int, int], int]:
  """Infers ((h, w), number of prefix tokens) of a square grid with at most one."""
  for num_prefix in (0, 1):
    side = math.isqrt(max(num_positions - num_prefix, 0))
    if side and side * side + num_prefix == num_positions:
      return (side, side), num_prefix
  raise ValueError(
    f'{num_positions} positions are no square grid with 0 or 1 class token; '
    'name the grid they belong to.'
  )


def resize(
  pos_1ND: np.ndarray,
  grid_from: tuple[int, int],
  grid_to: tuple[int, int],
  num_prefix: int = 0,
  method: str = 'linear',
) -> np.ndarray:
  """Resizes learned position embeddings to another grid, on the host.

  The first `num_prefix` positions are no part of the grid and stay as they are.
  `method`: 'linear' aligns the corners of both grids, as scipy.ndimage.zoom of order
  1 in the published ViT code does; 'cubic_torch' is torch's bicubic interpolation
  (a = -0.75, half-pixel centres, no antialiasing), as used by DeiT.

  Returns float32 (1, num_prefix + H*W, D). The own size is the identity, bit by bit.
  """
  matrices = {'linear': _linear_matrix, 'cubic_torch': _cubic_matrix}
  if method not in matrices:
    raise ValueError(f'Unknown method {method!r}; choose from {sorted(matrices)}.')
  if min(*grid_from, *grid_to) < 1:
    raise ValueError(f'Grids need sides of at least 1, got {grid_from}, {grid_to}.')
  pos_1ND = np.asarray(pos_1ND, np.float32)
  if pos_1ND.ndim != 3 or pos_1ND.shape[0] != 1:
    raise ValueError(f'Position embeddings are (1, N, D), got {pos_1ND.shape}.')
  height, width = grid_from
  if pos_1ND.shape[1] != num_prefix + height * width:
    raise ValueError(
      f'{pos_1ND.shape[1]} positions do not fit a {height}x{width} grid with '
      f'{num_prefix} prefix tokens ({num_prefix + height * width} positions).'
    )
  if tuple(grid_from) == tuple(grid_to):
    return pos_1ND.copy()
  prefix_1PD, grid_1GD = pos_1ND[:, :num_prefix], pos_1ND[:, num_prefix:]
  grid_hwD = grid_1GD.reshape(height, width, -1).astype(np.float64)
  rows_Hh = matrices[method](height, grid_to[0])
  columns_Ww = matrices[method](width, grid_to[1])
  resized_HWD = np.einsum('Hh,hwD,Ww->HWD', rows_Hh, grid_hwD, columns_Ww)
  resized_1MD = resized_HWD.reshape(1, -1, pos_1ND.shape[-1]).astype(np.float32)
  return np.concatenate([prefix_1PD, resized_1MD], axis=1)


def _linear_matrix(size: int, new_size: int) -> np.ndarray:
  """Linear weights (new_size, size), source index i*(size-1)/(new_size-1)."""
  source = np.arange(new_size) * (size - 1) / max(new_size - 1, 1)
  return np.maximum(0.0, 1.0 - np.abs(source[:, None] - np.arange(size)[None, :]))


def _cubic_matrix(size: int, new_size: int, a: float = -0.75) -> np.ndarray:
  """Cubic convolution weights (new_size, size), source index (i+.5)*size/new_size-.5.

  Taps beyond the border repeat the border sample.
  """
  source = (np.arange(new_size) + 0.5) * size / new_size - 0.5
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
