"""Images on the device.  Axes: B batch, H W image, C channels."""

from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np


def normalize(
  image_BHWC: jax.Array,
  mean: float | Sequence[float] = 0.5,
  std: float | Sequence[float] = 0.5,
) -> jax.Array:
  """uint8 to float32 in [-1, 1], or as `mean` and `std` of values in [0, 1] make them.

  These are one number, or one for each channel. Float images are taken to be there
  already.
  """
  if image_BHWC.dtype != jnp.uint8:
    return image_BHWC
  mean, std = (np.reshape(x, (1, 1, 1, -1)) for x in (mean, std))
  return image_BHWC.astype(jnp.float32) / np.float32(255 * std) - np.float32(mean / std)


def flip(key: jax.Array, image_BHWC: jax.Array) -> jax.Array:
  """Left for right, each image every other time."""
  turned_B = jax.random.bernoulli(key, 0.5, image_BHWC.shape[:1])
  return jnp.where(turned_B[:, None, None, None], image_BHWC[:, :, ::-1], image_BHWC)
