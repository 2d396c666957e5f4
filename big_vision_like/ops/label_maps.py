"""Label maps, the class of each pixel: losses, resizing of scores, windows, counts.

Images of several sizes are at the top left of batches of one shape, so weights of
resizing depend on each image's own size.

Axes: B batch, H W labels, h w scores of a model, C D classes, N pixels, R rows of a
block, K blocks.
"""

from collections.abc import Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
import optax

from big_vision_like.errors import UserError, check_one_of
from big_vision_like.ops import precision

# The label of pixels that do not count.
IGNORED = 255
AVERAGES = ('valid', 'all')
# Rows of a label map whose scores are in memory at a time.
BLOCK = 32


class Scores(NamedTuple):
  """Scores of classes on a grid, and weights from the grid to rows and columns."""

  scores_BhwC: jax.Array
  rows_BHh: jax.Array
  columns_BWw: jax.Array


def cross_entropy(
  logits_BHWC: jax.Array, label_BHW: jax.Array, average: str = 'valid'
) -> tuple[jax.Array, jax.Array]:
  """Returns the mean cross-entropy of pixels, and the number of pixels it is over.

  Pixels labelled `IGNORED` have no loss. With `average='valid'` the mean is over all
  other pixels, 0 if there are none. With 'all' it is over all pixels, as in
  mmsegmentation: ignored pixels reduce it.
  """
  check_one_of(AVERAGES, average=average)
  valid_BHW = label_BHW != IGNORED
  loss_BHW = optax.softmax_cross_entropy_with_integer_labels(
    precision.at_least_float32(logits_BHWC), jnp.where(valid_BHW, label_BHW, 0)
  )
  total = jnp.where(valid_BHW, loss_BHW, 0.0).sum()
  count = valid_BHW.sum(dtype=total.dtype)
  if average == 'all':
    count = jnp.asarray(label_BHW.size, total.dtype)
  return total / jnp.maximum(count, 1.0), count


def accuracy(logits_BHWC: jax.Array, label_BHW: jax.Array) -> jax.Array:
  """Returns the share of pixels with a label whose best class is right; 0 for none."""
  valid_BHW = label_BHW != IGNORED
  right_BHW = (logits_BHWC.argmax(axis=-1) == label_BHW) & valid_BHW
  count = valid_BHW.sum(dtype=jnp.float32)
  return right_BHW.sum(dtype=jnp.float32) / jnp.maximum(count, 1.0)


def linear_weights(
  size_B: jax.Array,
  new_size_B: jax.Array,
  size: int,
  new_size: int,
  mirrored: bool = False,
) -> jax.Array:
  """Returns bilinear weights (B, new_size, size) for images of several sizes.

  Resizes the first `size_B` of `size` pixels to the first `new_size_B` of `new_size`
  pixels, as `ops.resampling.resize` does for one size; the weights of further pixels
  have no meaning. `mirrored` reverses the order of the new pixels.
  """
  old_B1, new_B1 = (
    sizes_B.astype(jnp.float32)[:, None] for sizes_B in (size_B, new_size_B)
  )
  place_BW = jnp.tile(jnp.arange(new_size, dtype=jnp.float32), (len(size_B), 1))
  if mirrored:
    place_BW = new_B1 - 1.0 - place_BW
  source_BW = (place_BW + 0.5) * (old_B1 / new_B1) - 0.5
  source_BW = jnp.clip(source_BW, 0.0, old_B1 - 1.0)
  pixel_11w = jnp.arange(size, dtype=jnp.float32)[None, None]
  return jnp.maximum(0.0, 1.0 - jnp.abs(source_BW[:, :, None] - pixel_11w))


def best_classes(parts: Sequence[Scores]) -> jax.Array:
  """Returns the class with the best score for each pixel: int32 (B, H, W).

  Scores are resized by their weights. Of several `parts`, probabilities are averaged.
  Computes a few rows at a time, since scores of all pixels may not fit in memory.
  """
  height = parts[0].rows_BHh.shape[1]
  count = -(-height // BLOCK)
  blocks = []
  for part in parts:
    batch, _, size = part.rows_BHh.shape
    rows_BHh = jnp.pad(part.rows_BHh, ((0, 0), (0, count * BLOCK - height), (0, 0)))
    blocks.append(rows_BHh.reshape(batch, count, BLOCK, size).swapaxes(0, 1))

  def block(rows: list[jax.Array]) -> jax.Array:
    total = 0.0
    for rows_BRh, (scores_BhwC, _, columns_BWw) in zip(rows, parts, strict=True):
      scores_BRWC = _resized(scores_BhwC, rows_BRh, columns_BWw)
      if len(parts) > 1:
        scores_BRWC = jax.nn.softmax(scores_BRWC)
      total += scores_BRWC
    return total.argmax(axis=-1).astype(jnp.int32)

  label_KBRW = jax.lax.map(block, blocks)
  label_BKRW = label_KBRW.swapaxes(0, 1)
  batch, _, _, width = label_BKRW.shape
  return label_BKRW.reshape(batch, count * BLOCK, width)[:, :height]


def resized(part: Scores) -> jax.Array:
  """Returns scores (B, H, W, C) of all pixels."""
  return _resized(*part)


def _resized(
  scores_BhwC: jax.Array, rows_BHh: jax.Array, columns_BWw: jax.Array
) -> jax.Array:
  # Accelerators would otherwise multiply in bfloat16, which is off in the third digit.
  highest = jax.lax.Precision.HIGHEST
  y_BHwC = jnp.einsum('BHh,BhwC->BHwC', rows_BHh, scores_BhwC, precision=highest)
  return jnp.einsum('BWw,BHwC->BHWC', columns_BWw, y_BHwC, precision=highest)


def window_starts(
  size_B: jax.Array, size: int, window: int, stride: int
) -> tuple[jax.Array, jax.Array]:
  """Returns starts of windows along one side, and which are used: (K, B) both.

  Windows are `stride` apart and cover `size_B` of `size` pixels; the last one ends with
  the image, or starts with it if the image is smaller than a window.
  """
  if not 0 < stride <= window <= size:
    raise UserError(
      f'windows of {window} pixels, {stride} apart, do not cover {size} pixels'
    )
  count = -(-(size - window) // stride) + 1
  first_K1 = (jnp.arange(count) * stride)[:, None]
  last_1B = jnp.maximum(size_B - window, 0)[None]
  # Further windows would start where this one does.
  used_KB = first_K1 < last_1B + stride
  return jnp.minimum(first_K1, last_1B), used_KB


def confusion(label_HW: jax.Array, found_HW: jax.Array, num_classes: int) -> jax.Array:
  """Returns the number of pixels by true and by predicted class: int32 (C, D).

  Pixels labelled `IGNORED` do not count. All other labels must be classes.
  """
  cell_N = (label_HW.astype(jnp.int32) * num_classes + found_HW).ravel()
  cell_N = jnp.where(label_HW.ravel() == IGNORED, num_classes**2, cell_N)
  # The last bin has the ignored pixels.
  counted_N = jnp.zeros(num_classes**2 + 1, jnp.int32).at[cell_N].add(1)
  return counted_N[:-1].reshape(num_classes, num_classes)
