"""Drawing of detected objects, after DETR (arXiv:2005.12872, figures 3 to 10).

Axes: N objects, S segments, H W pixels, C channels, h w attention grid, B images or
sheets, Q queries.
"""

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

import cv2
import numpy as np

from big_vision_like.errors import UserError
from big_vision_like.viz import attention, boxes, images

PAPER = 255
# Smaller segments have no tag, which would hide them.
TAGGED = 0.01  # share of the picture
# Colours of points for small boxes, and for wide and tall ones. Points are drawn at
# FINER times the resolution.
GREEN, RED_BLUE = (40, 170, 60), ((220, 30, 30), (30, 60, 220))
SMALL, FINER = 0.25, 4


def boxes_sheet(
  image_HWC: np.ndarray, sets: Sequence[Sequence], side: int = 480
) -> np.ndarray:
  """Draws the picture once for each set of boxes, side by side; RGB uint8.

  A set has arguments of `boxes.draw`: boxes (N, 4), labels and optional scores. Small
  pictures are enlarged first (`images.fit`), so that tags do not hide them.
  """
  cell = _fitted(image_HWC, side)
  ratio = _ratio(image_HWC, cell)
  cells = [boxes.draw(cell, found[0] * ratio, *found[1:]) for found in sets]
  return images.tile(np.stack(cells), len(cells), background=PAPER)


def of_entries(
  objects: Sequence[Mapping[str, Any]], names: Mapping[int, str], ratio_4: np.ndarray
) -> tuple[np.ndarray, list[str | int], list[float | None]]:
  """Returns COCO's entries as a set of boxes, for an image smaller by `ratio_4`."""
  boxes_N4 = np.array([e['bbox'] for e in objects]).reshape(-1, 4)
  boxes_N4[:, 2:] += boxes_N4[:, :2]
  called = [names.get(e['category_id'], e['category_id']) for e in objects]
  return boxes_N4 / ratio_4, called, [e.get('score') for e in objects]


def decoder_attention(sown: Mapping[str, Any], grid_hw: tuple[int, int]) -> np.ndarray:
  """Returns the weight of each cell in each query's attention: (B, Q, h, w) float32.

  It is the cross-attention of the decoder's last layer, averaged over heads. `sown` is
  the collection `intermediates` sown by `detr.DETR`, and `grid_hw` are the rows and
  columns of the backbone's last map. The weights of a query sum to 1 over valid cells.
  Raises a `UserError` if nothing was sown, or if the cells do not fill the grid.
  """
  layers = attention.stack_attention(sown, 'decoder', 'cross_attention')
  weights_BQM = layers[-1].mean(axis=1)
  if weights_BQM.shape[-1] != grid_hw[0] * grid_hw[1]:
    raise UserError(
      f'attention to {weights_BQM.shape[-1]} cells does not fit a grid of '
      f'{grid_hw[0]} x {grid_hw[1]}'
    )
  return weights_BQM.reshape(*weights_BQM.shape[:2], *grid_hw)


def attention_sheet(
  image_HWC: np.ndarray,
  boxes_N4: np.ndarray,
  labels: Sequence[str | int],
  scores: Sequence[float],
  attention_Nhw: np.ndarray,
  size: tuple[int, int] | None = None,
  columns: int = 4,
  side: int = 240,
) -> np.ndarray:
  """Draws all boxes, then each box with the decoder's attention for it; RGB uint8.

  `attention_Nhw` are the weights of an object's query over the whole picture; smaller
  weights are darker (`images.highlight`). For a padded picture, `size` is the height
  and width without padding, which is cropped. Boxes are in pixels of this size.
  """
  height, width = size or image_HWC.shape[:2]
  whole_HWC = images.to_rgb(image_HWC)
  ratio = _ratio(whole_HWC[:height, :width], _fitted(whole_HWC[:height, :width], side))

  def cell(shown_HWC: np.ndarray, chosen: slice) -> np.ndarray:
    return boxes.draw(
      _fitted(shown_HWC[:height, :width], side),
      boxes_N4[chosen] * ratio,
      labels[chosen],
      scores[chosen],
    )

  cells = [cell(whole_HWC, slice(None))]
  for index, attention_hw in enumerate(attention_Nhw):
    lit_HWC = images.highlight(whole_HWC, attention_hw)
    cells.append(cell(lit_HWC, slice(index, index + 1)))
  return images.tile(np.stack(cells), min(columns, len(cells)), background=PAPER)


def places_picture(boxes_N4: np.ndarray, side: int = 128) -> np.ndarray:
  """Draws the centres of boxes in a square as points (figure 7); RGB uint8.

  Boxes are cxcywh, in [0, 1] of their pictures; later ones are drawn on top. Small
  boxes, with a root of the area below a quarter, are green. Large ones are red if wide,
  blue if tall, and purple in between.
  """
  picture_HWC = np.full((side * FINER, side * FINER, 3), PAPER, np.uint8)
  for x, y, width, height in boxes_N4.tolist():
    if math.sqrt(width * height) < SMALL:
      color = GREEN
    else:
      wide = min(max(math.log2(width / height) / 2 + 0.5, 0.0), 1.0)
      color = tuple(
        round(wide * r + (1 - wide) * b) for r, b in zip(*RED_BLUE, strict=True)
      )
    center = int(x * side * FINER), int(y * side * FINER)
    cv2.circle(picture_HWC, center, FINER, color, cv2.FILLED, cv2.LINE_AA)
  return cv2.resize(picture_HWC, (side, side), interpolation=cv2.INTER_AREA)


def panoptic_sheet(
  image_HWC: np.ndarray,
  sets: Sequence[tuple[np.ndarray, np.ndarray]],
  names: Mapping[int, str] | None = None,
  side: int = 480,
) -> np.ndarray:
  """Draws the picture once for each map of segments (`panoptic`), RGB uint8."""
  cell = _fitted(image_HWC, side)
  cells = [panoptic(cell, *segments, names) for segments in sets]
  return images.tile(np.stack(cells), len(cells), background=PAPER)


def panoptic(
  image_HWC: np.ndarray,
  ids_hw: np.ndarray,
  segments_S2: np.ndarray,
  names: Mapping[int, str] | None = None,
  strength: float = 0.6,
) -> np.ndarray:
  """Draws segments over a picture, with names and white borders: uint8 (H, W, 3).

  `ids_hw` are the ids of segments, of any size; each pixel takes the nearest one.
  `segments_S2` are id and label. Areas without a segment show the picture. Segments
  have the colours of their labels (`boxes.color`), which get paler for further segments
  of the same label.
  """
  picture_HWC = images.to_rgb(image_HWC)
  height, width = picture_HWC.shape[:2]
  rows = (np.arange(height) + 0.5) * (ids_hw.shape[0] / height)
  columns = (np.arange(width) + 0.5) * (ids_hw.shape[1] / width)
  ids_HW = ids_hw[rows.astype(int)][:, columns.astype(int)]
  seen: Counter[int] = Counter()
  texts, places, fills = [], [], []
  for number, label in segments_S2.tolist():
    mask_HW = ids_HW == number
    pale = 1 - 0.75 ** seen[label]
    seen[label] += 1
    color = tuple(round(c + pale * (255 - c)) for c in boxes.color(label))
    mixed = (1 - strength) * picture_HWC[mask_HW] + strength * np.array(color)
    picture_HWC[mask_HW] = np.rint(mixed).astype(np.uint8)
    if mask_HW.mean() >= TAGGED:
      texts.append(str((names or {}).get(label, label)))
      places.append(_inside(mask_HW))
      fills.append(color)
  picture_HWC[_borders(ids_HW)] = 255
  boxes.tags(picture_HWC, texts, places, fills)
  return picture_HWC


def stacked(sheets: Sequence[np.ndarray]) -> np.ndarray:
  """Stacks pictures of several sizes as one array (B, H, W, C), padded with white."""
  height, width = np.max([sheet.shape[:2] for sheet in sheets], axis=0)
  return np.stack(
    [
      np.pad(
        sheet,
        [(0, height - sheet.shape[0]), (0, width - sheet.shape[1]), (0, 0)],
        constant_values=PAPER,
      )
      for sheet in sheets
    ]
  )


def _fitted(image_HWC: np.ndarray, side: int) -> np.ndarray:
  return images.fit(images.to_rgb(image_HWC), side)


def _ratio(image_HWC: np.ndarray, cell: np.ndarray) -> np.ndarray:
  """Returns the factors for boxes of a picture drawn in a cell of another size."""
  (height, width), (tall, wide) = image_HWC.shape[:2], cell.shape[:2]
  return np.array([wide / width, tall / height] * 2)


def _inside(mask_HW: np.ndarray) -> tuple[int, int, int, int]:
  """Returns the point deepest inside a segment, as left, top, right, bottom."""
  # The edges of the picture count as borders.
  padded = np.pad(mask_HW, 1).astype(np.uint8)
  depth_HW = cv2.distanceTransform(padded, cv2.DIST_L2, 3)[1:-1, 1:-1]
  row, column = divmod(int(depth_HW.argmax()), depth_HW.shape[1])
  return column, row, column, row


def _borders(ids_HW: np.ndarray) -> np.ndarray:
  """Returns a mask of the pixels that differ from the one below or to the right."""
  borders_HW = np.zeros(ids_HW.shape, bool)
  borders_HW[:-1] |= ids_HW[:-1] != ids_HW[1:]
  borders_HW[:, :-1] |= ids_HW[:, :-1] != ids_HW[:, 1:]
  return borders_HW
