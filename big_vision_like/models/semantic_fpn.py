"""Semantic FPN, arXiv:1901.02446 section 3.1: segmentation from a feature pyramid.

Each level of the pyramid is upsampled to the size of the finest by convolutions and
bilinear steps, and the sum of all levels is classified. Details follow detectron2.

Axes: B batch, H W image, h w finest map, u v another map, f g the same enlarged, I
input channels, D channels of the head, C classes.
"""

import math
from collections.abc import Sequence

import flax.linen as nn
import jax

from big_vision_like.layers import convolution, fpn, transformer
from big_vision_like.ops import precision, resampling

EPSILON = 1e-5


class SemanticFPN(nn.Module):
  """A segmentation model from images (B, H, W, I) to a dict of named arrays.

  `logits` (B, h, w, C), float32, have the size of the finest level, and `features`
  (B, h, w, D) are the sum of the levels.

  `backbone` is a module that returns four maps by name, `stage1` to `stage4`.
  `pyramid` maps their list, fine to coarse, to a list of equally large maps:
  `fpn.FPN(extra=0)`, or `vt_fpn.TokenPyramid`. `channels` is the width of the head.
  """

  backbone: nn.Module
  pyramid: nn.Module
  num_classes: int
  channels: int = 128
  dtype: str = 'float32'

  sharding_rules = transformer.SHARDING_RULES
  tiny = dict(channels=16)

  @nn.compact
  def __call__(
    self, image_BHWI: jax.Array, train: bool = False
  ) -> dict[str, jax.Array]:
    maps = fpn.stages(self.backbone(image_BHWI, train))
    levels = self.pyramid(maps)
    features_BhwD = Head(self.channels, self.dtype, name='decoder')(levels)
    logits_BhwC = convolution.conv(
      'classifier', self.num_classes, 1, use_bias=True, dtype=self.dtype
    )(features_BhwD)
    return {
      'logits': precision.at_least_float32(logits_BhwC),
      'features': features_BhwD,
    }


class Head(nn.Module):
  """The sum of all levels at the size of the first, after convolutions: (B, h, w, D).

  Each step to the next finer level, at least one, is a 3x3 convolution, a group norm, a
  ReLU, and a bilinear enlargement to its size.
  """

  channels: int
  dtype: str = 'float32'

  @nn.compact
  def __call__(self, levels: Sequence[jax.Array]) -> jax.Array:
    sizes = [x_BuvI.shape[1:3] for x_BuvI in levels]
    total = 0.0
    for level, x_BuvI in enumerate(levels):
      y_BfgD = x_BuvI.astype(self.dtype)
      for step in range(max(level, 1)):
        name = f'{level + 1}_{step + 1}'
        y_BfgD = convolution.conv(f'conv{name}', self.channels, 3, dtype=self.dtype)(
          y_BfgD
        )
        groups = math.gcd(32, self.channels)  # 32 at the published size
        norm = nn.GroupNorm(
          groups, epsilon=EPSILON, dtype=self.dtype, name=f'norm{name}'
        )
        y_BfgD = nn.relu(norm(y_BfgD))
        if level:
          size = sizes[level - step - 1]
          y_BfgD = resampling.resize(y_BfgD, size, 'bilinear')
      total += y_BfgD
    return total
