"""The soft split of arXiv:2101.11986 section 3.1: overlapping patches of a map.

Axes: B batch, H W map, C its channels, P Q map with its border, h w patches, K pixels
of a patch, F = C * K features.
"""

import jax
import jax.numpy as jnp

from big_vision_like.errors import UserError


def soft_split(x_BHWC: jax.Array, size: int, stride: int, padding: int) -> jax.Array:
  """Returns patches of size x size pixels as features: (B, h, w, C * size^2).

  The map is padded with `padding` zeros on each side, and
  h = (H + 2 padding - size) // stride + 1. Feature c * size^2 + i * size + j is channel
  c of row i and column j of the patch, as in `torch.nn.Unfold`. Values are copied and
  never multiplied, so they are exact on any device.

  Raises `UserError` for a map that is smaller than a patch.
  """
  height, width = (side + 2 * padding - size for side in x_BHWC.shape[1:3])
  if min(height, width) < 0:
    raise UserError(
      f'a map {x_BHWC.shape} with padding {padding} is smaller than a patch of'
      f' {size}x{size}'
    )
  border = (padding, padding)
  x_BPQC = jnp.pad(x_BHWC, ((0, 0), border, border, (0, 0)))
  pixels = [
    x_BPQC[:, i : i + height + 1 : stride, j : j + width + 1 : stride]
    for i in range(size)
    for j in range(size)
  ]
  x_BhwCK = jnp.stack(pixels, axis=-1)
  return x_BhwCK.reshape(*x_BhwCK.shape[:3], -1)
