"""VT-FPN, arXiv:2006.03677 section 3.5: a feature pyramid of visual tokens.

Extends `visual_transformer`. The pyramid takes the place of the convolutions of an FPN:
maps become equally wide by 1x1 convolutions, and its levels exchange information by
tokens only. The paper does not say how wide maps are. With the 1x1 convolutions of an
FPN, the numbers of operations are the paper's: those of the 3x3 convolutions are saved,
and the head is the same.

Axes: B batch, h w a map, I input channels, C channels.
"""

from collections.abc import Sequence

import flax.linen as nn
import jax

from big_vision_like.layers import convolution, fpn
from big_vision_like.layers.visual_tokens import Projections
from big_vision_like.models import visual_transformer


class TokenPyramid(nn.Module):
  """A pyramid of maps (B, h, w, C) that are related by visual tokens.

  Takes and returns a list of maps, fine to coarse, as `fpn.FPN` does. `num_tokens` is
  the number of tokens of each level, and `width` their number of features. With
  `channels=0` maps keep their channels and there are no 1x1 convolutions.
  """

  channels: int = 256
  num_tokens: int = 8
  width: int = 1024
  projections: Projections = Projections()
  dtype: str = 'float32'

  tiny = dict(channels=16, width=32)

  @nn.compact
  def __call__(self, maps: Sequence[jax.Array]) -> list[jax.Array]:
    levels = {}
    for number, x_BhwI in enumerate(maps, start=1):
      levels[f'level{number}'] = x_BhwI
      if self.channels:
        levels[f'level{number}'] = convolution.conv(
          f'lateral{number}',
          self.channels,
          1,
          use_bias=True,
          kernel_init=fpn.START,
          dtype=self.dtype,
        )(x_BhwI.astype(self.dtype))
    written, _ = visual_transformer.Pyramid(
      self.num_tokens, self.width, self.projections, self.dtype, name='tokens'
    )(levels)
    return list(written.values())
