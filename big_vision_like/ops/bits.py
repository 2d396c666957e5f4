"""Integers as vectors of bits, the most significant bit first.  K bits."""

import jax
import jax.numpy as jnp


def to_bits(number: jax.Array, bits: int) -> jax.Array:
  """Returns the bits of integers: float32, 0 or 1, with a new last axis of size `bits`.

  Numbers must be from 0 to 2**bits - 1; higher bits of others are ignored.
  """
  shift_K = jnp.arange(bits - 1, -1, -1, dtype=number.dtype)
  shifted = jnp.right_shift(
    number[..., None], jnp.expand_dims(shift_K, range(number.ndim))
  )
  return (shifted & 1).astype(jnp.float32)


def from_bits(bit: jax.Array) -> jax.Array:
  """Returns the int32 numbers of bits, bool or 0 and 1, along the last axis."""
  place_K = 2 ** jnp.arange(bit.shape[-1] - 1, -1, -1, dtype=jnp.int32)
  return jnp.einsum('...K,K->...', bit.astype(jnp.int32), place_K)
