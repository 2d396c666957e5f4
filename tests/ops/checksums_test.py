"""Tests that checksums of arrays are the same on any mesh and differ for other bits."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from big_vision_like.devices import mesh as meshes
from big_vision_like.ops.checksums import checksum

VALUES = [
  np.random.default_rng(0).normal(size=(8, 6)).astype(np.float32),
  np.random.default_rng(1).normal(size=(16, 4)).astype(jnp.bfloat16),
  np.arange(24, dtype=np.int32).reshape(8, 3),
  np.arange(8) % 3 == 0,
  np.arange(16, dtype=np.uint8),
]


@pytest.mark.parametrize('x', VALUES, ids=lambda x: x.dtype.name)
def test_sharding_does_not_matter_and_every_bit_does(x):
  summed = jax.jit(checksum)
  whole = np.asarray(summed(x))
  for axes in (('data',), ('fsdp', 'data')):
    mesh = meshes.make_mesh(data=2, fsdp=4)
    spread = jax.device_put(x, jax.NamedSharding(mesh, jax.P(axes)))
    np.testing.assert_array_equal(summed(spread), whole)
  seen = {whole.tobytes()}
  if x.dtype == bool:
    return
  for bit in range(0, 8 * x.nbytes, 5):
    other = x.copy()
    other.reshape(-1).view(np.uint8)[bit // 8] ^= 1 << bit % 8
    seen.add(np.asarray(summed(other)).tobytes())
  assert len(seen) == 1 + len(range(0, 8 * x.nbytes, 5))


def test_order_and_shape_matter():
  x = np.arange(12.0, dtype=np.float32)
  swapped = x.copy()
  swapped[[3, 7]] = x[[7, 3]]
  assert checksum(jnp.asarray(swapped)) != checksum(jnp.asarray(x))
  negated = np.where(np.isin(x, [3, 7]), -x, x)  # two signs, which cancel in a sum
  assert checksum(jnp.asarray(negated)) != checksum(jnp.asarray(x))
  assert checksum(jnp.zeros((0, 3))) == 0
