"""The residual unit that networks of convolutions share (arXiv:1512.03385).

Axes: B batch, h w feature map, u v the same after the stride, I O input and output
channels.
"""

from collections.abc import Callable, Sequence

import flax.linen as nn
import jax

Make = Callable[..., Callable[[jax.Array], jax.Array]]


def unit(
  x_BhwI: jax.Array,
  sizes: Sequence[tuple],
  stride: int,
  conv: Make,
  norm: Make,
  drop: Callable[[jax.Array], jax.Array] = lambda y_BuvO: y_BuvO,
) -> jax.Array:
  """Applies convolutions, each with a norm, and adds the shortcut: (B, u, v, O).

  `conv(name, *size)` makes each of them from its entry of `sizes`, channels and kernel
  first, then stride and what else it takes; `norm(name)` makes norms. Their product of
  strides is `stride`. ReLU comes after each norm, the last time after the sum. Where
  shapes change, the shortcut is a convolution and a norm, `conv_proj` and `norm_proj`.
  `drop` changes what is added to the shortcut, as stochastic depth does.
  """
  y_BuvO = x_BhwI
  for i, size in enumerate(sizes, start=1):
    y_BuvO = nn.relu(y_BuvO) if i > 1 else y_BuvO
    y_BuvO = norm(f'norm{i}')(conv(f'conv{i}', *size)(y_BuvO))
  y_BuvO, channels = drop(y_BuvO), y_BuvO.shape[-1]
  if stride == 1 and x_BhwI.shape[-1] == channels:
    return nn.relu(x_BhwI + y_BuvO)
  shortcut_BuvO = norm('norm_proj')(conv('conv_proj', channels, 1, stride)(x_BhwI))
  return nn.relu(shortcut_BuvO + y_BuvO)
