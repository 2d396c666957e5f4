"""Mixing examples of a batch, on the device.  Axes: B batch."""

import jax
import jax.numpy as jnp


def mixup(
  key: jax.Array, image_BHWC: jax.Array, target_BC: jax.Array, alpha: float
) -> tuple[jax.Array, jax.Array]:
  """Mixup (arXiv:1710.09412) as in arXiv:2106.10270: one weight for the batch.

  The weight is drawn from Beta(alpha, alpha) and is at least 1/2; the partner of an
  example is the one before it.
  """
  weight = jax.random.beta(key, alpha, alpha)
  weight = jnp.maximum(weight, 1.0 - weight)

  def mix(x: jax.Array) -> jax.Array:
    return weight * x + (1.0 - weight) * jnp.roll(x, 1, axis=0)

  return mix(image_BHWC), mix(target_BC)
