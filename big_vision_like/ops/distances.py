"""Distances between two sets of images, by the features of a network.

`Moments` and distances of them are float64, on the host.

Axes: N examples of a set, M examples compared with it, D features, C classes.
"""

from collections.abc import Iterable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from big_vision_like.errors import UserError

ROWS = 2048  # examples of each set whose distances are in memory at once


class Moments(NamedTuple):
  """The number of examples, the mean (D,) of their features and covariance (D, D)."""

  count: int
  mean_D: np.ndarray
  covariance_DD: np.ndarray


def moments(parts: Iterable[np.ndarray]) -> Moments:
  """Returns the moments of features (..., D) that come in parts.

  The covariance divides by the number of examples less one.
  """
  count, shift_D, sum_D, square_DD = 0, 0.0, 0.0, 0.0
  for part_ND in parts:
    if not count and len(part_ND):
      # Any constant near the mean keeps digits that differences of squares would lose.
      shift_D = part_ND.mean(axis=0, dtype=np.float64)
    own_ND = part_ND.astype(np.float64) - shift_D
    count += len(own_ND)
    sum_D += own_ND.sum(axis=0)
    square_DD += own_ND.T @ own_ND
  if count < 2:
    raise UserError(f'{count} examples have no covariance: take at least 2')
  offset_D = sum_D / count
  covariance_DD = (square_DD - count * np.outer(offset_D, offset_D)) / (count - 1)
  return Moments(count, shift_D + offset_D, covariance_DD)


def frechet(one: Moments, other: Moments) -> float:
  """Returns the Frechet distance of two Gaussians (arXiv:1706.08500, equation 6).

  It is |m1 - m2|^2 + trace(C1 + C2 - 2 (C1 C2)^(1/2)), 0 for equal moments. The trace
  of the square root is the sum of the singular values of C1^(1/2) C2^(1/2), which also
  exists for covariances without full rank.
  """
  if one.mean_D.shape != other.mean_D.shape:
    raise UserError(
      f'features of width {len(one.mean_D)} and {len(other.mean_D)} cannot be compared:'
      ' compute both sets with the same network'
    )
  roots = root(one.covariance_DD) @ root(other.covariance_DD)
  shared = np.linalg.svd(roots, compute_uv=False).sum()
  traces = np.trace(one.covariance_DD) + np.trace(other.covariance_DD)
  apart = np.square(one.mean_D - other.mean_D).sum()
  return max(float(apart + traces - 2 * shared), 0.0)


def root(covariance_DD: np.ndarray) -> np.ndarray:
  """Returns the symmetric square root of a covariance."""
  values_D, vectors_DD = np.linalg.eigh(covariance_DD)
  # Rounding makes eigenvalues of 0 slightly negative.
  return (vectors_DD * np.sqrt(np.maximum(values_D, 0.0))) @ vectors_DD.T


def frechet_of_perfect(real: Moments, samples: int, seed: int = 0) -> float:
  """Returns the Frechet distance that perfect samples would have, by their number.

  It is measured on one draw of `samples` examples from the Gaussian with the moments
  `real`. Without bias it would be 0; it falls as 1 / samples.
  """
  rng = np.random.default_rng(seed)
  normal_MD = rng.standard_normal((samples, len(real.mean_D)))
  drawn_MD = real.mean_D + normal_MD @ root(real.covariance_DD)
  return frechet(real, moments([drawn_MD]))


def inception_score(
  probabilities_MC: np.ndarray, splits: int = 10
) -> tuple[float, float]:
  """Returns mean and deviation of the Inception Score over splits (arXiv:1606.03498).

  The score of a split is exp of the mean KL divergence of the class probabilities of an
  image from their mean over the split. It is from 1 to the number of classes.
  """
  count = len(probabilities_MC)
  if not 1 <= splits <= count:
    raise UserError(f'{count} samples do not divide into splits={splits}: draw more')
  bounds = [i * count // splits for i in range(splits + 1)]
  scores = []
  for start, stop in zip(bounds, bounds[1:], strict=False):
    part_MC = probabilities_MC[start:stop].astype(np.float64)
    ratio_MC = part_MC / part_MC.mean(axis=0, keepdims=True).clip(min=1e-300)
    # A class of probability 0 adds nothing.
    log_MC = np.log(np.where(part_MC > 0, ratio_MC, 1.0))
    scores.append(np.exp((part_MC * log_MC).sum(axis=1).mean()))
  return float(np.mean(scores)), float(np.std(scores))


def precision_recall(
  real_ND: np.ndarray, generated_MD: np.ndarray, neighbours: int = 3
) -> tuple[float, float]:
  """Returns improved precision and recall of generated images (arXiv:1904.06991).

  Precision is the share of generated examples within the balls around real ones whose
  radius is the distance to the k-th nearest other one; recall is the reverse.
  """
  for name, features in ('real', real_ND), ('generated', generated_MD):
    if len(features) <= neighbours:
      raise UserError(
        f'{len(features)} {name} examples have no neighbour {neighbours}: take more'
        ' examples, or fewer neighbours'
      )
  precision = covered(generated_MD, real_ND, neighbours).mean()
  recall = covered(real_ND, generated_MD, neighbours).mean()
  return float(precision), float(recall)


def covered(
  probes_MD: np.ndarray, examples_ND: np.ndarray, neighbours: int
) -> np.ndarray:
  """Returns whether a ball around any example holds each probe, bool (M,)."""
  radii_N = np.concatenate(
    [
      # The nearest is the example itself.
      np.partition(squared_distances(part_ND, examples_ND), neighbours)[:, neighbours]
      for part_ND in _parts(examples_ND)
    ]
  )
  found = [
    (squared_distances(part_MD, examples_ND) <= radii_N[None]).any(axis=1)
    for part_MD in _parts(probes_MD)
  ]
  return np.concatenate(found)


def squared_distances(probes_MD: np.ndarray, examples_ND: np.ndarray) -> np.ndarray:
  """Returns squared Euclidean distances (M, N) of features, float32."""
  found = []
  for part_ND in _parts(examples_ND):
    # Padded, so that one program serves all parts.
    rows = [_padded(part, ROWS) for part in (probes_MD, part_ND)]
    block_MN = np.asarray(_distances(*rows))
    found.append(block_MN[: len(probes_MD), : len(part_ND)])
  return np.concatenate(found, axis=1)


@jax.jit
def _distances(probes_MD: jax.Array, examples_ND: jax.Array) -> jax.Array:
  # Products of bfloat16, the default of accelerators, would change neighbours.
  highest = jax.lax.Precision.HIGHEST
  # Differences from a common point lose fewer digits.
  centre_1D = examples_ND[:1]
  probes_MD, examples_ND = probes_MD - centre_1D, examples_ND - centre_1D
  products_MN = jnp.einsum('MD,ND->MN', probes_MD, examples_ND, precision=highest)
  squares_M1 = jnp.square(probes_MD).sum(axis=1, keepdims=True)
  squares_1N = jnp.square(examples_ND).sum(axis=1)[None]
  return jnp.maximum(squares_M1 - 2 * products_MN + squares_1N, 0.0)


def _parts(features_ND: np.ndarray) -> list[np.ndarray]:
  starts = range(0, len(features_ND), ROWS)
  return [features_ND[start : start + ROWS] for start in starts]


def _padded(features_ND: np.ndarray, most: int) -> np.ndarray:
  """Pads rows with zeros to `most`, or to a power of two if there are fewer."""
  rows = min(most, 1 << (len(features_ND) - 1).bit_length())
  padding = ((0, rows - len(features_ND)), (0, 0))
  return np.pad(features_ND.astype(np.float32), padding)
