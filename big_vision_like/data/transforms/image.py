"""Transforms of single images on the host; images are uint8 (H, W, C)."""

import contextlib
import dataclasses
from collections.abc import Iterator
from typing import Any

import cv2
import grain
import numpy as np

from big_vision_like.data.transforms import cropping, decoding, resizing
from big_vision_like.errors import BadRecordError, UserError, check_one_of

Example = dict[str, Any]

INTERPOLATIONS, PILLOW = resizing.INTERPOLATIONS, resizing.PILLOW
METHODS, check_method = resizing.METHODS, resizing.check_method
resized = resizing.resized


@dataclasses.dataclass(frozen=True)
class Decode(grain.transforms.Map):
  """Decoding of JPEG, PNG or WebP bytes to uint8 (H, W, channels).

  EXIF orientation is ignored. `dct` applies to JPEGs: 'accurate' is bit-identical to
  Pillow; 'fast' is TensorFlow's default, which is darker by 0.8 of 255 on average.
  Raises BadRecordError for bytes that are not a complete image.
  """

  channels: int = 3
  dct: str = 'accurate'

  def __post_init__(self) -> None:
    _check_decoding(self.channels, self.dct)

  def map(self, example: Example) -> Example:
    with _told(example):
      image = decoding.decode(example['image'], self.channels, self.dct)
    return example | {'image': image}


def _check_decoding(channels: int, dct: str) -> None:
  if channels not in (1, 3):
    raise UserError(f'channels={channels} is not 1 (grey) or 3 (RGB)')
  check_one_of(decoding.DCT, dct=dct)


def _key(example: Example) -> Any:
  """Returns an identifier of an example for messages: its file, its key or its id."""
  keys = (example[name] for name in ('file', '__key__', 'id') if name in example)
  key = next(keys, 'unknown')
  return key.decode(errors='replace') if isinstance(key, bytes) else key


@contextlib.contextmanager
def _told(example: Example) -> Iterator[None]:
  """Converts decoding errors to BadRecordError with the example's identifier."""
  try:
    yield
  except ValueError as error:
    raise BadRecordError(
      f'the image of the example with id {_key(example)} cannot be'
      f' decoded ({len(example["image"])} bytes: {str(error).strip()}); prepare the'
      ' data set again or remove it.'
    ) from error


@dataclasses.dataclass(frozen=True)
class Resize(grain.transforms.Map):
  """Resizing to `size` (a side, or height and width), ignoring the aspect ratio.

  Only 'area' and Pillow's methods use antialiasing. docs/transforms.md lists the
  `method` that reproduces each published pipeline.
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
  """A random crop (arXiv:1409.4842) resized to `size` x `size`, as TensorFlow draws it.

  `area` is the range of its share of the image, and `aspect` the range of its width
  over height; see `cropping.inception_box` for their distributions. If no box fits in
  100 draws, the whole image is used. The ViTs of arXiv:2010.11929 and arXiv:2106.10270
  were trained with this crop.
  """

  size: int
  area: tuple[float, float] = (0.05, 1.0)
  aspect: tuple[float, float] = (3 / 4, 1.33)
  method: str = 'bilinear'

  def __post_init__(self) -> None:
    check_method(self.method)

  def random_map(self, example: Example, rng: np.random.Generator) -> Example:
    return _boxed(self, example, rng)

  def box(self, height: int, width: int, rng: np.random.Generator) -> cropping.Box:
    """Draws the box to crop from an image of this size."""
    box = cropping.inception_box(height, width, rng, self.area, self.aspect, 100)
    return box or (0, 0, height, width)


@dataclasses.dataclass(frozen=True)
class EfficientNetCrop(grain.transforms.RandomMap):
  """EfficientNet's random crop (arXiv:1905.11946), resized to `size` x `size`.

  The box is the first of ten draws that covers at least a tenth of the image. If there
  is none, or if it is the whole image, the box of `EfficientNetCentralCrop` is used.
  """

  size: int
  area: tuple[float, float] = (0.08, 1.0)
  aspect: tuple[float, float] = (3 / 4, 4 / 3)
  method: str = 'tf1_bicubic'

  def __post_init__(self) -> None:
    check_method(self.method)

  def random_map(self, example: Example, rng: np.random.Generator) -> Example:
    return _boxed(self, example, rng)

  def box(self, height: int, width: int, rng: np.random.Generator) -> cropping.Box:
    """Draws the box to crop from an image of this size."""
    box = cropping.inception_box(
      height, width, rng, self.area, self.aspect, attempts=10, covered=0.1
    )
    if box in (None, (0, 0, height, width)):
      return cropping.efficientnet_box(height, width, self.size)
    return box


@dataclasses.dataclass(frozen=True)
class RandomResizedCrop(grain.transforms.RandomMap):
  """A random crop resized to `size` x `size`, as torchvision and timm draw it.

  `area` is the range of its share of the image, and `aspect` the range of its width
  over height; see `cropping.torch_box`. DeiT (arXiv:2012.12877) and Swin
  (arXiv:2103.14030) train with this crop.
  """

  size: int
  area: tuple[float, float] = (0.08, 1.0)
  aspect: tuple[float, float] = (3 / 4, 4 / 3)
  method: str = 'pillow_bicubic'

  def __post_init__(self) -> None:
    check_method(self.method)

  def random_map(self, example: Example, rng: np.random.Generator) -> Example:
    return _boxed(self, example, rng)

  def box(self, height: int, width: int, rng: np.random.Generator) -> cropping.Box:
    """Draws the box to crop from an image of this size."""
    return cropping.torch_box(height, width, rng, self.area, self.aspect)


BoxCrop = InceptionCrop | EfficientNetCrop | RandomResizedCrop


def _boxed(crop: BoxCrop, example: Example, rng: np.random.Generator) -> Example:
  """Returns the example with a random crop of its image, resized."""
  image = example['image']
  box = crop.box(*image.shape[:2], rng)
  return example | {
    'image': resized(_cut(image, box), crop.size, crop.size, crop.method)
  }


def _cut(image: np.ndarray, box: cropping.Box) -> np.ndarray:
  top, left, height, width = box
  return image[top : top + height, left : left + width]


@dataclasses.dataclass(frozen=True)
class DecodeCrop(grain.transforms.RandomMap):
  """`Decode` and a random crop in one, which decodes only the necessary part.

  A JPEG is decoded down to the last row of the box, or with restart markers only around
  the box. The result is bit-identical; damage between markers, away from the box, is
  not detected. With a `margin`, a JPEG much larger than the result is decoded to sides
  2, 4 or 8 times smaller, such that the box keeps at least `margin` times the size that
  it is resized to. The edges of the box then move to multiples of that factor.
  docs/transforms.md has the gains and losses.
  """

  crop: BoxCrop
  channels: int = 3
  dct: str = 'accurate'
  margin: float | None = None

  def __post_init__(self) -> None:
    _check_decoding(self.channels, self.dct)
    if self.margin is not None and self.margin < 1:
      raise UserError(f'margin={self.margin} is below 1: crops would be enlarged')

  def random_map(self, example: Example, rng: np.random.Generator) -> Example:
    encoded, side = example['image'], self.crop.size
    with _told(example):
      shape = decoding.jpeg_size(encoded) if decoding.is_jpeg(encoded) else None
      if shape is None:
        image = decoding.decode(encoded, self.channels, self.dct)
      else:
        box = self.crop.box(*shape, rng)
        image = decoding.decode_box(
          encoded, box, self.channels, self.dct, self._factor(box)
        )
    if shape is None:
      return self.crop.random_map(example | {'image': image}, rng)
    return example | {'image': resized(image, side, side, self.crop.method)}

  def _factor(self, box: cropping.Box) -> int:
    if self.margin is None:
      return 1
    least = self.margin * self.crop.size
    return next((f for f in (8, 4, 2) if min(box[2:]) >= f * least), 1)


@dataclasses.dataclass(frozen=True)
class Flip(grain.transforms.RandomMap):
  """A horizontal flip with probability 1/2."""

  def random_map(self, example: Example, rng: np.random.Generator) -> Example:
    if rng.random() < 0.5:
      return example
    image = example['image']
    return example | {'image': cv2.flip(image, 1).reshape(image.shape)}


@dataclasses.dataclass(frozen=True)
class ResizeSmall(grain.transforms.Map):
  """Resizing of the shorter side to `size`; keeps the aspect ratio.

  The longer side is rounded to the 'nearest' whole number (google-research/big_vision)
  or 'down' (torchvision, timm, transformers).
  """

  size: int
  method: str = 'area'
  rounding: str = 'nearest'

  def __post_init__(self) -> None:
    check_method(self.method)
    check_one_of(('nearest', 'down'), rounding=self.rounding)

  def map(self, example: Example) -> Example:
    image = example['image']
    sides = [self._side(side, min(image.shape[:2])) for side in image.shape[:2]]
    return example | {'image': resized(image, *sides, self.method)}

  def _side(self, side: int, shorter: int) -> int:
    if self.rounding == 'down':
      return self.size * side // shorter
    scale = np.float32(self.size) / np.float32(shorter)  # as in TensorFlow
    return round(float(np.float32(side) * scale))


@dataclasses.dataclass(frozen=True)
class CentralCrop(grain.transforms.Map):
  """A central crop of `size` (a side, or height and width).

  If the margin has an odd number of pixels, the first row or column of the crop is half
  of it, rounded 'down' (google-research/big_vision, transformers), to the 'nearest'
  even number (torchvision, timm), or 'up'.
  """

  size: int | tuple[int, int]
  rounding: str = 'down'

  def __post_init__(self) -> None:
    check_one_of(cropping.ROUNDING, rounding=self.rounding)

  def map(self, example: Example) -> Example:
    image = example['image']
    height, width = image.shape[:2]
    h, w = _sides(self.size)
    if height < h or width < w:
      raise UserError(
        f'CentralCrop(size={self.size}) cannot crop an image of {height}x{width} (id'
        f' {example.get("id", "unknown")}): resize first, with ResizeSmall.'
      )
    box = cropping.central_box(height, width, h, w, self.rounding)
    return example | {'image': _cut(image, box)}


@dataclasses.dataclass(frozen=True)
class EfficientNetCentralCrop(grain.transforms.Map):
  """The central square of side size/(size + 32) of the shorter side, resized to `size`.

  EfficientNet and Noisy Student (arXiv:1911.04252) are evaluated on this crop.
  """

  size: int
  method: str = 'tf1_bicubic'

  def __post_init__(self) -> None:
    check_method(self.method)

  def map(self, example: Example) -> Example:
    image = example['image']
    middle = _cut(image, cropping.efficientnet_box(*image.shape[:2], self.size))
    return example | {'image': resized(middle, self.size, self.size, self.method)}


@dataclasses.dataclass(frozen=True)
class ReflectPad(grain.transforms.Map):
  """Mirrored padding by `size` pixels on each side; border pixels are not repeated.

  Between `ResizeSmall` and `RandomCrop`, it makes the simple random crop of DeiT III
  (arXiv:2204.07118).
  """

  size: int

  def map(self, example: Example) -> Example:
    image = example['image']
    sides = (self.size,) * 4
    padded = cv2.copyMakeBorder(image, *sides, cv2.BORDER_REFLECT_101)
    return example | {'image': padded.reshape(*padded.shape[:2], -1)}


@dataclasses.dataclass(frozen=True)
class ZeroPad(grain.transforms.Map):
  """Black padding by `size` pixels on each side, as in torchvision's `RandomCrop`."""

  size: int

  def map(self, example: Example) -> Example:
    sides = (self.size, self.size)
    return example | {'image': np.pad(example['image'], (sides, sides, (0, 0)))}


@dataclasses.dataclass(frozen=True)
class RandomCrop(grain.transforms.RandomMap):
  """A crop of `size` x `size` at a uniformly random position."""

  size: int

  def random_map(self, example: Example, rng: np.random.Generator) -> Example:
    image = example['image']
    height, width = image.shape[:2]
    if min(height, width) < self.size:
      raise UserError(
        f'RandomCrop(size={self.size}) cannot crop an image of {height}x{width} (id'
        f' {example.get("id", "unknown")}): resize first, with Resize or ResizeSmall.'
      )
    top = rng.integers(height - self.size + 1)
    left = rng.integers(width - self.size + 1)
    return example | {'image': image[top : top + self.size, left : left + self.size]}


def bit_sizes(
  height: int, width: int, large: tuple[int, int] = (448, 384)
) -> tuple[int, int]:
  """Returns the BiT-HyperRule's sizes to resize and crop to, by original image size.

  BiT (arXiv:1912.11370 section 3.3) trains with `Resize`, then `RandomCrop`, and
  evaluates with `Resize` to the size of the crop. For `large`, the paper uses
  (512, 480) only for R152x4, its published code for all models.
  """
  return (160, 128) if height * width < 96 * 96 else large


@dataclasses.dataclass(frozen=True)
class Brighten(grain.transforms.Map):
  """Multiplication by `factor`, clipped at 255, for images stored as 0 and 1."""

  factor: int = 255

  def map(self, example: Example) -> Example:
    bright = np.minimum(example['image'].astype(np.int32) * self.factor, 255)
    return example | {'image': bright.astype(np.uint8)}


@dataclasses.dataclass(frozen=True)
class RandomAffine(grain.transforms.RandomMap):
  """Random rotation (degrees), scale and shift (share of side), uniform in +-value."""

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
