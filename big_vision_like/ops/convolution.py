"""Convolutions of feature maps, in the fastest form for each platform.

On accelerators this is XLA's own convolution. On CPUs XLA is slow for grouped and
depthwise kernels, forward and backward, for the gradient of 1x1 kernels, and for
videos; computing them with matrix products, shifted maps and single frames is 2 to 100
times as fast.

Axes: B batch, h w map, u v the same after a stride, p q the map with its padding, r s
rows and columns of the kernel, I O input and output channels, C channels; n as r, for
a part of the rows of the output; m l as h and w, one phase of a stride; t frames, f
frames with padding, q frames of the kernel.
"""

import dataclasses
import functools
import math
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp

from big_vision_like.ops import precision, sharding

Pair = tuple[int, int]

# The only layout that has alternatives: (B, h, w, C) and kernels (r, s, I, O).
LAYOUT = jax.lax.ConvDimensionNumbers((0, 3, 1, 2), (3, 2, 0, 1), (0, 3, 1, 2))
# The layout of videos: (B, t, h, w, C) and kernels (q, r, s, I, O).
VIDEO_LAYOUT = jax.lax.ConvDimensionNumbers(
  (0, 4, 1, 2, 3), (4, 3, 0, 1, 2), (0, 4, 1, 2, 3)
)

# The number of products added in one pass for a depthwise kernel's gradient. With fewer
# of them, sums are read and written more often; with many more, compiled code is slow.
MAX_TERMS = 16


@dataclasses.dataclass(frozen=True)
class Window:
  """The movement of a kernel over a map; fields have an entry for rows and columns."""

  strides: Pair
  padding: tuple[Pair, Pair]
  dilation: Pair

  def general(self, x: jax.Array, kernel: jax.Array, groups: int = 1) -> jax.Array:
    """Returns XLA's own convolution."""
    return jax.lax.conv_general_dilated(
      x,
      kernel,
      self.strides,
      self.padding,
      rhs_dilation=self.dilation,
      dimension_numbers=LAYOUT,
      feature_group_count=groups,
    )


def convolve(
  lhs: jax.Array,
  rhs: jax.Array,
  window_strides: Sequence[int],
  padding: str | Sequence[Pair],
  lhs_dilation: Sequence[int] | None = None,
  rhs_dilation: Sequence[int] | None = None,
  dimension_numbers: Any = None,
  feature_group_count: int = 1,
  precision: Any = None,
) -> jax.Array:
  """Returns `jax.lax.conv_general_dilated` of the same arguments, for `nn.Conv`.

  When the program is lowered for a CPU, 1x1 kernels become matrix products, depthwise
  kernels sums of shifted maps, and other groups separate convolutions. Videos become
  sums over the frames of the kernel, convolved frame by frame. Depthwise convolutions
  have gradients of any order, but no forward-mode derivative.
  """
  dilation = tuple(rhs_dilation or (1,) * len(window_strides))
  general = functools.partial(
    jax.lax.conv_general_dilated,
    window_strides=window_strides,
    padding=padding,
    lhs_dilation=lhs_dilation,
    rhs_dilation=dilation,
    dimension_numbers=dimension_numbers,
    feature_group_count=feature_group_count,
    precision=precision,
  )
  plain = (
    dimension_numbers in (LAYOUT, VIDEO_LAYOUT)
    and set(lhs_dilation or (1,)) == {1}
    and lhs.dtype == rhs.dtype
    and jnp.issubdtype(lhs.dtype, jnp.floating)
    and 0 not in lhs.shape
  )
  if not plain:
    return general(lhs, rhs)
  *sides, inputs, outputs = rhs.shape
  if isinstance(padding, str):
    reach = [d * (n - 1) + 1 for n, d in zip(sides, dilation, strict=True)]
    padding = jax.lax.padtype_to_pads(lhs.shape[1:-1], reach, window_strides, padding)
  padding = tuple((int(low), int(high)) for low, high in padding)
  if dimension_numbers == VIDEO_LAYOUT:
    if feature_group_count > 1 or set(dilation) != {1}:
      return general(lhs, rhs)
    on_cpu = functools.partial(_by_frame, tuple(window_strides), padding)
    return jax.lax.platform_dependent(lhs, rhs, cpu=on_cpu, default=general)
  rows, columns = sides
  window = Window(tuple(window_strides), padding, dilation)
  if inputs == 1 and feature_group_count == outputs > 1:
    return _depthwise(lhs, rhs, window)
  if feature_group_count > 1:
    on_cpu = functools.partial(_by_group, window, feature_group_count)
  elif rows == columns == 1 and padding == ((0, 0), (0, 0)):
    on_cpu = functools.partial(_product, window)
  else:
    return general(lhs, rhs)
  return jax.lax.platform_dependent(lhs, rhs, cpu=on_cpu, default=general)


def _product(window: Window, x_BhwI: jax.Array, kernel_11IO: jax.Array) -> jax.Array:
  """Convolves with a 1x1 kernel, as a product of two-dimensional matrices.

  With more dimensions, the gradient of the kernel takes several times as long.
  """
  rows, columns = window.strides
  x_BuvI = x_BhwI[:, ::rows, ::columns]
  y_NO = x_BuvI.reshape(-1, x_BhwI.shape[-1]) @ kernel_11IO[0, 0]
  return y_NO.reshape(*x_BuvI.shape[:-1], -1)


def _by_frame(
  strides: tuple[int, int, int],
  padding: tuple[Pair, Pair, Pair],
  x_BthwI: jax.Array,
  kernel_qrsIO: jax.Array,
) -> jax.Array:
  """Convolves frames with each frame of the kernel, and adds the results."""
  edges = ((0, 0), padding[0], (0, 0), (0, 0), (0, 0))
  x_BfhwI = jnp.pad(x_BthwI, edges)
  frames = (x_BfhwI.shape[1] - len(kernel_qrsIO)) // strides[0] + 1
  window = Window(strides[1:], padding[1:], (1, 1))
  one = kernel_qrsIO.shape[1:3] == (1, 1) and window.padding == ((0, 0), (0, 0))
  total = None
  for first, kernel_rsIO in enumerate(kernel_qrsIO):
    stop = first + (frames - 1) * strides[0] + 1
    x_BuhwI = x_BfhwI[:, first : stop : strides[0]]
    x_NhwI = x_BuhwI.reshape(-1, *x_BuhwI.shape[2:])
    y = (
      _product(window, x_NhwI, kernel_rsIO)
      if one
      else window.general(x_NhwI, kernel_rsIO)
    )
    total = y if total is None else total + y
  return total.reshape(len(x_BthwI), frames, *total.shape[1:])


def _by_group(
  window: Window, groups: int, x_BhwI: jax.Array, kernel_rsIO: jax.Array
) -> jax.Array:
  """Convolves each group separately."""
  inputs = jnp.split(x_BhwI, groups, axis=-1)
  kernels = jnp.split(kernel_rsIO, groups, axis=-1)
  outputs = map(window.general, inputs, kernels)
  return jnp.concatenate(list(outputs), axis=-1)


@functools.partial(jax.custom_vjp, nondiff_argnums=(2,))
def _depthwise(x_BhwC: jax.Array, kernel_rs1C: jax.Array, window: Window) -> jax.Array:
  """Convolves each channel with its own kernel: (B, u, v, C)."""
  return jax.lax.platform_dependent(
    x_BhwC,
    kernel_rs1C,
    cpu=functools.partial(_shifted, window),
    default=functools.partial(window.general, groups=x_BhwC.shape[-1]),
  )


def _depthwise_forward(
  x_BhwC: jax.Array, kernel_rs1C: jax.Array, window: Window
) -> tuple[jax.Array, tuple[jax.Array, jax.Array]]:
  return _depthwise(x_BhwC, kernel_rs1C, window), (x_BhwC, kernel_rs1C)


def _depthwise_backward(
  window: Window, residuals: tuple[jax.Array, jax.Array], dy_BuvC: jax.Array
) -> tuple[jax.Array, jax.Array]:
  x_BhwC, kernel_rs1C = residuals
  general = functools.partial(window.general, groups=x_BhwC.shape[-1])

  def of_input(dy_BuvC: jax.Array, kernel_rs1C: jax.Array) -> jax.Array:
    linear = functools.partial(general, kernel=kernel_rs1C)
    return jax.linear_transpose(linear, x_BhwC)(dy_BuvC)[0]

  def of_kernel(dy_BuvC: jax.Array, x_BhwC: jax.Array) -> jax.Array:
    linear = functools.partial(general, x_BhwC)
    return jax.linear_transpose(linear, kernel_rs1C)(dy_BuvC)[0]

  dx_BhwC = jax.lax.platform_dependent(
    dy_BuvC,
    kernel_rs1C,
    cpu=functools.partial(_input_gradient, window, x_BhwC.shape[1:3]),
    default=of_input,
  )
  mesh = sharding.current_mesh()
  if mesh is not None and mesh.size > 1:
    # Loops over parts of the batch would move the parts between devices.
    return dx_BhwC, of_kernel(dy_BuvC, x_BhwC)
  dkernel_rs1C = jax.lax.platform_dependent(
    dy_BuvC,
    x_BhwC,
    cpu=functools.partial(_kernel_gradient, window, kernel_rs1C.shape[:2]),
    default=of_kernel,
  )
  return dx_BhwC, dkernel_rs1C


_depthwise.defvjp(_depthwise_forward, _depthwise_backward)


def _padded(x_BhwC: jax.Array, *pads: Pair) -> jax.Array:
  """Pads with rows and columns of zeros, or removes some where a number is negative.

  The result is stored in memory, because XLA does not vectorize code that pads as it
  reads.
  """
  edges = [(0, 0, 0), *((*pad, 0) for pad in pads), (0, 0, 0)]
  zero = jnp.zeros((), x_BhwC.dtype)
  return jax.lax.optimization_barrier(jax.lax.pad(x_BhwC, zero, edges))


def _shifted(window: Window, x_BhwC: jax.Array, kernel_rs1C: jax.Array) -> jax.Array:
  """Convolves channels as a sum of shifted maps, in one pass over memory."""
  dtype = x_BhwC.dtype
  x_BpqC = _padded(precision.at_least_float32(x_BhwC), *window.padding)
  kernel_rs1C = precision.at_least_float32(kernel_rs1C)
  (high, wide), (down, right) = window.strides, window.dilation
  rows, columns = kernel_rs1C.shape[:2]
  stop_p = x_BpqC.shape[1] - down * (rows - 1)
  stop_q = x_BpqC.shape[2] - right * (columns - 1)

  def tap(r: int, s: int) -> jax.Array:
    p, q = down * r, right * s
    x_BuvC = x_BpqC[:, p : p + stop_p : high, q : q + stop_q : wide]
    return x_BuvC * kernel_rs1C[None, None, r, s]

  y_BuvC = sum(tap(r, s) for r in range(rows) for s in range(columns))
  return y_BuvC.astype(dtype)


def _phases(
  size: int, stride: int, low: int, taps: int, dilation: int
) -> list[list[Pair]]:
  """Returns, for each phase of the stride, the kernel taps that reach an output.

  Each tap comes with its offset: it adds input h = stride m + phase to output
  u = m + offset.
  """
  return [
    [
      (tap, (phase + low - dilation * tap) // stride)
      for tap in range(taps)
      if (phase + low - dilation * tap) % stride == 0
    ]
    for phase in range(min(stride, size))
  ]


def _input_gradient(
  window: Window, size: Pair, dy_BuvC: jax.Array, kernel_rs1C: jax.Array
) -> jax.Array:
  """Returns a depthwise convolution's gradient to its input, as sums of shifted maps.

  Positions that differ modulo the stride meet different taps of the kernel, so each
  phase of the stride has its own sum.
  """
  dtype = dy_BuvC.dtype
  kernel_rs1C = precision.at_least_float32(kernel_rs1C)
  phases, counts, pads = [], [], []
  for axis in range(2):
    stride, (low, _) = window.strides[axis], window.padding[axis]
    found = _phases(
      size[axis], stride, low, kernel_rs1C.shape[axis], window.dilation[axis]
    )
    offsets = [offset for phase in found for _, offset in phase]
    count = math.ceil(size[axis] / stride)
    phases.append(found)
    counts.append(count)
    pads.append((-min(offsets), count + max(offsets) - dy_BuvC.shape[1 + axis]))
  dy_BpqC = _padded(precision.at_least_float32(dy_BuvC), *pads)
  (first_p, _), (first_q, _), (count_m, count_l) = *pads, counts
  shape = *dy_BuvC.shape[:1], *counts, dy_BuvC.shape[-1]

  def phase(taps_r: list[Pair], taps_s: list[Pair]) -> jax.Array:
    dx_BmlC = jnp.zeros(shape, dy_BpqC.dtype)
    for r, p in taps_r:
      for s, q in taps_s:
        p_m, q_l = first_p + p, first_q + q
        part_BmlC = dy_BpqC[:, p_m : p_m + count_m, q_l : q_l + count_l]
        dx_BmlC += part_BmlC * kernel_rs1C[None, None, r, s]
    return dx_BmlC.astype(dtype)

  rows = [jnp.stack([phase(r, s) for s in phases[1]], axis=3) for r in phases[0]]
  batch, channels = shape[0], shape[-1]
  whole = batch, count_m * len(phases[0]), count_l * len(phases[1]), channels
  return jnp.stack(rows, axis=2).reshape(whole)[:, : size[0], : size[1]]


def _kernel_gradient(
  window: Window, size: Pair, dy_BuvC: jax.Array, x_BhwC: jax.Array
) -> jax.Array:
  """Returns the gradient of a depthwise convolution to its kernel: (r, s, 1, C).

  It loops over parts that fit in the cache: some examples and some rows of the output.
  Each part adds its products to sums over (r, v, C), one for each kernel column.
  """
  dtype = x_BhwC.dtype
  dy_BuvC = precision.at_least_float32(dy_BuvC)
  x_BpqC = _padded(precision.at_least_float32(x_BhwC), *window.padding)
  (high, wide), (down, right), (rows, columns) = window.strides, window.dilation, size
  batch, size_u, size_v, channels = dy_BuvC.shape
  examples = _divisor(batch, MAX_TERMS)
  lines = _divisor(size_u, MAX_TERMS // examples)
  parts = size_u // lines
  reach = down * (rows - 1) + 1

  def add(sums: tuple[jax.Array, ...], part: jax.Array) -> tuple[Any, None]:
    b, u = part // parts * examples, part % parts * lines
    height = high * (lines - 1) + reach
    x_BnqC = jax.lax.dynamic_slice(
      x_BpqC, (b, u * high, 0, 0), (examples, height, *x_BpqC.shape[2:])
    )
    dy_BnvC = jax.lax.dynamic_slice(
      dy_BuvC, (b, u, 0, 0), (examples, lines, size_v, channels)
    )
    result = []
    for s, sum_rvC in enumerate(sums):
      first, stop = right * s, right * s + wide * (size_v - 1) + 1
      for i in range(examples):
        for n in range(lines):
          x_rvC = x_BnqC[i, n * high : n * high + reach : down, first:stop:wide]
          sum_rvC = sum_rvC + x_rvC * dy_BnvC[i, n][None]
      result.append(sum_rvC)
    return tuple(result), None

  zeros_rvC = jnp.zeros((rows, size_v, channels), dy_BuvC.dtype)
  steps = jnp.arange(batch // examples * parts)
  sums, _ = jax.lax.scan(add, (zeros_rvC,) * columns, steps)
  dkernel_rsC = jnp.stack([sum_rvC.sum(axis=1) for sum_rvC in sums], axis=1)
  return dkernel_rsC[:, :, None].astype(dtype)


def _divisor(number: int, most: int) -> int:
  """Returns the largest divisor of a number that is at most `most`."""
  return max(n for n in range(1, most + 1) if number % n == 0)
