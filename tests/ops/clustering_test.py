import jax
import jax.numpy as jnp
import numpy as np
import pytest

from big_vision_like.errors import UserError
from big_vision_like.ops import clustering


def test_separate_groups_are_found():
  rng = np.random.default_rng(0)
  group_BN = rng.permuted(np.tile(np.arange(12) % 3, (4, 1)), axis=1)
  centers_3C = 10.0 * rng.normal(size=(3, 5))
  x_BNC = centers_3C[group_BN] + 0.1 * rng.normal(size=(4, 12, 5))
  member_BKN = np.asarray(jax.jit(clustering.k_means, static_argnums=1)(x_BNC, 3))
  same_BNN = np.einsum('BKN,BKM->BNM', member_BKN, member_BKN)
  np.testing.assert_array_equal(same_BNN, group_BN[:, :, None] == group_BN[:, None])


def test_centers_are_means_of_their_vectors():
  """Checks that at convergence each vector is nearest to the mean of its cluster."""
  x_BNC = np.random.default_rng(1).normal(size=(2, 30, 4)).astype(np.float32)
  member_BKN = np.asarray(clustering.k_means(x_BNC, 5, iterations=50))
  np.testing.assert_array_equal(member_BKN.sum(axis=1), 1)
  count_BK1 = member_BKN.sum(axis=-1, keepdims=True)
  mean_BKC = np.einsum('BKN,BNC->BKC', member_BKN, x_BNC) / count_BK1
  distance_BKN = np.linalg.norm(mean_BKC[:, :, None] - x_BNC[:, None], axis=-1)
  np.testing.assert_array_equal(distance_BKN.argmin(axis=1), member_BKN.argmax(axis=1))


def test_the_order_of_vectors_does_not_matter():
  rng = np.random.default_rng(2)
  x_BNC, order_N = rng.normal(size=(2, 20, 3)), rng.permutation(20)
  one, other = (clustering.k_means(x, 4) for x in (x_BNC, x_BNC[:, order_N]))
  np.testing.assert_array_equal(one[..., order_N], other)


def test_equal_vectors_leave_clusters_empty():
  member_BKN = clustering.k_means(jnp.ones((1, 6, 2)), 3)
  np.testing.assert_array_equal(member_BKN.sum(axis=-1)[0], [6, 0, 0])


def test_no_gradient_and_too_many_clusters():
  x_BNC = jnp.asarray(np.random.default_rng(3).normal(size=(1, 6, 2)))
  gradient = jax.grad(lambda x: (clustering.k_means(x, 2) * x[:, None, :, 0]).sum())
  # Only the gradient of the factor remains.
  np.testing.assert_array_equal(gradient(x_BNC)[..., 1], 0)
  with pytest.raises(UserError, match='cannot form 7 clusters from 6 vectors'):
    clustering.k_means(x_BNC, 7)
