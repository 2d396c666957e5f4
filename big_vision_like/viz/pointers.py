"""Pictures of algorithms that engines execute: pointers, masks, and lists as bars.

Axes: T steps, L slots, H W pixels.
"""

import numpy as np

from big_vision_like.viz import images

HIDDEN = np.array((205, 205, 205), np.uint8)
POINTED = np.array((214, 96, 40), np.uint8)
VISIBLE = np.array((52, 106, 160), np.uint8)
FOUND = np.array((60, 140, 90), np.uint8)
BACKGROUND = 255
BAR, HEIGHT, GAP = 5, 64, 8  # pixels


def matrix(pointer_TL: np.ndarray, hidden_TL: np.ndarray, cell: int = 8) -> np.ndarray:
  """Draws the pointer of each step as a row, with hidden slots in grey.

  Returns RGB uint8 (T * cell, L * cell, 3); bright cells are probable slots.
  """
  drawn_TL3 = images.colormap(pointer_TL, 0.0, 1.0)
  drawn_TL3 = np.where((hidden_TL & (pointer_TL < 0.5))[..., None], HIDDEN, drawn_TL3)
  return images.enlarge(drawn_TL3, cell)


def frames(
  numbers_L: np.ndarray,
  hidden_TL: np.ndarray,
  pointer_T: np.ndarray,
  found_T: np.ndarray,
) -> np.ndarray:
  """Draws each step of a sort: RGB uint8 (T + 1, H, W, 3).

  Numbers are bars: those that are hidden are grey, and the one that is pointed to is
  orange. Below are the numbers found so far. The last frame shows all of them.
  """
  steps, count = len(pointer_T), max(len(numbers_L), len(pointer_T))
  largest = max(int(numbers_L.max()), int(found_T.max()), 1)
  shape = (steps + 1, 2 * HEIGHT + GAP, BAR * count, 3)
  drawn_THW3 = np.full(shape, BACKGROUND, np.uint8)
  for step, frame_HW3 in enumerate(drawn_THW3):
    hidden_L = hidden_TL[min(step, steps - 1)]
    for slot, number in enumerate(numbers_L):
      pointed = step < steps and slot == pointer_T[step]
      done = hidden_L[slot] or step == steps
      colour = POINTED if pointed else HIDDEN if done else VISIBLE
      _bar(frame_HW3[:HEIGHT], slot, number / largest, colour)
    for place, number in enumerate(found_T[: step + 1]):
      _bar(frame_HW3[HEIGHT + GAP :], place, number / largest, FOUND)
  return drawn_THW3


def _bar(area_HW3: np.ndarray, slot: int, share: float, colour: np.ndarray) -> None:
  """Draws a bar of this share of the height into an area, one pixel at least."""
  height = max(round(share * len(area_HW3)), 1)
  area_HW3[-height:, BAR * slot : BAR * (slot + 1) - 1] = colour
