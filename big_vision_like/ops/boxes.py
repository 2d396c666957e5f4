"""Boxes as float arrays (..., 4), of NumPy or JAX.

xyxy is left, top, right, bottom; cxcywh is centre, width, height. Functions of two
arguments take xyxy boxes with the same number of axes, which broadcast: (..., 4) and
(..., 4) to (...). Functions named `pairwise` compare all pairs: (..., N, 4) and (...,
M, 4) to (..., N, M).
"""

from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

Array = Any


def xyxy_to_cxcywh(boxes: Array) -> Array:
  """Converts corners to centre and size: (..., 4)."""
  xp = boxes.__array_namespace__()
  low, high = boxes[..., :2], boxes[..., 2:]
  return xp.concat([(low + high) / 2, high - low], axis=-1)


def cxcywh_to_xyxy(boxes: Array) -> Array:
  """Converts centre and size to corners: (..., 4)."""
  xp = boxes.__array_namespace__()
  centre, size = boxes[..., :2], boxes[..., 2:]
  return xp.concat([centre - size / 2, centre + size / 2], axis=-1)


def area(boxes: Array) -> Array:
  """Returns the area of xyxy boxes, never negative: (...,)."""
  xp = boxes.__array_namespace__()
  sides = xp.maximum(boxes[..., 2:] - boxes[..., :2], 0)
  return sides[..., 0] * sides[..., 1]


def clip(boxes: Array, height: Any, width: Any) -> Array:
  """Clips xyxy boxes (..., 4) to an image; boxes outside get an area of 0."""
  xp = boxes.__array_namespace__()
  limits = xp.asarray([width, height, width, height], dtype=boxes.dtype)
  limits = xp.broadcast_to(limits, boxes.shape)
  return xp.clip(boxes, xp.zeros_like(limits), limits)


def valid_size(batch: Mapping[str, Any]) -> Any:
  """Returns heights and widths of a batch's images without padding: int32 (B, 2)."""
  if 'size' in batch:
    return batch['size']
  num_images, height, width, _ = batch['image'].shape
  return np.tile(np.int32([[height, width]]), (num_images, 1))


def only_valid(
  image_BHWC: jax.Array, size_B2: jax.Array
) -> tuple[jax.Array, jax.Array]:
  """Returns images that are zero beyond their sizes, and the sizes."""
  _, height, width, _ = image_BHWC.shape
  below_BH1 = jnp.arange(height)[None, :, None] < size_B2[:, :1, None]
  left_B1W = jnp.arange(width)[None, None] < size_B2[:, 1:, None]
  valid_BHW1 = (below_BH1 & left_B1W)[..., None]
  return jnp.where(valid_BHW1, image_BHWC, 0.0), size_B2


def corner_scale(size_B2: jax.Array) -> jax.Array:
  """Returns width, height, width, height of images: float32 (B, 1, 4)."""
  size_B2 = jnp.asarray(size_B2, jnp.float32)
  return jnp.tile(size_B2[:, ::-1], (1, 2))[:, None]


def intersection(a: Array, b: Array) -> Array:
  """Returns the area that both boxes cover."""
  xp = a.__array_namespace__()
  low = xp.maximum(a[..., :2], b[..., :2])
  high = xp.minimum(a[..., 2:], b[..., 2:])
  return area(xp.concat([low, high], axis=-1))


def union(a: Array, b: Array) -> Array:
  """Returns the area that either box covers."""
  return area(a) + area(b) - intersection(a, b)


def iou(a: Array, b: Array) -> Array:
  """Returns intersection over union, in [0, 1]; 0 if neither box has an area."""
  return _ratio(intersection(a, b), union(a, b))


def generalized_iou(a: Array, b: Array) -> Array:
  """Returns IoU minus the uncovered share of the common hull (arXiv:1902.09630).

  It is in (-1, 1]; gradients are finite even if boxes have no area.
  """
  xp = a.__array_namespace__()
  low = xp.minimum(a[..., :2], b[..., :2])
  high = xp.maximum(a[..., 2:], b[..., 2:])
  hull = area(xp.concat([low, high], axis=-1))
  covered = union(a, b)
  return _ratio(intersection(a, b), covered) - _ratio(hull - covered, hull)


def pairwise_iou(a: Array, b: Array) -> Array:
  """Returns the `iou` of all pairs."""
  return iou(a[..., :, None, :], b[..., None, :, :])


def pairwise_generalized_iou(a: Array, b: Array) -> Array:
  """Returns the `generalized_iou` of all pairs."""
  return generalized_iou(a[..., :, None, :], b[..., None, :, :])


def _ratio(part: Array, whole: Array) -> Array:
  """Returns part / whole, or 0 where `whole` is 0; NaN stays NaN."""
  xp = part.__array_namespace__()
  return part / xp.where(whole == 0, xp.ones_like(whole), whole)
