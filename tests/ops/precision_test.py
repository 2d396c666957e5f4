import jax
import jax.numpy as jnp
import numpy as np
import pytest

from big_vision_like.ops import attention, losses, matching, positions, precision


@pytest.mark.parametrize('dtype', ['bool', 'uint8', 'int32', 'bfloat16', 'float32'])
def test_other_types_become_float32(dtype):
  x_N = jnp.arange(3).astype(dtype)
  wide_N = precision.at_least_float32(x_N)
  assert wide_N.dtype == precision.float_type(x_N) == jnp.float32
  np.testing.assert_array_equal(wide_N, x_N.astype(jnp.float32))


def test_numpy_float64_stays_float32_in_jax():
  assert precision.at_least_float32(np.zeros(3)).dtype == np.float32


def test_float64_is_kept():
  with jax.enable_x64(True):
    x_BNHK = jnp.asarray(np.random.default_rng(0).normal(size=(2, 3, 1, 4)))
    probability_BHNM = attention.probabilities(x_BNHK, x_BNHK)
    loss_BN = losses.smoothed_cross_entropy(x_BNHK[:, :, 0], jnp.ones((2, 3), int), 0.1)
    query_BT = matching.match(probability_BHNM[:, 0])
    position_ND = positions.sinusoid(jnp.arange(3), 4)
  assert probability_BHNM.dtype == loss_BN.dtype == position_ND.dtype == jnp.float64
  np.testing.assert_allclose(np.asarray(probability_BHNM).sum(-1), 1.0, rtol=1e-15)
  assert sorted(query_BT[0]) == [0, 1, 2]
