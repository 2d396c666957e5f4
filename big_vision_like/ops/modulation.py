"""Modulated convolutions and batch statistics of StyleGAN2, arXiv:1912.04958.

Axes: B batch, h w map, u v the same after resampling, r s rows and columns of a kernel,
I O input and output channels, C channels, n examples of a group, G groups.
"""

import jax
import jax.numpy as jnp

from big_vision_like.errors import UserError, check_one_of
from big_vision_like.ops import fir, precision

EPSILON = 1e-8
FORMS = ('scaled', 'grouped')


def modulated_conv(
  x_BhwI: jax.Array,
  kernel_rsIO: jax.Array,
  style_BI: jax.Array,
  resample: str | None = None,
  demodulate: bool = True,
  form: str = 'scaled',
) -> jax.Array:
  """Returns convolutions with kernels that each example scales: (B, u, v, O).

  Input channels of the kernel are multiplied by the style. With `demodulate`, the
  kernel of each output channel is then divided by its norm (section 2.2, equation 3).
  `form='scaled'` multiplies inputs and outputs of one shared convolution; 'grouped'
  convolves each example with its own kernel. The results are equal; `scaled` needs
  memory for one kernel only. tools/benchmark/gan.py compares their speed.
  """
  check_one_of(FORMS, form=form)
  demodulation_BO = None
  if demodulate:
    demodulation_BO = demodulation(kernel_rsIO, style_BI)
  if form == 'scaled':
    x_BhwI *= style_BI[:, None, None].astype(x_BhwI.dtype)
    y_BuvO = fir.convolve(x_BhwI, kernel_rsIO.astype(x_BhwI.dtype), resample)
    if demodulation_BO is None:
      return y_BuvO
    return y_BuvO * demodulation_BO[:, None, None].astype(y_BuvO.dtype)
  kernel_BrsIO = kernel_rsIO[None] * style_BI[:, None, None, :, None]
  if demodulation_BO is not None:
    kernel_BrsIO *= demodulation_BO[:, None, None, None]

  def single(x_hwI: jax.Array, kernel_rsIO: jax.Array) -> jax.Array:
    return fir.convolve(x_hwI[None], kernel_rsIO, resample)[0]

  # A convolution mapped over its kernels is a grouped convolution.
  return jax.vmap(single)(x_BhwI, kernel_BrsIO.astype(x_BhwI.dtype))


def demodulation(kernel_rsIO: jax.Array, style_BI: jax.Array) -> jax.Array:
  """Returns 1 / norm of the scaled kernels of all output channels: (B, O), float32."""
  kernel_rsIO, style_BI = map(precision.at_least_float32, (kernel_rsIO, style_BI))
  square_IO = jnp.square(kernel_rsIO).sum(axis=(0, 1))
  highest = jax.lax.Precision.HIGHEST
  sum_BO = jnp.dot(jnp.square(style_BI), square_IO, precision=highest)
  return jax.lax.rsqrt(sum_BO + EPSILON)


def rms_normalized(x: jax.Array, axes: int | tuple[int, ...] = -1) -> jax.Array:
  """Returns x / sqrt(mean of x^2 over axes + 1e-8)."""
  square = jnp.square(precision.at_least_float32(x)).mean(axes, keepdims=True)
  return x * jax.lax.rsqrt(square + EPSILON).astype(x.dtype)


def with_deviation(x_BhwC: jax.Array, group: int) -> jax.Array:
  """Appends a channel with the deviation within groups of examples: (B, h, w, C + 1).

  A group consists of at most `group` examples: with G groups, examples i, i + G,
  i + 2 G, ... Its value is the standard deviation over the group, averaged over the map
  and channels (arXiv:1710.10196, section 3).

  Raises `UserError` if the batch does not divide into groups.
  """
  batch, *size, channels = x_BhwC.shape
  rows = min(group, batch)
  if rows < 1 or batch % rows:
    raise UserError(
      f'a batch of {batch} images does not divide into groups of {rows} for the'
      ' deviation within groups: set deviation_group of the discriminator to a divisor'
      ' of the batch size (of batch_size / accumulate)'
    )
  x_nGhwC = precision.at_least_float32(x_BhwC).reshape(rows, -1, *size, channels)
  centred_nGhwC = x_nGhwC - x_nGhwC.mean(axis=0, keepdims=True)
  variance_GhwC = jnp.square(centred_nGhwC).mean(axis=0)
  deviation_G = jnp.sqrt(variance_GhwC + EPSILON).mean(axis=(1, 2, 3))
  deviation_B = jnp.tile(deviation_G, rows).astype(x_BhwC.dtype)
  shape = batch, *size, 1
  deviation_Bhw1 = jnp.broadcast_to(deviation_B[:, None, None, None], shape)
  return jnp.concatenate([x_BhwC, deviation_Bhw1], axis=-1)
