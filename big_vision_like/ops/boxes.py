"""Boxes as numbers: float (..., 4), of NumPy or JAX, in and out.

xyxy is left, top, right, bottom; cxcywh is centre, width, height.
"""

from typing import Any

Array = Any


def xyxy_to_cxcywh(boxes: Array) -> Array:
  """(..., 4): corners to centre and size."""
  xp = boxes.__array_namespace__()
  low, high = boxes[..., :2], boxes[..., 2:]
  return xp.concat([(low + high) / 2, high - low], axis=-1)


def cxcywh_to_xyxy(boxes: Array) -> Array:
  """(..., 4): centre and size to corners."""
  xp = boxes.__array_namespace__()
  centre, size = boxes[..., :2], boxes[..., 2:]
  return xp.concat([centre - size / 2, centre + size / 2], axis=-1)


def area(boxes: Array) -> Array:
  """(...,): of xyxy boxes; never negative."""
  xp = boxes.__array_namespace__()
  sides = xp.maximum(boxes[..., 2:] - boxes[..., :2], 0)
  return sides[..., 0] * sides[..., 1]


def clip(boxes: Array, height: Any, width: Any) -> Array:
  """(..., 4): xyxy boxes cut to an image of that size; outside ones have no area."""
  xp = boxes.__array_namespace__()
  limits = xp.asarray([width, height, width, height], dtype=boxes.dtype)
  limits = xp.broadcast_to(limits, boxes.shape)
  return xp.clip(boxes, xp.zeros_like(limits), limits)
