"""Transforms of an image together with the boxes and masks of its objects.

`image` uint8 (H, W, C); `boxes` float32 (N, 4): left, top, right, bottom in pixels;
`box_labels` int32 (N,); where there are any, `masks` uint8 (N, H, W) of 0 and 1 and
`crowd` bool (N,). `dropped`, int32, counts the objects that the record had and the
example has no longer. Geometry is that of DETR (arXiv:2005.12872, published code).
"""

import dataclasses
from collections.abc import Sequence
from typing import Any

import cv2
import grain
import numpy as np

from big_vision_like.data.transforms import compose, labels, resizing
from big_vision_like.errors import BadRecordError, UserError
from big_vision_like.ops import boxes as box_ops

Example = dict[str, Any]

PER_OBJECT = ('boxes', 'box_labels', 'crowd', 'masks')


# Geometry


def flip(example: Example) -> Example:
  """Left for right."""
  picture = example['image']
  width = picture.shape[1]
  left, top, right, bottom = example['boxes'].T
  result = example | {
    'image': cv2.flip(picture, 1).reshape(picture.shape),
    'boxes': np.stack([width - right, top, width - left, bottom], axis=-1),
  }
  if 'masks' in example:
    result['masks'] = example['masks'][..., ::-1]
  return result


def resize(example: Example, height: int, width: int) -> Example:
  """To that size: images bilinearly with antialiasing, masks to the nearest pixel."""
  old_height, old_width = example['image'].shape[:2]
  if (height, width) == (old_height, old_width):
    return example
  ratio = np.array([width / old_width, height / old_height] * 2, np.float32)
  result = example | {
    'image': _resized(example['image'], height, width),
    # Rounding may put a side just outside.
    'boxes': box_ops.clip(example['boxes'] * ratio, height, width),
  }
  if 'masks' in example:
    rows = nearest(old_height, height)
    columns = nearest(old_width, width)
    result['masks'] = example['masks'].take(columns, axis=2).take(rows, axis=1)
  return result


def _resized(picture: np.ndarray, height: int, width: int) -> np.ndarray:
  # Where nothing shrinks there is nothing to smooth: OpenCV's is then Pillow's, but for
  # the last bit, in an eighth of the time.
  larger = height >= picture.shape[0] and width >= picture.shape[1]
  method = 'bilinear' if larger else 'pillow_bilinear'
  return resizing.resized(picture, height, width, method)


def nearest(old: int, new: int) -> np.ndarray:
  """Which of `old` pixels each of `new` is, as torch's `interpolate`: int64 (new,)."""
  places = np.arange(new, dtype=np.float32) * (np.float32(old) / np.float32(new))
  return np.minimum(places.astype(np.int64), old - 1)


def crop(example: Example, top: int, left: int, height: int, width: int) -> Example:
  """That part; boxes are cut to it, and objects without area in it dropped."""
  rows, columns = slice(top, top + height), slice(left, left + width)
  boxes = example['boxes'] - np.array([left, top, left, top], np.float32)
  result = example | {
    'image': example['image'][rows, columns],
    'boxes': box_ops.clip(boxes, height, width),
  }
  if 'masks' in example:
    result['masks'] = example['masks'][:, rows, columns]
  return with_objects(result, has_area(result['boxes']))


def has_area(boxes: np.ndarray) -> np.ndarray:
  """bool (N,): whether right is beyond left, and bottom beyond top."""
  return (boxes[:, 2:] > boxes[:, :2]).all(axis=-1)


def with_objects(example: Example, kept: np.ndarray) -> Example:
  """Only the objects where `kept`, bool (N,), is true; counts the others as dropped."""
  chosen = {name: example[name][kept] for name in PER_OBJECT if name in example}
  dropped = example.get('dropped', 0) + np.sum(~kept)
  return example | chosen | {'dropped': np.int32(dropped)}


def short_side_size(
  height: int, width: int, size: int, longest: int | None = None
) -> tuple[int, int]:
  """Height and width once the shorter is `size` and the longer cut to whole pixels.

  Less where the longer would be more than `longest`.
  """
  short, long = min(height, width), max(height, width)
  if longest is not None and long / short * size > longest:
    size = round(longest * short / long)
  long = size if short == long else int(size * long / short)
  return (long, size) if height > width else (size, long)


# Transforms


@dataclasses.dataclass(frozen=True)
class Objects(grain.transforms.Map):
  """`objects` as TFDS has them, to `boxes` and `box_labels`; after `Decode`.

  Boxes are cut to the image; those without area are dropped, and so are crowds
  (`is_crowd`) unless `crowds`, which gives `crowd`.
  """

  crowds: bool = False

  def map(self, example: Example) -> Example:
    relative = np.asarray(labels.feature(example, 'objects/bbox'), np.float32)
    height, width = example['image'].shape[:2]
    top, left, bottom, right = relative.reshape(-1, 4).T
    boxes = np.stack([left * width, top * height, right * width, bottom * height], -1)
    crowd = example['objects'].get('is_crowd', np.zeros(len(boxes)))
    crowd = np.asarray(crowd, bool)
    boxes = box_ops.clip(boxes.astype(np.float32), height, width)
    result = example | {
      'boxes': boxes,
      'box_labels': np.asarray(labels.feature(example, 'objects/label'), np.int32),
    }
    kept = has_area(boxes)
    if self.crowds:
      result['crowd'] = crowd
    else:
      kept &= ~crowd
    return with_objects(result, kept)


@dataclasses.dataclass(frozen=True)
class Flip(grain.transforms.RandomMap):
  """Left for right, every other time."""

  def random_map(self, example: Example, rng: np.random.Generator) -> Example:
    return example if rng.random() < 0.5 else flip(example)


@dataclasses.dataclass(frozen=True)
class ResizeShort(grain.transforms.Map):
  """The shorter side to `size`, or less where the longer would exceed `longest`."""

  size: int
  longest: int | None = None

  def map(self, example: Example) -> Example:
    height, width = example['image'].shape[:2]
    return resize(example, *short_side_size(height, width, self.size, self.longest))


@dataclasses.dataclass(frozen=True)
class RandomResizeShort(grain.transforms.RandomMap):
  """`ResizeShort` to any of `sizes`, each as likely as the others."""

  sizes: Sequence[int]
  longest: int | None = None

  def random_map(self, example: Example, rng: np.random.Generator) -> Example:
    size = int(self.sizes[rng.integers(len(self.sizes))])
    return ResizeShort(size, self.longest).map(example)


@dataclasses.dataclass(frozen=True)
class RandomSizeCrop(grain.transforms.RandomMap):
  """A part of height and width `low` to `high`, at most all, drawn independently."""

  low: int
  high: int

  def random_map(self, example: Example, rng: np.random.Generator) -> Example:
    height, width = example['image'].shape[:2]
    if min(height, width) < self.low:
      raise UserError(
        f'RandomSizeCrop(low={self.low}) of an image of {height}x{width} (id'
        f' {example.get("id", "unknown")}): resize first, with ResizeShort.'
      )
    w, h = (
      int(rng.integers(self.low, min(side, self.high), endpoint=True))
      for side in (width, height)
    )
    top, left = int(rng.integers(height - h + 1)), int(rng.integers(width - w + 1))
    return crop(example, top, left, h, w)


@dataclasses.dataclass(frozen=True)
class Either(grain.transforms.RandomMap):
  """The transforms `first`, one after the other, so often; else those of `second`."""

  first: Sequence[compose.Transform]
  second: Sequence[compose.Transform]
  probability: float = 0.5

  def random_map(self, example: Example, rng: np.random.Generator) -> Example:
    chosen = self.first if rng.random() < self.probability else self.second
    return compose.applied(chosen, example, rng)


@dataclasses.dataclass(frozen=True)
class Pad(grain.transforms.Map):
  """To one shape for all: zeros to the right of and below the image, after the objects.

  Of `sizes`, heights and widths, the smallest that fits. Adds `size`, int32 (2,), the
  height and width before, and `box_mask`, bool (max_boxes,), True for objects. More
  objects than `max_boxes` are an error: one left out would teach that nothing is there.
  DETR pads after normalising: zero what is beyond `size` then.
  """

  sizes: Sequence[tuple[int, int]]
  max_boxes: int

  def map(self, example: Example) -> Example:
    height, width = example['image'].shape[:2]
    big_height, big_width = self._fitting(height, width, example)
    count = len(example['boxes'])
    if count > self.max_boxes:
      raise BadRecordError(
        f'the example with id {example.get("id", "unknown")} has {count} objects: more'
        f' than max_boxes={self.max_boxes}; raise it.'
      )
    below, beside, more = big_height - height, big_width - width, self.max_boxes - count
    result = example | {
      'image': np.pad(example['image'], [(0, below), (0, beside), (0, 0)]),
      'size': np.array([height, width], np.int32),
      'box_mask': np.arange(self.max_boxes) < count,
    }
    for name in ('boxes', 'box_labels', 'crowd'):
      if name in example:
        rest = [(0, 0)] * (example[name].ndim - 1)
        result[name] = np.pad(example[name], [(0, more), *rest])
    if 'masks' in example:
      result['masks'] = np.pad(example['masks'], [(0, more), (0, below), (0, beside)])
    return result

  def _fitting(self, height: int, width: int, example: Example) -> tuple[int, int]:
    fitting = [(h, w) for h, w in self.sizes if h >= height and w >= width]
    if not fitting:
      raise UserError(
        f'Pad(sizes={list(self.sizes)}) of an image of {height}x{width} (id'
        f' {example.get("id", "unknown")}): resize first, with ResizeShort.'
      )
    return min(fitting, key=lambda size: size[0] * size[1])


@dataclasses.dataclass(frozen=True)
class Normalize(grain.transforms.Map):
  """`boxes` to centre, width and height in shares of the image, padding aside."""

  def map(self, example: Example) -> Example:
    height, width = example.get('size', example['image'].shape[:2])
    sides = np.array([width, height, width, height], np.float32)
    return example | {'boxes': box_ops.xyxy_to_cxcywh(example['boxes']) / sides}
