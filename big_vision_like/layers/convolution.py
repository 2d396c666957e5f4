"""Convolutions with batch norm, and squeeze-excite, for convolutional networks.

Axes: B batch, h w feature map, u v the same after a stride, I O input and output
channels, C channels, G groups of examples, n examples of a group, F hidden units.
"""

from collections.abc import Callable

import flax.linen as nn
import jax
import jax.numpy as jnp

from big_vision_like.errors import UserError, check_one_of
from big_vision_like.ops import convolution, precision

PADDINGS = ('symmetric', 'same')
he_normal_out = nn.initializers.variance_scaling(2.0, 'fan_out', 'normal')


def conv(
  name: str,
  channels: int,
  size: int,
  stride: int = 1,
  dilation: int = 1,
  *,
  groups: int = 1,
  padding: str = 'symmetric',
  use_bias: bool = False,
  kernel_init: nn.initializers.Initializer = he_normal_out,
  dtype: str = 'float32',
) -> nn.Conv:
  """Returns a convolution (B, h, w, I) -> (B, u, v, O).

  `padding='symmetric'` pads both sides with the same number of zeros, which keeps the
  size at stride 1 (PyTorch). 'same' pads as little as possible, with an odd zero at the
  bottom and right (TensorFlow). They differ where the stride is above 1.
  """
  check_one_of(PADDINGS, padding=padding)
  zeros = dilation * (size - 1) // 2
  return nn.Conv(
    channels,
    (size, size),
    (stride, stride),
    'SAME' if padding == 'same' else ((zeros, zeros), (zeros, zeros)),
    kernel_dilation=dilation,
    feature_group_count=groups,
    use_bias=use_bias,
    kernel_init=kernel_init,
    dtype=dtype,
    conv_general_dilated=convolution.convolve,
    name=name,
  )


class BatchNorm(nn.Module):
  """A batch norm: normalizes channels by statistics of the batch (arXiv:1502.03167).

  The batch is split into `groups` of consecutive examples, and each group is normalized
  by its own mean and variance. Groups are those of the global batch, so results do not
  depend on the number of devices. Running averages, in the collection `batch_stats`,
  use the mean over groups. With `unbiased` they average the variance times n / (n - 1),
  as PyTorch does, otherwise the variance itself, as TensorFlow and Flax do. Statistics
  are float32. Examples outside of `mask_B`, such as padding, do not count; a batch of
  nothing else leaves running averages as they are.

  Raises a `UserError` if the batch does not divide into groups, or if a group has a
  single value per channel.
  """

  momentum: float = 0.9
  epsilon: float = 1e-5
  unbiased: bool = True
  groups: int = 1
  scale_init: nn.initializers.Initializer = nn.initializers.ones
  dtype: str = 'float32'

  @nn.compact
  def __call__(
    self, x_BhwC: jax.Array, train: bool = False, mask_B: jax.Array | None = None
  ) -> jax.Array:
    channels = x_BhwC.shape[-1:]
    scale_C = self.param('scale', self.scale_init, channels)
    bias_C = self.param('bias', nn.initializers.zeros, channels)
    average_C = self.variable('batch_stats', 'mean', jnp.zeros, channels)
    variance_C = self.variable('batch_stats', 'var', jnp.ones, channels)
    if not train:
      return self.normalized(
        x_BhwC[None], average_C.value[None], variance_C.value[None], scale_C, bias_C
      )[0]
    x_GnhwC = self.grouped(x_BhwC)
    wide_GnhwC = precision.at_least_float32(x_GnhwC)
    axes = (1, 2, 3)
    # Mean and square are computed in one pass; rounding may make the variance negative.
    count, keep = x_GnhwC[0, ..., 0].size, self.momentum
    if mask_B is None:
      mean_GC, square_GC = wide_GnhwC.mean(axes), jnp.square(wide_GnhwC).mean(axes)
    else:
      mean_GC, square_GC, count_G1 = self.masked(wide_GnhwC, mask_B)
      count, keep = (
        jnp.maximum(count_G1.mean(), 2.0),
        jnp.where(count_G1.all(), keep, 1),
      )
    var_GC = jnp.maximum(square_GC - jnp.square(mean_GC), 0.0)
    if not self.is_initializing():
      told = count / (count - 1) if self.unbiased else 1.0
      average_C.value = keep * average_C.value + (1 - keep) * mean_GC.mean(0)
      variance_C.value = keep * variance_C.value + (1 - keep) * told * var_GC.mean(0)
    y_GnhwC = self.normalized(x_GnhwC, mean_GC, var_GC, scale_C, bias_C)
    return y_GnhwC.reshape(x_BhwC.shape)

  def masked(
    self, wide_GnhwC: jax.Array, mask_B: jax.Array
  ) -> tuple[jax.Array, jax.Array, jax.Array]:
    """Returns mean and mean square of unmasked values, and their number (G, 1)."""
    groups, examples, *size, _ = wide_GnhwC.shape
    mask_Gn111 = mask_B.reshape(groups, examples, 1, 1, 1)
    count_G1 = mask_Gn111.sum((1, 2, 3), dtype=wide_GnhwC.dtype) * size[0] * size[1]
    kept_GnhwC = jnp.where(mask_Gn111, wide_GnhwC, 0.0)
    several_G1 = jnp.maximum(count_G1, 1.0)
    mean_GC = kept_GnhwC.sum((1, 2, 3)) / several_G1
    return mean_GC, jnp.square(kept_GnhwC).sum((1, 2, 3)) / several_G1, count_G1

  def grouped(self, x_BhwC: jax.Array) -> jax.Array:
    """Splits the batch into groups of consecutive examples, (G, n, h, w, C)."""
    batch, *size, channels = x_BhwC.shape
    if self.groups < 1 or batch % self.groups:
      raise UserError(
        f'a batch of {batch} examples does not divide into {self.groups} groups for'
        ' batch norm: set norm_groups of the model to a divisor of the batch size'
      )
    if batch // self.groups * size[0] * size[1] < 2:
      raise UserError(
        f'batch norm has one value a channel in each of its {self.groups} groups'
        f' (maps of {size[0]}x{size[1]}, {batch} examples), so no variance: use fewer'
        ' groups (norm_groups of the model), larger batches or larger images'
      )
    return x_BhwC.reshape(self.groups, batch // self.groups, *size, channels)

  def normalized(
    self,
    x_GnhwC: jax.Array,
    mean_GC: jax.Array,
    var_GC: jax.Array,
    scale_C: jax.Array,
    bias_C: jax.Array,
  ) -> jax.Array:
    """Returns (x - mean) / sqrt(var + epsilon) * scale + bias, in the compute dtype."""
    scale_GC = jax.lax.rsqrt(var_GC + self.epsilon) * scale_C[None]
    shift_GC = bias_C[None] - mean_GC * scale_GC
    scale_G111C, shift_G111C = (
      a_GC[:, None, None, None] for a_GC in (scale_GC, shift_GC)
    )
    wide_GnhwC = precision.at_least_float32(x_GnhwC)
    return (wide_GnhwC * scale_G111C + shift_G111C).astype(self.dtype)


class ConvNorm(nn.Module):
  """A convolution without bias, a batch norm, and an optional activation.

  `norm` makes the norm, such as a `BatchNorm` with the settings of a network; the other
  fields are arguments of `conv`.
  """

  channels: int
  size: int
  stride: int = 1
  dilation: int = 1
  groups: int = 1
  padding: str = 'symmetric'
  activation: Callable[[jax.Array], jax.Array] | None = nn.relu
  norm: Callable[..., nn.Module] = BatchNorm
  kernel_init: nn.initializers.Initializer = he_normal_out
  dtype: str = 'float32'

  @nn.compact
  def __call__(self, x_BhwI: jax.Array, train: bool = False) -> jax.Array:
    y_BuvO = conv(
      'conv',
      self.channels,
      self.size,
      self.stride,
      self.dilation,
      groups=self.groups,
      padding=self.padding,
      kernel_init=self.kernel_init,
      dtype=self.dtype,
    )(x_BhwI)
    y_BuvO = self.norm(dtype=self.dtype, name='norm')(y_BuvO, train)
    return y_BuvO if self.activation is None else self.activation(y_BuvO)


class SqueezeExcite(nn.Module):
  """Gates that scale channels depending on their means (arXiv:1709.01507).

  The gates are sigmoid(fc2(activation(fc1(mean over the map)))), with `hidden` hidden
  units.
  """

  hidden: int
  activation: Callable[[jax.Array], jax.Array] = nn.relu
  kernel_init: nn.initializers.Initializer = he_normal_out
  dtype: str = 'float32'
  use_bias: bool = True

  @nn.compact
  def __call__(self, x_BhwC: jax.Array) -> jax.Array:
    def dense(features: int, name: str) -> nn.Dense:
      return nn.Dense(
        features,
        use_bias=self.use_bias,
        kernel_init=self.kernel_init,
        dtype=self.dtype,
        name=name,
      )

    mean_BC = precision.at_least_float32(x_BhwC).mean((1, 2)).astype(self.dtype)
    hidden_BF = self.activation(dense(self.hidden, 'fc1')(mean_BC))
    gate_BC = nn.sigmoid(dense(x_BhwC.shape[-1], 'fc2')(hidden_BF))
    return x_BhwC * gate_BC[:, None, None]
