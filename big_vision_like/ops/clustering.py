"""Clustering of vectors by k-means (S. Lloyd, 1982).

Axes: B batch, N vectors, C size of a vector, K clusters.
"""

import jax
import jax.numpy as jnp

from big_vision_like.errors import UserError
from big_vision_like.ops import precision


def k_means(x_BNC: jax.Array, num_clusters: int, iterations: int = 10) -> jax.Array:
  """Returns the membership of vectors in clusters: float32 (B, K, N), 0 or 1.

  The first center is the vector farthest from the mean of all vectors. Each further
  center is the vector farthest from the previous centers (T. Gonzalez, 1985). So
  nothing is random, and the order of the vectors does not matter unless distances are
  equal. A cluster that loses all its vectors keeps its center, and may stay empty.
  There is no gradient.

  Raises `UserError` unless 1 <= num_clusters <= N.
  """
  count = x_BNC.shape[1]
  if not 1 <= num_clusters <= count:
    raise UserError(f'cannot form {num_clusters} clusters from {count} vectors')
  x_BNC = jax.lax.stop_gradient(precision.at_least_float32(x_BNC))
  far_BN = _distances(x_BNC, x_BNC.mean(axis=1, keepdims=True))[:, 0]
  centers = []
  for _ in range(num_clusters):
    place_B11 = far_BN.argmax(axis=1)[:, None, None]
    center_B1C = jnp.take_along_axis(x_BNC, place_B11, axis=1)
    away_BN = _distances(x_BNC, center_B1C)[:, 0]
    far_BN = jnp.minimum(far_BN, away_BN) if centers else away_BN
    centers.append(center_B1C)

  def iteration(_: int, center_BKC: jax.Array) -> jax.Array:
    member_BKN = _members(x_BNC, center_BKC)
    count_BK1 = member_BKN.sum(axis=-1, keepdims=True)
    sum_BKC = jnp.einsum('BKN,BNC->BKC', member_BKN, x_BNC)
    mean_BKC = sum_BKC / jnp.maximum(count_BK1, 1.0)
    return jnp.where(count_BK1 > 0, mean_BKC, center_BKC)

  first_BKC = jnp.concatenate(centers, axis=1)
  center_BKC = jax.lax.fori_loop(0, iterations, iteration, first_BKC)
  return _members(x_BNC, center_BKC)


def _members(x_BNC: jax.Array, center_BKC: jax.Array) -> jax.Array:
  """Returns the membership of vectors in clusters by nearest center: (B, K, N)."""
  nearest_BN = _distances(x_BNC, center_BKC).argmin(axis=1)
  return jax.nn.one_hot(nearest_BN, center_BKC.shape[1], axis=1, dtype=x_BNC.dtype)


def _distances(x_BNC: jax.Array, center_BKC: jax.Array) -> jax.Array:
  """Returns the squared distances between centers and vectors: (B, K, N)."""
  product_BKN = jnp.einsum('BKC,BNC->BKN', center_BKC, x_BNC)
  square_BN, square_BK = (jnp.square(y).sum(axis=-1) for y in (x_BNC, center_BKC))
  return square_BK[:, :, None] + square_BN[:, None] - 2.0 * product_BKN
