"""Data-efficient image Transformers, arXiv:2012.12877, and DeiT III, arXiv:2204.07118.

Extends `vit`. Both use the exact GELU and initialize parameters differently from ViT.
DeiT adds a second learned token after the class token, the distillation token, whose
own head imitates a teacher. DeiT III has no distillation token: learned vectors scale
its residual branches, stochastic depth has the same rate in all blocks, and the class
token has no position.

Both are trained on images normalized by ImageNet's mean and standard deviation.

Axes: B batch, N tokens, D width, R size of the representation (D without a
representation layer), C classes.
"""

import functools
import math
from collections.abc import Callable, Sequence
from typing import Any

import flax.linen as nn
import jax

from big_vision_like.errors import UserError
from big_vision_like.models import vit
from big_vision_like.ops import positions


def variant(name: str) -> dict[str, Any]:
  """Returns the arguments of `DeiT` and `DeiT3` for a size such as 'S/16'.

  DeiT is published as Ti/16, S/16 and B/16, DeiT III as S/16, M/16, B/16, L/16, H/14.
  """
  return vit.variant(name)


def uniform(inputs: int) -> Callable[..., jax.Array]:
  """Returns PyTorch's initializer of convolutions: uniform in +-1 / sqrt(inputs)."""
  bound = 1 / math.sqrt(inputs)

  def init(key: jax.Array, shape: Sequence[int], dtype: Any = float) -> jax.Array:
    return jax.random.uniform(key, shape, dtype, -bound, bound)

  return init


# Tokens and all matrices, including kernels of heads, start from a normal distribution
# of standard deviation 0.02; the patch embedding uses PyTorch's default. The published
# code truncates the normal distribution at -2 and 2, which is 100 standard deviations.
NORMAL = nn.initializers.normal(0.02)
START = vit.Start(
  token=NORMAL,
  head=NORMAL,
  attention=dict(kernel_init=NORMAL),
  mlp=dict(kernel_init=NORMAL, bias_init=nn.initializers.zeros),
  embed=lambda inputs: dict(kernel_init=uniform(inputs), bias_init=uniform(inputs)),
)
# The published code resizes positions in the same way.
RESIZES = vit.ViT.resizes | {
  'pos_embedding': functools.partial(positions.resize_grid, method='cubic_torch')
}


class DeiT(vit.ViT):
  """A ViT that also returns `class_logits` and `distilled_logits`, (B, C) float32.

  `logits` is their mean, in training too; the task decides which outputs its loss uses
  (see `tasks.distillation`). `distilled=False` removes the distillation token, its head
  and these two outputs.
  """

  activation: str = 'gelu_exact'
  distilled: bool = True

  start = START
  resizes = RESIZES

  @property
  def leading(self) -> tuple[str, ...]:
    if self.pool != 'token':
      raise UserError(f"pool={self.pool!r}: a DeiT must use its class token, 'token'")
    return ('cls', 'dist') if self.distilled else ('cls',)

  def classified(
    self, pre_logits_BR: jax.Array, tokens_BND: jax.Array
  ) -> dict[str, jax.Array]:
    class_BC = self.head('head', pre_logits_BR)
    if not self.distilled:
      return {'logits': class_BC}
    distilled_BC = self.head('head_dist', tokens_BND[:, 1])
    return {
      'logits': (class_BC + distilled_BC) / 2,
      'class_logits': class_BC,
      'distilled_logits': distilled_BC,
    }


class DeiT3(vit.ViT):
  """A ViT whose residual branches are scaled by learned vectors.

  The vectors are initialized to `layer_scale`. Each block, including the first, drops
  its branches with probability `drop_path`.
  """

  activation: str = 'gelu_exact'
  layer_scale: float = 1e-4

  start = START
  resizes = RESIZES

  @property
  def num_placed(self) -> int:
    return 0

  @property
  def drop_paths(self) -> Sequence[float]:
    return (self.drop_path,) * self.depth

  @property
  def block_args(self) -> dict[str, Any]:
    return super().block_args | dict(layer_scale=self.layer_scale)
