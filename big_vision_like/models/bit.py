"""Big Transfer (BiT), arXiv:1912.11370: wide ResNets without batch norm.

Axes: B batch, H W image, h w feature map, C channels or classes, D features.
"""

import re
from collections.abc import Sequence

import flax.linen as nn
import jax

from big_vision_like.errors import UserError
from big_vision_like.layers import resnet
from big_vision_like.ops import precision

# Units in each stage: arXiv:1603.05027; depth 26 is from arXiv:2106.10270.
DEPTHS = {
  26: (2, 2, 2, 2),
  50: (3, 4, 6, 3),
  101: (3, 4, 23, 3),
  152: (3, 8, 36, 3),
  200: (3, 24, 36, 3),
}


def variant(name: str) -> dict[str, int | tuple[int, ...]]:
  """Returns the arguments of `BiT` and `BiTv1` for a size such as `'R50x1'`."""
  match = re.fullmatch(r'R(\d+)x(\d+)', name)
  if match is None or int(match[1]) not in DEPTHS:
    known = ', '.join(map(str, DEPTHS))
    raise UserError(
      f'unknown BiT variant {name!r}: write RDEPTHxWIDTH, where DEPTH is one of {known}'
    )
  return dict(depths=DEPTHS[int(match[1])], width=int(match[2]))


class BiT(nn.Module):
  """A ResNet-v2 with group norm and weight standardisation, arXiv:1912.11370.

  It turns images (B, H, W, C) in [-1, 1] into named maps, `features` and float32
  `logits`, as published by google-research/big_transfer. The head's kernel is
  initialized to zero and its bias to `head_bias`.
  """

  num_classes: int
  depths: Sequence[int]
  width: float = 1
  head_bias: float = 0.0
  dtype: str = 'float32'

  # One stage without and one with downsampling; `width` is a factor.
  tiny = dict(depths=(2, 1), width=1)

  @nn.compact
  def __call__(
    self, image_BHWC: jax.Array, train: bool = False
  ) -> dict[str, jax.Array]:
    del train  # nothing is random
    return classified(self, image_BHWC, pre=True)


class BiTv1(nn.Module):
  """The ResNet-v1 variant of `BiT`: google-research/big_vision, models/bit.py."""

  num_classes: int
  depths: Sequence[int]
  width: float = 1
  head_bias: float = 0.0
  dtype: str = 'float32'

  tiny = BiT.tiny

  @nn.compact
  def __call__(
    self, image_BHWC: jax.Array, train: bool = False
  ) -> dict[str, jax.Array]:
    del train  # nothing is random
    return classified(self, image_BHWC, pre=False)


def classified(
  model: BiT | BiTv1, image_BHWC: jax.Array, pre: bool
) -> dict[str, jax.Array]:
  """Returns the trunk's maps, the mean of the last one as features, and the logits."""
  maps = resnet.Trunk(model.depths, model.width, pre, model.dtype, name='resnet')(
    image_BHWC
  )
  *_, last_BhwD = maps.values()
  features_BD = last_BhwD.mean(axis=(1, 2))
  logits_BC = nn.Dense(
    model.num_classes,
    kernel_init=nn.initializers.zeros,
    bias_init=nn.initializers.constant(model.head_bias),
    dtype=model.dtype,
    name='head',
  )(features_BD)
  return maps | {
    'logits': precision.at_least_float32(logits_BC),
    'pre_logits': features_BD,
    'features': features_BD,
  }
