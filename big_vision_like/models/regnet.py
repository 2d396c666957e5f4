"""RegNets, arXiv:2003.13678: ResNets with linearly growing widths, RegNetX and RegNetY.

A bottleneck has the same width inside as outside, its 3x3 convolution is grouped, and
in RegNetY squeeze-excite follows it. The code follows facebookresearch/pycls.

Axes: B batch, H W image, h w feature map, u v the same after a stride, I input
channels, C channels or classes, D channels of a map, features.
"""

import functools
from collections.abc import Callable, Sequence

import flax.linen as nn
import jax
import numpy as np

from big_vision_like.errors import UserError, check_one_of
from big_vision_like.layers import convolution, transformer
from big_vision_like.ops import precision

EPSILON = 1e-5
REMAT = ('none', 'full')

# Depth d, initial width w_0, slope w_a, quantization w_m and group width g, from
# facebookresearch/pycls, configs/dds_baselines/regnety.
SIZES = {
  'Y-200MF': (13, 24, 36.44, 2.49, 8),
  'Y-400MF': (16, 48, 27.89, 2.09, 8),
  'Y-600MF': (15, 48, 32.54, 2.32, 16),
  'Y-800MF': (14, 56, 38.84, 2.4, 16),
  'Y-1.6GF': (27, 48, 20.71, 2.65, 24),
  'Y-3.2GF': (21, 80, 42.63, 2.66, 24),
  'Y-4GF': (22, 96, 31.41, 2.24, 64),
  'Y-6.4GF': (25, 112, 33.22, 2.27, 72),
  'Y-8GF': (17, 192, 76.82, 2.19, 56),
  'Y-12GF': (19, 168, 73.36, 2.37, 112),
  'Y-16GF': (18, 200, 106.23, 2.48, 112),
  'Y-32GF': (20, 232, 115.89, 2.53, 232),
}


def variant(name: str) -> dict[str, int | tuple[int, ...]]:
  """Returns the arguments of `RegNet` for a size such as 'Y-16GF'."""
  if name not in SIZES:
    raise UserError(f'unknown RegNet {name!r}: choose one of {", ".join(SIZES)}')
  return sizes(*SIZES[name])


def sizes(
  depth: int, initial: int, slope: float, quantization: float, group_width: int
) -> dict[str, int | tuple[int, ...]]:
  """Returns depths and widths of stages, and the group width, from the design rule.

  Section 3.3, equations 2 to 4: unit j has width w_0 + w_a * j, rounded to w_0 times a
  power of w_m, then to a multiple of 8. Consecutive units of one width form a stage.
  The stage's width is rounded to a multiple of its group width, which is at most the
  stage's width.
  """
  line = initial + slope * np.arange(depth)
  powers = np.round(np.log(line / initial) / np.log(quantization))
  rounded = np.round(initial * quantization**powers / 8).astype(int) * 8
  widths, depths = np.unique(rounded, return_counts=True)
  groups = np.minimum(group_width, widths)
  widths = np.round(widths / groups).astype(int) * groups
  return dict(
    depths=tuple(depths.tolist()),
    widths=tuple(widths.tolist()),
    group_width=group_width,
  )


class RegNet(nn.Module):
  """A RegNet that turns images (B, H, W, C) into named maps and features.

  Returns the maps `root`, `stage1`, ..., and `features` (B, D), the mean of the last
  map. With `num_classes` > 0 there are also `logits` (B, C), float32. The root and each
  stage halve height and width.

  A stage's 3x3 convolutions have groups of `group_width` channels, or one group if the
  stage is narrower. `squeeze` is the number of hidden units of squeeze-excite as a
  share of the unit's input channels; 0 disables it (RegNetX). The stochastic depth rate
  grows linearly from 0 at the first unit to `drop_path` at the last. Batch norm uses
  statistics of `norm_groups` groups of examples. `remat='full'` recomputes each unit in
  the backward pass.
  """

  depths: Sequence[int]
  widths: Sequence[int]
  group_width: int
  num_classes: int = 0
  squeeze: float = 0.25
  root: int = 32
  drop_path: float = 0.0
  norm_groups: int = 1
  remat: str = 'none'
  dtype: str = 'float32'

  tiny = dict(depths=(2, 1), widths=(16, 16), group_width=8, root=16)

  @nn.compact
  def __call__(
    self, image_BHWI: jax.Array, train: bool = False
  ) -> dict[str, jax.Array]:
    self.check()
    common = dict(
      norm=functools.partial(
        convolution.BatchNorm, epsilon=EPSILON, groups=self.norm_groups
      ),
      dtype=self.dtype,
    )
    x_BhwD = convolution.ConvNorm(self.root, 3, 2, **common, name='root')(
      image_BHWI, train
    )
    maps = {'root': x_BhwD}
    ends = np.cumsum(self.depths)[:-1]
    rates = np.split(np.linspace(0.0, self.drop_path, sum(self.depths)), ends)
    for i, width in enumerate(self.widths):
      x_BhwD = Stage(
        width,
        min(self.group_width, width),
        self.squeeze,
        drop_paths=tuple(rates[i].tolist()),
        remat=self.remat,
        **common,
        name=f'stage{i + 1}',
      )(x_BhwD, train)
      maps[f'stage{i + 1}'] = x_BhwD
    features_BD = x_BhwD.mean(axis=(1, 2))
    outputs = maps | {'features': features_BD}
    if self.num_classes:
      logits_BC = nn.Dense(
        self.num_classes,
        kernel_init=nn.initializers.normal(0.01),
        dtype=self.dtype,
        name='head',
      )(features_BD)
      outputs['logits'] = precision.at_least_float32(logits_BC)
    return outputs

  def check(self) -> None:
    """Raises a `UserError` for depths, widths or groups that contradict each other."""
    check_one_of(REMAT, remat=self.remat)
    depths, widths = tuple(self.depths), tuple(self.widths)
    if not depths or len(depths) != len(widths) or min(depths) < 1:
      raise UserError(
        f'depths={depths} and widths={widths} of a RegNet: give at least 1 unit and 1'
        ' width for each stage'
      )
    for width in widths:
      if width < 1 or width % max(1, min(self.group_width, width)):
        raise UserError(
          f'widths={widths} of a RegNet: {width} channels do not divide into groups of'
          f' group_width={self.group_width}'
        )


class Stage(nn.Module):
  """Units of one width, one for each rate in `drop_paths`; the first has stride 2."""

  channels: int
  group_width: int
  squeeze: float
  drop_paths: Sequence[float]
  remat: str
  norm: Callable[..., nn.Module]
  dtype: str

  @nn.compact
  def __call__(self, x_BhwC: jax.Array, train: bool = False) -> jax.Array:
    # The static argument is `train`.
    unit = nn.remat(Unit, static_argnums=(2,)) if self.remat == 'full' else Unit
    for i, drop_path in enumerate(self.drop_paths):
      x_BhwC = unit(
        self.channels,
        self.group_width,
        self.squeeze,
        stride=2 if i == 0 else 1,
        drop_path=drop_path,
        norm=self.norm,
        dtype=self.dtype,
        name=f'unit{i + 1}',
      )(x_BhwC, train)
    return x_BhwC


class Unit(nn.Module):
  """A residual unit: convolutions 1x1, grouped 3x3 and 1x1, with squeeze-excite.

  If the shape changes, the shortcut is a convolution and a norm.
  """

  channels: int
  group_width: int
  squeeze: float
  stride: int
  drop_path: float
  norm: Callable[..., nn.Module]
  dtype: str

  @nn.compact
  def __call__(self, x_BhwI: jax.Array, train: bool = False) -> jax.Array:
    conv = functools.partial(
      convolution.ConvNorm, self.channels, norm=self.norm, dtype=self.dtype
    )
    y_BhwC = conv(1, name='conv1')(x_BhwI, train)
    groups = self.channels // self.group_width
    y_BuvC = conv(3, self.stride, groups=groups, name='conv2')(y_BhwC, train)
    if self.squeeze:
      hidden = round(self.squeeze * x_BhwI.shape[-1])
      y_BuvC = convolution.SqueezeExcite(hidden, dtype=self.dtype, name='se')(y_BuvC)
    # The last scale starts at zero, so that each unit starts as its shortcut.
    norm = functools.partial(self.norm, scale_init=nn.initializers.zeros)
    y_BuvC = conv(1, activation=None, norm=norm, name='conv3')(y_BuvC, train)
    if train and self.drop_path:
      y_BuvC = transformer.DropPath(name='drop_path')(y_BuvC, self.drop_path)
    if self.stride == 1 and x_BhwI.shape[-1] == self.channels:
      return nn.relu(x_BhwI + y_BuvC)
    shortcut_BuvC = conv(1, self.stride, activation=None, name='shortcut')(
      x_BhwI, train
    )
    return nn.relu(shortcut_BuvC + y_BuvC)
