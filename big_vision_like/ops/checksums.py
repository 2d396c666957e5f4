"""Checksums of arrays that do not depend on the sharding of an array."""

import jax
import jax.numpy as jnp
import numpy as np

WORDS = {1: jnp.uint8, 2: jnp.uint16, 4: jnp.uint32, 8: jnp.uint32}


def checksum(x: jax.Array) -> jax.Array:
  """Returns the checksum of an array of any shape and type, uint32 ().

  It is the sum modulo 2**32 of a hash of each element's bits and position (the mixing
  steps of MurmurHash3). It is exact in any order of summation, and a change of bits or
  of the order of elements goes unnoticed with a probability of 2**-32.
  """
  if jnp.issubdtype(x.dtype, jax.dtypes.prng_key):
    x = jax.random.key_data(x)
  if x.dtype == bool:
    x = x.astype(jnp.uint8)
  bits = jax.lax.bitcast_convert_type(x, WORDS[x.dtype.itemsize]).astype(jnp.uint32)
  place = jnp.zeros(bits.shape, jnp.uint32)
  for axis, size in enumerate(bits.shape):
    place = place * np.uint32(size) + jax.lax.broadcasted_iota(
      jnp.uint32, bits.shape, axis
    )
  mixed = bits ^ (place * np.uint32(0x9E3779B1))
  mixed = (mixed ^ (mixed >> 16)) * np.uint32(0x85EBCA6B)
  mixed = (mixed ^ (mixed >> 13)) * np.uint32(0xC2B2AE35)
  return (mixed ^ (mixed >> 16)).sum(dtype=jnp.uint32)
