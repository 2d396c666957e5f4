"""RandAugment (arXiv:1909.13719) as the ViTs of arXiv:2106.10270 were trained with it.

That is the published TensorFlow code with its surprises, each marked below. Images are
uint8 (H, W, 3); every operation is a pure function that returns a new image. What an
operation uncovers becomes grey (128).
"""

import dataclasses
import math
from collections.abc import Callable
from typing import Any

import cv2
import grain
import numpy as np

from big_vision_like.errors import UserError

Example = dict[str, Any]

FILL = 128
VALUES = np.arange(256)


@dataclasses.dataclass(frozen=True)
class RandAugment(grain.transforms.RandomMap):
  """`layers` operations, one after the other, each drawn from all and always applied.

  The magnitude is 10 for the ranges of the paper; arXiv:2106.10270 goes from 0, where
  most operations still change the image, to 20.
  """

  layers: int = 2
  magnitude: float = 10

  def __post_init__(self) -> None:
    if self.layers < 0 or self.magnitude < 0:
      raise UserError(
        f'layers={self.layers} and magnitude={self.magnitude} may not be negative'
      )

  def random_map(self, example: Example, rng: np.random.Generator) -> Example:
    image = example['image']
    if image.dtype != np.uint8 or image.ndim != 3 or image.shape[-1] != 3:
      raise UserError(
        f'RandAugment takes uint8 (H, W, 3), not {image.dtype} {image.shape} (id'
        f' {example.get("id", "unknown")}): decode with channels=3.'
      )
    for _ in range(self.layers):
      name = NAMES[rng.integers(len(NAMES))]
      image = distort(name, image, self.magnitude, rng)
    return example | {'image': image}


def distort(
  name: str, image: np.ndarray, magnitude: float, rng: np.random.Generator
) -> np.ndarray:
  """The operation of that name; signs and places are drawn from `rng`."""
  if name in PLAIN:
    return PLAIN[name](image)
  amount = argument(name, magnitude)
  if name == 'Cutout':
    height, width = image.shape[:2]
    return cutout(image, amount, rng.integers(height), rng.integers(width))
  if name in MOVING and rng.random() < 0.5:
    amount = -amount
  return GRADED[name](image, amount)


def argument(name: str, magnitude: float) -> float:
  """The argument of an operation, without its sign; an integer where it has to be."""
  share = magnitude / 10
  if name in ('Color', 'Contrast', 'Brightness', 'Sharpness'):
    return share * 1.8 + 0.1
  at_ten = AT_TEN[name]
  return int(share * at_ten) if isinstance(at_ten, int) else share * at_ten


# Colours


def invert(image: np.ndarray) -> np.ndarray:
  return 255 - image


def autocontrast(image: np.ndarray) -> np.ndarray:
  """Each channel stretched from its darkest and brightest value to 0 and 255."""
  tables = []
  for channel in cv2.split(image):
    low, high, table = np.float32(channel.min()), np.float32(channel.max()), VALUES
    if high > low:
      scale = np.float32(255) / (high - low)
      table = np.clip(VALUES.astype(np.float32) * scale + -low * scale, 0, 255)
    tables.append(table)
  return look_up(image, np.stack(tables, axis=-1))


def equalize(image: np.ndarray) -> np.ndarray:
  """Each channel so that all values are about as frequent."""
  tables = []
  for channel in cv2.split(image):
    counts = np.bincount(channel.ravel(), minlength=256)
    step = (channel.size - counts[counts > 0][-1]) // 255
    table = VALUES
    if step:
      before = np.cumsum(counts) - counts
      table = np.where(VALUES > 0, (before + step // 2) // step, 0)
    tables.append(np.minimum(table, 255))
  return look_up(image, np.stack(tables, axis=-1))


def posterize(image: np.ndarray, bits: int) -> np.ndarray:
  """The upper `bits` of each value; one where TensorFlow cannot shift so far."""
  # The shift is a uint8: -1, from 9 bits, is 255. The largest possible shift is 7.
  shift = min((8 - bits) % 256, 7)
  return look_up(image, VALUES >> shift << shift)


def solarize(image: np.ndarray, threshold: int) -> np.ndarray:
  """Values from the threshold, modulo 256, on are inverted."""
  # The threshold is a uint8 too: at magnitude 10 it is 256, and all is inverted.
  return look_up(image, np.where(threshold % 256 > VALUES, VALUES, 255 - VALUES))


def solarize_add(image: np.ndarray, addition: int) -> np.ndarray:
  """Values below 128 are raised."""
  raised = np.clip(VALUES + addition, 0, 255)
  return look_up(image, np.where(VALUES < 128, raised, VALUES))


def brightness(image: np.ndarray, factor: float) -> np.ndarray:
  """From black (0) to the image (1) and beyond."""
  return look_up(image, blend(np.zeros(256), VALUES, factor))


def contrast(image: np.ndarray, factor: float) -> np.ndarray:
  """From one grey (0) to the image (1) and beyond."""
  # The grey ought to be the mean of the image, but is its number of pixels / 256.
  grey = min(image.shape[0] * image.shape[1] // 256, 255)
  return look_up(image, blend(np.full(256, grey), VALUES, factor))


def color(image: np.ndarray, factor: float) -> np.ndarray:
  """From grey (0) to the image (1) and beyond."""
  return blend(luma(image)[..., None], image, factor)


def sharpness(image: np.ndarray, factor: float) -> np.ndarray:
  """From smooth (0) to the image (1) and beyond, but for pixels at the border."""
  kernel = np.array([[1, 1, 1], [1, 5, 1], [1, 1, 1]], np.float32) / np.float32(13)
  # Sums in float32, so that fractions are cut off where TensorFlow's are.
  smooth = cv2.filter2D(image.astype(np.float32), cv2.CV_32F, kernel)
  smooth, inner = smooth[1:-1, 1:-1].astype(np.uint8), image[1:-1, 1:-1]
  result = image.copy()
  result[1:-1, 1:-1] = blend(smooth, inner, factor)
  return result


def luma(image: np.ndarray) -> np.ndarray:
  """uint8 (H, W), rounded as TensorFlow does."""
  unit = image.astype(np.float32) * np.float32(1 / 255)
  grey = unit @ np.array([0.2989, 0.5870, 0.1140], np.float32)
  return (grey * np.float32(255.5)).astype(np.uint8)


def blend(degenerate: np.ndarray, image: np.ndarray, factor: float) -> np.ndarray:
  """uint8: `degenerate` at factor 0, `image` at 1; fractions are cut off."""
  first, second = degenerate.astype(np.float32), image.astype(np.float32)
  mixed = first + np.float32(factor) * (second - first)
  return np.clip(mixed, 0, 255).astype(np.uint8)


def look_up(image: np.ndarray, table: np.ndarray) -> np.ndarray:
  """Each value replaced by its entry; the table is (256,), or (256, C) by channel."""
  return cv2.LUT(image, table.astype(np.uint8).reshape(1, 256, -1))


# Places


def rotate(image: np.ndarray, degrees: float) -> np.ndarray:
  """About the centre; clockwise where `degrees` are negative."""
  angle = math.radians(degrees)
  cos, sin = math.cos(angle), math.sin(angle)
  right, bottom = image.shape[1] - 1, image.shape[0] - 1
  dx = (right - (cos * right - sin * bottom)) / 2
  dy = (bottom - (sin * right + cos * bottom)) / 2
  return moved(image, (cos, -sin, dx), (sin, cos, dy))


def shear_x(image: np.ndarray, level: float) -> np.ndarray:
  """Rows moved left by `level` times their distance from the top."""
  return moved(image, (1, level, 0), (0, 1, 0))


def shear_y(image: np.ndarray, level: float) -> np.ndarray:
  """Columns moved up by `level` times their distance from the left."""
  return moved(image, (1, 0, 0), (level, 1, 0))


def translate_x(image: np.ndarray, pixels: float) -> np.ndarray:
  """To the left."""
  return moved(image, (1, 0, pixels), (0, 1, 0))


def translate_y(image: np.ndarray, pixels: float) -> np.ndarray:
  """Upwards."""
  return moved(image, (1, 0, 0), (0, 1, pixels))


def moved(image: np.ndarray, x: tuple[float, ...], y: tuple[float, ...]) -> np.ndarray:
  """Every pixel p = (column, row, 1) taken from the one nearest to (x . p, y . p)."""
  rows, columns = (np.arange(size, dtype=np.float32) for size in image.shape[:2])
  places = []
  for a, b, c in np.array([x, y], np.float32):
    exact = (a * columns)[None] + (b * rows)[:, None] + c
    # Halves go away from zero: -0.5 lies outside.
    places.append(np.trunc(exact + np.copysign(np.float32(0.5), exact)))
  nearest = np.stack(places, axis=-1).astype(np.int16)
  return cv2.remap(
    image, nearest, None, cv2.INTER_NEAREST, borderValue=(FILL,) * image.shape[2]
  )


def cutout(image: np.ndarray, size: int, row: int, column: int) -> np.ndarray:
  """Grey over the square of side 2 * `size` about a pixel."""
  result = image.copy()
  top, left = max(row - size, 0), max(column - size, 0)
  result[top : row + size, left : column + size] = FILL
  return result


PLAIN: dict[str, Callable[[np.ndarray], np.ndarray]] = {
  'AutoContrast': autocontrast,
  'Equalize': equalize,
  'Invert': invert,
}
MOVING: dict[str, Callable[[np.ndarray, float], np.ndarray]] = {
  'Rotate': rotate,
  'ShearX': shear_x,
  'ShearY': shear_y,
  'TranslateX': translate_x,
  'TranslateY': translate_y,
}
GRADED: dict[str, Callable[[np.ndarray, float], np.ndarray]] = {
  'Posterize': posterize,
  'Solarize': solarize,
  'SolarizeAdd': solarize_add,
  'Color': color,
  'Contrast': contrast,
  'Brightness': brightness,
  'Sharpness': sharpness,
  **MOVING,
}
AT_TEN = {
  'Posterize': 4,
  'Solarize': 256,
  'SolarizeAdd': 110,
  'Cutout': 40,
  'Rotate': 30.0,
  'ShearX': 0.3,
  'ShearY': 0.3,
  'TranslateX': 100.0,
  'TranslateY': 100.0,
}
NAMES = (*PLAIN, *GRADED, 'Cutout')
