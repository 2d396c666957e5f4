"""Losses as pure functions, in float32.  Axes: B batch, C classes."""

import jax
import jax.numpy as jnp
import optax


def softmax_cross_entropy(logits_BC: jax.Array, target_BC: jax.Array) -> jax.Array:
  """-sum_c target log softmax(logits): (B,)."""
  return optax.softmax_cross_entropy(logits_BC.astype(jnp.float32), target_BC)


def sigmoid_cross_entropy(logits_BC: jax.Array, target_BC: jax.Array) -> jax.Array:
  """One binary cross-entropy a class, summed over classes: (B,)."""
  losses_BC = optax.sigmoid_binary_cross_entropy(
    logits_BC.astype(jnp.float32), target_BC
  )
  return losses_BC.sum(axis=-1)
