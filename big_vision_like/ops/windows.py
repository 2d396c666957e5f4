"""Windows on a map of tokens, arXiv:2103.14030 section 3.2.

Partitions are reshapes and transposes. Arrays that depend only on sizes are computed by
NumPy during tracing and are constants of the program.

Axes: B batch, h w map, C channels, N tokens of a window (M as keys), W windows of a
map, R windows of all maps.
"""

import jax
import jax.numpy as jnp
import numpy as np

from big_vision_like.errors import UserError, shape_text

Grid = tuple[int, int]


def whole(grid: Grid, window: int) -> Grid:
  """Returns the sides of the smallest map that holds `grid` and that windows divide."""
  rows, columns = (-(-side // window) * window for side in grid)
  return rows, columns


def pad(x_BhwC: jax.Array, grid: Grid) -> jax.Array:
  """Pads with zeros at the bottom and right, up to these sides."""
  below, right = (new - side for new, side in zip(grid, x_BhwC.shape[1:3], strict=True))
  if not below and not right:
    return x_BhwC
  return jnp.pad(x_BhwC, ((0, 0), (0, below), (0, right), (0, 0)))


def shifted(x_BhwC: jax.Array, shift: int) -> jax.Array:
  """Shifts all tokens up and to the left by `shift`, wrapping around the edges."""
  return jnp.roll(x_BhwC, (-shift, -shift), axis=(1, 2)) if shift else x_BhwC


def partition(x_BhwC: jax.Array, window: int) -> jax.Array:
  """Splits a map into square windows: (B * W, N, C), windows and tokens row by row."""
  batch, height, width, channels = x_BhwC.shape
  if height % window or width % window:
    raise UserError(
      f'windows of {window}x{window} tokens do not divide a map of'
      f' {shape_text((height, width))}'
    )
  rows, columns = height // window, width // window
  x = x_BhwC.reshape(batch, rows, window, columns, window, channels)
  return x.swapaxes(2, 3).reshape(batch * rows * columns, window**2, channels)


def joined(x_RNC: jax.Array, grid: Grid) -> jax.Array:
  """Joins windows into maps with these sides, the inverse of `partition`."""
  (height, width), channels = grid, x_RNC.shape[-1]
  window = round(x_RNC.shape[1] ** 0.5)
  rows, columns = height // window, width // window
  x = x_RNC.reshape(-1, rows, columns, window, window, channels)
  return x.swapaxes(2, 3).reshape(-1, height, width, channels)


def regions(grid: Grid, window: int, shift: int) -> np.ndarray:
  """Returns the region of the unshifted map that each token of the shifted map is from.

  The result (W, N) holds numbers from 0 to 8: rows and columns are cut `window` and
  `shift` before their end. Only windows at the bottom and right edges contain tokens of
  several regions, which were not neighbours.
  """
  sides = []
  for side in grid:
    place = np.arange(side)
    sides.append(1 * (place >= side - window) + 1 * (place >= side - shift))
  region_hw = 3 * sides[0][:, None] + sides[1][None, :]
  rows, columns = (side // window for side in grid)
  region = region_hw.reshape(rows, window, columns, window).swapaxes(1, 2)
  return region.reshape(rows * columns, window**2)


def seen(grid: Grid, window: int, shift: int) -> np.ndarray:
  """Returns whether a token may attend to another one of its window: bool (W, N, M).

  It may if both are in one region; the published code adds -100 to all other logits.
  """
  region_WN = regions(grid, window, shift)
  return region_WN[:, :, None] == region_WN[:, None, :]


def of_all(seen_WNM: np.ndarray, batch: int) -> jax.Array:
  """Repeats a mask of one map's windows for each map: (B * W, 1, N, M)."""
  windows, tokens, _ = seen_WNM.shape
  shape = batch, windows, tokens, tokens
  mask_BWNM = jnp.broadcast_to(jnp.asarray(seen_WNM)[None], shape)
  return mask_BWNM.reshape(batch * windows, 1, tokens, tokens)


def neighbours(x_BhwC: jax.Array) -> jax.Array:
  """Concatenates the features of 2x2 tokens, (B, h / 2, w / 2, 4 C): patch merging.

  The order follows the published code, by column: upper left, lower left, upper right,
  lower right.
  """
  batch, height, width, channels = x_BhwC.shape
  if height % 2 or width % 2:
    raise UserError(f'2x2 tokens do not divide a map of {shape_text((height, width))}')
  x = x_BhwC.reshape(batch, height // 2, 2, width // 2, 2, channels)
  x = x.transpose(0, 1, 3, 4, 2, 5)
  return x.reshape(batch, height // 2, width // 2, 4 * channels)
