"""VGG networks, arXiv:1409.1556: stages of 3x3 convolutions with pooling between them.

Axes: B batch, H W image, h w feature map, I channels of the image, C channels or
classes, F features of the map or hidden units in one row.
"""

import re
from collections.abc import Sequence

import flax.linen as nn
import jax

from big_vision_like.errors import UserError
from big_vision_like.layers import convolution
from big_vision_like.ops import precision, resampling

# Convolutions in each stage: table 1, columns A, B, D, E.
SIZES = {
  11: (1, 1, 2, 2, 2),
  13: (2, 2, 2, 2, 2),
  16: (2, 2, 3, 3, 3),
  19: (2, 2, 4, 4, 4),
}
SIDE = 7  # of the map that the classifier reads


def variant(name: str) -> dict[str, Sequence[int]]:
  """Returns the arguments of `VGG` for 'VGG11', 'VGG13', 'VGG16' or 'VGG19'."""
  match = re.fullmatch(r'VGG(\d+)', name)
  if match is None or int(match[1]) not in SIZES:
    known = ', '.join(f'VGG{depth}' for depth in SIZES)
    raise UserError(f'unknown VGG {name!r}: choose one of {known}')
  return dict(depths=SIZES[int(match[1])])


class VGG(nn.Module):
  """A VGG that turns images (B, H, W, I) into named maps `stage1` to `stage5`.

  Maps are those after the last ReLU of a stage, before it is pooled, so `stage5` has a
  sixteenth of the sides. With `num_classes` > 0 there are also `logits` (B, C), from
  the last map, pooled to 7x7, by two hidden layers with dropout, and `pre_logits`
  (B, F), the second of these layers after its ReLU.
  """

  depths: Sequence[int]
  num_classes: int = 0
  channels: Sequence[int] = (64, 128, 256, 512, 512)
  hidden: int = 4096
  dropout: float = 0.5
  dtype: str = 'float32'

  tiny = dict(depths=1, channels=16, hidden=32)

  @nn.compact
  def __call__(
    self, image_BHWI: jax.Array, train: bool = False
  ) -> dict[str, jax.Array]:
    if not 1 <= len(self.depths) <= len(self.channels):
      raise UserError(
        f'depths={tuple(self.depths)} are for {len(self.depths)} stages, but channels='
        f'{tuple(self.channels)} are for 1 to {len(self.channels)}'
      )
    outputs, x_BhwC = {}, image_BHWI.astype(self.dtype)
    for stage, depth in enumerate(self.depths, start=1):
      if stage > 1:
        x_BhwC = nn.max_pool(x_BhwC, (2, 2), (2, 2))
      for number in range(1, depth + 1):
        conv = convolution.conv(
          f'stage{stage}_conv{number}',
          self.channels[stage - 1],
          3,
          use_bias=True,
          dtype=self.dtype,
        )
        x_BhwC = nn.relu(conv(x_BhwC))
      outputs[f'stage{stage}'] = x_BhwC
    if self.num_classes:
      x_BhwC = nn.max_pool(x_BhwC, (2, 2), (2, 2))
      x_BF = resampling.adaptive_average(x_BhwC, SIDE).reshape(len(x_BhwC), -1)
      for number in (1, 2):
        dense = nn.Dense(self.hidden, dtype=self.dtype, name=f'fc{number}')
        x_BF = nn.relu(dense(x_BF))
        outputs['pre_logits'] = x_BF
        x_BF = nn.Dropout(self.dropout, deterministic=not train)(x_BF)
      logits_BC = nn.Dense(self.num_classes, dtype=self.dtype, name='head')(x_BF)
      outputs['logits'] = precision.at_least_float32(logits_BC)
    return outputs
