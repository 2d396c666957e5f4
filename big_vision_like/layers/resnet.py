"""ResNets with group norm and weight standardisation (arXiv:1912.11370 section 4.2).

The trunk of BiT and of hybrid ViTs. There are two orders of layers: norms and
activations after convolutions (v1, arXiv:1512.03385) or before (v2, arXiv:1603.05027).

Axes: B batch, H W image or kernel, h w feature map, u v the same after a stride, C
channels, I O input and output channels.
"""

from collections.abc import Sequence

import flax.linen as nn
import jax
import jax.numpy as jnp

from big_vision_like.layers import residual

GROUPS = 32


class StdConv(nn.Module):
  """A convolution without bias whose kernel is standardised for each output channel.

  The kernel has mean 0 and variance 1, up to `epsilon`, over height, width and input
  channels. With `epsilon_in='std'` it is divided by std + epsilon (vision_transformer,
  big_vision), with 'variance' by sqrt(var + epsilon) (big_transfer). The statistics are
  float32.
  """

  features: int
  kernel_size: tuple[int, int]
  stride: int = 1
  padding: str | int = 'SAME'
  epsilon: float = 1e-5
  epsilon_in: str = 'std'
  dtype: str = 'float32'

  @nn.compact
  def __call__(self, x_BhwI: jax.Array) -> jax.Array:
    shape = (*self.kernel_size, x_BhwI.shape[-1], self.features)
    kernel_HWIO = self.param('kernel', nn.initializers.lecun_normal(), shape)
    kernel_HWIO = standardised(kernel_HWIO, self.epsilon, self.epsilon_in)
    padding = self.padding
    if isinstance(padding, int):
      padding = ((padding, padding),) * 2
    return jax.lax.conv_general_dilated(
      x_BhwI.astype(self.dtype),
      kernel_HWIO.astype(self.dtype),
      (self.stride,) * 2,
      padding,
      dimension_numbers=('NHWC', 'HWIO', 'NHWC'),
    )


def standardised(kernel_HWIO: jax.Array, epsilon: float, epsilon_in: str) -> jax.Array:
  """Returns the standardised kernel of `StdConv`."""
  mean_111O = kernel_HWIO.mean(axis=(0, 1, 2), keepdims=True)
  variance_111O = kernel_HWIO.var(axis=(0, 1, 2), keepdims=True)
  if epsilon_in == 'variance':
    return (kernel_HWIO - mean_111O) * jax.lax.rsqrt(variance_111O + epsilon)
  return (kernel_HWIO - mean_111O) / (jnp.sqrt(variance_111O) + epsilon)


class Unit(nn.Module):
  """A bottleneck of three convolutions with a shortcut (v1): ReLU after the sum."""

  channels: int
  stride: int = 1
  dtype: str = 'float32'

  @nn.compact
  def __call__(self, x_BhwI: jax.Array) -> jax.Array:
    def norm(name: str) -> nn.Module:
      # The last scale starts at zero, so that a unit starts as its shortcut.
      ones, zeros = nn.initializers.ones, nn.initializers.zeros
      scale_init = zeros if name == 'norm3' else ones
      return nn.GroupNorm(GROUPS, dtype=self.dtype, scale_init=scale_init, name=name)

    def conv(name: str, channels: int, size: int, stride: int = 1) -> nn.Module:
      return StdConv(channels, (size, size), stride, dtype=self.dtype, name=name)

    narrow, wide = self.channels, 4 * self.channels
    sizes = (narrow, 1), (narrow, 3, self.stride), (wide, 1)
    return residual.unit(x_BhwI, sizes, self.stride, conv, norm)


class PreUnit(nn.Module):
  """A bottleneck as `Unit` (v2): norm and ReLU before each convolution, none after."""

  channels: int
  stride: int = 1
  dtype: str = 'float32'

  @nn.compact
  def __call__(self, x_BhwI: jax.Array) -> jax.Array:
    def norm(name: str) -> nn.Module:
      return nn.GroupNorm(GROUPS, epsilon=1e-5, dtype=self.dtype, name=name)

    def conv(name: str, channels: int, size: int, stride: int = 1) -> nn.Module:
      return pre_conv(channels, size, stride, size // 2, self.dtype, name)

    wide = 4 * self.channels
    y_BhwI = nn.relu(norm('norm1')(x_BhwI))
    shortcut_BuvO = x_BhwI
    if self.stride > 1 or x_BhwI.shape[-1] != wide:
      shortcut_BuvO = conv('conv_proj', wide, 1, self.stride)(y_BhwI)
    y_BhwC = nn.relu(norm('norm2')(conv('conv1', self.channels, 1)(y_BhwI)))
    y_BuvC = conv('conv2', self.channels, 3, self.stride)(y_BhwC)
    y_BuvC = nn.relu(norm('norm3')(y_BuvC))
    return shortcut_BuvO + conv('conv3', wide, 1)(y_BuvC)


def pre_conv(
  channels: int, size: int, stride: int, padding: int, dtype: str, name: str
) -> nn.Module:
  """Returns a convolution of v2, which pads both sides equally with zeros."""
  return StdConv(
    channels,
    (size, size),
    stride,
    padding,
    epsilon=1e-10,
    epsilon_in='variance',
    dtype=dtype,
    name=name,
  )


class Stage(nn.Module):
  """Units of one width; the first has the stride."""

  depth: int
  channels: int
  stride: int
  pre: bool
  dtype: str = 'float32'

  @nn.compact
  def __call__(self, x_BhwC: jax.Array) -> jax.Array:
    unit = PreUnit if self.pre else Unit
    for i in range(self.depth):
      stride = self.stride if i == 0 else 1
      x_BhwC = unit(self.channels, stride, self.dtype, name=f'unit{i + 1}')(x_BhwC)
    return x_BhwC


class Trunk(nn.Module):
  """Root and stages from images (B, H, W, C) to maps by name, `root`, `stage1`, ...

  Stage i has `depths[i - 1]` units of 256 * `width` * 2^(i - 1) channels. The root
  reduces height and width to a quarter, and each stage but the first halves them. `pre`
  selects v2, which ends with a norm and ReLU: their output is `normed`.
  """

  depths: Sequence[int]
  width: float = 1
  pre: bool = False
  dtype: str = 'float32'

  @nn.compact
  def __call__(self, image_BHWI: jax.Array) -> dict[str, jax.Array]:
    channels = round(64 * self.width)
    if self.pre:
      # There is no norm, so activations are signed and the border is padded with zeros.
      x_BhwC = pre_conv(channels, 7, 2, 3, self.dtype, name='conv_root')(image_BHWI)
      x_BhwC = jnp.pad(x_BhwC, ((0, 0), (1, 1), (1, 1), (0, 0)))
      x_BhwC = nn.max_pool(x_BhwC, (3, 3), (2, 2), 'VALID')
    else:
      conv = StdConv(channels, (7, 7), 2, dtype=self.dtype, name='conv_root')
      norm = nn.GroupNorm(GROUPS, dtype=self.dtype, name='norm_root')
      x_BhwC = nn.max_pool(nn.relu(norm(conv(image_BHWI))), (3, 3), (2, 2), 'SAME')
    maps = {'root': x_BhwC}
    for i, depth in enumerate(self.depths):
      name, stride = f'stage{i + 1}', 1 if i == 0 else 2
      x_BhwC = Stage(depth, channels * 2**i, stride, self.pre, self.dtype, name=name)(
        x_BhwC
      )
      maps[name] = x_BhwC
    if self.pre:
      norm = nn.GroupNorm(GROUPS, epsilon=1e-5, dtype=self.dtype, name='norm')
      maps['normed'] = nn.relu(norm(x_BhwC))
    return maps
