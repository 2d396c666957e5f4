"""Transforms of an image together with the boxes and masks of its objects.

Fields of an example are `image` uint8 (H, W, C); `boxes` float32 (N, 4): left, top,
right, bottom in pixels; `box_labels` int32 (N,). Optional fields are `masks` uint8
(N, H, W) of 0 and 1, `crowd` bool (N,), `area` float32 (N,) as in the record,
`segment_map` uint8 (H, W): the object of each pixel, counted from 1, or 0 for none, and
`outlines`, `placement` and `box_masks` of `instance_masks`, and `attributes` of
`attributes`.
`dropped`, int32, counts the objects of the record that the transforms removed.
Geometry follows DETR (arXiv:2005.12872, published code).

Transforms that change places or sizes consist of steps, which depend only on the size
of the image and on random numbers. The final size of an image is therefore known before
it is read.
"""

import abc
import dataclasses
import functools
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import cv2
import grain
import numpy as np

from big_vision_like.data.input import bucket
from big_vision_like.data.transforms import decoding, labels, padding, resizing
from big_vision_like.errors import BadRecordError, UserError
from big_vision_like.ops import boxes as box_ops

Example = dict[str, Any]
# `flip`, `resize` or `crop`, with all arguments except the example.
Step = functools.partial

PER_OBJECT = (
  *('boxes', 'box_labels', 'crowd', 'area', 'masks'),
  *('outlines', 'box_masks', 'attributes'),
)
# Fields whose last two axes are height and width.
MAPS = ('masks', 'segment_map')


# Geometry


def flip(example: Example) -> Example:
  """Flips an example horizontally."""
  picture = example['image']
  width = picture.shape[1]
  left, top, right, bottom = example['boxes'].T
  result = example | {
    'image': cv2.flip(picture, 1).reshape(picture.shape),
    'boxes': np.stack([width - right, top, width - left, bottom], axis=-1),
  }
  for name in _there(MAPS, example):
    result[name] = example[name][..., ::-1]
  return _placed(result, -1.0, 1.0, width, 0.0)


def resize(example: Example, height: int, width: int) -> Example:
  """Resizes an example: image bilinear with antialiasing, masks to nearest pixels."""
  old_height, old_width = example['image'].shape[:2]
  if (height, width) == (old_height, old_width):
    return example
  ratio = np.array([width / old_width, height / old_height] * 2, np.float32)
  result = example | {
    'image': _resized(example['image'], height, width),
    # Rounding may move a side slightly outside the image.
    'boxes': box_ops.clip(example['boxes'] * ratio, height, width),
  }
  rows, columns = nearest(old_height, height), nearest(old_width, width)
  for name in _there(MAPS, example):
    result[name] = example[name].take(columns, axis=-1).take(rows, axis=-2)
  return _placed(result, width / old_width, height / old_height)


def _resized(picture: np.ndarray, height: int, width: int) -> np.ndarray:
  # Without shrinking there is no smoothing. OpenCV then equals Pillow, up to the last
  # bit, in an eighth of the time.
  larger = height >= picture.shape[0] and width >= picture.shape[1]
  method = 'bilinear' if larger else 'pillow_bilinear'
  return resizing.resized(picture, height, width, method)


def nearest(old: int, new: int) -> np.ndarray:
  """Returns each new pixel's source pixel, int64 (new,), as torch's `interpolate`."""
  places = np.arange(new, dtype=np.float32) * (np.float32(old) / np.float32(new))
  return np.minimum(places.astype(np.int64), old - 1)


def crop(example: Example, top: int, left: int, height: int, width: int) -> Example:
  """Crops an example; clips boxes to the crop and drops objects without area in it."""
  rows, columns = slice(top, top + height), slice(left, left + width)
  boxes = example['boxes'] - np.array([left, top, left, top], np.float32)
  result = example | {
    'image': example['image'][rows, columns],
    'boxes': box_ops.clip(boxes, height, width),
  }
  for name in _there(MAPS, example):
    result[name] = example[name][..., rows, columns]
  result = _placed(result, 1.0, 1.0, -left, -top)
  return with_objects(result, has_area(result['boxes']))


def _placed(
  example: Example, wide: float, high: float, right: float = 0.0, down: float = 0.0
) -> Example:
  """Scales and shifts the `placement` of an example, if it has one."""
  if 'placement' not in example:
    return example
  scale, shift = np.array([wide, wide, high, high]), np.array([0.0, right, 0.0, down])
  return example | {'placement': example['placement'] * scale + shift}


def has_area(boxes: np.ndarray) -> np.ndarray:
  """Returns whether right > left and bottom > top for each box, bool (N,)."""
  return (boxes[:, 2:] > boxes[:, :2]).all(axis=-1)


def with_objects(example: Example, kept: np.ndarray) -> Example:
  """Keeps the objects where `kept`, bool (N,), is True; counts others as dropped."""
  chosen = {name: example[name][kept] for name in _there(PER_OBJECT, example)}
  if 'segment_map' in example and not kept.all():
    numbers = np.concatenate([[0], np.cumsum(kept) * kept])
    chosen['segment_map'] = numbers.astype(np.uint8)[example['segment_map']]
  dropped = example.get('dropped', 0) + np.sum(~kept)
  return example | chosen | {'dropped': np.int32(dropped)}


def short_side_size(
  height: int, width: int, size: int, longest: int | None = None
) -> tuple[int, int]:
  """Returns height and width with the shorter side resized to `size`.

  The longer side is rounded down. `size` is reduced if the longer side would exceed
  `longest`.
  """
  short, long = min(height, width), max(height, width)
  if longest is not None and long / short * size > longest:
    size = round(longest * short / long)
  long = size if short == long else int(size * long / short)
  return (long, size) if height > width else (size, long)


def done(steps: Sequence[Step], example: Example) -> Example:
  """Applies steps to an example."""
  for step in steps:
    example = step(example)
  return example


def size_after(steps: Sequence[Step], height: int, width: int) -> tuple[int, int]:
  """Returns the height and width of an image after steps."""
  for step in steps:
    height = step.keywords.get('height', height)
    width = step.keywords.get('width', width)
  return height, width


# Objects of records


class _Labelled(labels.Relabeling):
  """A transform that makes `box_labels` from the categories of objects."""

  makes = 'box_labels'
  ids: Sequence[int] | None

  def renamed(self, names: labels.Names) -> labels.Names:
    ids = self.ids
    return (
      names if ids is None else {ids[k]: n for k, n in names.items() if k < len(ids)}
    )


@dataclasses.dataclass(frozen=True)
class Objects(_Labelled):
  """Conversion of TFDS's `objects` to `boxes` and `box_labels`; goes after `Decode`.

  Boxes are clipped to the image, and boxes without area are dropped. Crowds
  (`is_crowd`) are dropped too, unless `crowds` is set, which adds `crowd`. `ids` maps
  labels to new ones, such as `coco_classes.IDS` for COCO. Adds `original_size`, int32
  (2,), the height and width of the image, and `area` and `image_id` if the record has
  them. `masks` are filtered like boxes.
  """

  crowds: bool = False
  ids: Sequence[int] | None = None

  def map(self, example: Example) -> Example:
    result = _with_boxes(example, 'objects', self.ids)
    kept, crowd = has_area(result['boxes']), _crowd(example, 'objects')
    if self.crowds:
      result['crowd'] = crowd
    else:
      kept &= ~crowd
    return with_objects(result, kept)


@dataclasses.dataclass(frozen=True)
class Panoptic(_Labelled):
  """Conversion of TFDS's `panoptic_image` and `panoptic_objects` to a map and boxes.

  The map is `segment_map`. Both things and stuff are objects. Crowds are objects too,
  as in the published code; `crowds` marks them in `crowd`. `ids` is as in `Objects`:
  `coco_classes.PANOPTIC_IDS` for COCO. Everything else is as in `Objects`. Boxes are
  taken from the record, not from the map.
  """

  crowds: bool = False
  ids: Sequence[int] | None = None

  def map(self, example: Example) -> Example:
    result = _with_boxes(example, 'panoptic_objects', self.ids)
    result['segment_map'] = self._segments(example)
    if self.crowds:
      result['crowd'] = _crowd(example, 'panoptic_objects')
    return with_objects(result, has_area(result['boxes']))

  def _segments(self, example: Example) -> np.ndarray:
    try:
      rgb = decoding.decode(labels.feature(example, 'panoptic_image'))
    except ValueError as error:
      raise BadRecordError(
        f'the panoptic image of {_name(example)} cannot be decoded ({error}).'
      ) from error
    if rgb.shape[:2] != example['image'].shape[:2]:
      raise BadRecordError(
        f'{_name(example)} has a panoptic image of {rgb.shape[0]}x{rgb.shape[1]}, but'
        f' an image of {example["image"].shape[0]}x{example["image"].shape[1]}.'
      )
    red, green, blue = cv2.split(rgb.astype(np.int32))
    shown = red + 256 * green + 65536 * blue
    listed = np.array([0, *labels.feature(example, 'panoptic_objects/id')], np.int64)
    if len(listed) > 256:
      raise BadRecordError(
        f'{_name(example)} has {len(listed) - 1} segments, more than 255.'
      )
    order = np.argsort(listed, kind='stable')
    numbers = order[np.searchsorted(listed[order], shown, side='right') - 1]
    if (unknown := listed[numbers] != shown).any():
      raise BadRecordError(
        f'the panoptic image of {_name(example)} shows segment {shown[unknown].min()},'
        ' which is not among its objects.'
      )
    return numbers.astype(np.uint8)


@dataclasses.dataclass(frozen=True)
class PanopticTruth(grain.transforms.Map):
  """The ground truth for `evals.panoptic`; goes after `Panoptic(crowds=True)`.

  Adds `panoptic`, uint8 of `size` (height, width), the current map of the image padded
  with 0, and `segments`, int32 (max_segments, 3): the number in the map (0: none), the
  label, and whether it is a crowd.
  """

  size: tuple[int, int]
  max_segments: int

  sides = ()  # `size` must hold images of the original size

  def map(self, example: Example) -> Example:
    shown, count = example['segment_map'], len(example['boxes'])
    if count > self.max_segments:
      raise BadRecordError(
        f'{_name(example)} has {count} segments: more than'
        f' max_segments={self.max_segments}; raise max_segments.'
      )
    room = np.subtract(self.size, shown.shape).tolist()
    if min(room) < 0:
      raise UserError(
        f'PanopticTruth(size={tuple(self.size)}) cannot hold an image of'
        f' {shown.shape[0]}x{shown.shape[1]}: set size to the largest height and width.'
      )
    numbers = np.arange(1, count + 1)
    rows = np.stack([numbers, example['box_labels'], example['crowd']], axis=-1)
    return example | {
      'panoptic': np.pad(shown, [(0, side) for side in room]),
      'segments': np.pad(
        rows.astype(np.int32), [(0, self.max_segments - count), (0, 0)]
      ),
    }


def _there(names: Sequence[str], example: Example) -> list[str]:
  return [name for name in names if name in example]


def _name(example: Example) -> str:
  key = example.get('image/id', example.get('id', 'unknown'))
  return f'the example with id {key}'


def _crowd(example: Example, objects: str) -> np.ndarray:
  """Returns whether each object is a crowd, bool (N,)."""
  count = len(example[objects]['bbox'])
  return np.asarray(example[objects].get('is_crowd', np.zeros(count)), bool)


def _with_boxes(example: Example, objects: str, ids: Sequence[int] | None) -> Example:
  """Returns an example with all objects of a record, and its size, areas and id."""
  relative = np.asarray(labels.feature(example, f'{objects}/bbox'), np.float32)
  height, width = example['image'].shape[:2]
  top, left, bottom, right = relative.reshape(-1, 4).T
  boxes = np.stack([left * width, top * height, right * width, bottom * height], -1)
  label = np.asarray(labels.feature(example, f'{objects}/label'), np.int32)
  if ids is not None:
    if unknown := [i for i in label.tolist() if not 0 <= i < len(ids)]:
      raise BadRecordError(
        f'{_name(example)} has an object with label {unknown[0]}, which is not one of'
        f' {len(ids)} (0 to {len(ids) - 1}).'
      )
    label = np.asarray(ids, np.int32)[label]
  result = example | {
    'boxes': box_ops.clip(boxes.astype(np.float32), height, width),
    'box_labels': label,
    'original_size': np.array([height, width], np.int32),
  }
  if 'area' in example[objects]:
    result['area'] = np.asarray(example[objects]['area'], np.float32)
  for name in ('id', 'image/id'):
    if isinstance(example.get(name), (int, np.integer)):
      result['image_id'] = np.int64(example[name])
  return result


# Transforms of places and sizes


class Stepwise(bucket.Resizing):
  """A transform made of steps that depend on the image size and random numbers only."""

  @abc.abstractmethod
  def steps(
    self, height: int, width: int, rng: np.random.Generator | None
  ) -> list[Step]:
    """Returns the steps for an image of this size."""

  def size_after(
    self, size: bucket.Size, rng: np.random.Generator | None
  ) -> bucket.Size:
    """Returns the height and width of an image after the steps."""
    return size_after(self.steps(*size, rng), *size)


class _Moved(Stepwise, grain.transforms.RandomMap):
  """A random transform whose random numbers do not depend on the image's pixels."""

  def random_map(self, example: Example, rng: np.random.Generator) -> Example:
    return done(self.steps(*example['image'].shape[:2], rng), example)


@dataclasses.dataclass(frozen=True)
class Flip(_Moved):
  """A horizontal flip with probability 1/2."""

  def steps(self, height: int, width: int, rng: np.random.Generator) -> list[Step]:
    return [] if rng.random() < 0.5 else [Step(flip)]


@dataclasses.dataclass(frozen=True)
class ResizeShort(Stepwise, grain.transforms.Map):
  """Resizing of the shorter side to `size`, or less to keep the longer to `longest`."""

  sides = ('size', 'longest')

  size: int
  longest: int | None = None

  def steps(
    self, height: int, width: int, rng: np.random.Generator | None = None
  ) -> list[Step]:
    height, width = short_side_size(height, width, self.size, self.longest)
    return [Step(resize, height=height, width=width)]

  def map(self, example: Example) -> Example:
    return done(self.steps(*example['image'].shape[:2]), example)


@dataclasses.dataclass(frozen=True)
class RandomResizeShort(_Moved):
  """`ResizeShort` to a size drawn uniformly from `sizes`."""

  sides = ('sizes', 'longest')

  sizes: Sequence[int]
  longest: int | None = None

  def steps(self, height: int, width: int, rng: np.random.Generator) -> list[Step]:
    size = int(self.sizes[rng.integers(len(self.sizes))])
    return ResizeShort(size, self.longest).steps(height, width)


@dataclasses.dataclass(frozen=True)
class RandomSizeCrop(_Moved):
  """A random crop; height and width are drawn independently from `low` to `high`.

  Neither exceeds the size of the image.
  """

  sides = ('low', 'high')

  low: int
  high: int

  def steps(self, height: int, width: int, rng: np.random.Generator) -> list[Step]:
    if min(height, width) < self.low:
      raise UserError(
        f'RandomSizeCrop(low={self.low}) cannot crop an image of {height}x{width}:'
        ' resize first, with ResizeShort.'
      )
    w, h = (
      int(rng.integers(self.low, min(side, self.high), endpoint=True))
      for side in (width, height)
    )
    top, left = int(rng.integers(height - h + 1)), int(rng.integers(width - w + 1))
    return [Step(crop, top=top, left=left, height=h, width=w)]


@dataclasses.dataclass(frozen=True)
class Either(_Moved):
  """The sequence of transforms `first` with `probability`, otherwise `second`.

  Both consist of transforms of this module that change places or sizes.
  """

  first: Sequence[Any]
  second: Sequence[Any]
  probability: float = 0.5

  def __post_init__(self) -> None:
    for transform in (*self.first, *self.second):
      if not isinstance(transform, Stepwise):
        raise UserError(
          f'Either cannot take {type(transform).__name__}, only transforms that change'
          ' places or sizes: put it among the other transforms.'
        )

  def steps(self, height: int, width: int, rng: np.random.Generator) -> list[Step]:
    steps = []
    for transform in self.first if rng.random() < self.probability else self.second:
      more = transform.steps(height, width, rng)
      height, width = size_after(more, height, width)
      steps += more
    return steps


# Transforms to one shape


def outermost(
  arguments: Mapping[str, Any], small_side: Callable[[int], int]
) -> Sequence[tuple[int, int]]:
  """Returns the sizes of a `Pad` that fit into no other size."""
  del small_side
  return [
    (height, width)
    for height, width in arguments['sizes']
    if sum(height <= h and width <= w for h, w in arguments['sizes']) == 1
  ]


@dataclasses.dataclass(frozen=True)
class Pad(padding.ImageBucket):
  """Padding to one of a few shapes, with zeros to the right, below and after objects.

  An image is padded to the smallest of `sizes`, heights and widths, that holds it. With
  several sizes, inputs form batches of one shape each (`input.grouping`). Adds `size`,
  int32 (2,), the height and width before padding, and `box_mask`, bool (max_boxes,),
  True for objects that are not crowds. More objects than `max_boxes` are an error,
  because leaving one out would teach that nothing is there. DETR pads after
  normalising: set pixels beyond `size` to zero after normalising.
  """

  sizes: Sequence[tuple[int, int]]
  max_boxes: int

  resizers = 'transforms of boxes'
  remedy = 'resize first, with ResizeShort.'
  tiny = dict(sizes=outermost)

  def map(self, example: Example) -> Example:
    height, width = example['image'].shape[:2]
    count = len(example['boxes'])
    if count > self.max_boxes:
      raise BadRecordError(
        f'{_name(example)} has {count} objects: more than max_boxes={self.max_boxes};'
        ' raise max_boxes.'
      )
    result = example | {'box_mask': np.ones(count, bool)}
    if 'crowd' in example:
      result['box_mask'] = ~example['crowd']
    for name in _there(('box_mask', *PER_OBJECT), result):
      rest = [(0, 0)] * (result[name].ndim - 1)
      result[name] = np.pad(result[name], [(0, self.max_boxes - count), *rest])
    return padded(result, *self.sizes[self.choose((height, width))])

  def fit(self, example: Example, shape: tuple[int, int]) -> Example:
    """Returns a padded example in another of the shapes, shrunk if it is too large."""
    return fitted(example, *shape)

  def content(self, sizes_BK: np.ndarray, shape: tuple[int, int]) -> np.ndarray:
    """Returns the number of pixels of each image that are not padding."""
    shrunk_B = np.minimum(shape / sizes_BK, 1).min(axis=1)
    return sizes_BK.prod(axis=1) * shrunk_B**2


def padded(example: Example, height: int, width: int) -> Example:
  """Pads image and masks with zeros to the right and below; adds `size`."""
  old = example['image'].shape[:2]
  sides = [(0, height - old[0]), (0, width - old[1])]
  result = example | {
    'image': np.pad(example['image'], [*sides, (0, 0)]),
    'size': np.array(old, np.int32),
  }
  for name in _there(MAPS, example):
    rest = [(0, 0)] * (example[name].ndim - 2)
    result[name] = np.pad(example[name], [*rest, *sides])
  return result


def fitted(example: Example, height: int, width: int) -> Example:
  """Returns a padded example in another shape; shrinks images that are too large."""
  if example['image'].shape[:2] == (height, width):
    return example
  rows, columns = example['size'].tolist()
  inner = example | {'image': example['image'][:rows, :columns]}
  for name in _there(MAPS, example):
    inner[name] = example[name][..., :rows, :columns]
  scale = min(height / rows, width / columns)
  if scale < 1:
    inner = resize(inner, max(int(rows * scale), 1), max(int(columns * scale), 1))
  return padded(inner, height, width)


@dataclasses.dataclass(frozen=True)
class Normalize(grain.transforms.Map):
  """Conversion of `boxes` to centre, width, height as fractions of the whole image.

  Padding does not count as part of the image.
  """

  def map(self, example: Example) -> Example:
    height, width = example.get('size', example['image'].shape[:2])
    sides = np.array([width, height, width, height], np.float32)
    return example | {'boxes': box_ops.xyxy_to_cxcywh(example['boxes']) / sides}
