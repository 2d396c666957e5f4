"""The residual unit that convolutional networks share (arXiv:1512.03385).

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

  `conv(name, *size)` makes each convolution from its entry of `sizes`, which starts
  with channels and kernel size, followed by the stride and further arguments.
  `norm(name)` makes norms. `stride` is the product of all strides. ReLU follows each
  norm, except that the last ReLU follows the sum. If the shape changes, the shortcut is
  a convolution and a norm, `conv_proj` and `norm_proj`. `drop` is applied to the branch
  before the sum, as stochastic depth.
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
