"""Outlines of objects in COCO's format: polygons, or run lengths of pixels.

A valid outline is a list of polygons as in the file, each x, y, x, y, ..., or an int64
array of run lengths of pixels, alternately outside and inside, column by column.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np

from big_vision_like.data.transforms import decoding
from big_vision_like.errors import BadRecordError, UserError

Outline = list[list[float]] | np.ndarray
# Maximum absolute value of a coordinate, which prevents overflows.
MOST = 1e12
# Maximum distance of boxes and polygons from the image, in sides of the image.
REACH = 10
# Maximum length of all polygons of an object in pixels; filling them takes a second.
LONGEST = 1 << 20
# Maximum size of the masks of an image in bytes.
MOST_BYTES = 1 << 30
NEITHER = 'whose segmentation is neither polygons nor run lengths of the image'


def finite(value: Any) -> bool:
  """Returns whether a value is a finite number of at most `MOST` in absolute value."""
  return type(value) in (int, float) and -MOST <= value <= MOST


def sound(value: Any, size: Sequence[int] | None) -> Outline | str:
  """Returns the valid outline in an image of `size`, or why the value is not one.

  If the size is unknown, only polygons are accepted, at any distance.
  """
  if isinstance(value, list) and value:
    polygons = all(
      isinstance(polygon, list)
      and len(polygon) >= 6
      and len(polygon) % 2 == 0
      and all(map(finite, polygon))
      for polygon in value
    )
    if not polygons:
      return 'whose polygons are malformed'
    return 'whose polygons reach far beyond the image' if _far(value, size) else value
  if isinstance(value, dict) and size is not None and value.get('size') == list(size):
    runs = _runs(value.get('counts'))
    if runs is not None and runs.sum() == size[0] * size[1]:
      return runs
  return NEITHER


def box(outline: Outline, size: Sequence[int] | None) -> list[float]:
  """Returns the left, top, width and height of a valid outline."""
  if isinstance(outline, list):
    corners = np.concatenate(outline).reshape(-1, 2)
    low, high = corners.min(axis=0), corners.max(axis=0)
  else:
    height = size[0]
    ends = outline.cumsum()[1::2]
    starts = (ends - outline[1::2])[outline[1::2] > 0]
    ends = ends[outline[1::2] > 0] - 1
    if not len(ends):
      return [0.0, 0.0, 0.0, 0.0]
    several = (starts // height != ends // height).any()
    top, bottom = (starts % height).min(), (ends % height).max()
    low = np.array([starts[0] // height, 0 if several else top])
    high = np.array([ends[-1] // height, height - 1 if several else bottom]) + 1
  return [*low.tolist(), *(high - low).tolist()]


def decoded(
  outlines: Sequence[Outline], height: int, width: int, ids: Sequence[int]
) -> np.ndarray:
  """Returns masks of valid outlines, uint8 (N, H, W); pycocotools fills polygons."""
  if len(outlines) * height * width > MOST_BYTES:
    raise BadRecordError(
      f'{len(outlines)} masks of {height}x{width} pixels take more than'
      f' {MOST_BYTES >> 30} GiB'
    )
  masks = np.zeros((len(outlines), height, width), np.uint8)
  for place, (outline, name) in enumerate(zip(outlines, ids, strict=True)):
    if isinstance(outline, list):
      try:
        masks[place] = filled(outline, height, width)
      except BadRecordError as error:
        raise BadRecordError(f'annotation {name} has {error}') from error
    else:
      inside = np.arange(len(outline), dtype=np.uint8) & 1
      masks[place] = np.repeat(inside, outline).reshape(width, height).T
  return masks


def filled(polygons: list[list[float]], height: int, width: int) -> np.ndarray:
  """Returns the pixels within any of several polygons, uint8 (H, W) of 0 and 1."""
  try:
    from pycocotools import mask
  except ImportError as error:
    raise UserError('masks need pycocotools: pip install pycocotools') from error
  try:
    return mask.decode(mask.merge(mask.frPyObjects(polygons, height, width)))
  except Exception as error:  # pycocotools raises various types
    raise BadRecordError(f'no valid mask: {error}') from error


def of_boxes(sides_N4: np.ndarray, height: int, width: int) -> np.ndarray:
  """Returns boxes, as TFDS has them (top, left, bottom, right), as outlines (N,)."""
  scaled_N4 = np.asarray(sides_N4, np.float64) * [height, width, height, width]
  return listed(
    [[[x, y, right, y, right, bottom, x, bottom]]
     for y, x, bottom, right in scaled_N4.reshape(-1, 4).tolist()]
  )  # fmt: skip


def listed(outlines: Sequence[Outline]) -> np.ndarray:
  """Returns outlines as an array of objects (N,), whose rows can be chosen."""
  result = np.empty(len(outlines), object)
  for place, outline in enumerate(outlines):
    result[place] = outline
  return result


def _far(polygons: list[list[float]], size: Sequence[int] | None) -> bool:
  """Returns whether polygons reach so far that filling them is slow or large."""
  if size is None:
    return False
  low, high = min(map(min, polygons)), max(map(max, polygons))
  if low < -REACH * max(size) or high > (REACH + 1) * max(size):
    return True
  if (high - low) * sum(map(len, polygons)) <= LONGEST:  # an upper bound
    return False
  corners = (np.array(polygon, np.float64).reshape(-1, 2) for polygon in polygons)
  steps = (np.abs(c - np.roll(c, 1, axis=0)).max(axis=1) for c in corners)
  return sum(step.sum() for step in steps) > LONGEST


def _runs(counts: Any) -> np.ndarray | None:
  """Returns run lengths, given as numbers or as COCO's text; None for other values."""
  if isinstance(counts, list) and all(type(n) is int for n in counts):
    runs = counts if all(0 <= n <= decoding.MOST_PIXELS for n in counts) else None
    return None if runs is None else np.array(runs, np.int64)
  if not isinstance(counts, str) or not counts or not counts.isascii():
    return None
  # Each character holds five bits, the lowest first. Its sixth bit is set if more
  # follow, and the fifth bit of the last character is the sign. From the fourth number
  # on, each number is the difference to the number two places before.
  codes = np.frombuffer(counts.encode(), np.uint8).astype(np.int64) - 48
  ends = np.flatnonzero(codes & 32 == 0)
  if ((codes < 0) | (codes > 63)).any() or not len(ends) or ends[-1] != len(codes) - 1:
    return None
  starts = np.concatenate([[0], ends[:-1] + 1])
  widths = ends + 1 - starts
  if widths.max() > 7:  # more than 35 bits
    return None
  shifts = 5 * (np.arange(len(codes)) - np.repeat(starts, widths))
  runs = np.add.reduceat((codes & 31) << shifts, starts)
  runs -= np.where(codes[ends] & 16, 1 << 5 * widths, 0)
  runs[1::2], runs[2::2] = runs[1::2].cumsum(), runs[2::2].cumsum()
  return runs if ((runs >= 0) & (runs <= decoding.MOST_PIXELS)).all() else None
