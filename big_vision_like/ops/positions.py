"""Position embeddings of sequences and of patch grids.

Axes: B batch, N positions (of a grid in raster order), D width, E half of it, F
frequencies, h w the source grid, H W the target grid; P prefix positions (class token)
in front, G = h*w, M = H*W; L learned positions, T entries of a table of relative
positions.
"""

import math
from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np

from big_vision_like.errors import UserError, check_one_of, shape_text
from big_vision_like.ops import resampling

SINUSOIDS = ('interleaved', 'halves', 't2t')
# The most leading tokens that a table may have, unless the model has more: one for the
# class and one for distillation.
MOST_LEADING = 2

Grid = tuple[int, int]

# Advice in messages about an unknown grid.
GIVE_GRID = 'source_grid=(rows, columns) (programs: --source-grid=ROWSxCOLUMNS)'


def sinusoid(position: jax.Array, dim: int, layout: str = 'interleaved') -> jax.Array:
  """Returns sinusoids of positions: float32, with a new last axis of size `dim`.

  Position p has sin(p / 10000^(2i/dim)) and cos(...) for i < dim/2, interleaved
  ('interleaved', arXiv:1706.03762 section 3.5) or with all sines first ('halves',
  Marian). 't2t' has all sines first and exponents i / (dim/2 - 1), from 0 to 1
  inclusive (tensor2tensor, and the WMT example of Flax).
  """
  check_one_of(SINUSOIDS, layout=layout)
  if dim % 2:
    raise UserError(f'sinusoids need an even width, not {dim}')
  count = dim // 2
  # On the host in float64, because float32 powers are off in the sixth digit.
  exponent_F = np.arange(count) / (max(count - 1, 1) if layout == 't2t' else count)
  frequency_F = jnp.asarray(10_000.0**-exponent_F, float)
  ones = (1,) * position.ndim
  angle = position[..., None].astype(float) * frequency_F.reshape(*ones, count)
  sin, cos = jnp.sin(angle), jnp.cos(angle)
  if layout == 'interleaved':
    return jnp.stack([sin, cos], axis=-1).reshape(*position.shape, dim)
  return jnp.concatenate([sin, cos], axis=-1)


def sinusoid_table(count: int, dim: int) -> np.ndarray:
  """Returns `sinusoid` of positions 0 to count - 1, 'interleaved': (1, count, dim).

  It is computed on the host in float64 and rounded to float32 once, like the tables in
  published files.
  """
  if dim % 2:
    raise UserError(f'sinusoids need an even width, not {dim}')
  angle_NF = np.arange(count)[:, None] / 10_000.0 ** (2 * np.arange(dim // 2) / dim)
  table_NF2 = np.stack([np.sin(angle_NF), np.cos(angle_NF)], axis=-1)
  return table_NF2.reshape(1, count, dim).astype(np.float32)


def lookup(table_LD: jax.Array, position_BN: jax.Array) -> jax.Array:
  """Returns learned positions, (B, N, D); raises if a sequence exceeds the table."""
  length, tokens = len(table_LD), position_BN.shape[1]
  if tokens > length:
    raise UserError(
      f'a sequence of {tokens} tokens (positions {position_BN.shape}) is longer than'
      f' the {length} learned positions (table {table_LD.shape})'
    )
  return table_LD[position_BN]


def ramps(height: int, width: int) -> jax.Array:
  """Returns distances of cells from the top, left, bottom and right edge: (h, w, 4).

  They are float32, from 0 at the edge to 1 at the opposite edge (soft positions of
  arXiv:2006.15055).
  """
  y_h1 = np.linspace(0.0, 1.0, height)[:, None]
  x_1w = np.linspace(0.0, 1.0, width)[None, :]
  edges = np.broadcast_arrays(y_h1, x_1w, 1.0 - y_h1, 1.0 - x_1w)
  return jnp.asarray(np.stack(edges, axis=-1), float)


def grid2d(rows_hE: jax.Array, columns_wE: jax.Array) -> jax.Array:
  """Returns learned positions of a grid, (1, h*w, 2E): the column's, then the row's.

  This follows arXiv:2010.11929 appendix D.4 and the learned positions of
  arXiv:2005.12872.
  """
  (height, size), width = rows_hE.shape, len(columns_wE)
  columns_hwE = jnp.broadcast_to(columns_wE[None], (height, width, size))
  rows_hwE = jnp.broadcast_to(rows_hE[:, None], (height, width, size))
  grid_hwD = jnp.concatenate([columns_hwE, rows_hwE], axis=-1)
  return grid_hwD.reshape(1, height * width, 2 * size)


def masked_sine2d(valid_Bhw: jax.Array, dim: int) -> jax.Array:
  """Returns sinusoids of each cell's place among valid cells: (B, h, w, dim), float32.

  Valid cells (bool) are counted from 1 in each column and each row, and scaled so that
  the last count is 2 pi. Channels of y come before channels of x (arXiv:2005.12872, its
  published code).
  """
  if dim % 4:
    raise UserError(f'masked_sine2d needs a width divisible by 4, got {dim}')
  parts = []
  for axis in (1, 2):
    count_Bhw = jnp.cumsum(valid_Bhw, axis=axis, dtype=float)
    largest = jax.lax.slice_in_dim(count_Bhw, -1, None, axis=axis)
    parts.append(sinusoid(count_Bhw / (largest + 1e-6) * (2 * math.pi), dim // 2))
  return jnp.concatenate(parts, axis=-1)


def relative_index(height: int, width: int) -> np.ndarray:
  """Returns the index into a table of relative positions for each pair, (N, N) int.

  The table has (2 * height - 1) * (2 * width - 1) entries, row by row, for the
  difference query minus key (arXiv:2103.14030 section 3.2). A sequence is a grid of
  height 1.
  """
  place_2N = np.indices((height, width)).reshape(2, -1)
  rows_NN, columns_NN = place_2N[:, :, None] - place_2N[:, None, :]
  return (rows_NN + height - 1) * (2 * width - 1) + columns_NN + width - 1


def relative_logits(q_BNHK: jax.Array, key_RHK: jax.Array) -> jax.Array:
  """Returns products of queries with learned keys by distance: (B, H, N, N).

  There are 2 * N - 1 keys; a query at n and a key at m use key n - m + N - 1. Products
  are divided by sqrt(K), like the products with the tokens' own keys (arXiv:2010.11929
  appendix D.4).
  """
  count, size = q_BNHK.shape[1], q_BNHK.shape[3]
  if len(key_RHK) != 2 * count - 1:
    raise UserError(
      f'{len(key_RHK)} relative keys are for {(len(key_RHK) + 1) // 2} tokens, not for'
      f' {count}'
    )
  key_RHK = key_RHK.astype(q_BNHK.dtype)
  logits_BHNR = jnp.einsum('BNHK,RHK->BHNR', q_BNHK, key_RHK) / math.sqrt(size)
  index_11NN = jnp.asarray(relative_index(1, count))[None, None]
  return jnp.take_along_axis(logits_BHNR, index_11NN, axis=-1)


def relative_bias(table_TH: jax.Array, index_NM: np.ndarray) -> jax.Array:
  """Returns the attention bias, (1, H, N, M), from a table with one column per head."""
  if index_NM.max() >= len(table_TH):
    raise UserError(
      f'relative positions {index_NM.shape} go up to {index_NM.max()}, but the table'
      f' {table_TH.shape} has {len(table_TH)} rows'
    )
  return jnp.moveaxis(table_TH[index_NM], -1, 0)[None]


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
    raise UserError(f'sincos2d needs a width divisible by 4, got {dim}.')
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


def infer_grid(count: int, grid_to: Grid) -> Grid:
  """Returns the grid of `count` tokens if nothing else determines it: a square.

  `grid_to` is the grid that positions will be resized to. Raises if `count` is not a
  square number, and if the tokens could also be a grid with the aspect ratio of
  `grid_to`: 16 positions for a grid of 2x8 could be 4x4 or 2x8.
  """
  divisor = math.gcd(*grid_to)
  readings = set()
  for rows, columns in ((1, 1), (grid_to[0] // divisor, grid_to[1] // divisor)):
    scale = math.isqrt(max(count, 0) // (rows * columns))
    if scale and rows * columns * scale**2 == count:
      readings.add((rows * scale, columns * scale))
  if not any(rows == columns for rows, columns in readings):
    raise UserError(f'{count} positions are not a square grid: give {GIVE_GRID}')
  if len(readings) > 1:
    grids = ' or '.join(map(shape_text, sorted(readings)))
    raise UserError(f'{count} positions may be a grid of {grids}: give {GIVE_GRID}')
  return readings.pop()


def resize_grid(
  table_LND: np.ndarray,
  shape: Sequence[int],
  grid_from: Grid | None,
  grid_to: Grid | None,
  method: str | None = 'linear',
) -> np.ndarray:
  """Resizes learned positions of a grid that follow any number of leading tokens.

  The table is (L, P + h*w, D), and the result has the given shape (L, Q + H*W, D).
  Leading positions keep their order: if Q < P the last ones are dropped, and if Q > P
  zeros are appended to them. If `grid_from` is None, `infer_grid` determines it, and
  both tables must have the same number of leading tokens or of grid positions. The
  methods are those of `resize`.
  """
  grid_to = _known(grid_to)
  num_prefix = shape[1] - math.prod(grid_to)
  if num_prefix < 0:
    raise UserError(
      f'the model has {shape[1]} positions, too few for its grid of'
      f' {shape_text(grid_to)}'
    )
  count = table_LND.shape[1]
  if grid_from is None:
    as_many = 0 <= count - math.prod(grid_to) <= MOST_LEADING
    tokens = math.prod(grid_to) if as_many else count - num_prefix
    grid_from = infer_grid(tokens, grid_to)
  prefix_from = count - math.prod(grid_from)
  if not (0 <= prefix_from <= MOST_LEADING or prefix_from == num_prefix):
    raise UserError(
      f'{count} positions are not a grid of {shape_text(grid_from)} with 0 to'
      f' {MOST_LEADING} leading tokens: give {GIVE_GRID}'
    )
  resized_LND = resize(table_LND, grid_from, grid_to, prefix_from, method)
  kept = min(prefix_from, num_prefix)
  added = ((0, 0), (0, num_prefix - kept), (0, 0))
  leading_LPD = np.pad(resized_LND[:, :kept], added)
  return np.concatenate([leading_LPD, resized_LND[:, prefix_from:]], axis=1)


def resize_rows(
  table_LhE: np.ndarray,
  shape: Sequence[int],
  grid_from: Grid | None,
  grid_to: Grid | None,
  method: str | None = 'linear',
) -> np.ndarray:
  """Resizes learned positions of the rows of a grid, (L, h, E) to (L, H, E)."""
  return _resize_side(table_LhE, shape, grid_from, grid_to, method, side=0)


def resize_columns(
  table_LwE: np.ndarray,
  shape: Sequence[int],
  grid_from: Grid | None,
  grid_to: Grid | None,
  method: str | None = 'linear',
) -> np.ndarray:
  """Resizes learned positions of the columns of a grid, (L, w, E) to (L, W, E)."""
  return _resize_side(table_LwE, shape, grid_from, grid_to, method, side=1)


def resize_window(
  table_TH: np.ndarray,
  shape: Sequence[int],
  grid_from: Grid | None = None,
  grid_to: Grid | None = None,
  method: str | None = 'cubic_torch',
) -> np.ndarray:
  """Resizes the table of relative positions of a square window.

  A window of s x s tokens has (2s-1)^2 entries, one row each. The grids of images are
  ignored (arXiv:2103.14030, resized as in its published code).
  """
  del grid_from, grid_to
  sides = []
  for entries in (len(table_TH), shape[0]):
    side = math.isqrt(entries)
    if side * side != entries or side % 2 == 0:
      raise UserError(f'{entries} relative positions do not belong to a square window')
    sides.append((side, side))
  return resize(table_TH[None], *sides, method=method)[0]


def resize_time(
  table_LTD: np.ndarray,
  shape: Sequence[int],
  grid_from: Grid | None = None,
  grid_to: Grid | None = None,
  method: str | None = 'linear',
) -> np.ndarray:
  """Resizes learned positions of frames to another number of frames, (L, T, D).

  The published code of arXiv:2102.05095 uses the method 'nearest'.
  """
  del grid_from, grid_to
  return resize(table_LTD, (table_LTD.shape[1], 1), (shape[1], 1), method=method)


def keep_relative(
  table_LRHK: np.ndarray,
  shape: Sequence[int],
  grid_from: Grid | None,
  grid_to: Grid | None,
  method: str | None = None,
) -> np.ndarray:
  """Returns keys by distance along the token sequence, which cannot be resized.

  The table for N tokens is (L, 2N-1, heads, K). Raises for another grid, even if it has
  the same number of tokens, because a distance means another step in it.
  """
  del method
  grid_to = _known(grid_to)
  tokens, tokens_to = ((size + 1) // 2 for size in (table_LRHK.shape[1], shape[1]))
  if grid_from is None:
    grid_from = infer_grid(tokens - tokens_to + math.prod(grid_to), grid_to)
  if tuple(grid_from) != tuple(grid_to):
    raise UserError(
      f'relative positions cannot be resized from a grid of {shape_text(grid_from)} to'
      f' {shape_text(grid_to)}'
    )
  return np.array(table_LRHK)


def resize(
  pos_LND: np.ndarray,
  grid_from: Grid,
  grid_to: Grid,
  num_prefix: int = 0,
  method: str | None = 'linear',
) -> np.ndarray:
  """Resizes learned position embeddings to another grid, on the host.

  There is one layer of them (L = 1), or one for each of a model's layers.

  The first `num_prefix` positions are not part of the grid and stay unchanged.
  `method`: 'linear' aligns the corners of both grids, like scipy.ndimage.zoom of order
  1 in the published ViT code; 'cubic_torch' is torch's bicubic interpolation
  (a = -0.75, half-pixel centres, no antialiasing), as used by DeiT; 'nearest' takes
  entry floor(i * h / H), as torch does; 'raster' does this with the flattened grid,
  which scrambles rows, as the published code of TimeSformer does; None raises if the
  grids differ.

  Returns float32 (L, num_prefix + H*W, D). Resizing to the same grid is bit-exact.
  """
  if method is not None and method not in (*METHODS, RASTER):
    known = sorted([*METHODS, RASTER])
    raise UserError(f'Unknown method {method!r}; choose from {known}.')
  if min(*grid_from, *grid_to) < 1:
    raise UserError(f'Grids need sides of at least 1, got {grid_from}, {grid_to}.')
  pos_LND = np.asarray(pos_LND, np.float32)
  if pos_LND.ndim != 3:
    raise UserError(f'Position embeddings are (1, N, D), got {pos_LND.shape}.')
  height, width = grid_from
  if pos_LND.shape[1] != num_prefix + height * width:
    raise UserError(
      f'{pos_LND.shape[1]} positions do not fit a {height}x{width} grid with '
      f'{num_prefix} prefix tokens ({num_prefix + height * width} positions).'
    )
  if tuple(grid_from) == tuple(grid_to):
    return pos_LND.copy()
  if method is None:
    raise UserError(
      f'positions are for a grid of {shape_text(grid_from)}, the model has one of'
      f' {shape_text(grid_to)}, and resizing is turned off'
    )
  prefix_LPD, grid_LGD = pos_LND[:, :num_prefix], pos_LND[:, num_prefix:]
  if method == RASTER:
    taken = np.arange(math.prod(grid_to)) * (height * width) // math.prod(grid_to)
    return np.concatenate([prefix_LPD, grid_LGD[:, taken]], axis=1)
  grid_LhwD = grid_LGD.reshape(len(pos_LND), height, width, -1).astype(np.float64)
  rows_Hh = METHODS[method](height, grid_to[0])
  columns_Ww = METHODS[method](width, grid_to[1])
  resized_LHWD = np.einsum('Hh,LhwD,Ww->LHWD', rows_Hh, grid_LhwD, columns_Ww)
  resized_LMD = resized_LHWD.reshape(len(pos_LND), -1, pos_LND.shape[-1])
  resized_LMD = resized_LMD.astype(np.float32)
  return np.concatenate([prefix_LPD, resized_LMD], axis=1)


def _linear_matrix(size: int, new_size: int) -> np.ndarray:
  """Returns linear weights (new_size, size) at source i * (size-1) / (new_size-1)."""
  source = np.arange(new_size) * (size - 1) / max(new_size - 1, 1)
  return np.maximum(0.0, 1.0 - np.abs(source[:, None] - np.arange(size)[None, :]))


def _nearest_matrix(size: int, new_size: int) -> np.ndarray:
  """Returns weights (new_size, size) that take the entry floor(i * size / new_size)."""
  return np.eye(size)[np.arange(new_size) * size // new_size]


RASTER = 'raster'
METHODS = {
  'linear': _linear_matrix,
  'cubic_torch': resampling.cubic_matrix,
  'nearest': _nearest_matrix,
}


def _resize_side(
  table_LhE: np.ndarray,
  shape: Sequence[int],
  grid_from: Grid | None,
  grid_to: Grid | None,
  method: str | None,
  side: int,
) -> np.ndarray:
  count, what = table_LhE.shape[1], ('rows', 'columns')[side]
  for entries, grid in ((count, grid_from), (shape[1], grid_to)):
    if grid is not None and grid[side] != entries:
      raise UserError(
        f'the positions of {entries} {what} do not belong to a grid of'
        f' {shape_text(grid)}'
      )
  return resize(table_LhE, (count, 1), (shape[1], 1), method=method)


def _known(grid_to: Grid | None) -> Grid:
  if grid_to is None:
    raise UserError('the grid of the model is unknown: give grid=(rows, columns)')
  return grid_to
