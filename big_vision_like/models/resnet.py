"""ResNets with batch norm, arXiv:1512.03385.

The code follows torchvision: a bottleneck has its stride in the 3x3 convolution (known
as v1.5), and padding is symmetric.

Axes: B batch, H W image, h w feature map, u v the same after a stride, I O input and
output channels, C channels or classes, D features.
"""

import functools
import re
from collections.abc import Callable, Sequence

import flax.linen as nn
import jax
import numpy as np

from big_vision_like.errors import UserError, check_one_of
from big_vision_like.layers import convolution, residual, transformer
from big_vision_like.ops import precision

EPSILON = 1e-5
NORMS = ('batch', 'frozen')

# Units in each stage, and whether they are bottlenecks: arXiv:1512.03385 table 1.
SIZES = {
  18: ((2, 2, 2, 2), False),
  34: ((3, 4, 6, 3), False),
  50: ((3, 4, 6, 3), True),
  101: ((3, 4, 23, 3), True),
}


def variant(name: str) -> dict[str, bool | tuple[int, ...]]:
  """Returns the arguments of `ResNet` for 'R18', 'R34', 'R50' or 'R101'."""
  match = re.fullmatch(r'R(\d+)', name)
  if match is None or int(match[1]) not in SIZES:
    known = ', '.join(f'R{depth}' for depth in SIZES)
    raise UserError(f'unknown ResNet {name!r}: choose one of {known}')
  depths, bottleneck = SIZES[int(match[1])]
  return dict(depths=depths, bottleneck=bottleneck)


def trunk(name: str) -> dict[str, bool | tuple[int, ...]]:
  """Returns the sizes of 'R50' and so on without the last stage, as a backbone."""
  found = variant(name)
  return found | {'depths': found['depths'][:-1]}


class ResNet(nn.Module):
  """A ResNet that turns images (B, H, W, C) into named maps and features.

  Returns the maps `root`, `stage1`, ..., and `features` (B, D), the mean of the last
  map. With `num_classes` > 0 there are also `logits` (B, C), float32. The root reduces
  height and width to a quarter, and each stage but the first halves them. With
  `dilated` the last stage keeps the size and dilates its kernels instead (DC5 of
  arXiv:2005.12872).

  `norm` is 'batch' (statistics in the collection `batch_stats`) or 'frozen' (scale,
  bias and statistics are constants, in the collection `constants`). If `frozen_stages`
  is positive, no gradient flows to the root and the first `frozen_stages` stages. The
  rate of stochastic depth grows linearly from 0 in the first unit to `drop_path` in the
  last; `dropout` applies to the features before the head.
  """

  depths: Sequence[int]
  bottleneck: bool = True
  num_classes: int = 0
  root: int = 64
  channels: Sequence[int] = (64, 128, 256, 512)
  norm: str = 'batch'
  dilated: bool = False
  frozen_stages: int = 0
  dropout: float = 0.0
  drop_path: float = 0.0
  dtype: str = 'float32'

  # All four stages, because some models read the map of each.
  tiny = dict(depths=(2, 1, 1, 1), root=16, channels=32)

  @nn.compact
  def __call__(
    self, image_BHWI: jax.Array, train: bool = False
  ) -> dict[str, jax.Array]:
    count = len(self.depths)
    if not 1 <= count <= len(self.channels):
      raise UserError(
        f'depths={tuple(self.depths)} are for {count} stages, but channels='
        f'{tuple(self.channels)} are for 1 to {len(self.channels)}'
      )
    if not 0 <= self.frozen_stages <= count:
      raise UserError(
        f'frozen_stages={self.frozen_stages} must be between 0 and {count}, the number'
        ' of stages'
      )
    x_BhwC = convolution.conv('conv_root', self.root, 7, 2, dtype=self.dtype)(
      image_BHWI
    )
    x_BhwC = nn.relu(_norm(self.norm, train, self.dtype, 'norm_root')(x_BhwC))
    x_BhwC = nn.max_pool(x_BhwC, (3, 3), (2, 2), ((1, 1), (1, 1)))
    if self.frozen_stages:
      x_BhwC = jax.lax.stop_gradient(x_BhwC)
    maps = {'root': x_BhwC}
    rates = np.linspace(0.0, self.drop_path, sum(self.depths))
    rates = np.split(rates, np.cumsum(self.depths)[:-1])
    for i, (depth, channels) in enumerate(
      zip(self.depths, self.channels, strict=False)
    ):
      holes = self.dilated and i == count - 1
      x_BhwC = Stage(
        depth,
        channels,
        self.bottleneck,
        stride=1 if i == 0 or holes else 2,
        dilation=2 if holes else 1,
        norm=self.norm,
        drop_paths=tuple(rates[i].tolist()),
        dtype=self.dtype,
        name=f'stage{i + 1}',
      )(x_BhwC, train)
      if i < self.frozen_stages:
        x_BhwC = jax.lax.stop_gradient(x_BhwC)
      maps[f'stage{i + 1}'] = x_BhwC
    features_BD = x_BhwC.mean(axis=(1, 2))
    outputs = maps | {'features': features_BD}
    if self.num_classes:
      y_BD = nn.Dropout(self.dropout, deterministic=not train)(features_BD)
      head = nn.Dense(self.num_classes, dtype=self.dtype, name='head')
      outputs['logits'] = precision.at_least_float32(head(y_BD))
    return outputs


class Stage(nn.Module):
  """Units of one width; the first has the stride, the others the dilation.

  `drop_paths` are the rates of stochastic depth, one for each unit.
  """

  depth: int
  channels: int
  bottleneck: bool
  stride: int = 1
  dilation: int = 1
  norm: str = 'batch'
  drop_paths: Sequence[float] = ()
  dtype: str = 'float32'

  @nn.compact
  def __call__(self, x_BhwC: jax.Array, train: bool = False) -> jax.Array:
    rates = self.drop_paths or (0.0,) * self.depth
    for i, drop_path in zip(range(self.depth), rates, strict=True):
      x_BhwC = Unit(
        self.channels,
        self.bottleneck,
        stride=self.stride if i == 0 else 1,
        dilation=1 if i == 0 else self.dilation,
        norm=self.norm,
        drop_path=drop_path,
        dtype=self.dtype,
        name=f'unit{i + 1}',
      )(x_BhwC, train)
    return x_BhwC


class Unit(nn.Module):
  """A residual unit: two 3x3 convolutions, or a bottleneck of 1x1, 3x3 and 1x1.

  If the shape changes, the shortcut is a convolution and a norm.
  """

  channels: int
  bottleneck: bool
  stride: int = 1
  dilation: int = 1
  norm: str = 'batch'
  drop_path: float = 0.0
  dtype: str = 'float32'

  @nn.compact
  def __call__(self, x_BhwI: jax.Array, train: bool = False) -> jax.Array:
    conv = functools.partial(convolution.conv, dtype=self.dtype)
    norm = functools.partial(_norm, self.norm, train, self.dtype)
    narrow, wide, strided = (
      self.channels,
      4 * self.channels,
      (self.stride, self.dilation),
    )
    sizes = [(narrow, 3, *strided), (narrow, 3, 1, self.dilation)]
    if self.bottleneck:
      sizes = [(narrow, 1), (narrow, 3, *strided), (wide, 1)]

    def drop(y_BuvO: jax.Array) -> jax.Array:
      if not (train and self.drop_path):
        return y_BuvO
      return transformer.DropPath(name='drop_path')(y_BuvO, self.drop_path)

    return residual.unit(x_BhwI, sizes, self.stride, conv, norm, drop)


class FrozenNorm(nn.Module):
  """A batch norm whose arrays are all constants, in the collection `constants`."""

  dtype: str = 'float32'

  @nn.compact
  def __call__(self, x_BhwC: jax.Array) -> jax.Array:
    def constant(name: str, init: nn.initializers.Initializer) -> jax.Array:
      shape = x_BhwC.shape[-1:]
      return self.variable(
        'constants', name, lambda: init(jax.random.key(0), shape)
      ).value

    ones, zeros = nn.initializers.ones, nn.initializers.zeros
    scale_C, bias_C = constant('scale', ones), constant('bias', zeros)
    mean_C, var_C = constant('mean', zeros), constant('var', ones)
    scale_C *= jax.lax.rsqrt(var_C + EPSILON)
    shift_C = bias_C - mean_C * scale_C
    scale_111C, shift_111C = (
      x_C.astype(self.dtype)[None, None, None] for x_C in (scale_C, shift_C)
    )
    return x_BhwC.astype(self.dtype) * scale_111C + shift_111C


def _norm(
  kind: str, train: bool, dtype: str, name: str
) -> Callable[[jax.Array], jax.Array]:
  check_one_of(NORMS, norm=kind)
  if kind == 'frozen':
    return FrozenNorm(dtype, name=name)
  norm = convolution.BatchNorm(epsilon=EPSILON, dtype=dtype, name=name)
  return functools.partial(norm, train=train)
