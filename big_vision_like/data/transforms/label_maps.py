"""Transforms of an image together with its label map, the class of each pixel.

Fields of an example are `image` uint8 (H, W, 3) and `label_map` uint8 (H, W), in which
255 marks pixels without a label. Geometry and colours follow mmsegmentation 0.11, the
code with which Swin (arXiv:2103.14030) was evaluated on ADE20K.
"""

import dataclasses
import functools
import io
from collections.abc import Sequence
from typing import Any

import cv2
import grain
import numpy as np
from PIL import Image

from big_vision_like.data.input import bucket
from big_vision_like.data.transforms import (
  decoding,
  labels,
  padding,
  randaugment,
  resizing,
)
from big_vision_like.errors import BadRecordError, UserError, shape_text

Example = dict[str, Any]

IGNORED = 255
# Crops that are tried until no class has too many of the pixels.
TRIES = 10


@dataclasses.dataclass(frozen=True)
class Labels(grain.transforms.Map):
  """Conversion of an encoded label map to classes; goes after `image.Decode`.

  The map is a picture of one channel or of colours by index (a palette), `name` of the
  record. Class i has the value `values[i]`, and pixels with a value of `ignored` have
  no label. Any other value makes a bad record, as does a map of another size than its
  image. Adds `original_size`, int32 (2,), the height and width of the image.
  """

  values: Sequence[int]
  ignored: Sequence[int] = (IGNORED,)
  name: str = 'label_map'

  def __post_init__(self) -> None:
    if len(self.values) > IGNORED or len({*self.values}) < len(self.values):
      raise UserError(
        f'values of {len(self.values)} classes: they must differ, and label maps have'
        f' at most {IGNORED} classes'
      )

  @functools.cached_property
  def _table(self) -> np.ndarray:
    """The class of each value, -1 for values without meaning."""
    largest = max(*self.values, *self.ignored, 0)
    table = np.full(largest + 2, -1, np.int16)
    table[[*self.ignored]] = IGNORED
    table[[*self.values]] = np.arange(len(self.values))
    return table

  def map(self, example: Example) -> Example:
    which = _name(example)
    values_HW = decoded(labels.feature(example, self.name), which)
    size = example['image'].shape[:2]
    if values_HW.shape != size:
      raise BadRecordError(
        f'{which} has a label map of {shape_text(values_HW.shape)}, but an image of'
        f' {shape_text(size)}'
      )
    table = self._table
    found_HW = table[np.minimum(values_HW, len(table) - 1)]
    if (wrong_HW := found_HW < 0).any():
      raise BadRecordError(
        f'the label map of {which} has the value {values_HW[wrong_HW][0]}, which is'
        f' neither one of the {len(self.values)} classes nor ignored: values of classes'
        f' are {min(self.values)} to {max(self.values)}'
      )
    return example | {
      'label_map': found_HW.astype(np.uint8),
      'original_size': np.array(size, np.int32),
    }


def decoded(encoded: bytes, which: str = 'the example') -> np.ndarray:
  """Decodes a label map to values (H, W); indices of a palette are values.

  Raises BadRecordError for colours, lossy compression, and files that are not pictures.
  """
  try:
    decoding.check_size(*decoding.image_size(encoded))
    with Image.open(io.BytesIO(encoded)) as picture:
      picture.load()
  except (ValueError, OSError, SyntaxError, Image.DecompressionBombError) as error:
    raise BadRecordError(
      f'the label map of {which} cannot be decoded: {error}'
    ) from error
  if picture.format in ('JPEG', 'MPO'):
    raise BadRecordError(
      f'the label map of {which} is a JPEG, whose values are not exact: label maps are'
      ' PNG'
    )
  values = np.asarray(picture)
  if values.ndim == 3:
    if picture.mode not in ('RGB', 'RGBA', 'LA') or np.ptp(values[..., :3], -1).any():
      raise BadRecordError(
        f'the label map of {which} has colours ({picture.mode}): a label map has one'
        ' channel or a palette, and the value of a pixel is its class'
      )
    values = values[..., 0]
  return values.astype(np.int32)


def _name(example: Example) -> str:
  file = example.get('file')
  if file:
    return file.decode() if isinstance(file, bytes) else str(file)
  return f'the example with id {example.get("id", "unknown")}'


def fitted_size(
  height: int, width: int, longest: float, shortest: float
) -> tuple[int, int]:
  """Returns the largest size whose sides are at most these, with the same aspect ratio.

  `longest` bounds the longer side, `shortest` the shorter.
  """
  scale = min(longest / max(height, width), shortest / min(height, width))
  return max(int(height * scale + 0.5), 1), max(int(width * scale + 0.5), 1)


def resize(example: Example, height: int, width: int) -> Example:
  """Resizes an example: image bilinear without antialiasing, map to nearest pixels."""
  image = resizing.resized(example['image'], height, width, 'bilinear')
  result = example | {'image': image}
  if 'label_map' in example:
    label_map = resizing.resized(example['label_map'], height, width, 'nearest')
    result['label_map'] = label_map[..., 0]
  return result


@dataclasses.dataclass(frozen=True)
class RandomResize(bucket.Resizing, grain.transforms.RandomMap):
  """Resizing to a random multiple of the size that `longest` and `shortest` allow.

  The aspect ratio stays, up to rounding; the factor is uniform within `factors`.
  """

  sides = ('longest', 'shortest')

  longest: int
  shortest: int
  factors: tuple[float, float] = (0.5, 2.0)

  def size_after(
    self, size: bucket.Size, rng: np.random.Generator | None
  ) -> bucket.Size:
    factor = rng.uniform(*self.factors)
    sides = int(self.longest * factor), int(self.shortest * factor)
    return fitted_size(*size, *(max(side, 1) for side in sides))

  def random_map(self, example: Example, rng: np.random.Generator) -> Example:
    return resize(example, *self.size_after(example['image'].shape[:2], rng))


@dataclasses.dataclass(frozen=True)
class RandomCrop(bucket.Resizing, grain.transforms.RandomMap):
  """A random crop of `size` or less, in which no class has more than a share of pixels.

  Up to ten crops are tried until they have several classes and none has `most` of the
  labelled pixels; the last is taken.
  """

  size: int
  most: float = 0.75

  def size_after(
    self, size: bucket.Size, rng: np.random.Generator | None
  ) -> bucket.Size:
    return tuple(min(side, self.size) for side in size)

  def random_map(self, example: Example, rng: np.random.Generator) -> Example:
    label_map = example['label_map']
    rest = [max(side - self.size, 0) for side in label_map.shape]
    for _ in range(TRIES if self.most < 1 else 1):
      top, left = (int(rng.integers(side + 1)) for side in rest)
      part = slice(top, top + self.size), slice(left, left + self.size)
      counts = np.bincount(label_map[part].ravel(), minlength=IGNORED + 1)[:IGNORED]
      if np.count_nonzero(counts) > 1 and counts.max() / counts.sum() < self.most:
        break
    return example | {'image': example['image'][part], 'label_map': label_map[part]}


@dataclasses.dataclass(frozen=True)
class Flip(grain.transforms.RandomMap):
  """A horizontal flip with probability 1/2.

  Classes of `pairs`, such as a left and a right arm, are exchanged.
  """

  pairs: Sequence[tuple[int, int]] = ()

  def random_map(self, example: Example, rng: np.random.Generator) -> Example:
    if rng.random() < 0.5:
      return example
    label_map = example['label_map'][:, ::-1]
    if self.pairs:
      table = np.arange(IGNORED + 1, dtype=np.uint8)
      for left, right in self.pairs:
        table[[left, right]] = right, left
      label_map = table[label_map]
    return example | {
      'image': np.ascontiguousarray(example['image'][:, ::-1]),
      'label_map': np.ascontiguousarray(label_map),
    }


@dataclasses.dataclass(frozen=True)
class PhotometricDistortion(grain.transforms.RandomMap):
  """Random brightness, contrast, saturation and hue, each with probability 1/2.

  Contrast changes either before or after saturation and hue (arXiv:1512.02325). The
  arguments are the largest change of brightness, of 255, the range of factors of
  contrast and of saturation, and the largest change of hue, of 180.
  """

  brightness: int = 32
  contrast: tuple[float, float] = (0.5, 1.5)
  saturation: tuple[float, float] = (0.5, 1.5)
  hue: int = 18

  def random_map(self, example: Example, rng: np.random.Generator) -> Example:
    image = randaugment.rgb(example, 'PhotometricDistortion')
    if rng.integers(2):
      image = _scaled(image, 1.0, rng.uniform(-self.brightness, self.brightness))
    late = not rng.integers(2)
    if not late:
      image = self._contrast(image, rng)
    if rng.integers(2):
      hsv = cv2.cvtColor(image, cv2.COLOR_RGB2HSV)
      hsv[..., 1] = _scaled(hsv[..., 1], rng.uniform(*self.saturation))
      image = cv2.cvtColor(hsv, cv2.COLOR_HSV2RGB)
    if rng.integers(2):
      hsv = cv2.cvtColor(image, cv2.COLOR_RGB2HSV)
      turn = rng.integers(-self.hue, self.hue) if self.hue else 0
      hsv[..., 0] = (hsv[..., 0].astype(int) + turn) % 180
      image = cv2.cvtColor(hsv, cv2.COLOR_HSV2RGB)
    if late:
      image = self._contrast(image, rng)
    return example | {'image': image}

  def _contrast(self, image: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    return _scaled(image, rng.uniform(*self.contrast)) if rng.integers(2) else image


def _scaled(image: np.ndarray, factor: float, offset: float = 0.0) -> np.ndarray:
  """Returns values times a factor plus an offset, clipped and rounded down."""
  values = np.arange(256, dtype=np.float32) * np.float32(factor) + np.float32(offset)
  return cv2.LUT(image, np.clip(values, 0, 255).astype(np.uint8)).reshape(image.shape)


@dataclasses.dataclass(frozen=True)
class Truth(grain.transforms.Map):
  """The label map of an image of the original size, for evaluation.

  Goes after `Labels`, and before images are resized. Moves `label_map` to `truth_map`,
  uint8 of `size` (height, width), padded with 255.
  """

  size: tuple[int, int]

  sides = ()  # `size` must hold images of the original size
  tiny = dict(size=(64, 64))

  def map(self, example: Example) -> Example:
    result = dict(example)
    label_map = result.pop('label_map')
    room = np.subtract(self.size, label_map.shape).tolist()
    if min(room) < 0:
      raise UserError(
        f'Truth(size={tuple(self.size)}) cannot hold an image of'
        f' {shape_text(label_map.shape)}: set size to the largest height and width.'
      )
    padding = [(0, side) for side in room]
    result['truth_map'] = np.pad(label_map, padding, constant_values=IGNORED)
    return result


@dataclasses.dataclass(frozen=True)
class Views(bucket.Resizing, grain.transforms.Map):
  """Resizing of an image to the size that `longest` and `shortest` allow, for testing.

  The aspect ratio stays, up to rounding. With `multiple`, sides are rounded to
  multiples of it, so that images have few shapes and need no padding. Adds an image
  `image_0.5`, and its `size_0.5`, for each of the `scales` except 1, such as 0.5.
  """

  sides = ('longest', 'shortest')

  longest: int
  shortest: int
  scales: Sequence[float] = (1.0,)
  multiple: int = 1

  def size_after(
    self, size: bucket.Size, rng: np.random.Generator | None = None
  ) -> bucket.Size:
    return self._size(size, 1.0)

  def _size(self, size: bucket.Size, scale: float) -> bucket.Size:
    if self.multiple == 1:
      return fitted_size(*size, int(self.longest * scale), int(self.shortest * scale))
    sides = fitted_size(*size, self.longest, self.shortest)
    whole = [max(round(s / self.multiple), 1) * self.multiple for s in sides]
    return tuple(max(round(side * scale), 1) for side in whole)

  def map(self, example: Example) -> Example:
    size, result = example['image'].shape[:2], dict(example)
    for scale in self.scales:
      if scale != 1:
        own = self._size(size, scale)
        result[f'image_{scale:g}'] = resize({'image': example['image']}, *own)['image']
        result[f'size_{scale:g}'] = np.array(own, np.int32)
    return result | resize({'image': example['image']}, *self.size_after(size))


@dataclasses.dataclass(frozen=True)
class Pad(padding.ImageBucket):
  """Padding to one of a few shapes: images with zeros, label maps with 255.

  An image is padded to the smallest of `sizes`, heights and widths, that holds it. With
  several sizes, inputs form batches of one shape each (`input.grouping`). Adds `size`,
  int32 (2,), the height and width before padding. Further `scales` of `Views` are
  padded in proportion. Images are zero after normalizing, where `size` ends.
  """

  sizes: Sequence[tuple[int, int]]
  scales: Sequence[float] = (1.0,)

  resizers = 'transforms of label maps'
  remedy = 'resize or crop first, or add a larger size.'

  def map(self, example: Example) -> Example:
    size = example['image'].shape[:2]
    return self._padded(
      example | {'size': np.array(size, np.int32)}, self.sizes[self.choose(size)]
    )

  def _padded(self, example: Example, shape: tuple[int, int]) -> Example:
    result = example | {'image': _room(example['image'], shape, 0)}
    if 'label_map' in example:
      result['label_map'] = _room(example['label_map'], shape, IGNORED)
    for scale in self.scales:
      if scale != 1:
        name = f'image_{scale:g}'
        inner = tuple(int(np.ceil(side * scale)) for side in shape)
        result[name] = _room(example[name], inner, 0)
    return result

  def fit(self, example: Example, shape: tuple[int, int]) -> Example:
    """Returns a padded example in another of the shapes.

    Crops images that are too large, at the right and below.
    """
    rows, columns = np.minimum(example['size'], shape).tolist()
    result = example | {'size': np.array([rows, columns], np.int32)}
    for name in ('image', 'label_map'):
      if name in example:
        result[name] = example[name][:rows, :columns]
    for scale in self.scales:
      if scale != 1:
        own = [int(np.ceil(side * scale)) for side in (rows, columns)]
        name = f'image_{scale:g}'
        result[name] = example[name][: own[0], : own[1]]
        result[f'size_{scale:g}'] = np.minimum(example[f'size_{scale:g}'], own).astype(
          np.int32
        )
    return self._padded(result, shape)


def _room(array: np.ndarray, shape: tuple[int, int], value: int) -> np.ndarray:
  """Pads height and width to a shape, to the right and below."""
  sides = [(0, new - old) for new, old in zip(shape, array.shape[:2], strict=True)]
  rest = [(0, 0)] * (array.ndim - 2)
  return np.pad(array, [*sides, *rest], constant_values=value)
