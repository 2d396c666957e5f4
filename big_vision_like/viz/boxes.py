"""Drawing of boxes on pictures.  Axes: N boxes, H W pixels, C channels."""

import colorsys
import zlib
from collections.abc import Sequence

import cv2
import numpy as np

from big_vision_like.viz import images

FONT = cv2.FONT_HERSHEY_SIMPLEX


def draw(
  image_HWC: np.ndarray,
  boxes_N4: np.ndarray,
  labels: Sequence[str | int],
  scores: Sequence[float] | None = None,
) -> np.ndarray:
  """Draws boxes in the colours of their labels, with named tags: RGB uint8 (H, W, 3).

  Boxes are left, top, right, bottom in pixels; labels are names or numbers. Small boxes
  and high scores are drawn on top. Raises a `ValueError` unless every box has a label
  and a score.
  """
  picture_HWC = images.to_rgb(image_HWC)
  scores = [None] * len(labels) if scores is None else scores
  if not len(boxes_N4) == len(labels) == len(scores):
    raise ValueError(
      f'{len(boxes_N4)} boxes, {len(labels)} labels and {len(scores)} scores'
    )
  thickness = max(1, round(min(picture_HWC.shape[:2]) / 250))
  order = sorted(
    range(len(labels)), key=lambda i: (scores[i] or 0, -_area(boxes_N4[i]))
  )
  for i in order:
    left, top, right, bottom = np.rint(boxes_N4[i]).astype(int).tolist()
    # The last row and column of a box belong to it.
    corners = (left, top), (max(right - 1, left), max(bottom - 1, top))
    cv2.rectangle(picture_HWC, *corners, color(labels[i]), thickness)
  for i in order:
    text = str(labels[i]) + ('' if scores[i] is None else f' {scores[i]:.2f}')
    left, top, _, bottom = np.rint(boxes_N4[i]).astype(int).tolist()
    tag(picture_HWC, text, (left, top, bottom), color(labels[i]))
  return picture_HWC


def color(label: str | int) -> tuple[int, int, int]:
  """Returns the RGB colour of a label; neighbouring numbers have distant colours."""
  number = zlib.crc32(label.encode()) if isinstance(label, str) else int(label)
  hue = number * 0.618034 % 1.0
  # Every other label is darker, so that more labels can be distinguished.
  value = 1.0 if number % 2 == 0 else 0.75
  red, green, blue = (round(255 * x) for x in colorsys.hsv_to_rgb(hue, 0.8, value))
  return red, green, blue


def _area(box_4: np.ndarray) -> float:
  left, top, right, bottom = box_4.tolist()
  return (right - left) * (bottom - top)


def tag(
  picture_HWC: np.ndarray,
  text: str,
  place: tuple[int, int, int],
  fill: tuple[int, int, int],
) -> None:
  """Writes text above a box, or below or in it; `place` is left, top, bottom."""
  left, top, bottom = place
  height, width = picture_HWC.shape[:2]
  scale = min(max(min(height, width) / 900, 0.35), 1.0)
  (w, h), below = cv2.getTextSize(text, FONT, scale, 1)
  margin = max(1, h // 4)
  tall, wide = h + below // 2 + 2 * margin, w + 2 * margin
  left = min(max(left, 0), max(width - wide, 0))
  if top >= tall:
    top = min(top, height) - tall
  else:
    top = bottom if bottom + tall <= height else max(top, 0)
  bright = np.dot(fill, [0.299, 0.587, 0.114]) > 128
  ink = (0, 0, 0) if bright else (255, 255, 255)
  end = left + wide - 1, top + tall - 1
  cv2.rectangle(picture_HWC, (left, top), end, fill, cv2.FILLED)
  start = (left + margin, top + margin + h)
  cv2.putText(picture_HWC, text, start, FONT, scale, ink, 1, cv2.LINE_AA)
