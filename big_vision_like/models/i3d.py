"""Inception 3-D (I3D), arXiv:1705.07750: the Inception network inflated to videos.

The code follows piergiaj/pytorch-i3d, which copies the TensorFlow original.
Convolutions and poolings are padded as in TensorFlow, with an odd unit at the end, and
max pooling pads with zeros. The branch that Inception calls 5x5 is 3x3x3.

Axes: B batch, T H W frames, rows and columns of a video, t h w feature map, u v x y
parts of it, I input channels, C channels or classes, D features, k a window.
"""

import functools
from collections.abc import Sequence

import flax.linen as nn
import jax
import jax.numpy as jnp

from big_vision_like.errors import UserError
from big_vision_like.layers import convolution
from big_vision_like.ops import precision
from big_vision_like.ops.convolution import convolve

EPSILON = 1e-3
MOMENTUM = 0.99
# Channels of the branches of each mixed layer: 1x1x1, 1x1x1 and 3x3x3, 1x1x1 and 3x3x3,
# pooling and 1x1x1.
MIXED = {
  'mixed_3b': (64, 96, 128, 16, 32, 32),
  'mixed_3c': (128, 128, 192, 32, 96, 64),
  'mixed_4b': (192, 96, 208, 16, 48, 64),
  'mixed_4c': (160, 112, 224, 24, 64, 64),
  'mixed_4d': (128, 128, 256, 24, 64, 64),
  'mixed_4e': (112, 144, 288, 32, 64, 64),
  'mixed_4f': (256, 160, 320, 32, 128, 128),
  'mixed_5b': (256, 160, 320, 32, 128, 128),
  'mixed_5c': (384, 192, 384, 48, 128, 128),
}
# Channels, side of the kernel and stride of the first convolutions.
STEM = {'conv_1a': (64, 7, 2), 'conv_2b': (64, 1, 1), 'conv_2c': (192, 3, 1)}
# Window and stride of the max pooling before a layer.
POOLS = {
  'conv_2b': ((1, 3, 3), (1, 2, 2)),
  'mixed_3b': ((1, 3, 3), (1, 2, 2)),
  'mixed_4b': ((3, 3, 3), (2, 2, 2)),
  'mixed_5b': ((2, 2, 2), (2, 2, 2)),
}
ENDPOINTS = (*STEM, *MIXED)
# The classifier averages this many frames of the last map, and 7x7 cells.
AVERAGED = (2, 7, 7)


class I3D(nn.Module):
  """A network from videos (B, T, H, W, I) to maps by name, and to `logits`.

  Maps are those of the layers up to `endpoint`, each (B, t, h, w, C). `mixed_4f` has a
  quarter of the frames, and a sixteenth of the rows and of the columns. With
  `num_classes` > 0 the network ends with `mixed_5c`, whose map is averaged over windows
  of 2x7x7, and adds `logits` (B, C), the mean over windows, and `features` (B, D). Maps
  smaller than a window are averaged as a whole.

  All channels are divided by `divisor`, rounded down, to at least 1. Norms have the
  statistics of the batch in training.
  """

  num_classes: int = 0
  endpoint: str = 'mixed_5c'
  divisor: int = 1
  dropout: float = 0.5
  dtype: str = 'float32'

  tiny = dict(divisor=lambda arguments, _: max(16, arguments['divisor']))

  @nn.compact
  def __call__(
    self, video_BTHWI: jax.Array, train: bool = False
  ) -> dict[str, jax.Array]:
    if self.endpoint not in ENDPOINTS:
      raise UserError(
        f'endpoint={self.endpoint!r} is not one of {", ".join(ENDPOINTS)}'
      )
    if self.num_classes and self.endpoint != ENDPOINTS[-1]:
      raise UserError(
        f'endpoint={self.endpoint!r} has no classifier: use num_classes=0, or endpoint='
        f'{ENDPOINTS[-1]!r}'
      )
    outputs, x = {}, video_BTHWI
    for name in ENDPOINTS[: ENDPOINTS.index(self.endpoint) + 1]:
      if name in POOLS:
        x = max_pool(x, *POOLS[name])
      if name in STEM:
        channels, size, stride = STEM[name]
        x = Unit(divided(channels, self.divisor), size, stride, self.dtype, name=name)(
          x, train
        )
      else:
        x = mixed(name, self.divisor, self.dtype)(x, train)
      outputs[name] = x
    if self.num_classes:
      outputs |= Classifier(self.num_classes, self.dropout, self.dtype, name='head')(
        x, train
      )
    return outputs


class Unit(nn.Module):
  """A convolution without bias, a batch norm and ReLU: (B, t, h, w, C)."""

  channels: int
  size: int
  stride: int = 1
  dtype: str = 'float32'

  @nn.compact
  def __call__(
    self,
    video_BTHWI: jax.Array,
    train: bool = False,
    mask_B: jax.Array | None = None,
  ) -> jax.Array:
    x_BthwC = nn.Conv(
      self.channels,
      (self.size,) * 3,
      (self.stride,) * 3,
      'SAME',
      use_bias=False,
      kernel_init=convolution.he_normal_out,
      dtype=self.dtype,
      conv_general_dilated=convolve,
      name='conv',
    )(video_BTHWI)
    norm = convolution.BatchNorm(MOMENTUM, EPSILON, dtype=self.dtype, name='norm')
    batch, frames, height, width, channels = x_BthwC.shape
    x_BuwC = x_BthwC.reshape(batch, frames * height, width, channels)
    return nn.relu(norm(x_BuwC, train, mask_B).reshape(x_BthwC.shape))


class Mixed(nn.Module):
  """Four branches whose channels are concatenated (arXiv:1409.4842 section 4).

  `channels` are those of an entry of `MIXED`. Examples outside of `mask_B` do not count
  in statistics of norms.
  """

  channels: Sequence[int]
  dtype: str = 'float32'

  @nn.compact
  def __call__(
    self, x_BthwI: jax.Array, train: bool = False, mask_B: jax.Array | None = None
  ) -> jax.Array:
    def unit(name: str, number: int, size: int, x_BthwI: jax.Array) -> jax.Array:
      made = Unit(self.channels[number], size, dtype=self.dtype, name=name)
      return made(x_BthwI, train, mask_B)

    branches = [
      unit('b0', 0, 1, x_BthwI),
      unit('b1b', 2, 3, unit('b1a', 1, 1, x_BthwI)),
      unit('b2b', 4, 3, unit('b2a', 3, 1, x_BthwI)),
      unit('b3b', 5, 1, max_pool(x_BthwI, (3, 3, 3), (1, 1, 1))),
    ]
    return jnp.concatenate(branches, axis=-1)


class Classifier(nn.Module):
  """Averages windows of the last map, and classifies each: `logits`, `features`."""

  num_classes: int
  dropout: float = 0.5
  dtype: str = 'float32'

  @nn.compact
  def __call__(self, x_BthwC: jax.Array, train: bool = False) -> dict[str, jax.Array]:
    window = tuple(map(min, AVERAGED, x_BthwC.shape[1:4]))
    x_BuvxD = nn.avg_pool(precision.at_least_float32(x_BthwC), window)
    features_BD = x_BuvxD.mean(axis=(1, 2, 3))
    x_BuvxD = nn.Dropout(self.dropout, deterministic=not train)(x_BuvxD)
    dense = nn.Dense(self.num_classes, dtype=self.dtype, name='dense')
    logits_BC = precision.at_least_float32(dense(x_BuvxD)).mean(axis=(1, 2, 3))
    return {'logits': logits_BC, 'features': features_BD.astype(self.dtype)}


def mixed(name: str, divisor: int, dtype: str) -> Mixed:
  """Returns the mixed layer of this name."""
  channels = tuple(divided(count, divisor) for count in MIXED[name])
  return Mixed(channels, dtype, name=name)


def divided(channels: int, divisor: int) -> int:
  """Returns a number of channels divided by `divisor`, at least 1."""
  return max(channels // divisor, 1)


def max_pool(
  x_BthwC: jax.Array, window: Sequence[int], strides: Sequence[int]
) -> jax.Array:
  """Returns the maximum of windows, padded with zeros as TensorFlow pads.

  It is computed axis by axis from shifted maps: XLA's gradient of a pooling over three
  axes is 20 times slower on a CPU.
  """
  pads = jax.lax.padtype_to_pads(x_BthwC.shape[1:4], window, strides, 'SAME')
  x = jnp.pad(x_BthwC, ((0, 0), *pads, (0, 0)))
  for axis, (size, stride) in enumerate(zip(window, strides, strict=True), start=1):
    stop = x.shape[axis] - size + 1
    parts = [
      jax.lax.slice_in_dim(x, i, i + stop, stride, axis=axis) for i in range(size)
    ]
    x = functools.reduce(jnp.maximum, parts)
  return x
