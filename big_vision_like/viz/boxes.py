"""Drawing of boxes on pictures.  Axes: N boxes, H W pixels, C channels."""

import colorsys
import zlib
from collections.abc import Sequence

import cv2
import numpy as np

from big_vision_like.viz import images

FONT = cv2.FONT_HERSHEY_SIMPLEX
Rectangle = tuple[int, int, int, int]  # left, top, right, bottom


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
  texts = [
    str(labels[i]) + ('' if scores[i] is None else f' {scores[i]:.2f}') for i in order
  ]
  corners = [np.rint(boxes_N4[i]).astype(int).tolist() for i in order]
  tags(picture_HWC, texts, corners, [color(labels[i]) for i in order])
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


def tags(
  picture_HWC: np.ndarray,
  texts: Sequence[str],
  corners: Sequence[Sequence[int]],
  fills: Sequence[Sequence[int]],
) -> None:
  """Writes texts at boxes, where they overlap least; later ones are drawn on top.

  `corners` are left, top, right, bottom. A text is above its box, below or in it, and
  later texts choose first.
  """
  height, width = picture_HWC.shape[:2]
  scale = min(max(min(height, width) / 900, 0.35), 1.0)
  sizes = [cv2.getTextSize(text, FONT, scale, 1) for text in texts]
  places: list[Rectangle] = []
  for ((w, h), below), box in reversed([*zip(sizes, corners, strict=True)]):
    margin = _margin(h)
    size = w + 2 * margin, h + below // 2 + 2 * margin
    options = _options(box, size, (width, height))
    places.append(min(options, key=lambda one: sum(_shared(one, p) for p in places)))
  for text, fill, ((_, h), _), place in zip(
    texts, fills, sizes, reversed(places), strict=True
  ):
    left, top, right, bottom = place
    bright = np.dot(fill, [0.299, 0.587, 0.114]) > 128
    ink = (0, 0, 0) if bright else (255, 255, 255)
    end = right - 1, bottom - 1
    cv2.rectangle(picture_HWC, (left, top), end, fill, cv2.FILLED)
    start = left + _margin(h), top + _margin(h) + h
    cv2.putText(picture_HWC, text, start, FONT, scale, ink, 1, cv2.LINE_AA)


def _margin(text_height: int) -> int:
  return max(1, text_height // 4)


def _options(
  box: Sequence[int], size: tuple[int, int], picture: tuple[int, int]
) -> list[Rectangle]:
  """Returns places for a tag of a box, the best first; sizes are width and height."""
  left, top, right, bottom = box
  wide, tall = size
  rows = [min(top, picture[1]) - tall] if top >= tall else []
  rows += [bottom] if bottom + tall <= picture[1] else []
  rows += [max(top, 0), max(min(bottom, picture[1]) - tall, 0)]
  columns = [left]
  if right > left:  # tags of points start there
    columns += [right - wide, (left + right - wide) // 2]
  columns = [min(max(column, 0), max(picture[0] - wide, 0)) for column in columns]
  return [(x, y, x + wide, y + tall) for y in rows for x in columns]


def _shared(one: Rectangle, other: Rectangle) -> int:
  """Returns the area in pixels that two rectangles share."""
  width = min(one[2], other[2]) - max(one[0], other[0])
  height = min(one[3], other[3]) - max(one[1], other[1])
  return max(width, 0) * max(height, 0)
