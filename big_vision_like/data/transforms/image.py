"""Transforms of single examples on the host; images are uint8 (H, W, C)."""

import dataclasses
from typing import Any

import cv2
import grain
import numpy as np
import simplejpeg
from PIL import Image

from big_vision_like.errors import UserError

cv2.setNumThreads(0)  # workers and threads are the pipeline's business

Example = dict[str, Any]

INTERPOLATIONS = {
  'nearest': cv2.INTER_NEAREST,
  'bilinear': cv2.INTER_LINEAR,
  'bicubic': cv2.INTER_CUBIC,
  'area': cv2.INTER_AREA,
}
# Antialiased: what timm and transformers resize with.
PILLOW = {
  f'pillow_{kernel.name.lower()}': kernel
  for kernel in Image.Resampling
  if kernel is not Image.Resampling.NEAREST
}
METHODS = (*INTERPOLATIONS, *PILLOW)


def check_method(method: str) -> None:
  """Raises unless `method` is one of METHODS."""
  if method not in METHODS:
    raise UserError(f'method={method!r} is not one of {", ".join(METHODS)}')


def resized(image: np.ndarray, height: int, width: int, method: str) -> np.ndarray:
  """(height, width, C); no antialiasing but in 'area' and Pillow's."""
  if method in PILLOW:
    picture = Image.fromarray(image[..., 0] if image.shape[-1] == 1 else image)
    small = np.asarray(picture.resize((width, height), PILLOW[method]))
  else:
    small = cv2.resize(image, (width, height), interpolation=INTERPOLATIONS[method])
  return small.reshape(height, width, -1)


@dataclasses.dataclass(frozen=True)
class Decode(grain.transforms.Map):
  """JPEG, PNG or WebP bytes to uint8 (H, W, channels); EXIF orientation is ignored."""

  channels: int = 3

  def __post_init__(self) -> None:
    if self.channels not in (1, 3):
      raise UserError(f'channels={self.channels} is not 1 (grey) or 3 (RGB)')

  def map(self, example: Example) -> Example:
    encoded = example['image']
    try:
      image = _decode(encoded, self.channels)
    except (ValueError, cv2.error) as error:
      name = example.get('id', 'unknown')
      reason = str(error).strip()
      raise UserError(
        f'the image of the example with id {name} cannot be decoded'
        f' ({len(encoded)} bytes: {reason}); prepare the data set again or remove it.'
      ) from error
    return example | {'image': image}


def _decode(encoded: bytes, channels: int) -> np.ndarray:
  if not encoded:
    raise ValueError('the file is empty')
  if simplejpeg.is_jpeg(encoded):
    return simplejpeg.decode_jpeg(encoded, {1: 'GRAY', 3: 'RGB'}[channels])
  flag = cv2.IMREAD_GRAYSCALE if channels == 1 else cv2.IMREAD_COLOR
  buffer = np.frombuffer(encoded, np.uint8)
  image = cv2.imdecode(buffer, flag | cv2.IMREAD_IGNORE_ORIENTATION)
  if image is None:
    raise ValueError('not a readable JPEG, PNG or WebP')
  return image[..., None] if channels == 1 else cv2.cvtColor(image, cv2.COLOR_BGR2RGB)


@dataclasses.dataclass(frozen=True)
class Resize(grain.transforms.Map):
  """To `size` (a side, or height and width), whatever the aspect ratio.

  No antialiasing but in 'area' and the methods of Pillow.
  """

  size: int | tuple[int, int]
  method: str = 'bilinear'

  def __post_init__(self) -> None:
    check_method(self.method)

  def map(self, example: Example) -> Example:
    image = resized(example['image'], *_sides(self.size), self.method)
    return example | {'image': image}


def _sides(size: int | tuple[int, int]) -> tuple[int, int]:
  return (size, size) if isinstance(size, int) else tuple(size)


@dataclasses.dataclass(frozen=True)
class InceptionCrop(grain.transforms.RandomMap):
  """A random box (arXiv:1409.4842) resized to `size` x `size`.

  `area` is its share of the image, `aspect` its width over height. Where no box fits
  in 100 draws, the whole image is taken.
  """

  size: int
  area: tuple[float, float] = (0.05, 1.0)
  aspect: tuple[float, float] = (3 / 4, 4 / 3)
  method: str = 'bilinear'

  def __post_init__(self) -> None:
    check_method(self.method)

  def random_map(self, example: Example, rng: np.random.Generator) -> Example:
    image = example['image']
    top, left, height, width = self._box(*image.shape[:2], rng)
    box = image[top : top + height, left : left + width]
    return example | {'image': resized(box, self.size, self.size, self.method)}

  def _box(
    self, height: int, width: int, rng: np.random.Generator
  ) -> tuple[int, int, int, int]:
    for _ in range(100):
      area = rng.uniform(*self.area) * height * width
      aspect = rng.uniform(*self.aspect)
      h, w = round((area / aspect) ** 0.5), round((area * aspect) ** 0.5)
      if 0 < h <= height and 0 < w <= width:
        return rng.integers(height - h + 1), rng.integers(width - w + 1), h, w
    return 0, 0, height, width


@dataclasses.dataclass(frozen=True)
class Flip(grain.transforms.RandomMap):
  """Left for right, every other time."""

  def random_map(self, example: Example, rng: np.random.Generator) -> Example:
    if rng.random() < 0.5:
      return example
    return example | {'image': np.ascontiguousarray(example['image'][:, ::-1])}


@dataclasses.dataclass(frozen=True)
class ResizeSmall(grain.transforms.Map):
  """The shorter side to `size`; the aspect ratio stays."""

  size: int
  method: str = 'area'

  def __post_init__(self) -> None:
    check_method(self.method)

  def map(self, example: Example) -> Example:
    image = example['image']
    height, width = image.shape[:2]
    scale = self.size / min(height, width)
    sides = (max(round(side * scale), self.size) for side in (height, width))
    return example | {'image': resized(image, *sides, self.method)}


@dataclasses.dataclass(frozen=True)
class CentralCrop(grain.transforms.Map):
  """The `size` (a side, or height and width) in the middle."""

  size: int | tuple[int, int]

  def map(self, example: Example) -> Example:
    image = example['image']
    height, width = image.shape[:2]
    h, w = _sides(self.size)
    if height < h or width < w:
      raise UserError(
        f'CentralCrop(size={self.size}) of an image of {height}x{width} (id'
        f' {example.get("id", "unknown")}): resize first, with ResizeSmall.'
      )
    top, left = (height - h) // 2, (width - w) // 2
    return example | {'image': image[top : top + h, left : left + w]}


@dataclasses.dataclass(frozen=True)
class RandomCrop(grain.transforms.RandomMap):
  """Any `size` x `size`, each as likely as the others."""

  size: int

  def random_map(self, example: Example, rng: np.random.Generator) -> Example:
    image = example['image']
    height, width = image.shape[:2]
    if min(height, width) < self.size:
      raise UserError(
        f'RandomCrop(size={self.size}) of an image of {height}x{width} (id'
        f' {example.get("id", "unknown")}): resize first, with Resize or ResizeSmall.'
      )
    top = rng.integers(height - self.size + 1)
    left = rng.integers(width - self.size + 1)
    return example | {'image': image[top : top + self.size, left : left + self.size]}


def bit_sizes(
  height: int, width: int, large: tuple[int, int] = (448, 384)
) -> tuple[int, int]:
  """What a data set's images are resized to and cropped to, by their original size.

  The BiT-HyperRule (arXiv:1912.11370 section 3.3): `Resize`, then `RandomCrop`; and to
  evaluate, `Resize` to the size of the crop. The paper has (512, 480) as `large` for
  R152x4 alone, its published code for all models.
  """
  return (160, 128) if height * width < 96 * 96 else large


@dataclasses.dataclass(frozen=True)
class Brighten(grain.transforms.Map):
  """Times `factor`, at most 255: for images stored as 0 and 1."""

  factor: int = 255

  def map(self, example: Example) -> Example:
    bright = np.minimum(example['image'].astype(np.int32) * self.factor, 255)
    return example | {'image': bright.astype(np.uint8)}


@dataclasses.dataclass(frozen=True)
class RandomAffine(grain.transforms.RandomMap):
  """Rotation (degrees), scale, shift (share of the side): uniform in +-value."""

  rotate: float = 0.0
  scale: float = 0.0
  shift: float = 0.0
  fill: int = 0
  method: str = 'bilinear'

  def random_map(self, example: Example, rng: np.random.Generator) -> Example:
    image = example['image']
    height, width = image.shape[:2]
    angle, zoom, dx, dy = rng.uniform(-1.0, 1.0, 4)
    matrix = cv2.getRotationMatrix2D(
      ((width - 1) / 2, (height - 1) / 2), angle * self.rotate, 1 + zoom * self.scale
    )
    matrix[:, 2] += dx * self.shift * width, dy * self.shift * height
    moved = cv2.warpAffine(
      image,
      matrix,
      (width, height),
      flags=INTERPOLATIONS[self.method],
      borderValue=(self.fill,) * image.shape[2],
    )
    return example | {'image': moved.reshape(image.shape)}
