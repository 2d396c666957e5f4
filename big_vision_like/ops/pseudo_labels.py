"""The selection of pseudo labels for a student, as in Noisy Student.

See arXiv:1911.04252 section 3.2. Axes: N images, K classes.
"""

from typing import NamedTuple

import numpy as np

# Thresholds are tried in hundredths, from 1 down.
STEPS = 100


class Choice(NamedTuple):
  """The number of copies of each image, and the thresholds of classes.

  `copies_N` is 0 for images that are left out. In each class, `available_K` images
  reach `threshold_K`.
  """

  copies_N: np.ndarray
  threshold_K: np.ndarray
  available_K: np.ndarray


def choose(
  label_N: np.ndarray,
  confidence_N: np.ndarray,
  classes: int,
  *,
  min_confidence: float = 0.3,
  per_class: int | None = None,
  seed: int = 0,
) -> Choice:
  """Chooses images by the confidence of their labels, the same number of each class.

  The threshold of a class is the highest hundredth, at least `min_confidence`, that at
  least `per_class` of its images reach; if there are too few, it is `min_confidence`.
  Each image that reaches the threshold is used per_class / available times, where the
  fractional part is the probability of one more copy. Without `per_class`, every image
  that reaches `min_confidence` is used once.
  """
  threshold_K = np.full(classes, min_confidence, np.float64)
  if per_class is not None:
    for label in range(classes):
      own = confidence_N[label_N == label]
      threshold_K[label] = threshold(own, per_class, min_confidence)
  reached_N = confidence_N >= threshold_K[label_N]
  available_K = np.bincount(label_N[reached_N], minlength=classes)
  copies_N = reached_N.astype(np.int64)
  if per_class is not None:
    wanted_K = per_class / np.maximum(available_K, 1)
    whole_K = np.floor(wanted_K)
    more_N = np.random.default_rng(seed).random(len(label_N))
    more_N = more_N < (wanted_K - whole_K)[label_N]
    copies_N *= whole_K.astype(np.int64)[label_N] + more_N
  return Choice(copies_N, threshold_K, available_K)


def threshold(confidence_N: np.ndarray, count: int, lowest: float) -> float:
  """Returns the highest hundredth that `count` confidences reach, or `lowest`."""
  for hundredth in range(STEPS, -1, -1):
    value = hundredth / STEPS
    if value <= lowest:
      break
    if np.count_nonzero(confidence_N >= value) >= count:
      return value
  return lowest
