"""Transforms of single examples on the host; images are uint8 (H, W, C)."""

import dataclasses
from typing import Any

import cv2
import grain
import numpy as np
import simplejpeg

from big_vision_like.errors import UserError

cv2.setNumThreads(0)  # workers and threads are the pipeline's business

Example = dict[str, Any]

INTERPOLATIONS = {
  'nearest': cv2.INTER_NEAREST,
  'bilinear': cv2.INTER_LINEAR,
  'bicubic': cv2.INTER_CUBIC,
  'area': cv2.INTER_AREA,
}


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
  """To `size` x `size`, whatever the aspect ratio; no antialiasing but in 'area'."""

  size: int
  method: str = 'bilinear'

  def __post_init__(self) -> None:
    if self.method not in INTERPOLATIONS:
      known = ', '.join(INTERPOLATIONS)
      raise UserError(f'method={self.method!r} is not one of {known}')

  def map(self, example: Example) -> Example:
    side = (self.size, self.size)
    image = cv2.resize(
      example['image'], side, interpolation=INTERPOLATIONS[self.method]
    )
    return example | {'image': image.reshape(*side, -1)}


@dataclasses.dataclass(frozen=True)
class RandomAffine(grain.transforms.RandomMap):
  """Rotation (degrees), scale, shift (share of the side): uniform in +-value."""

  rotate: float = 0.0
  scale: float = 0.0
  shift: float = 0.0
  fill: int = 0

  def random_map(self, example: Example, rng: np.random.Generator) -> Example:
    image = example['image']
    height, width = image.shape[:2]
    angle, zoom, dx, dy = rng.uniform(-1.0, 1.0, 4)
    matrix = cv2.getRotationMatrix2D(
      ((width - 1) / 2, (height - 1) / 2), angle * self.rotate, 1 + zoom * self.scale
    )
    matrix[:, 2] += dx * self.shift * width, dy * self.shift * height
    moved = cv2.warpAffine(
      image, matrix, (width, height), borderValue=(self.fill,) * image.shape[2]
    )
    return example | {'image': moved.reshape(image.shape)}
