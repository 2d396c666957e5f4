"""Resizing of images on the host, uint8 (H, W, C).

docs/transforms.md gives the difference between each method and TensorFlow's, and the
published pipeline that it reproduces.
"""

import cv2
import numpy as np
from PIL import Image

from big_vision_like.errors import check_one_of

cv2.setNumThreads(0)  # the input pipeline manages workers and threads

INTERPOLATIONS = {
  'nearest': cv2.INTER_NEAREST,
  'bilinear': cv2.INTER_LINEAR,
  'bicubic': cv2.INTER_CUBIC,
  'area': cv2.INTER_AREA,
}
# Methods of torchvision, timm and transformers; antialiased except for nearest.
PILLOW = {f'pillow_{kernel.name.lower()}': kernel for kernel in Image.Resampling}
METHODS = (*INTERPOLATIONS, *PILLOW, 'tf1_bicubic')


def check_method(method: str) -> None:
  """Raises UserError unless `method` is one of METHODS."""
  check_one_of(METHODS, method=method)


def resized(image: np.ndarray, height: int, width: int, method: str) -> np.ndarray:
  """Resizes to (height, width, C); only 'area' and Pillow's methods antialias."""
  if method in PILLOW:
    picture = Image.fromarray(image[..., 0] if image.shape[-1] == 1 else image)
    small = np.asarray(picture.resize((width, height), PILLOW[method]))
  elif method == 'tf1_bicubic':
    small = _tf1_bicubic(image, height, width)
  elif method == 'area':
    small = _area(image, height, width)
  else:
    small = cv2.resize(image, (width, height), interpolation=INTERPOLATIONS[method])
  return small.reshape(height, width, -1)


def _area(image: np.ndarray, height: int, width: int) -> np.ndarray:
  """Resizes by means of areas, also if one side shrinks and the other grows.

  In that case OpenCV alone would use two pixels of each side, whatever the areas. (If a
  side grows, single rows or columns may be off by one.)
  """
  old_height, old_width = image.shape[:2]
  if (height - old_height) * (width - old_width) < 0:
    less = min(width, old_width), min(height, old_height)
    image = cv2.resize(image, less, interpolation=cv2.INTER_AREA)
  return cv2.resize(image, (width, height), interpolation=cv2.INTER_AREA)


def _tf1_bicubic(image: np.ndarray, height: int, width: int) -> np.ndarray:
  """Resizes with cubic interpolation, a = -0.75, around (y, x) * old size / new size.

  The first pixel therefore stays in place, and the image moves up and left by half the
  growth of a pixel, as in `tf.compat.v1.image.resize_bicubic` without half-pixel
  centers.
  """
  if image.shape[:2] == (height, width):
    return image
  scale = np.diag([image.shape[1] / width, image.shape[0] / height, 1.0])[:2]
  return cv2.warpAffine(
    image,
    scale,
    (width, height),
    flags=cv2.INTER_CUBIC | cv2.WARP_INVERSE_MAP,
    borderMode=cv2.BORDER_REPLICATE,
  )
