"""Filters of the first layer (arXiv:2010.11929, figure 7 left).

Axes: P Q rows and columns of a patch, C channels, D width, K components.
"""

import numpy as np


def principal_filters(
  kernel_PQCD: np.ndarray, count: int = 28
) -> tuple[np.ndarray, np.ndarray]:
  """Returns the principal components of a patch embedding's D filters, and shares.

  Components (K, P, Q, C), with K = min(count, P * Q * C, D), are in descending order of
  variance. The second result (K,) is the share of the filters' variance that each one
  explains. Components are scaled for display: 0.5 is zero, and the largest weight
  reaches 0 or 1. The sign, which is arbitrary, is chosen so that it reaches 1.
  """
  if kernel_PQCD.ndim != 4:
    raise ValueError(
      f'a patch kernel has (rows, columns, channels, width), not {kernel_PQCD.shape}'
    )
  filters_DF = kernel_PQCD.reshape(-1, kernel_PQCD.shape[-1]).T.astype(np.float64)
  centred_DF = filters_DF - filters_DF.mean(axis=0, keepdims=True)
  _, spread_K, components_KF = np.linalg.svd(centred_DF, full_matrices=False)
  share_K = spread_K**2 / max(np.sum(spread_K**2), np.finfo(np.float64).tiny)
  components_KF = components_KF[:count]
  largest_K1 = np.take_along_axis(
    components_KF, np.abs(components_KF).argmax(axis=1)[:, None], axis=1
  )
  shown_KF = 0.5 + 0.5 * components_KF / largest_K1
  return shown_KF.reshape(-1, *kernel_PQCD.shape[:3]), share_K[:count]
