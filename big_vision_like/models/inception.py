"""The Inception network that FID is measured with (arXiv:1512.00567, arXiv:1706.08500).

It is TensorFlow's classifier of 2015-12-05 with 1,008 outputs, in the form of
mseitzer/pytorch-fid. It differs from torchvision's Inception v3 in its pools: means at
the border count only pixels inside of the map, and the last block takes maxima.

Axes: B batch, H W image, h w feature map, u v the same after a stride, I O input and
output channels, C channels or classes, D features.
"""

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp

from big_vision_like.errors import UserError, check_one_of
from big_vision_like.layers import convolution
from big_vision_like.ops import precision

SIDE = 299  # of the images that it was trained on
EPSILON = 1e-3
HEAD = 'head'


class Conv(NamedTuple):
  """A convolution's channels, its size, its stride, and whether zeros keep the size."""

  channels: int
  size: tuple[int, int] = (1, 1)
  stride: int = 1
  same: bool = True


class Block(NamedTuple):
  """Branches on the same map, whose outputs are concatenated, with the pool last.

  A branch is a chain of convolutions by name; two names in one place, 'a b', read the
  same map. `pool` is 'mean' or 'max' at stride 1, followed by the convolution
  `branch_pool` of `pooled` channels, or 'stride', a maximum at stride 2.
  """

  branches: Sequence[Mapping[str, Conv]]
  pool: str
  pooled: int = 0


def _a(pooled: int) -> Block:
  return Block(
    (
      {'branch1x1': Conv(64)},
      {'branch5x5_1': Conv(48), 'branch5x5_2': Conv(64, (5, 5))},
      {
        'branch3x3dbl_1': Conv(64),
        'branch3x3dbl_2': Conv(96, (3, 3)),
        'branch3x3dbl_3': Conv(96, (3, 3)),
      },
    ),
    'mean',
    pooled,
  )


def _c(inner: int) -> Block:
  row, column = (1, 7), (7, 1)
  return Block(
    (
      {'branch1x1': Conv(192)},
      {
        'branch7x7_1': Conv(inner),
        'branch7x7_2': Conv(inner, row),
        'branch7x7_3': Conv(192, column),
      },
      {
        'branch7x7dbl_1': Conv(inner),
        'branch7x7dbl_2': Conv(inner, column),
        'branch7x7dbl_3': Conv(inner, row),
        'branch7x7dbl_4': Conv(inner, column),
        'branch7x7dbl_5': Conv(192, row),
      },
    ),
    'mean',
    192,
  )


def _e(pool: str) -> Block:
  return Block(
    (
      {'branch1x1': Conv(320)},
      {
        'branch3x3_1': Conv(384),
        'branch3x3_2a': Conv(384, (1, 3)),
        'branch3x3_2b': Conv(384, (3, 1)),
      },
      {
        'branch3x3dbl_1': Conv(448),
        'branch3x3dbl_2': Conv(384, (3, 3)),
        'branch3x3dbl_3a': Conv(384, (1, 3)),
        'branch3x3dbl_3b': Conv(384, (3, 1)),
      },
    ),
    pool,
    192,
  )


# The convolutions before the blocks; None is a maximum at stride 2.
STEM: Mapping[str, Conv | None] = {
  'conv2d_1a_3x3': Conv(32, (3, 3), 2, same=False),
  'conv2d_2a_3x3': Conv(32, (3, 3), same=False),
  'conv2d_2b_3x3': Conv(64, (3, 3)),
  'pool1': None,
  'conv2d_3b_1x1': Conv(80),
  'conv2d_4a_3x3': Conv(192, (3, 3), same=False),
  'pool2': None,
}
_DOWN = dict(size=(3, 3), stride=2, same=False)
BLOCKS: Mapping[str, Block] = {
  'mixed_5b': _a(32),
  'mixed_5c': _a(64),
  'mixed_5d': _a(64),
  'mixed_6a': Block(
    (
      {'branch3x3': Conv(384, **_DOWN)},
      {
        'branch3x3dbl_1': Conv(64),
        'branch3x3dbl_2': Conv(96, (3, 3)),
        'branch3x3dbl_3': Conv(96, **_DOWN),
      },
    ),
    'stride',
  ),
  'mixed_6b': _c(128),
  'mixed_6c': _c(160),
  'mixed_6d': _c(160),
  'mixed_6e': _c(192),
  'mixed_7a': Block(
    (
      {'branch3x3_1': Conv(192), 'branch3x3_2': Conv(320, **_DOWN)},
      {
        'branch7x7x3_1': Conv(192),
        'branch7x7x3_2': Conv(192, (1, 7)),
        'branch7x7x3_3': Conv(192, (7, 1)),
        'branch7x7x3_4': Conv(192, **_DOWN),
      },
    ),
    'stride',
  ),
  'mixed_7b': _e('mean'),
  'mixed_7c': _e('max'),
}
POOLS = ('mean', 'max', 'stride')


class ConvNorm(nn.Module):
  """A convolution of a rectangular size without bias, a batch norm and a ReLU."""

  conv: Conv
  dtype: str = 'float32'

  @nn.compact
  def __call__(self, x_BhwI: jax.Array, train: bool = False) -> jax.Array:
    channels, size, stride, same = self.conv
    zeros = [((side - 1) // 2 if same else 0,) * 2 for side in size]
    conv = nn.Conv(
      channels,
      size,
      (stride, stride),
      zeros,
      use_bias=False,
      kernel_init=convolution.he_normal_out,
      dtype=self.dtype,
      name='conv',
    )
    norm = convolution.BatchNorm(epsilon=EPSILON, dtype=self.dtype, name='norm')
    return nn.relu(norm(conv(x_BhwI), train))


class Inception(nn.Module):
  """An Inception that turns images (B, H, W, I) in [-1, 1] into maps and features.

  Returns the maps `pool1`, `pool2` and `mixed_5b` to `mixed_7c`, and `pre_logits`
  (B, D), the mean over the last map (`pool_3` in TensorFlow), from which FID is
  computed. With `num_classes` > 0 there are `logits` (B, C), and `logits_unbiased`
  without the bias of the last layer, from which the Inception Score is computed.
  `width` multiplies all channels.
  """

  num_classes: int = 1008
  width: float = 1.0
  dtype: str = 'float32'

  tiny = dict(width=0.125)

  @nn.compact
  def __call__(
    self, image_BHWI: jax.Array, train: bool = False
  ) -> dict[str, jax.Array]:
    if min(image_BHWI.shape[1:3]) < 75:
      raise UserError(
        f'images of {image_BHWI.shape[1]}x{image_BHWI.shape[2]} are too small for'
        ' Inception, whose maps would vanish: resize them to 299x299, at least to 75x75'
      )
    outputs, x_BhwO = {}, image_BHWI.astype(self.dtype)
    for name, conv in STEM.items():
      if conv is None:
        x_BhwO = nn.max_pool(x_BhwO, (3, 3), (2, 2))
        outputs[name] = x_BhwO
      else:
        x_BhwO = self.convolved(name, conv)(x_BhwO, train)
    for name, block in BLOCKS.items():
      x_BhwO = Mixed(self.scaled_block(block), self.dtype, name=name)(x_BhwO, train)
      outputs[name] = x_BhwO
    features_BD = precision.at_least_float32(x_BhwO).mean((1, 2))
    outputs['pre_logits'] = features_BD
    if self.num_classes:
      head = nn.Dense(self.num_classes, dtype=self.dtype, name=HEAD)
      logits_BC = precision.at_least_float32(head(features_BD))
      bias_C = precision.at_least_float32(head.variables['params']['bias'])
      outputs |= {'logits': logits_BC, 'logits_unbiased': logits_BC - bias_C[None]}
    return outputs

  def convolved(self, name: str, conv: Conv) -> ConvNorm:
    """Returns a convolution of the stem."""
    return ConvNorm(scaled(conv, self.width), self.dtype, name=name)

  def scaled_block(self, block: Block) -> Block:
    """Returns a block with `width` times the channels."""
    branches = tuple(
      {name: scaled(conv, self.width) for name, conv in branch.items()}
      for branch in block.branches
    )
    return Block(branches, block.pool, scaled(Conv(block.pooled), self.width).channels)


def scaled(conv: Conv, width: float) -> Conv:
  """Returns a convolution with `width` times the channels."""
  return conv._replace(channels=round(conv.channels * width))


class Mixed(nn.Module):
  """A block of branches, (B, h, w, I) -> (B, u, v, O)."""

  block: Block
  dtype: str = 'float32'

  @nn.compact
  def __call__(self, x_BhwI: jax.Array, train: bool = False) -> jax.Array:
    found = []
    for branch in self.block.branches:
      y_BuvC, ends = x_BhwI, []
      for name, conv in branch.items():
        made = ConvNorm(conv, self.dtype, name=name)
        if name.endswith(('a', 'b')):  # both read the same map
          ends.append(made(y_BuvC, train))
        else:
          y_BuvC = made(y_BuvC, train)
      found += ends or [y_BuvC]
    pooled_BuvO = pooled(x_BhwI, self.block.pool)
    if self.block.pooled:
      conv = Conv(self.block.pooled)
      made = ConvNorm(conv, self.dtype, name='branch_pool')
      pooled_BuvO = made(pooled_BuvO, train)
    return jnp.concatenate([*found, pooled_BuvO], axis=-1)


def pooled(x_BhwC: jax.Array, how: str) -> jax.Array:
  """Pools 3x3 pixels: their mean or maximum at stride 1, or the maximum at stride 2.

  At stride 1 the size is kept, and pixels outside of the map do not count.
  """
  check_one_of(POOLS, pool=how)
  if how == 'stride':
    return nn.max_pool(x_BhwC, (3, 3), (2, 2))
  if how == 'max':
    return nn.max_pool(x_BhwC, (3, 3), (1, 1), 'SAME')
  return nn.avg_pool(x_BhwC, (3, 3), (1, 1), 'SAME', count_include_pad=False)
