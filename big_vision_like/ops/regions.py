"""Anchors, deltas of boxes, and which regions a detector learns from.

Boxes are xyxy in pixels.  Axes: A anchors of a cell, N regions of an image, K true
objects, S sampled regions.
"""

import math
from collections.abc import Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from big_vision_like.ops import boxes

# Sizes grow by at most this factor, so that exp() of a delta stays finite.
LARGEST = math.log(1000 / 16)


def anchors(
  grid: tuple[int, int],
  stride: int,
  sizes: Sequence[float],
  ratios: Sequence[float] = (0.5, 1.0, 2.0),
  rounded: bool = False,
) -> jax.Array:
  """Returns the anchors of a map, row by row: float32 (h * w * A, 4).

  Each cell has boxes of the areas sizes^2 and of these ratios of height to width (all
  sizes of the first ratio first), centred on its upper left corner. `rounded` rounds
  their corners, as torchvision does.
  """
  root = np.sqrt(np.float32(ratios))[:, None]
  sizes_1S = np.float32(sizes)[None]
  width, height = (sizes_1S / root).ravel(), (sizes_1S * root).ravel()
  own_A4 = np.stack([-width, -height, width, height], axis=-1) / 2
  own_A4 = own_A4.round() if rounded else own_A4
  y, x = (jnp.arange(side, dtype=jnp.float32) * stride for side in grid)
  y, x = jnp.broadcast_to(y[:, None], grid), jnp.broadcast_to(x[None], grid)
  place_hw14 = jnp.stack([x, y, x, y], axis=-1)[:, :, None]
  return (place_hw14 + own_A4[None, None]).reshape(-1, 4)


def encode(
  boxes_N4: jax.Array, true_N4: jax.Array, stds: Sequence[float] = (1, 1, 1, 1)
) -> jax.Array:
  """Returns the deltas (..., 4) from boxes to true boxes, (..., 4) each.

  They are the differences of centres relative to the box, and the logarithms of the
  ratios of sides (arXiv:1311.2524 appendix C), divided by `stds`. Deltas of boxes
  without area, or to them, are 0.
  """
  own, true = boxes.xyxy_to_cxcywh(boxes_N4), boxes.xyxy_to_cxcywh(true_N4)
  centre, side = own[..., :2], own[..., 2:]
  sound = (side > 0) & (true[..., 2:] > 0)
  side = jnp.where(sound, side, 1.0)
  moved = jnp.where(sound, (true[..., :2] - centre) / side, 0.0)
  grown = jnp.log(jnp.where(sound, true[..., 2:] / side, 1.0))
  deltas = jnp.concatenate([moved, grown], axis=-1)
  return deltas / jnp.asarray(stds, deltas.dtype).reshape([1] * (deltas.ndim - 1) + [4])


def decode(
  boxes_N4: jax.Array, deltas: jax.Array, stds: Sequence[float] = (1, 1, 1, 1)
) -> jax.Array:
  """Returns boxes moved and scaled by deltas (..., 4), the inverse of `encode`."""
  deltas = deltas * jnp.asarray(stds, deltas.dtype).reshape(
    [1] * (deltas.ndim - 1) + [4]
  )
  own = boxes.xyxy_to_cxcywh(boxes_N4)
  centre, side = own[..., :2], own[..., 2:]
  centre = centre + deltas[..., :2] * side
  side = side * jnp.exp(jnp.minimum(deltas[..., 2:], LARGEST))
  return boxes.cxcywh_to_xyxy(jnp.concatenate([centre, side], axis=-1))


class Assigned(NamedTuple):
  """The true object of each region, and whether a region is positive or negative.

  Regions that are neither are ignored.
  """

  object_N: jax.Array
  positive_N: jax.Array
  negative_N: jax.Array


def assign(
  regions_N4: jax.Array,
  true_K4: jax.Array,
  valid_K: jax.Array,
  positive: float,
  negative: float,
  low_quality: float | None = None,
) -> Assigned:
  """Assigns regions of an image to the object that they overlap most.

  A region is positive if this IoU is at least `positive`, and negative if it is below
  `negative`. With `low_quality`, the regions that overlap an object most are positive
  too if their IoU is at least that number; their object remains the one that they
  overlap most. Images without objects have negatives only.
  """
  iou_NK = boxes.pairwise_iou(regions_N4, true_K4)
  iou_NK = jnp.where(valid_K[None], iou_NK, -1.0)
  best_N = iou_NK.max(axis=1)
  positive_N = best_N >= positive
  if low_quality is not None:
    best_K = jnp.maximum(iou_NK.max(axis=0), max(low_quality, 1e-6))
    positive_N |= ((iou_NK == best_K[None]) & valid_K[None]).any(axis=1)
  object_N = iou_NK.argmax(axis=1).astype(jnp.int32)
  return Assigned(object_N, positive_N, (best_N < negative) & ~positive_N)


class Sampled(NamedTuple):
  """Places and kinds of sampled regions, positives first; the rest is padding."""

  index_S: jax.Array
  positive_S: jax.Array
  negative_S: jax.Array


def sample(
  key: jax.Array,
  positive_N: jax.Array,
  negative_N: jax.Array,
  count: int,
  most_positive: int,
) -> Sampled:
  """Samples up to `most_positive` positives, and negatives up to `count` in all.

  All subsets are equally likely. There are fewer if there are not enough.
  """
  count = min(count, len(positive_N))
  most_positive = min(most_positive, count)
  luck_N = jax.random.uniform(key, positive_N.shape)
  luck_P, chosen_P = jax.lax.top_k(jnp.where(positive_N, luck_N, -1.0), most_positive)
  # Negatives come after positives, whose scores are at least 2.
  score_N = jnp.where(negative_N, luck_N, -1.0)
  score_N = score_N.at[chosen_P].max(jnp.where(luck_P >= 0, 2.0 + luck_P, -1.0))
  score_S, index_S = jax.lax.top_k(score_N, count)
  return Sampled(index_S, score_S >= 2, (score_S >= 0) & (score_S < 2))
