"""Averager: the mean colour of an image, and a linear layer (made up)."""

import flax.linen as nn
import jax
import jax.numpy as jnp


class Averager(nn.Module):
  """A linear layer on the mean colour of images (B, H, W, C), in two steps.

  Returns `features` (B, width) and `logits` (B, K).
  """

  num_classes: int
  width: int = 4096
  dtype: str = 'float32'

  tiny = dict(width=8)

  @nn.compact
  def __call__(self, image_BHWC: jax.Array, train: bool = False) -> dict:
    mean_BC = image_BHWC.mean(axis=(1, 2))
    layer = nn.Dense(self.width, dtype=self.dtype, name='embed')
    features_BD = nn.gelu(layer(mean_BC))
    head = nn.Dense(self.num_classes, name='head')
    return {'features': features_BD, 'logits': head(features_BD.astype(jnp.float32))}


def variant(name: str) -> dict:
  """Returns the arguments of a published size."""
  return {'B': dict(width=256)}[name]
