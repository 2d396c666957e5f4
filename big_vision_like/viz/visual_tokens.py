"""Drawings of the pixels that visual tokens attend to (arXiv:2006.03677, figure 3).

Axes: B images, G heads, L tokens, P pixels of the map, h w map, H W pixels of a
picture, C channels.
"""

import numpy as np

from big_vision_like.errors import UserError
from big_vision_like.viz import images

SIDE = 128  # approximate side of a picture in pixels


def maps_of(probs_BGLP: np.ndarray, grid: tuple[int, int]) -> np.ndarray:
  """Returns the weights of pixels in each token, averaged over heads: (B, L, h, w)."""
  if probs_BGLP.shape[-1] != np.prod(grid):
    raise UserError(
      f'attention to {probs_BGLP.shape[-1]} pixels does not fit a map of'
      f' {grid[0]}x{grid[1]}'
    )
  mean_BLP = np.asarray(probs_BGLP, np.float32).mean(axis=1)
  return mean_BLP.reshape(*mean_BLP.shape[:2], *grid)


def mean_cosine(map_BLhw: np.ndarray) -> float:
  """Returns the mean cosine between the maps of two different tokens of an image.

  It is 1 if all tokens attend to the same places. Raises `UserError` for one token.
  """
  count = map_BLhw.shape[1]
  if count < 2:
    raise UserError('the cosine between tokens needs at least 2 tokens')
  flat_BLP = map_BLhw.reshape(*map_BLhw.shape[:2], -1).astype(np.float64)
  length_BL1 = np.linalg.norm(flat_BLP, axis=-1, keepdims=True)
  flat_BLP = flat_BLP / np.where(length_BL1 > 0, length_BL1, 1.0)
  sum_B = np.square(flat_BLP.sum(axis=1)).sum(axis=-1)
  # `sum_B` is over all pairs; the pairs of a map with itself are subtracted.
  own_B = np.square(flat_BLP).sum(axis=(1, 2))
  return float(((sum_B - own_B) / (count * (count - 1))).mean())


def sheet(image_HWC: np.ndarray, map_Lhw: np.ndarray, columns: int = 8) -> np.ndarray:
  """Draws an image, then for each token the image lit where the token attends."""
  image_HWC = images.fit(image_HWC, SIDE)
  lit = [images.highlight(image_HWC, map_hw) for map_hw in map_Lhw]
  return images.tile(np.stack([image_HWC, *lit]), columns)
