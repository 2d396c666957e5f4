"""Images on the device.  Axes: B batch, H W image, C channels."""

import jax
import jax.numpy as jnp


def normalize(image_BHWC: jax.Array) -> jax.Array:
  """uint8 to float32 in [-1, 1]; float images are taken to be there already."""
  if image_BHWC.dtype != jnp.uint8:
    return image_BHWC
  return image_BHWC.astype(jnp.float32) / 127.5 - 1.0
