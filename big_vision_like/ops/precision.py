"""The floating-point type of softmax, statistics of norms, and losses."""

import jax
import jax.numpy as jnp


def float_type(*arrays: jax.Array) -> jnp.dtype:
  """Returns float32, or float64 if one of the arrays has it.

  JAX makes float64 arrays only under `jax.enable_x64`, as golden checks do.
  """
  return jnp.result_type(jnp.float32, *arrays)


def at_least_float32(x: jax.Array) -> jax.Array:
  """Returns x as float32, or unchanged if it is float64."""
  return x.astype(float_type(x))
