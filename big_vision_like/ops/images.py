"""Images on the device.  Axes: B batch, ... frames or views, H W image, C channels."""

from collections.abc import Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np


class Normalization(NamedTuple):
  """Mean and standard deviation of values in [0, 1]: one number, or one per channel."""

  mean: float | Sequence[float] = 0.5
  std: float | Sequence[float] = 0.5


def normalize(
  image: jax.Array,
  mean: float | Sequence[float] = 0.5,
  std: float | Sequence[float] = 0.5,
) -> jax.Array:
  """Returns uint8 images (..., C) as float32, in [-1, 1] by default.

  `mean` and `std` are the fields of `Normalization`. Arrays of other types are returned
  unchanged: float images are assumed to be normalized already.
  """
  if image.dtype != jnp.uint8:
    return image
  last = (1,) * (image.ndim - 1) + (-1,)
  mean, std = (np.reshape(x, last) for x in (mean, std))
  return image.astype(jnp.float32) / np.float32(255 * std) - np.float32(mean / std)


def renormalize(
  image: jax.Array, before: Normalization, after: Normalization
) -> jax.Array:
  """Converts float images from the normalization `before` to `after`."""
  last = (1,) * (image.ndim - 1) + (-1,)
  old_mean, old_std, mean, std = (
    np.reshape(np.float32(x), last) for x in (*before, *after)
  )
  return image * (old_std / std) + (old_mean - mean) / std


def flip(key: jax.Array, image: jax.Array) -> jax.Array:
  """Mirrors images (B, ..., H, W, C) left to right, each with probability 1/2.

  All frames of a clip are mirrored together.
  """
  turned_B = jax.random.bernoulli(key, 0.5, image.shape[:1])
  turned = turned_B.reshape(-1, *[1] * (image.ndim - 1))
  return jnp.where(turned, image[..., ::-1, :], image)
