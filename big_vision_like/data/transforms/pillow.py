"""Image operations that are bit-identical to Pillow.

timm and torchvision augment with these operations. Images are uint8 (H, W, 3); every
operation is a pure function that returns a new image. Operations that Pillow and
TensorFlow compute in the same way are in `randaugment`: `blend`, `brightness`,
`equalize`, `invert`, `solarize_add`.
"""

from collections.abc import Sequence

import cv2
import numpy as np
from PIL import Image, ImageFilter

from big_vision_like.data.transforms import randaugment
from big_vision_like.data.transforms.randaugment import VALUES, look_up

METHODS = {
  'nearest': Image.Resampling.NEAREST,
  'bilinear': Image.Resampling.BILINEAR,
  'bicubic': Image.Resampling.BICUBIC,
}

# Colour of pixels from outside the image: a value for each channel.
Fill = Sequence[int]

# Colours


def autocontrast(image: np.ndarray) -> np.ndarray:
  """Stretches each channel so that its darkest and brightest values are 0 and 255."""
  return randaugment.autocontrast(image, np.float64)


def posterize(image: np.ndarray, bits: int) -> np.ndarray:
  """Keeps the upper `bits` (0 to 8) of each value."""
  shift = 8 - min(bits, 8)
  return look_up(image, VALUES >> shift << shift)


def solarize(image: np.ndarray, threshold: float = 128) -> np.ndarray:
  """Inverts values at or above the threshold."""
  return look_up(image, np.where(threshold > VALUES, VALUES, 255 - VALUES))


def contrast(image: np.ndarray, factor: float) -> np.ndarray:
  """Blends the image's mean grey (factor 0) with the image (1) and beyond."""
  mean = np.full(256, int(luma(image).mean() + 0.5))
  return look_up(image, randaugment.blend(mean, VALUES, factor))


def color(image: np.ndarray, factor: float) -> np.ndarray:
  """Blends the grey image (factor 0) with the image (1) and beyond."""
  return randaugment.blend(grayscale(image), image, factor)


def grayscale(image: np.ndarray) -> np.ndarray:
  """Converts an image to grey, with three equal channels."""
  return cv2.cvtColor(luma(image), cv2.COLOR_GRAY2RGB)


def luma(image: np.ndarray) -> np.ndarray:
  """Returns the luma, uint8 (H, W)."""
  return np.asarray(Image.fromarray(image).convert('L'))


def hue(image: np.ndarray, turn: float) -> np.ndarray:
  """Rotates hues by a fraction of the colour circle, -0.5 to 0.5."""
  hues, *rest = Image.fromarray(image).convert('HSV').split()
  turned = hues.point([(value + int(turn * 255)) % 256 for value in range(256)])
  return np.asarray(Image.merge('HSV', (turned, *rest)).convert('RGB'))


def sharpness(image: np.ndarray, factor: float) -> np.ndarray:
  """Blends the smoothed image (0) with the image (1) and beyond, except at borders."""
  smooth = cv2.filter2D(image, cv2.CV_8U, randaugment.SMOOTH)
  result = randaugment.blend(smooth, image, factor)
  for border in (np.s_[0], np.s_[-1], np.s_[:, 0], np.s_[:, -1]):
    result[border] = image[border]
  return result


def gaussian_blur(image: np.ndarray, radius: float) -> np.ndarray:
  """Blurs with three box filters that approximate a Gaussian of deviation `radius`.

  `radius` is in pixels.
  """
  return np.asarray(Image.fromarray(image).filter(ImageFilter.GaussianBlur(radius)))


# Geometry. Uncovered pixels get the colour `fill`; `method` is one of METHODS.


def rotate(image: np.ndarray, degrees: float, fill: Fill, method: str) -> np.ndarray:
  """Rotates an image about its centre, clockwise for negative `degrees`."""
  picture = Image.fromarray(image)
  return np.asarray(picture.rotate(degrees, METHODS[method], fillcolor=tuple(fill)))


def shear_x(image: np.ndarray, level: float, fill: Fill, method: str) -> np.ndarray:
  """Shifts each row left by `level` times its distance from the top."""
  return moved(image, (1, level, 0, 0, 1, 0), fill, method)


def shear_y(image: np.ndarray, level: float, fill: Fill, method: str) -> np.ndarray:
  """Shifts each column up by `level` times its distance from the left."""
  return moved(image, (1, 0, 0, level, 1, 0), fill, method)


def translate_x(image: np.ndarray, share: float, fill: Fill, method: str) -> np.ndarray:
  """Shifts an image to the left by a fraction of its width."""
  return moved(image, (1, 0, share * image.shape[1], 0, 1, 0), fill, method)


def translate_y(image: np.ndarray, share: float, fill: Fill, method: str) -> np.ndarray:
  """Shifts an image up by a fraction of its height."""
  return moved(image, (1, 0, 0, 0, 1, share * image.shape[0]), fill, method)


def moved(
  image: np.ndarray, matrix: Sequence[float], fill: Fill, method: str
) -> np.ndarray:
  """Takes each pixel p = (column, row, 1) from (matrix[:3] . p, matrix[3:] . p)."""
  picture = Image.fromarray(image)
  affine = Image.Transform.AFFINE
  return np.asarray(
    picture.transform(
      picture.size, affine, matrix, METHODS[method], fillcolor=tuple(fill)
    )
  )
