"""Similarity of learned position embeddings (arXiv:2010.11929, figure 7 centre).

Axes: N patches, D width, h w patch grid; the first pair of h w is the patch that a
panel belongs to, the second the patch it is compared with.
"""

import numpy as np

from big_vision_like.viz import images


def position_similarity(embedding_ND: np.ndarray, grid: tuple[int, int]) -> np.ndarray:
  """Returns cosine similarities of all position embeddings, (h, w, h, w) in [-1, 1].

  Patches are in row-major order, without the class token. An embedding of length zero
  has similarity 0 to all others. Raises a `ValueError` unless they fill `grid`.
  """
  height, width = grid
  if len(embedding_ND) != height * width:
    raise ValueError(
      f'{len(embedding_ND)} position embeddings do not fit a grid of {height} x {width}'
    )
  length_N1 = np.linalg.norm(embedding_ND, axis=1, keepdims=True)
  unit_ND = embedding_ND / np.maximum(length_N1, np.finfo(np.float32).tiny)
  return (unit_ND @ unit_ND.T).reshape(height, width, height, width)


def similarity_picture(similarity_hwhw: np.ndarray, side: int = 640) -> np.ndarray:
  """Draws one panel per patch in a grid, about `side` pixels wide; RGB uint8.

  Colours range from -1 (dark) to 1 (bright), the scale of the paper's figure.
  """
  height, width = similarity_hwhw.shape[:2]
  factor = max(1, side // width**2)
  panels_NHWC = np.stack(
    [
      images.enlarge(images.colormap(panel_hw, -1.0, 1.0), factor)
      for panel_hw in similarity_hwhw.reshape(-1, height, width)
    ]
  )
  return images.tile(panels_NHWC, columns=width, gap=min(max(2, factor // 2), 8))


def along_rows_and_columns(
  similarity_hwhw: np.ndarray,
) -> tuple[np.ndarray, np.ndarray]:
  """Returns the similarity of rows of the grid, (h, h), and of its columns, (w, w).

  Two rows are compared within each column, so that they differ in nothing but the row,
  and averaged over columns; columns likewise.
  """
  rows_hh = np.einsum('ijkj->ik', similarity_hwhw) / similarity_hwhw.shape[1]
  columns_ww = np.einsum('ijik->jk', similarity_hwhw) / similarity_hwhw.shape[0]
  return rows_hh, columns_ww


def by_distance(similarity_NN: np.ndarray) -> np.ndarray:
  """Returns the mean similarity of rows (or columns) 0, 1, ... N - 1 apart, (N,)."""
  size = len(similarity_NN)
  return np.array([np.trace(similarity_NN, offset) for offset in range(size)]) / (
    size - np.arange(size)
  )
