"""Masks of objects, each on a small grid over the object's own box.

A mask of a whole image takes a megabyte at 800x1344 pixels, and an image may show a
hundred objects. Two-stage detectors compare masks only within boxes, so a batch has
`box_masks`, uint8 (N, M, M): the share of each cell of a grid over the box that the
object covers, 0 to 255. With M = 112, 100 objects take 1.25 MB. Compared with masks of
whole images, only detail below a 112th of the box is lost.

Outlines (`coco_outlines`) stay in the coordinates of the original image, and
`placement` follows the transforms of `boxes`: float64 (4,), scale and offset of x, then
of y, from the original image to the current one. No mask of a whole image is made of
polygons; of run lengths, one at a time is.

Axes: N objects, H W image, M side of a grid.
"""

import dataclasses
from typing import Any

import grain
import numpy as np

from big_vision_like.data.sources import coco_outlines
from big_vision_like.data.transforms import objects
from big_vision_like.errors import BadRecordError, UserError

Example = dict[str, Any]
# Polygons that reach further than this, in sides of the box, are filled in pixels of
# the image and then resized, because filling them on the grid would be slow.
REACH = 16


@dataclasses.dataclass(frozen=True)
class SegmentMap(grain.transforms.Map):
  """Conversion of `segmentation`, a PNG with one channel, to `segment_map`.

  Its pixels have the object of `objects` that they show, counted from 1. It goes after
  `Decode` and before `boxes.Objects`. Raises `BadRecordError` for other objects.
  """

  def map(self, example: Example) -> Example:
    decoded = objects.DecodeSegmentation().map(example)['segmentation']
    count = len(example['objects']['bbox'])
    if decoded.max(initial=0) > count:
      raise BadRecordError(
        f'the segmentation of the example with id {example.get("id", "unknown")} shows'
        f' object {decoded.max()}, but it has only {count} objects'
      )
    return example | {'segment_map': decoded}


@dataclasses.dataclass(frozen=True)
class Placed(grain.transforms.Map):
  """Start of `placement`, for records with `outlines`; goes before `boxes.Objects`."""

  def map(self, example: Example) -> Example:
    if 'outlines' not in example:
      raise UserError(
        'records have no `outlines`: take a source that has them, such as'
        ' coco.Coco(..., outlines=True)'
      )
    return example | {'placement': np.array([1.0, 0.0, 1.0, 0.0])}


@dataclasses.dataclass(frozen=True)
class BoxMasks(grain.transforms.Map):
  """Makes `box_masks` on grids of `cells` x `cells`; goes before `boxes.Pad`.

  They are made of `outlines`, of `segment_map`, or of `masks` (N, H, W), which are
  removed.
  """

  cells: int = 112

  sides = ()
  tiny = dict(cells=28)

  def map(self, example: Example) -> Example:
    boxes_N4 = example['boxes']
    if 'outlines' in example:
      drawn = [
        of_outline(outline, box, example['placement'], example['original_size'],
                   self.cells)
        for outline, box in zip(example['outlines'], boxes_N4, strict=True)
      ]  # fmt: skip
    elif 'segment_map' in example:
      drawn = [
        of_map(example['segment_map'] == number, box, self.cells)
        for number, box in enumerate(boxes_N4, start=1)
      ]
    elif 'masks' in example:
      pairs = zip(example['masks'], boxes_N4, strict=True)
      drawn = [of_map(mask_HW, box, self.cells) for mask_HW, box in pairs]
    else:
      raise UserError(
        'BoxMasks needs `outlines`, `segment_map` or `masks`, but records have only'
        f' {", ".join(example)}'
      )
    names = ('outlines', 'placement', 'segment_map', 'masks')
    rest = {name: value for name, value in example.items() if name not in names}
    shape = (len(boxes_N4), self.cells, self.cells)
    return rest | {'box_masks': np.array(drawn, np.uint8).reshape(shape)}


def of_map(mask_HW: np.ndarray, box_4: np.ndarray, cells: int) -> np.ndarray:
  """Returns the share of each cell of a box that a mask covers: uint8 (M, M)."""
  left, top, right, bottom = box_4.tolist()
  rows, rows_Mh = shares(top, bottom, cells, mask_HW.shape[0])
  columns, columns_Mw = shares(left, right, cells, mask_HW.shape[1])
  inside_hw = np.asarray(mask_HW[rows, columns], np.float32)
  return np.rint(255 * (rows_Mh @ inside_hw @ columns_Mw.T)).astype(np.uint8)


def shares(low: float, high: float, cells: int, side: int) -> tuple[slice, np.ndarray]:
  """Returns the pixels of `side` between two places, and their share of each cell.

  The shares, float32 (cells, pixels), add up to 1 where cells are within the image.
  """
  first, stop = max(int(np.floor(low)), 0), min(int(np.ceil(high)), side)
  edges = low + (high - low) / cells * np.arange(cells + 1)
  pixel = np.arange(first, max(stop, first))[None]
  common = np.minimum(edges[1:, None], pixel + 1) - np.maximum(edges[:-1, None], pixel)
  width = max((high - low) / cells, 1e-9)
  return slice(first, max(stop, first)), (np.maximum(common, 0) / width).astype(
    np.float32
  )


def of_outline(
  outline: coco_outlines.Outline,
  box_4: np.ndarray,
  placement_4: np.ndarray,
  size_2: np.ndarray,
  cells: int,
) -> np.ndarray:
  """Returns `of_map` of an outline, in an image that was placed as `placement_4` says.

  `size_2` is the height and width of the original image.
  """
  scale_x, offset_x, scale_y, offset_y = placement_4.tolist()
  left, right = ((x - offset_x) / scale_x for x in box_4[[0, 2]].tolist())
  top, bottom = ((y - offset_y) / scale_y for y in box_4[[1, 3]].tolist())
  own_4 = np.array([min(left, right), top, max(left, right), bottom])
  if isinstance(outline, list) and _near(outline, own_4):
    steps = (own_4[2:] - own_4[:2]) / cells
    polygons = [
      ((np.reshape(polygon, (-1, 2)) - own_4[:2]) / steps).ravel().tolist()
      for polygon in outline
    ]
    mask_MM = 255 * coco_outlines.filled(polygons, cells, cells)
  else:
    height, width = size_2.tolist()
    [mask_HW] = coco_outlines.decoded([outline], height, width, ['of an object'])
    mask_MM = of_map(mask_HW, own_4, cells)
  return mask_MM[:, ::-1] if scale_x < 0 else mask_MM


def _near(polygons: list[list[float]], box_4: np.ndarray) -> bool:
  """Returns whether polygons stay within `REACH` sides of a box."""
  sides = box_4[2:] - box_4[:2]
  corners = np.concatenate([np.reshape(polygon, (-1, 2)) for polygon in polygons])
  far = np.maximum(box_4[:2] - corners, corners - box_4[2:]).max(axis=0)
  return bool((far <= REACH * sides).all())
