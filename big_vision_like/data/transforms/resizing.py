"""Images on the host, uint8 (H, W, C), to other sizes.

docs/transforms.md says how far each method is from TensorFlow's, and which published
pipeline it reproduces.
"""

import cv2
import numpy as np
from PIL import Image

from big_vision_like.errors import check_one_of

cv2.setNumThreads(0)  # workers and threads are the pipeline's business

INTERPOLATIONS = {
  'nearest': cv2.INTER_NEAREST,
  'bilinear': cv2.INTER_LINEAR,
  'bicubic': cv2.INTER_CUBIC,
  'area': cv2.INTER_AREA,
}
# Antialiased but for the nearest: what torchvision, timm and transformers resize with.
PILLOW = {f'pillow_{kernel.name.lower()}': kernel for kernel in Image.Resampling}
METHODS = (*INTERPOLATIONS, *PILLOW, 'tf1_bicubic')


def check_method(method: str) -> None:
  """Raises unless `method` is one of METHODS."""
  check_one_of(METHODS, method=method)


def resized(image: np.ndarray, height: int, width: int, method: str) -> np.ndarray:
  """(height, width, C); no antialiasing but in 'area' and Pillow's."""
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
  """Means of areas, also where one side shrinks and the other grows.

  There OpenCV alone would take two pixels of each side, whatever the areas. (Where a
  side grows, single rows or columns may be those next to the right ones.)
  """
  old_height, old_width = image.shape[:2]
  if (height - old_height) * (width - old_width) < 0:
    less = min(width, old_width), min(height, old_height)
    image = cv2.resize(image, less, interpolation=cv2.INTER_AREA)
  return cv2.resize(image, (width, height), interpolation=cv2.INTER_AREA)


def _tf1_bicubic(image: np.ndarray, height: int, width: int) -> np.ndarray:
  """Cubic, a = -0.75, of the pixels around (y, x) * old size / new size.

  So the first pixel stays where it is, and the picture moves up and left by half of
  what a pixel grows: `tf.compat.v1.image.resize_bicubic` without half-pixel centers.
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
