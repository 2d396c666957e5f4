"""RandAugment (arXiv:1909.13719) as used to train the ViTs of arXiv:2106.10270.

It follows the published TensorFlow code, with its peculiarities, each marked below.
EfficientNet and Noisy Student use the same code. DeiT's version is in
`timm_randaugment`. Images are uint8 (H, W, 3); every operation is a pure function that
returns a new image. Uncovered pixels become grey (128).
"""

import dataclasses
import functools
import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import cv2
import grain
import numpy as np

from big_vision_like.errors import UserError

Example = dict[str, Any]

FILL = 128
VALUES = np.arange(256)
# Contributions of red, green and blue to the grey of a pixel, in float32.
GREYS = [
  np.arange(256, dtype=np.float32) * np.float32(1 / 255) * np.float32(share)
  for share in (0.2989, 0.5870, 0.1140)
]
SMOOTH = np.array([[1, 1, 1], [1, 5, 1], [1, 1, 1]], np.float32) / np.float32(13)


@dataclasses.dataclass(frozen=True)
class RandAugment(grain.transforms.RandomMap):
  """A sequence of `layers` operations drawn from `names`, each always applied.

  Magnitude 10 corresponds to the ranges of the paper; arXiv:2106.10270 uses 0, where
  most operations still change the image, to 20. `translate`, and `cutout` as half the
  side, are in pixels at magnitude 10.

  Noisy Student (arXiv:1911.04252) uses `names=WITHOUT_CUTOUT` and magnitude 27; for
  images of 32x32, all names, and 4 pixels for both `translate` and `cutout`.
  """

  layers: int = 2
  magnitude: float = 10
  names: Sequence[str] = dataclasses.field(default_factory=lambda: NAMES)
  translate: float = 100.0
  cutout: int = 40

  def __post_init__(self) -> None:
    check_names(self.names, NAMES)
    if self.layers < 0 or self.magnitude < 0:
      raise UserError(
        f'layers={self.layers} and magnitude={self.magnitude} must not be negative'
      )

  def random_map(self, example: Example, rng: np.random.Generator) -> Example:
    image = rgb(example, 'RandAugment')
    at_ten = at_ten_with(self.translate, self.cutout)
    for _ in range(self.layers):
      name = self.names[rng.integers(len(self.names))]
      image = distort(name, image, self.magnitude, rng, at_ten)
    return example | {'image': image}


def rgb(example: Example, transform: str) -> np.ndarray:
  """Returns the image if it is uint8 (H, W, 3); raises UserError otherwise."""
  image = example['image']
  if image.dtype != np.uint8 or image.ndim != 3 or image.shape[-1] != 3:
    raise UserError(
      f'{transform} takes uint8 (H, W, 3), not {image.dtype} {image.shape} (id'
      f' {example.get("id", "unknown")}): decode with channels=3.'
    )
  return image


def check_names(names: Sequence[str], known: Sequence[str]) -> None:
  """Raises UserError unless `names` has at least one name, and only known names."""
  unknown = [name for name in names if name not in known]
  if unknown or not names:
    raise UserError(
      f'names={tuple(names)}: choose from {", ".join(known)}'
      + (f', not {", ".join(unknown)}' if unknown else '')
    )


def distort(
  name: str,
  image: np.ndarray,
  magnitude: float,
  rng: np.random.Generator,
  at_ten: Mapping[str, float] | None = None,
) -> np.ndarray:
  """Applies an operation by name; draws signs and places from `rng`."""
  if name in PLAIN:
    return PLAIN[name](image)
  amount = argument(name, magnitude, at_ten)
  if name == 'Cutout':
    height, width = image.shape[:2]
    return cutout(image, amount, rng.integers(height), rng.integers(width))
  if name in MOVING and rng.random() < 0.5:
    amount = -amount
  return GRADED[name](image, amount)


def at_ten_with(translate: float, cutout: int) -> dict[str, float]:
  """Returns AT_TEN with other translations and cutouts, in pixels."""
  moves = dict.fromkeys(('TranslateX', 'TranslateY'), float(translate))
  return AT_TEN | moves | {'Cutout': cutout}


def argument(
  name: str, magnitude: float, at_ten: Mapping[str, float] | None = None
) -> float:
  """Returns the unsigned argument of an operation, an integer if it must be one.

  `at_ten` has the arguments at magnitude 10, by default AT_TEN.
  """
  share = magnitude / 10
  if name in ('Color', 'Contrast', 'Brightness', 'Sharpness'):
    return share * 1.8 + 0.1
  most = (at_ten or AT_TEN)[name]
  return int(share * most) if isinstance(most, int) else share * most


# Colours


def invert(image: np.ndarray) -> np.ndarray:
  return 255 - image


def autocontrast(image: np.ndarray, precision: type = np.float32) -> np.ndarray:
  """Stretches each channel so that its darkest and brightest values are 0 and 255."""

  def stretched(channel: np.ndarray) -> np.ndarray:
    low, high = precision(channel.min()), precision(channel.max())
    if high == low:
      return channel
    scale = precision(255) / (high - low)
    stretch = VALUES.astype(precision) * scale + -low * scale
    return look_up(channel, np.clip(stretch, 0, 255))

  return cv2.merge([stretched(channel) for channel in cv2.split(image)])


def equalize(image: np.ndarray) -> np.ndarray:
  """Equalizes the histogram of each channel."""

  def equalized(channel: np.ndarray) -> np.ndarray:
    counts = cv2.calcHist([channel], [0], None, [256], [0, 256]).ravel().astype(int)
    step = (channel.size - counts[counts > 0][-1]) // 255
    if not step:
      return channel
    before = np.cumsum(counts) - counts
    return look_up(channel, np.minimum((before + step // 2) // step, 255))

  return cv2.merge([equalized(channel) for channel in cv2.split(image)])


def posterize(image: np.ndarray, bits: int) -> np.ndarray:
  """Keeps the upper `bits` of each value; 1 bit where TensorFlow's shift overflows."""
  # The shift is a uint8, so 9 bits give -1 = 255. The largest possible shift is 7.
  shift = min((8 - bits) % 256, 7)
  return look_up(image, VALUES >> shift << shift)


def solarize(image: np.ndarray, threshold: int) -> np.ndarray:
  """Inverts values at or above the threshold modulo 256."""
  # The threshold is a uint8 too: at magnitude 10, 256 becomes 0 and inverts all values.
  return look_up(image, np.where(threshold % 256 > VALUES, VALUES, 255 - VALUES))


def solarize_add(image: np.ndarray, addition: int) -> np.ndarray:
  """Adds `addition` to values below 128."""
  raised = np.clip(VALUES + addition, 0, 255)
  return look_up(image, np.where(VALUES < 128, raised, VALUES))


def brightness(image: np.ndarray, factor: float) -> np.ndarray:
  """Blends black (factor 0) with the image (1) and beyond."""
  return look_up(image, blend(np.zeros(256), VALUES, factor))


def contrast(image: np.ndarray, factor: float) -> np.ndarray:
  """Blends a uniform grey (factor 0) with the image (1) and beyond."""
  # The grey should be the image's mean, but the code has its number of pixels / 256.
  grey = min(image.shape[0] * image.shape[1] // 256, 255)
  return look_up(image, blend(np.full(256, grey), VALUES, factor))


def color(image: np.ndarray, factor: float) -> np.ndarray:
  """Blends the grey image (factor 0) with the image (1) and beyond."""
  return blend(cv2.cvtColor(luma(image), cv2.COLOR_GRAY2RGB), image, factor)


def sharpness(image: np.ndarray, factor: float) -> np.ndarray:
  """Blends the smoothed image (0) with the image (1) and beyond, except at borders."""
  # Sums in float32 are truncated to the same integers as TensorFlow's.
  smooth = cv2.filter2D(image.astype(np.float32), cv2.CV_32F, SMOOTH)
  result = blend(smooth.astype(np.uint8), image, factor)
  for border in (np.s_[0], np.s_[-1], np.s_[:, 0], np.s_[:, -1]):
    result[border] = image[border]
  return result


def luma(image: np.ndarray) -> np.ndarray:
  """Returns the luma, uint8 (H, W), rounded as in TensorFlow."""
  channels = zip(cv2.split(image), GREYS, strict=True)
  red, green, blue = (cv2.LUT(channel, greys) for channel, greys in channels)
  # Adding in this order gives TensorFlow's grey for each of the 2^24 colours.
  red += green
  red += blue
  red *= np.float32(255.5)
  return red.astype(np.uint8)


def blend(degenerate: np.ndarray, image: np.ndarray, factor: float) -> np.ndarray:
  """Blends `degenerate` (factor 0) with `image` (1); truncates the result to uint8."""
  mixed = np.subtract(image, degenerate, dtype=np.float32)
  mixed *= np.float32(factor)
  mixed += degenerate
  return np.clip(mixed, 0, 255, out=mixed).astype(np.uint8)


def look_up(values: np.ndarray, table: np.ndarray) -> np.ndarray:
  """Replaces each value by its entry in a table, (256,)."""
  return cv2.LUT(values, table.astype(np.uint8)).reshape(values.shape)


# Geometry


def rotate(image: np.ndarray, degrees: float) -> np.ndarray:
  """Rotates an image about its centre, clockwise for negative `degrees`."""
  angle = math.radians(degrees)
  cos, sin = math.cos(angle), math.sin(angle)
  right, bottom = image.shape[1] - 1, image.shape[0] - 1
  dx = (right - (cos * right - sin * bottom)) / 2
  dy = (bottom - (sin * right + cos * bottom)) / 2
  return moved(image, (cos, -sin, dx), (sin, cos, dy))


def shear_x(image: np.ndarray, level: float) -> np.ndarray:
  """Shifts each row left by `level` times its distance from the top."""
  return moved(image, (1, level, 0), (0, 1, 0))


def shear_y(image: np.ndarray, level: float) -> np.ndarray:
  """Shifts each column up by `level` times its distance from the left."""
  return moved(image, (1, 0, 0), (level, 1, 0))


def translate_x(image: np.ndarray, pixels: float) -> np.ndarray:
  """Shifts an image to the left."""
  return moved(image, (1, 0, pixels), (0, 1, 0))


def translate_y(image: np.ndarray, pixels: float) -> np.ndarray:
  """Shifts an image up."""
  return moved(image, (1, 0, 0), (0, 1, pixels))


def moved(image: np.ndarray, x: tuple[float, ...], y: tuple[float, ...]) -> np.ndarray:
  """Takes each pixel p = (column, row, 1) from the pixel nearest to (x . p, y . p)."""
  places = nearest(*image.shape[:2], x, y)
  return cv2.remap(
    image, places, None, cv2.INTER_NEAREST, borderValue=(FILL,) * image.shape[2]
  )


# The magnitude of a policy is fixed, so the same few arguments recur.
@functools.lru_cache(maxsize=32)
def nearest(
  height: int, width: int, x: tuple[float, ...], y: tuple[float, ...]
) -> np.ndarray:
  """Returns the source column and row of each pixel, int16 (height, width, 2)."""
  rows, columns = (np.arange(size, dtype=np.float32) for size in (height, width))
  places = np.empty((height, width, 2), np.int16)
  for i, (a, b, c) in enumerate(np.array([x, y], np.float32)):
    exact = (a * columns)[None] + (b * rows)[:, None] + c
    # Halves are rounded away from zero, so -0.5 is outside the image.
    places[..., i] = np.trunc(exact + np.copysign(np.float32(0.5), exact))
  places.flags.writeable = False
  return places


def cutout(image: np.ndarray, size: int, row: int, column: int) -> np.ndarray:
  """Fills a square of side 2 * `size` around a pixel with grey."""
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
WITHOUT_CUTOUT = NAMES[:-1]
