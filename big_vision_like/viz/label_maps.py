"""Drawing of label maps over pictures, with a legend of their classes.

Axes: H W pixels, C channels, h w a label map.
"""

from collections.abc import Mapping, Sequence

import cv2
import numpy as np

from big_vision_like.viz import boxes, images

IGNORED = 255
PAPER, INK = 255, 40
STRENGTH = 0.65  # of a class's colour over the picture
MOST_LISTED = 24  # classes of a legend
LINE, GAP, TEXT = 18, 6, 0.4  # pixels of a line and between parts; scale of the font


def painted(image_HWC: np.ndarray, label_hw: np.ndarray) -> np.ndarray:
  """Paints the colours of classes over a picture: uint8 (H, W, 3).

  `label_hw` may have any size; each pixel takes the nearest label. Pixels labelled 255
  show the picture.
  """
  picture_HWC = images.to_rgb(image_HWC)
  height, width = picture_HWC.shape[:2]
  label_HW = cv2.resize(
    label_hw.astype(np.int32), (width, height), interpolation=cv2.INTER_NEAREST
  )
  for label in np.unique(label_HW).tolist():
    if label == IGNORED:
      continue
    there_HW = label_HW == label
    color = STRENGTH * np.array(boxes.color(label))
    mixed = (1 - STRENGTH) * picture_HWC[there_HW] + color
    picture_HWC[there_HW] = np.rint(mixed).astype(np.uint8)
  return picture_HWC


def sheet(
  image_HWC: np.ndarray,
  maps: Sequence[np.ndarray],
  names: Mapping[int, str] | None = None,
  side: int = 480,
) -> np.ndarray:
  """Draws the picture, and once for each label map, side by side, above a legend.

  The legend lists the classes in the maps, the most frequent first.
  """
  cell = images.fit(images.to_rgb(image_HWC), side)
  cells = [cell, *(painted(cell, label_hw) for label_hw in maps)]
  picture_HWC = images.tile(np.stack(cells), len(cells), gap=GAP, background=PAPER)
  counts: dict[int, float] = {}
  for label_hw in maps:
    for label, count in zip(*np.unique(label_hw, return_counts=True), strict=True):
      if label != IGNORED:
        counts[int(label)] = counts.get(int(label), 0) + count / label_hw.size
  order = sorted(counts, key=lambda label: (-counts[label], label))
  key_HWC = legend(order, names or {}, picture_HWC.shape[1])
  return np.concatenate([picture_HWC, key_HWC])


def legend(labels: Sequence[int], names: Mapping[int, str], width: int) -> np.ndarray:
  """Draws the colours and names of classes in lines of this width: uint8 (H, W, 3)."""
  entries = [(str(names.get(label, label)), boxes.color(label)) for label in labels]
  rest = len(entries) - MOST_LISTED
  entries = entries[:MOST_LISTED]
  if rest > 0:
    entries.append((f'and {rest} more', (PAPER,) * 3))
  places, left, line = [], GAP, 0
  for text, _ in entries:
    wide = LINE + GAP + cv2.getTextSize(text, boxes.FONT, TEXT, 1)[0][0]
    if left + wide > width and left > GAP:
      left, line = GAP, line + 1
    places.append((left, GAP + line * LINE))
    left += wide + 2 * GAP
  drawn_HWC = np.full((2 * GAP + (line + 1) * LINE, width, 3), PAPER, np.uint8)
  for (text, color), (left, top) in zip(entries, places, strict=True):
    end = left + LINE - GAP, top + LINE - GAP
    cv2.rectangle(drawn_HWC, (left, top), end, color, cv2.FILLED)
    place = left + LINE, top + LINE - GAP
    cv2.putText(drawn_HWC, text, place, boxes.FONT, TEXT, (INK,) * 3, 1, cv2.LINE_AA)
  return drawn_HWC
