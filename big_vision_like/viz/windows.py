"""Attention in windows, drawn over an image (arXiv:2103.14030, figure 2).

Axes: R windows of all images, G heads, N queries, M keys, h w map of P tokens, H W
pixels, C channels.
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from big_vision_like.errors import UserError
from big_vision_like.viz import images

BORDER = (255, 255, 255)
MARKS = ((230, 57, 70), (255, 200, 0))
SIDE = 256  # approximate pixels of a picture


class Windows(NamedTuple):
  """A partition of a map of tokens: rows and columns, side of the windows, and shift.

  The map, which may have been padded, is a whole number of windows.
  """

  grid: tuple[int, int]
  window: int
  shift: int = 0

  @property
  def places(self) -> np.ndarray:
    """The index in the map, row by row, of each token in each window: (W, N)."""
    rows, columns = (side // self.window for side in self.grid)
    place_hw = np.arange(np.prod(self.grid)).reshape(self.grid)
    place_hw = np.roll(place_hw, (-self.shift, -self.shift), axis=(0, 1))
    place = place_hw.reshape(rows, self.window, columns, self.window).swapaxes(1, 2)
    return place.reshape(rows * columns, self.window**2)


def of_token(
  probs_RGNM: np.ndarray, windows: Windows, image: int, token: tuple[int, int]
) -> np.ndarray:
  """Returns the attention from a token to all tokens, averaged over heads: (h, w).

  `probs_RGNM` are the probabilities that a block has sown; `token` is row and column.
  """
  place_WN = windows.places
  if len(probs_RGNM) % len(place_WN) or probs_RGNM.shape[-1] != place_WN.shape[1]:
    raise UserError(
      f'attention {probs_RGNM.shape} does not fit windows of {windows.window} tokens'
      f' on a map of {windows.grid}'
    )
  number = np.ravel_multi_index(token, windows.grid)
  [window], [query] = np.nonzero(place_WN == number)
  mean_M = probs_RGNM[image * len(place_WN) + window, :, query].mean(axis=0)
  map_P = np.zeros(np.prod(windows.grid), np.float32)
  map_P[place_WN[window]] = mean_M
  return map_P.reshape(windows.grid)


def across(image_HWC: np.ndarray, windows: Windows) -> list[tuple[int, int]]:
  """Returns two neighbouring tokens with a border of windows between them.

  It is the border in the middle of the image, in the row where pixels vary most over
  the two tokens.
  """
  rows, columns = windows.grid
  if columns < 2 * windows.window:
    raise UserError('the map of its first stage is one window wide and has no borders.')
  left = columns // windows.window // 2 * windows.window - 1
  height, width = (
    n // side for n, side in zip(image_HWC.shape, windows.grid, strict=False)
  )
  patches = image_HWC[: rows * height, left * width : (left + 2) * width]
  pixels = patches.astype(np.float64).reshape(rows, -1)
  row = int(pixels.var(axis=1).argmax())
  return [(row, left), (row, left + 1)]


def picture(
  image_HWC: np.ndarray,
  windows: Windows,
  tokens: Sequence[tuple[int, int]] = (),
  weights_hw: np.ndarray | None = None,
) -> np.ndarray:
  """Draws the borders of windows and frames around tokens: RGB uint8.

  With `weights_hw` the image is darkened where the weights are small.
  """
  rows, columns = windows.grid
  cell = max(1, round(SIDE / max(rows, columns)))
  drawn = images.stretch(image_HWC, (rows * cell, columns * cell))
  if weights_hw is not None:
    # One weight per pixel keeps interpolation from crossing the borders of windows.
    drawn = images.highlight(drawn, images.stretch(weights_hw, drawn.shape[:2]))
  drawn = drawn.copy()
  for axis, count in enumerate(windows.grid):
    for border in range(windows.shift, count, windows.window):
      if border:
        drawn[
          (slice(None),) * axis + (slice(border * cell - 1, border * cell + 1),)
        ] = BORDER
  for (row, column), colour in zip(tokens, MARKS, strict=False):
    frame = drawn[row * cell : (row + 1) * cell, column * cell : (column + 1) * cell]
    inside = frame[3:-3, 3:-3].copy()
    frame[:] = colour
    frame[3:-3, 3:-3] = inside
  return drawn
