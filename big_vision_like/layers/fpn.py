"""Feature pyramids, arXiv:1612.03144: maps of one width from a backbone's stages.

Axes: B batch, h w a map, u v another map, I channels of a stage, C channels.
"""

from collections.abc import Callable, Mapping, Sequence

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from big_vision_like.errors import UserError
from big_vision_like.layers import convolution

# PyTorch's kaiming_uniform_(a=1), as in Detectron and torchvision.
START = nn.initializers.lecun_uniform()


class FPN(nn.Module):
  """A pyramid of maps (B, h, w, C) from named maps, fine to coarse.

  Each map passes through a 1x1 convolution, `lateral1` and so on; the next coarser
  result, upsampled, is added to it; a 3x3 convolution, `output1` and so on, follows.
  `extra` further levels take every second row and column of the level before. Sides of
  the maps need not be even. All convolutions have biases and no norm.
  """

  channels: int = 256
  extra: int = 1
  dtype: str = 'float32'

  @nn.compact
  def __call__(self, maps: Sequence[jax.Array]) -> list[jax.Array]:
    def conv(name: str, size: int) -> nn.Conv:
      return convolution.conv(
        name, self.channels, size, use_bias=True, kernel_init=START, dtype=self.dtype
      )

    laterals = [conv(f'lateral{i}', 1)(x) for i, x in enumerate(maps, start=1)]
    levels = [
      conv(f'output{i}', 3)(x) for i, x in enumerate(top_down(laterals), start=1)
    ]
    for _ in range(self.extra):
      levels.append(levels[-1][:, ::2, ::2])
    return levels


def top_down(
  maps: Sequence[jax.Array],
  resize: Callable[[jax.Array, tuple[int, int]], jax.Array] | None = None,
) -> list[jax.Array]:
  """Adds each coarser result to the next finer map; maps come fine to coarse.

  `resize` takes a map and the height and width of the finer map, by default `nearest`.
  """
  resize = resize or nearest
  results = [maps[-1]]
  for x_BuvC in maps[-2::-1]:
    results.append(x_BuvC + resize(results[-1], x_BuvC.shape[1:3]))
  return results[::-1]


def nearest(x_BhwC: jax.Array, size: tuple[int, int]) -> jax.Array:
  """Resizes to (B, *size, C): row i is row floor(i * h / size[0]), as in PyTorch."""
  batch, height, width, channels = x_BhwC.shape
  if size == (2 * height, 2 * width):  # without gathering
    shape = (batch, height, 2, width, 2, channels)
    return jnp.broadcast_to(x_BhwC[:, :, None, :, None], shape).reshape(
      batch, *size, channels
    )
  rows, columns = (
    np.arange(new) * old // new for old, new in zip((height, width), size, strict=True)
  )
  return x_BhwC[:, rows][:, :, columns]


def stages(maps: Mapping[str, jax.Array], most: int = 4) -> list[jax.Array]:
  """Returns the backbone's maps `stage1`, `stage2`, ..., fine to coarse.

  Raises a `UserError` unless there are `most` of them.
  """
  found = [maps[name] for name in sorted(maps) if name.startswith('stage')]
  if len(found) != most:
    raise UserError(
      f'the backbone returns {len(found)} maps ({", ".join(sorted(maps))}), but this'
      f' model needs stage1 to stage{most}: a Swin needs maps=(1, 2, 3, 4), a ResNet'
      f' {most} depths'
    )
  return found
