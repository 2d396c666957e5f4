"""Small pictures as arrays: RGB uint8 (H, W, 3), ready to be tiled and encoded.

Axes: B images, H W pixels, C channels, h w grid.
"""

import cv2
import numpy as np

from big_vision_like.errors import UserError

COLORMAPS = {'viridis': cv2.COLORMAP_VIRIDIS, 'inferno': cv2.COLORMAP_INFERNO}


def to_rgb(image_HWC: np.ndarray) -> np.ndarray:
  """Converts an image of 1 or 3 channels to RGB uint8, (H, W, 3).

  uint8 is kept; floats are in [0, 1], and values outside are clipped. Raises a
  `UserError` for another number of channels or another type.
  """
  if image_HWC.ndim != 3 or image_HWC.shape[-1] not in (1, 3):
    raise UserError(
      f'only images of 1 or 3 channels can be shown, not {image_HWC.shape}'
    )
  if np.issubdtype(image_HWC.dtype, np.floating):
    image_HWC = np.rint(255 * np.clip(image_HWC, 0.0, 1.0)).astype(np.uint8)
  if image_HWC.dtype != np.uint8:
    raise UserError(f'images must be uint8 or float in [0, 1], not {image_HWC.dtype}')
  return np.broadcast_to(image_HWC, (*image_HWC.shape[:2], 3)).copy()


def enlarge(image_HWC: np.ndarray, factor: int) -> np.ndarray:
  """Repeats every pixel `factor` times in both directions."""
  return image_HWC.repeat(factor, axis=0).repeat(factor, axis=1)


def stretch(image_hwC: np.ndarray, size: tuple[int, int]) -> np.ndarray:
  """Resizes a picture to height and width `size`, repeating pixels as rectangles."""
  return cv2.resize(image_hwC, size[::-1], interpolation=cv2.INTER_NEAREST)


def fit(image_HWC: np.ndarray, side: int) -> np.ndarray:
  """Scales the longer side to about `side`: by whole repeats up, or area means down."""
  height, width = image_HWC.shape[:2]
  longest = max(height, width)
  if longest <= side:
    return enlarge(image_HWC, side // longest)
  size = (max(1, round(width * side / longest)), max(1, round(height * side / longest)))
  small = cv2.resize(image_HWC, size, interpolation=cv2.INTER_AREA)
  return small.reshape(size[1], size[0], -1)


def tile(
  images_BHWC: np.ndarray, columns: int, gap: int = 2, background: int = 255
) -> np.ndarray:
  """Arranges pictures of equal size row by row, with `gap` pixels between them."""
  batch, height, width, channels = images_BHWC.shape
  rows = -(-batch // columns)
  shape = (rows * (height + gap) - gap, columns * (width + gap) - gap, channels)
  sheet_HWC = np.full(shape, background, images_BHWC.dtype)
  for index, image_HWC in enumerate(images_BHWC):
    top, left = (index // columns) * (height + gap), (index % columns) * (width + gap)
    sheet_HWC[top : top + height, left : left + width] = image_HWC
  return sheet_HWC


def colormap(
  values_HW: np.ndarray, low: float, high: float, name: str = 'viridis'
) -> np.ndarray:
  """Colours values, `low` and below dark, `high` and above bright; RGB uint8."""
  if name not in COLORMAPS:
    raise UserError(f'no colormap {name!r}; there are {sorted(COLORMAPS)}')
  scaled_HW = np.clip((values_HW - low) / (high - low), 0.0, 1.0)
  coloured_HWC = cv2.applyColorMap(
    np.rint(255 * scaled_HW).astype(np.uint8), COLORMAPS[name]
  )
  return cv2.cvtColor(coloured_HWC, cv2.COLOR_BGR2RGB)


def highlight(image_HWC: np.ndarray, weights_hw: np.ndarray) -> np.ndarray:
  """Darkens an RGB uint8 image where the weights are small (figure 6 of the paper).

  The weights are resized bilinearly to the image and set its brightness: the smallest
  weight is black, the largest leaves the image unchanged. This is the display of
  google-research/vision_transformer#27 without its blur. Equal weights leave the image
  unchanged.
  """
  height, width = image_HWC.shape[:2]
  spread = weights_hw.max() - weights_hw.min()
  if spread == 0:
    return image_HWC.copy()
  scaled_hw = ((weights_hw - weights_hw.min()) / spread).astype(np.float32)
  scaled_HW = cv2.resize(scaled_hw, (width, height), interpolation=cv2.INTER_LINEAR)
  return np.rint(image_HWC * scaled_HW[..., None]).astype(np.uint8)


def png(image_HWC: np.ndarray) -> bytes:
  """Encodes an RGB uint8 picture as PNG."""
  done, data = cv2.imencode('.png', cv2.cvtColor(image_HWC, cv2.COLOR_RGB2BGR))
  assert done, image_HWC.shape
  return data.tobytes()
