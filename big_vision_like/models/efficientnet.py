"""EfficientNets, arXiv:1905.11946, up to the L2 of Noisy Student, arXiv:1911.04252.

The code follows tensorflow/tpu, models/official/efficientnet.

Axes: B batch, H W image, h w feature map, u v the same after a stride, I O input
and output channels, C channels or classes, D features.
"""

import functools
import math
from collections.abc import Callable, Sequence
from typing import NamedTuple

import flax.linen as nn
import jax

from big_vision_like.errors import UserError, check_one_of
from big_vision_like.layers import convolution, transformer
from big_vision_like.ops import precision

# One entry per stage, arXiv:1905.11946 table 1 (B0, which the other sizes scale).
KERNELS = (3, 3, 5, 3, 5, 5, 3)
STRIDES = (1, 2, 2, 2, 1, 2, 1)
EXPANSIONS = (1, 6, 6, 6, 6, 6, 6)
CHANNELS = (16, 24, 40, 80, 112, 192, 320)
DEPTHS = (1, 2, 2, 3, 3, 4, 1)
STEM, TOP = 32, 1280
# Arguments of a model for images of 32x32 pixels (SVHN and CIFAR).
SMALL_IMAGES = dict(strides=(1, 1, 1, 2, 1, 2, 1))
MOMENTUM = 0.99
# The parts recomputed in the backward pass: none, or the inside of each unit.
REMAT = ('none', 'full')
# Standard deviation sqrt(2) / kernel size, because an output reads one channel.
depthwise_init = nn.initializers.variance_scaling(2.0, 'fan_in', 'normal')


class Size(NamedTuple):
  """Width and depth factors of a published size, and its training settings.

  `resolution` is the side of training images, `dropout` the rate before the classifier.
  """

  width: float
  depth: float
  resolution: int
  dropout: float


SIZES = {
  'B0': Size(1.0, 1.0, 224, 0.2),
  'B1': Size(1.0, 1.1, 240, 0.2),
  'B2': Size(1.1, 1.2, 260, 0.3),
  'B3': Size(1.2, 1.4, 300, 0.3),
  'B4': Size(1.4, 1.8, 380, 0.4),
  'B5': Size(1.6, 2.2, 456, 0.4),
  'B6': Size(1.8, 2.6, 528, 0.5),
  'B7': Size(2.0, 3.1, 600, 0.5),
  'B8': Size(2.2, 3.6, 672, 0.5),
  'L0': Size(2.8, 3.7, 380, 0.5),
  'L1': Size(3.9, 3.7, 380, 0.5),
  'L2': Size(4.3, 5.3, 475, 0.5),
}


def variant(name: str) -> dict[str, int | tuple[int, ...]]:
  """Returns the arguments of `EfficientNet` for a size such as 'B0' or 'L2'."""
  size = size_of(name)
  return scaled(size.width, size.depth)


def size_of(name: str) -> Size:
  """Returns the factors and training settings of a published size."""
  if name not in SIZES:
    raise UserError(f'unknown EfficientNet {name!r}: choose one of {", ".join(SIZES)}')
  return SIZES[name]


def scaled(width: float, depth: float) -> dict[str, int | tuple[int, ...]]:
  """Returns the arguments of B0 with `width` times the channels, `depth` the units."""
  return dict(
    stem=channels_of(STEM, width),
    channels=tuple(channels_of(count, width) for count in CHANNELS),
    depths=tuple(math.ceil(depth * count) for count in DEPTHS),
    top=channels_of(TOP, width),
  )


def channels_of(count: int, width: float) -> int:
  """Returns `width` times `count` rounded to a multiple of 8, never over 10 % lower."""
  want = count * width
  rounded = max(8, int(want + 4) // 8 * 8)
  return rounded + 8 if rounded < 0.9 * want else rounded


class EfficientNet(nn.Module):
  """An EfficientNet that turns images (B, H, W, C) into named maps and logits.

  Returns the maps `stem`, `stage1` to `stage7`, and `top`, the last convolution, whose
  mean (B, D) is returned as `features` and `pre_logits`. `logits` are float32; with
  `num_classes=0` there are none. Images are normalized by ImageNet's mean and standard
  deviation.

  `drop_path` is the rate of stochastic depth: unit i of n, counted from 0, is dropped
  at rate drop_path * i / n, unless it changes the shape. `padding='symmetric'` pads as
  PyTorch does, see `layers.convolution`; networks trained in PyTorch also have
  `epsilon=1e-5`. Batch norm uses separate statistics for `norm_groups` groups of
  examples. `momentum` is the momentum of its running averages; lower it for short runs.
  """

  num_classes: int
  stem: int = STEM
  channels: Sequence[int] = CHANNELS
  depths: Sequence[int] = DEPTHS
  top: int = TOP
  strides: Sequence[int] = STRIDES
  stem_stride: int = 2
  dropout: float = 0.0
  drop_path: float = 0.0
  padding: str = 'same'
  epsilon: float = 1e-3
  norm_groups: int = 1
  momentum: float = MOMENTUM
  remat: str = 'none'
  dtype: str = 'float32'

  tiny = dict(depths=(1, 2), stem=8, channels=8, top=16)

  @nn.compact
  def __call__(
    self, image_BHWI: jax.Array, train: bool = False
  ) -> dict[str, jax.Array]:
    check_one_of(REMAT, remat=self.remat)
    stages, most = len(self.depths), min(len(self.channels), len(self.strides))
    if not 1 <= stages <= min(most, len(KERNELS)) or min(self.depths) < 1:
      raise UserError(
        f'depths={tuple(self.depths)} must give at least 1 unit for each of 1 to'
        f' {min(most, len(KERNELS))} stages, the most that channels='
        f'{tuple(self.channels)} and strides={tuple(self.strides)} allow'
      )
    conv_norm = self.conv_norm
    x_BhwC = conv_norm(self.stem, 3, self.stem_stride, name='stem')(image_BHWI, train)
    maps, before, units = {'stem': x_BhwC}, 0, sum(self.depths)
    for i, depth in enumerate(self.depths):
      x_BhwC = Stage(
        self.channels[i],
        KERNELS[i],
        self.strides[i],
        EXPANSIONS[i],
        [self.drop_path * (before + j) / units for j in range(depth)],
        conv_norm,
        remat=self.remat,
        dtype=self.dtype,
        name=f'stage{i + 1}',
      )(x_BhwC, train)
      maps[f'stage{i + 1}'] = x_BhwC
      before += depth
    maps['top'] = x_BhwC = conv_norm(self.top, 1, name='top')(x_BhwC, train)
    features_BD = x_BhwC.mean(axis=(1, 2))
    outputs = maps | {'features': features_BD, 'pre_logits': features_BD}
    if self.num_classes:
      head = nn.Dense(
        self.num_classes,
        # Uniform up to 1 / sqrt(classes).
        kernel_init=nn.initializers.variance_scaling(1 / 3, 'fan_out', 'uniform'),
        dtype=self.dtype,
        name='head',
      )
      dropout = nn.Dropout(self.dropout, deterministic=not train)
      outputs['logits'] = precision.at_least_float32(head(dropout(features_BD)))
    return outputs

  @property
  def conv_norm(self) -> Callable[..., nn.Module]:
    """The factory of this network's convolutions, each with a batch norm."""
    norm = functools.partial(
      convolution.BatchNorm,
      momentum=self.momentum,
      epsilon=self.epsilon,
      unbiased=False,
      groups=self.norm_groups,
    )
    return functools.partial(
      convolution.ConvNorm,
      padding=self.padding,
      activation=nn.swish,
      norm=norm,
      dtype=self.dtype,
    )


class Stage(nn.Module):
  """Units of one width; the first has the stride.

  There is one unit for each entry of `drop_paths`, its stochastic depth rate.
  """

  channels: int
  kernel: int
  stride: int
  expansion: int
  drop_paths: Sequence[float]
  conv_norm: Callable[..., nn.Module]
  remat: str = 'none'
  dtype: str = 'float32'

  @nn.compact
  def __call__(self, x_BhwC: jax.Array, train: bool = False) -> jax.Array:
    unit = MBConv if self.remat == 'none' else nn.remat(MBConv, static_argnums=(2,))
    for i, drop_path in enumerate(self.drop_paths):
      x_BhwC = unit(
        self.channels,
        self.kernel,
        self.stride if i == 0 else 1,
        self.expansion,
        drop_path,
        self.conv_norm,
        dtype=self.dtype,
        name=f'unit{i + 1}',
      )(x_BhwC, train)
    return x_BhwC


class MBConv(nn.Module):
  """An inverted bottleneck with squeeze-excite (arXiv:1801.04381, arXiv:1709.01507).

  It consists of a 1x1 convolution to `expansion` times the channels, a depthwise
  convolution, squeeze-excite, and a 1x1 convolution to `channels` without activation.
  With `expansion=1` there is no first convolution. Squeeze-excite has a quarter as many
  hidden units as the unit has input channels. If the shape does not change, the input
  is added to the output, and in training examples skip the unit at rate `drop_path`.
  `conv_norm` makes convolutions with their norms.
  """

  channels: int
  kernel: int
  stride: int
  expansion: int
  drop_path: float
  conv_norm: Callable[..., nn.Module]
  dtype: str = 'float32'

  @nn.compact
  def __call__(self, x_BhwI: jax.Array, train: bool = False) -> jax.Array:
    inputs, y_BhwC = x_BhwI.shape[-1], x_BhwI
    wide = inputs * self.expansion
    if self.expansion > 1:
      y_BhwC = self.conv_norm(wide, 1, name='expand')(x_BhwI, train)
    y_BuvC = self.conv_norm(
      wide,
      self.kernel,
      self.stride,
      groups=wide,
      kernel_init=depthwise_init,
      name='depthwise',
    )(y_BhwC, train)
    y_BuvC = convolution.SqueezeExcite(
      max(1, inputs // 4), nn.swish, dtype=self.dtype, name='squeeze_excite'
    )(y_BuvC)
    y_BuvO = self.conv_norm(self.channels, 1, activation=None, name='project')(
      y_BuvC, train
    )
    if self.stride > 1 or inputs != self.channels:
      return y_BuvO
    if train and self.drop_path:
      y_BuvO = transformer.DropPath(name='drop_path')(y_BuvO, self.drop_path)
    return x_BhwI + y_BuvO
