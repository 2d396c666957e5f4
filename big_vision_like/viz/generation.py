"""Generated images as pictures, RGB uint8.

Images are uint8 or float in [-1, 1], with 1 or 3 channels.

Axes: N images, H W pixels, C channels, K components, h w grid of attention, T steps,
P values of truncation.
"""

import math

import cv2
import numpy as np

from big_vision_like.viz import images, slots

SIDE = 64  # least side of an image in a sheet of several
PAPER = 255  # between images


def rgb(image_HWC: np.ndarray) -> np.ndarray:
  """Returns an image as RGB uint8 (H, W, 3)."""
  image_HWC = np.asarray(image_HWC)
  if np.issubdtype(image_HWC.dtype, np.floating):
    return slots.coloured(image_HWC)
  return images.to_rgb(image_HWC)


def grid(
  images_NHWC: np.ndarray, columns: int | None = None, side: int = SIDE
) -> np.ndarray:
  """Arranges images in rows, by default in a sheet twice as wide as high."""
  columns = columns or math.ceil(math.sqrt(2 * len(images_NHWC)))
  cells = [images.fit(rgb(x_HWC), max(side, len(x_HWC))) for x_HWC in images_NHWC]
  return images.tile(np.stack(cells), columns, background=PAPER)


def by_truncation(images_PNHWC: np.ndarray, side: int = SIDE) -> np.ndarray:
  """Draws the same latents in each column, and a value of truncation in each row."""
  rows, columns = images_PNHWC.shape[:2]
  flat_NHWC = images_PNHWC.reshape(rows * columns, *images_PNHWC.shape[2:])
  return grid(flat_NHWC, columns, side)


def attention(
  images_NHWC: np.ndarray,
  attention_NKhw: np.ndarray,
  colours_K3: np.ndarray | None = None,
  side: int = SIDE,
) -> np.ndarray:
  """Draws which component each pixel attends to, a row for each image.

  A row has the image, its pixels in the colours of their components, both blended, and
  for each component the image where its attention is high, pale where it is low: from
  the least to the greatest attention of the image.
  """
  count = attention_NKhw.shape[1]
  colours_K3 = slots.entity_colours(count + 1)[1:] if colours_K3 is None else colours_K3
  rows = []
  for image_HWC, attention_Khw in zip(images_NHWC, attention_NKhw, strict=True):
    picture_HWC = rgb(image_HWC)
    weights_KHW = stretched(attention_Khw, picture_HWC.shape[:2])
    map_HWC = colours_K3[weights_KHW.argmax(axis=0)]
    blend_HWC = np.rint(0.5 * picture_HWC + 0.5 * map_HWC).astype(np.uint8)
    low, spread = weights_KHW.min(), np.ptp(weights_KHW)
    shares_KHW = (weights_KHW - low) / spread if spread else np.ones_like(weights_KHW)
    parts = [slots.over_pale(picture_HWC, share_HW) for share_HW in shares_KHW]
    rows += [picture_HWC, map_HWC, blend_HWC, *parts]
  return grid(np.stack(rows), 3 + count, side)


def stretched(attention_Khw: np.ndarray, size: tuple[int, int]) -> np.ndarray:
  """Resizes maps bilinearly to the size of an image; sums over components are kept."""
  maps = [cv2.resize(map_hw.astype(np.float32), size[::-1]) for map_hw in attention_Khw]
  return np.clip(np.stack(maps), 0.0, 1.0)


def interpolation(
  frames_TNHWC: np.ndarray, columns: int | None = None, side: int = SIDE
) -> list[np.ndarray]:
  """Returns the frames of an animation that shows several interpolations at once."""
  return [grid(frame_NHWC, columns, side) for frame_NHWC in frames_TNHWC]


def swapped(
  own_HWC: np.ndarray,
  other_HWC: np.ndarray,
  swapped_KHWC: np.ndarray,
  side: int = SIDE,
) -> np.ndarray:
  """Draws an image, another, and the first with one component of the other each.

  The second row shows how much each swap changes: brighter pixels change more.
  """
  first = [rgb(own_HWC), rgb(other_HWC), *map(rgb, swapped_KHWC)]
  blank_HWC = np.full_like(first[0], PAPER)
  changes = [difference(first[0], changed_HWC) for changed_HWC in first[2:]]
  cells = [*first, blank_HWC, blank_HWC, *changes]
  return grid(np.stack(cells), len(first), side)


def difference(one_HWC: np.ndarray, other_HWC: np.ndarray) -> np.ndarray:
  """Returns the largest change of a channel at each pixel, as RGB uint8 (H, W, 3)."""
  change_HW = np.abs(one_HWC.astype(int) - other_HWC).max(axis=-1)
  return images.colormap(change_HW, 0, 255, 'inferno')
