"""Features of regions of interest: RoIAlign, RoIPool, and targets for masks.

Boxes are xyxy in pixels of the image. A map with stride s has its cell (i, j) around
the pixel ((j + 1/2) s, (i + 1/2) s).

Axes: B batch, h w a map, C channels, N regions, P Q bins of a box, S points of a bin,
T all cells of all maps, M side of a stored mask.
"""

import math
from collections.abc import Sequence
from typing import Any

import flax.struct
import jax
import jax.numpy as jnp
import numpy as np

from big_vision_like.ops import precision

# Section 3.3 of arXiv:1612.03144: boxes of this size belong to the map of stride 16.
CANONICAL_SIZE, CANONICAL_STRIDE = 224, 16
# Keeps a box whose size is a power of two, up to rounding, on the coarser level.
LEVEL_EPSILON = 1e-6


def level_of(boxes_BN4: jax.Array, strides: Sequence[int]) -> jax.Array:
  """Returns the index of the map that each box is taken from: int32 (B, N).

  It is floor(log2(sqrt(area) / 224)) levels above stride 16, limited to the levels with
  these strides, which double (arXiv:1612.03144 equation 1).
  """
  sides_BN2 = jnp.maximum(boxes_BN4[..., 2:] - boxes_BN4[..., :2], 0.0)
  size_BN = jnp.sqrt(sides_BN2[..., 0] * sides_BN2[..., 1])
  above_BN = jnp.floor(jnp.log2(size_BN / CANONICAL_SIZE) + LEVEL_EPSILON)
  base = math.log2(CANONICAL_STRIDE / strides[0])
  # Boxes without area have -infinity.
  return jnp.clip(above_BN + base, 0, len(strides) - 1).astype(jnp.int32)


def align(
  maps: Sequence[jax.Array],
  boxes_BN4: jax.Array,
  strides: Sequence[int],
  size: int,
  samples: int = 0,
  aligned: bool = True,
) -> jax.Array:
  """Returns RoIAlign of boxes, each on the map of `level_of`: (B, N, size, size, C).

  A bin is the mean of `samples` x `samples` points, interpolated bilinearly
  (arXiv:1703.06870 section 3). With `samples=0`, as in Detectron and mmdetection, each
  box has as many points as cells, ceil(side / size) in each direction; this is exact
  for all boxes within the image, and costs as much as its largest box. Not `aligned` is
  torchvision's default: no shift by half a cell, and boxes have at least one cell.

  Shapes are static and no map of samples is stored: one cell of all bins is gathered
  after the other. No gradient flows to the boxes.
  """
  boxes_BN4 = precision.at_least_float32(jax.lax.stop_gradient(boxes_BN4))
  level_BN = level_of(boxes_BN4, strides)
  sides = np.array([x.shape[1:3] for x in maps])
  starts = np.concatenate([[0], np.cumsum(sides.prod(axis=1))[:-1]])
  table_BTC = jnp.concatenate(
    [x.reshape(len(x), -1, x.shape[-1]) for x in maps], axis=1
  )
  scaled_BN4 = boxes_BN4 / jnp.asarray(strides, boxes_BN4.dtype)[level_BN][..., None]
  axes = []
  for axis in range(2):  # rows, columns
    side_BN = jnp.asarray(sides[:, axis], jnp.int32)[level_BN]
    low_BN, high_BN = scaled_BN4[..., 1 - axis], scaled_BN4[..., 3 - axis]
    most = -(-int(sides[:, axis].max()) // size) + 1
    axes.append(_cells(low_BN, high_BN, side_BN, size, samples, most, aligned))
  width_BN = jnp.asarray(sides[:, 1], jnp.int32)[level_BN]
  start_BN = jnp.asarray(starts, jnp.int32)[level_BN]
  return _summed(table_BTC, axes[0], axes[1], start_BN, width_BN)


@flax.struct.dataclass
class _Cells:
  """The cells of one axis that the bins of each box are weighted sums of.

  The weight of a cell is the sum over the points of a bin of their share times how near
  they are: 1 - |point - cell|, at least 0. With `listed`, cells 2 s and 2 s + 1 are
  those around point s; otherwise cells are consecutive, from `first_BNP` on. No bin
  needs more than `count` cells.
  """

  points_BNPS: jax.Array  # negative if not in the map
  share_BNS: jax.Array  # of each point: 0 for those that a box does not have
  first_BNP: jax.Array
  last_BN: jax.Array
  count: jax.Array
  listed: bool = flax.struct.field(pytree_node=False)

  def at(self, number: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Returns place and weight of a cell of each bin: int32 and float (B, N, P)."""
    if self.listed:
      point_BNP = self.points_BNPS[..., number // 2]
      cell_BNP = jnp.floor(point_BNP).astype(jnp.int32) + number % 2
      weight_BNP = jnp.maximum(0.0, 1.0 - jnp.abs(point_BNP - cell_BNP))
      share_BNP = jnp.where(
        point_BNP < 0, 0.0, self.share_BNS[..., number // 2][..., None]
      )
      weight_BNP *= share_BNP
    else:
      cell_BNP = self.first_BNP + number
      far_BNPS = jnp.abs(self.points_BNPS - cell_BNP[..., None])
      near_BNPS = jnp.maximum(0.0, 1.0 - far_BNPS)
      weight_BNP = (near_BNPS * self.share_BNS[:, :, None]).sum(axis=-1)
    return jnp.clip(cell_BNP, 0, self.last_BN[..., None]), weight_BNP


def _cells(
  low_BN: jax.Array,
  high_BN: jax.Array,
  side_BN: jax.Array,
  size: int,
  samples: int,
  most: int,
  aligned: bool,
) -> _Cells:
  """Returns the cells of one axis for boxes from `low_BN` to `high_BN`, in cells."""
  shift = 0.5 if aligned else 0.0
  length_BN = high_BN - low_BN
  if not aligned:
    length_BN = jnp.maximum(length_BN, 1.0)
  bin_BN = length_BN / size
  if samples:
    number_BN, most = jnp.full_like(bin_BN, samples), samples
    count = jnp.int32(2 * samples)
  else:
    number_BN = jnp.clip(jnp.ceil(bin_BN), 1, most)
    # Points are at most one cell apart, so that the cells of a bin are consecutive.
    count = number_BN.max().astype(jnp.int32) + 1
  s_111S = jnp.arange(most)[None, None, None]
  start_BNP = (low_BN - shift)[..., None] + bin_BN[..., None] * jnp.arange(size)[
    None, None
  ]
  step_BN = bin_BN / number_BN
  points_BNPS = start_BNP[..., None] + step_BN[..., None, None] * (s_111S + 0.5)
  share_BNS = jnp.where(s_111S[0] < number_BN[..., None], 1 / number_BN[..., None], 0.0)
  side_BN11 = side_BN[..., None, None].astype(points_BNPS.dtype)
  # Points more than one cell outside the map count as zeros.
  outside_BNPS = (points_BNPS < -1) | (points_BNPS > side_BN11)
  points_BNPS = jnp.clip(points_BNPS, 0.0, side_BN11 - 1)
  first_BNP = jnp.floor(points_BNPS[..., 0]).astype(jnp.int32)
  points_BNPS = jnp.where(outside_BNPS, -2.0, points_BNPS)
  return _Cells(
    points_BNPS, share_BNS, first_BNP, side_BN - 1, count, listed=bool(samples)
  )


@jax.custom_vjp
def _summed(
  table_BTC: jax.Array,
  rows: _Cells,
  columns: _Cells,
  start_BN: jax.Array,
  width_BN: jax.Array,
) -> jax.Array:
  """Returns the weighted sums of cells, (B, N, P, P, C), one cell of all bins a step.

  The map of a box starts at `start_BN` of the table and has rows of `width_BN` cells.
  The number of steps depends on the boxes, so the gradient is a loop of its own.
  """
  (batch, regions, size), channels = rows.first_BNP.shape, table_BTC.shape[-1]

  def add(step: jax.Array, total: jax.Array) -> jax.Array:
    place_BNPP, weight_BNPP = _cell_of(step, rows, columns, start_BN, width_BN)
    found = jax.vmap(lambda table_TC, place_NPP: table_TC[place_NPP])(
      table_BTC, place_BNPP
    )
    return total + weight_BNPP[..., None] * precision.at_least_float32(found)

  dtype = precision.float_type(table_BTC)
  total = jnp.zeros((batch, regions, size, size, channels), dtype)
  total = jax.lax.fori_loop(0, rows.count * columns.count, add, total)
  return total.astype(table_BTC.dtype)


def _cell_of(
  step: jax.Array,
  rows: _Cells,
  columns: _Cells,
  start_BN: jax.Array,
  width_BN: jax.Array,
) -> tuple[jax.Array, jax.Array]:
  """Returns place in the table and weight of a step's cell: (B, N, P, P)."""
  row_BNP, down_BNP = rows.at(step // columns.count)
  column_BNP, right_BNP = columns.at(step % columns.count)
  place_BNP = start_BN[..., None] + row_BNP * width_BN[..., None]
  place_BNPP = place_BNP[..., None] + column_BNP[..., None, :]
  return place_BNPP, down_BNP[..., None] * right_BNP[..., None, :]


def _summed_forward(
  table_BTC: jax.Array, *cells: Any
) -> tuple[jax.Array, tuple[jax.Array, ...]]:
  # An array of no cells keeps the shape and the type of the table.
  return _summed(table_BTC, *cells), (jnp.zeros_like(table_BTC[:, :, :0]), *cells)


def _summed_backward(
  residuals: tuple[Any, ...], d_BNPPC: jax.Array
) -> tuple[jax.Array | None, ...]:
  nothing_BT0, *cells = residuals
  d_BNPPC = precision.at_least_float32(d_BNPPC)

  def add(step: jax.Array, total_BTC: jax.Array) -> jax.Array:
    place_BNPP, weight_BNPP = _cell_of(step, *cells)
    scatter = jax.vmap(lambda t_TC, place_NPP, d_NPPC: t_TC.at[place_NPP].add(d_NPPC))
    return scatter(total_BTC, place_BNPP, weight_BNPP[..., None] * d_BNPPC)

  rows, columns, *_ = cells
  total_BTC = jnp.zeros((*nothing_BT0.shape[:2], d_BNPPC.shape[-1]), d_BNPPC.dtype)
  total_BTC = jax.lax.fori_loop(0, rows.count * columns.count, add, total_BTC)
  return total_BTC.astype(nothing_BT0.dtype), None, None, None, None


_summed.defvjp(_summed_forward, _summed_backward)


def pool(
  map_BhwC: jax.Array,
  image_N: jax.Array,
  boxes_N4: jax.Array,
  scale: float,
  size: tuple[int, int],
) -> jax.Array:
  """Returns RoIPool of boxes, the maximum of each bin: (N, *size, C).

  Corners are rounded to cells, half away from zero, and belong to the box; bins reach
  from the floor to the ceiling of their sides and may overlap. A bin outside of the map
  is 0 (arXiv:1504.08083, as in torchvision). `image_N` is the image of each box.
  """
  height, width = map_BhwC.shape[1:3]
  corners_N4 = jnp.sign(boxes_N4) * jnp.floor(jnp.abs(boxes_N4 * scale) + 0.5)

  def bins(low_N: jax.Array, high_N: jax.Array, number: int, side: int) -> jax.Array:
    """Returns whether a bin contains a cell of one axis, (N, number, side)."""
    # In whole numbers, because a rounded bin may reach one cell too far.
    low_N1, high_N1 = (x_N[:, None].astype(jnp.int32) for x_N in (low_N, high_N))
    number_1P, cells_N1 = jnp.arange(number)[None], jnp.maximum(high_N1 - low_N1 + 1, 1)
    first_NP = number_1P * cells_N1 // number + low_N1
    stop_NP = -(-(number_1P + 1) * cells_N1 // number) + low_N1
    place_11S = jnp.arange(side)[None, None]
    return (place_11S >= first_NP[..., None]) & (place_11S < stop_NP[..., None])

  left_N, top_N, right_N, bottom_N = corners_N4.T
  rows_NPh = bins(top_N, bottom_N, size[0], height)
  columns_NQw = bins(left_N, right_N, size[1], width)

  def one(values: tuple[jax.Array, ...]) -> jax.Array:
    image, rows_Ph, columns_Qw = values
    x_hwC = map_BhwC[image]
    down_PwC = jnp.where(rows_Ph[..., None, None], x_hwC[None], -jnp.inf).max(axis=1)
    found_PQC = jnp.where(columns_Qw[None, ..., None], down_PwC[:, None], -jnp.inf).max(
      axis=2
    )
    return jnp.where(jnp.isfinite(found_PQC), found_PQC, 0.0)

  return jax.lax.map(one, (image_N, rows_NPh, columns_NQw))


def mask_targets(
  masks_BNMM: jax.Array, true_BN4: jax.Array, boxes_BN4: jax.Array, size: int
) -> jax.Array:
  """Returns the share of each bin of a box that an object covers: (B, N, size, size).

  `masks_BNMM` is the object's mask within its own box `true_BN4`: the share of each
  cell, 0 to 1 or as uint8 0 to 255. Nothing is covered outside of that box. The result
  is the mean of the stored mask over each bin, so it is exact for the stored mask.
  """
  side = masks_BNMM.shape[-1]
  scale = 255.0 if masks_BNMM.dtype == jnp.uint8 else 1.0

  def shares(axis: int) -> jax.Array:
    """Returns the share of each bin in each cell of one axis, (B, N, P, M)."""
    low_BN, high_BN = true_BN4[..., axis], true_BN4[..., axis + 2]
    cell_BN = jnp.maximum(high_BN - low_BN, 1e-6) / side
    first_BN = (boxes_BN4[..., axis] - low_BN) / cell_BN
    bin_BN = (boxes_BN4[..., axis + 2] - boxes_BN4[..., axis]) / cell_BN / size
    bin_BN = jnp.maximum(bin_BN, 1e-6)
    number_11P = jnp.arange(size)[None, None]
    start_BNP1 = (first_BN[..., None] + bin_BN[..., None] * number_11P)[..., None]
    stop_BNP1 = start_BNP1 + bin_BN[..., None, None]
    cell_111M = jnp.arange(side)[None, None, None]
    common_BNPM = jnp.minimum(stop_BNP1, cell_111M + 1)
    common_BNPM -= jnp.maximum(start_BNP1, cell_111M)
    return jnp.maximum(common_BNPM, 0.0) / bin_BN[..., None, None]

  share_BNMM = masks_BNMM.astype(jnp.float32) / scale
  rows_BNPM, columns_BNPM = shares(1), shares(0)
  highest = jax.lax.Precision.HIGHEST
  down_BNPM = jnp.einsum('BNPM,BNMQ->BNPQ', rows_BNPM, share_BNMM, precision=highest)
  return jnp.einsum('BNPM,BNQM->BNPQ', down_BNPM, columns_BNPM, precision=highest)
