"""Boxes of crops: top, left, height and width of a part of an image."""

import math

import numpy as np

Box = tuple[int, int, int, int]
Range = tuple[float, float]
# Rounding of fractional numbers of pixels; 'nearest' rounds halves to even numbers.
ROUNDING = {'nearest': round, 'down': math.floor, 'up': math.ceil}


def inception_box(
  height: int,
  width: int,
  rng: np.random.Generator,
  area: Range,
  aspect: Range,
  attempts: int,
  covered: float = 0.0,
) -> Box | None:
  """Draws a box as `tf.image.sample_distorted_bounding_box`; None if no attempt fits.

  The aspect (width over height) is uniform. The height is then uniform between the
  limits that `area` allows. Small areas are therefore more frequent than large ones,
  and aspects that only fit as small boxes give small boxes. `covered` is
  `min_object_covered`, with the whole image as the object.
  """
  for _ in range(attempts):
    box = _tf_attempt(height, width, rng, area, rng.uniform(*aspect))
    if box is not None and box[2] * box[3] >= covered * height * width:
      return box
  return None


def _tf_attempt(
  height: int, width: int, rng: np.random.Generator, area: Range, aspect: float
) -> Box | None:
  least, most = (share * height * width for share in area)
  low, high = (round(math.sqrt(size / aspect)) for size in (least, most))
  if round(high * aspect) > width:
    high = int((width + 0.5 - 1e-7) / aspect)
  high = min(high, height)
  low = min(low, high)
  h = low + int(rng.integers(high - low + 1))
  if h * round(h * aspect) < least:
    h += 1
  if h * round(h * aspect) > most:
    h -= 1
  w = round(h * aspect)
  if not (0 < h <= height and 0 < w <= width and least <= h * w <= most):
    return None
  # The last possible position is never drawn, as in TensorFlow.
  top, left = (int(rng.integers(max(room, 1))) for room in (height - h, width - w))
  return top, left, h, w


def torch_box(
  height: int, width: int, rng: np.random.Generator, area: Range, aspect: Range
) -> Box:
  """Draws a box like `RandomResizedCrop` of torchvision and timm.

  The area and the logarithm of the aspect are uniform. If ten attempts do not fit, the
  box is the largest central box with an aspect in the range.
  """
  for _ in range(10):
    size = rng.uniform(*area) * height * width
    ratio = math.exp(rng.uniform(math.log(aspect[0]), math.log(aspect[1])))
    h, w = round(math.sqrt(size / ratio)), round(math.sqrt(size * ratio))
    if 0 < h <= height and 0 < w <= width:
      top, left = rng.integers(height - h + 1), rng.integers(width - w + 1)
      return int(top), int(left), h, w
  h = min(height, round(width / aspect[0]))
  w = min(width, round(height * aspect[1]))
  return central_box(height, width, h, w)


def central_box(height: int, width: int, h: int, w: int, rounding: str = 'down') -> Box:
  """Returns the central h x w box; `rounding` is used if the margin is odd."""
  top, left = (ROUNDING[rounding](room / 2) for room in (height - h, width - w))
  return top, left, h, w


def efficientnet_box(height: int, width: int, size: int) -> Box:
  """Returns EfficientNet's central box for evaluation at `size` (arXiv:1905.11946)."""
  share = np.float32(size / (size + 32))
  side = int(share * np.float32(min(height, width)))
  return central_box(height, width, side, side, rounding='up')
