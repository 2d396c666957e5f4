"""Masks of objects in images, run-length encoded for pycocotools.

Axes: H W image, M side of a predicted mask, Q predictions, N true objects, h w mask
logits.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from big_vision_like.data.sources import coco_outlines
from big_vision_like.data.transforms import boxes as box_transforms
from big_vision_like.data.transforms import decoding, instance_masks
from big_vision_like.errors import UserError
from big_vision_like.evals import panoptic

Encoded = dict[str, Any]
THRESHOLD = 0.5


def encode(mask_HW: np.ndarray) -> Encoded:
  """Returns the run lengths of a mask, as pycocotools encodes them, as text."""
  from pycocotools import mask

  return _as_text(mask.encode(np.asfortranarray(mask_HW.astype(np.uint8))))


def pasted(
  mask_MM: np.ndarray, box_4: np.ndarray, height: int, width: int
) -> np.ndarray:
  """Returns the pixels of an image that a mask within a box covers: bool (H, W).

  Probabilities are interpolated bilinearly at the centres of pixels, with zeros outside
  of the box, as in Detectron2 and mmdetection; pixels of at least 0.5 are covered.
  """
  result_HW = np.zeros((height, width), bool)
  left, top, right, bottom = box_4.tolist()
  if right <= left or bottom <= top:
    return result_HW
  rows, rows_hM = _weights(top, bottom, height, mask_MM.shape[0])
  columns, columns_wM = _weights(left, right, width, mask_MM.shape[1])
  inside_hw = rows_hM @ mask_MM.astype(np.float32) @ columns_wM.T
  result_HW[rows, columns] = inside_hw >= THRESHOLD
  return result_HW


def _weights(
  low: float, high: float, side: int, cells: int
) -> tuple[slice, np.ndarray]:
  """Returns the pixels whose centres are in a range, and their weights of cells."""
  first = int(np.clip(np.ceil(low - 0.5), 0, side))
  stop = int(np.clip(np.floor(high - 0.5) + 1, first, side))
  centre = np.arange(first, stop) + 0.5
  place = (centre - low) / (high - low) * cells - 0.5
  weights = np.maximum(0, 1 - np.abs(place[:, None] - np.arange(cells)[None]))
  return slice(first, stop), weights.astype(np.float32)


def of_regions(
  masks_QMM: np.ndarray, boxes_Q4: np.ndarray, size: tuple[int, int]
) -> list[Encoded]:
  """Returns masks of regions in an image of this height and width."""
  pairs = zip(masks_QMM, boxes_Q4, strict=True)
  return [encode(pasted(mask_MM, box_4, *size)) for mask_MM, box_4 in pairs]


def of_logits(
  logits_Qhw: np.ndarray,
  padded: tuple[int, int],
  size: tuple[int, int],
  original: tuple[int, int],
) -> list[Encoded]:
  """Returns the masks of DETR's logits in the original image (arXiv:2005.12872).

  Logits cover the padded image. They are interpolated to it bilinearly; pixels with a
  probability above 0.5 are covered; the part of `size` is then resized to `original`
  by the nearest pixels, as in the published code.
  """
  rows, columns = map(box_transforms.nearest, size, original)
  return [
    encode(panoptic.interpolated(logits_hw[None], padded, rows, columns)[0] > 0)
    for logits_hw in logits_Qhw
  ]


def of_record(record: Mapping[str, Any]) -> tuple[list[Encoded], tuple[int, int]]:
  """Returns the masks of a record's objects, and the size of its image.

  They are those of `boxes.Objects(crowds=True)`, in its order. The record has
  `outlines` or `segmentation`.
  """
  size = decoding.image_size(record['image'])
  # Only the size of the image matters.
  example = {**record, 'image': np.broadcast_to(np.uint8(0), (*size, 3))}
  if 'outlines' not in record:
    if 'segmentation' not in record:
      raise UserError(
        'the data have no masks to compare with: records need `outlines` (coco.Coco'
        ' with outlines=True) or `segmentation`, or the evaluator `annotations`'
      )
    example = instance_masks.SegmentMap().map(example)
  example = box_transforms.Objects(crowds=True).map(example)
  if 'outlines' in example:
    return [of_outline(outline, *size) for outline in example['outlines']], size
  numbers = range(1, len(example['boxes']) + 1)
  return [encode(example['segment_map'] == number) for number in numbers], size


def of_outline(outline: coco_outlines.Outline, height: int, width: int) -> Encoded:
  """Returns an outline in an image of this size."""
  from pycocotools import mask

  if isinstance(outline, list):
    return _as_text(mask.merge(mask.frPyObjects(outline, height, width)))
  return encode(coco_outlines.decoded([outline], height, width, ['of an object'])[0])


def _as_text(encoded: Encoded) -> Encoded:
  # JSON has no bytes; pycocotools takes both.
  return encoded | {'counts': encoded['counts'].decode('ascii')}


def listed(masks: Sequence[Encoded], rows: int) -> np.ndarray:
  """Returns masks as an array of objects (rows,), None where there are fewer."""
  result = np.empty(rows, object)
  for place, mask in enumerate(masks):
    result[place] = mask
  return result
