"""Random erasing, on the device.

Axes: B batch, H W image, C channels, A attempts, S rows or columns.
"""

import jax
import jax.numpy as jnp
import numpy as np

from big_vision_like.errors import check_one_of

# The number of boxes tried for an image, because large or long ones may not fit.
ATTEMPTS = 10


def erase(
  key: jax.Array,
  image_BHWC: jax.Array,
  probability: float,
  area: tuple[float, float] = (0.02, 1 / 3),
  aspect: tuple[float, float] = (0.3, 1 / 0.3),
  mode: str = 'pixel',
) -> jax.Array:
  """Fills a box of some images with noise (arXiv:1708.04896), as in timm.

  Images are normalised float (B, H, W, C), or clips (B, T, H, W, C), whose frames all
  lose the same box. Each image loses a box with the given `probability`. The share of
  the image is uniform in `area`, the height over width log-uniform in `aspect`. Values
  are Gaussian noise of standard deviation 1 with mode 'pixel', and 0 with 'const'.
  """
  check_one_of(('pixel', 'const'), mode=mode)
  batch, *frames, height, width, _ = image_BHWC.shape
  key_chosen, key_box, key_noise = jax.random.split(key, 3)
  top_B, left_B, h_B, w_B = boxes(key_box, batch, height, width, area, aspect)
  chosen_B = jax.random.bernoulli(key_chosen, probability, (batch,))
  rows_BH = inside(top_B, h_B, height)
  columns_BW = inside(left_B, w_B, width)
  box_BHW = chosen_B[:, None, None] & rows_BH[:, :, None] & columns_BW[:, None, :]
  fill = 0.0
  if mode == 'pixel':
    fill = jax.random.normal(key_noise, image_BHWC.shape, image_BHWC.dtype)
  box = box_BHW.reshape(batch, *[1] * len(frames), height, width, 1)
  return jnp.where(box, fill, image_BHWC)


def boxes(
  key: jax.Array,
  batch: int,
  height: int,
  width: int,
  area: tuple[float, float],
  aspect: tuple[float, float],
) -> tuple[jax.Array, jax.Array, jax.Array, jax.Array]:
  """Draws a box for each image: top, left, height and width, int32 (B,) each.

  It is the first of ATTEMPTS that is smaller than the image; of size 0 if none is.
  """
  key_area, key_aspect, key_place = jax.random.split(key, 3)
  shape, (low, high) = (batch, ATTEMPTS), np.log(aspect)
  area_BA = jax.random.uniform(key_area, shape, minval=area[0], maxval=area[1])
  aspect_BA = jnp.exp(jax.random.uniform(key_aspect, shape, minval=low, maxval=high))
  h_BA = jnp.round(jnp.sqrt(area_BA * height * width * aspect_BA)).astype(jnp.int32)
  w_BA = jnp.round(jnp.sqrt(area_BA * height * width / aspect_BA)).astype(jnp.int32)
  fits_BA = (h_BA < height) & (w_BA < width)
  first_B1 = fits_BA.argmax(axis=1, keepdims=True)
  h_B, w_B = (
    jnp.take_along_axis(jnp.where(fits_BA, x, 0), first_B1, axis=1)[:, 0]
    for x in (h_BA, w_BA)
  )
  place_2B = jax.random.uniform(key_place, (2, batch))
  top_B, left_B = (
    jnp.floor(place_B * (side - size_B + 1)).astype(jnp.int32)
    for place_B, side, size_B in zip(place_2B, (height, width), (h_B, w_B), strict=True)
  )
  return top_B, left_B, h_B, w_B


def inside(start_B: jax.Array, size_B: jax.Array, side: int) -> jax.Array:
  """Returns which of `side` rows or columns belong to each box, bool (B, side)."""
  place_1S = jnp.arange(side)[None]
  start_B1 = start_B[:, None]
  return (place_1S >= start_B1) & (place_1S < start_B1 + size_B[:, None])
