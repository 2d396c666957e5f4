"""Layers with an equalized learning rate, arXiv:1710.10196 section 4.1.

Parameters are drawn from N(0, 1) and scaled where they are used, so that Adam changes
all layers at the same relative speed.

Axes: B batch, h w map, u v the same after resampling, r s rows and columns of a kernel,
I O input and output channels.
"""

import math

import flax.linen as nn
import jax
import jax.numpy as jnp

from big_vision_like.ops import fir

SLOPE = 0.2


def leaky(x: jax.Array, gain: float = 1.0) -> jax.Array:
  """Returns leaky ReLU of slope 0.2, times sqrt(2) (keeping the variance) and gain."""
  return nn.leaky_relu(x, SLOPE) * (math.sqrt(2) * gain)


class Dense(nn.Module):
  """A linear layer whose kernel is scaled by `rate_factor` * gain / sqrt(inputs).

  `rate_factor` multiplies the layer's learning rate: parameters are as much larger as
  they are scaled down.
  """

  features: int
  rate_factor: float = 1.0
  gain: float = 1.0
  bias_init: float = 0.0
  dtype: str = 'float32'

  @nn.compact
  def __call__(self, x: jax.Array) -> jax.Array:
    inputs, factor = x.shape[-1], self.rate_factor
    init = nn.initializers.normal(1 / factor)
    kernel_IO = self.param('kernel', init, (inputs, self.features))
    bias_init = nn.initializers.constant(self.bias_init)
    bias_O = self.param('bias', bias_init, (self.features,))
    scaled_IO = kernel_IO * (factor * self.gain / math.sqrt(inputs))
    y = jnp.dot(x.astype(self.dtype), scaled_IO.astype(self.dtype))
    bias_O = (bias_O * factor).astype(self.dtype)
    return y + bias_O.reshape(*[1] * (y.ndim - 1), -1)


def scaled_kernel(module: nn.Module, size: int, inputs: int, outputs: int) -> jax.Array:
  """Declares the parameter `kernel` of a convolution; returns it, scaled."""
  shape = size, size, inputs, outputs
  kernel_rsIO = module.param('kernel', nn.initializers.normal(1.0), shape)
  return kernel_rsIO * (1 / math.sqrt(size * size * inputs))


class Conv(nn.Module):
  """A convolution, resampled ('up', 'down' or None), with leaky ReLU and gain."""

  features: int
  size: int = 3
  resample: str | None = None
  use_bias: bool = True
  activate: bool = True
  gain: float = 1.0
  dtype: str = 'float32'

  @nn.compact
  def __call__(self, x_BhwI: jax.Array) -> jax.Array:
    kernel_rsIO = scaled_kernel(self, self.size, x_BhwI.shape[-1], self.features)
    y_BuvO = fir.convolve(
      x_BhwI.astype(self.dtype), kernel_rsIO.astype(self.dtype), self.resample
    )
    if self.use_bias:
      bias_O = self.param('bias', nn.initializers.zeros, (self.features,))
      y_BuvO += bias_O.astype(self.dtype)[None, None, None]
    return leaky(y_BuvO, self.gain) if self.activate else y_BuvO * self.gain
