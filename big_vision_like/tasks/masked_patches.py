"""Masked patch prediction, arXiv:2010.11929 section 4.6 and appendix B.1.2.

Axes: B batch, H W image, h w grid, P Q patch, N patches, K channels, C colors.
"""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
import optax

from big_vision_like.errors import UserError, shape_text
from big_vision_like.models import masked_vit
from big_vision_like.ops import images, pretraining
from big_vision_like.tasks import task
from big_vision_like.tasks.task import Arrays, Frozen, Loss, State


@dataclasses.dataclass(frozen=True, kw_only=True)
class MaskedPatches(task.GradientTask):
  """Prediction of the mean colors of corrupted patches; batches hold uint8 `image`.

  In each image, the share `corrupted` of the patches is corrupted: of these, the share
  `masked` is replaced by a learned vector, `swapped` by other patches of the image, and
  the rest is kept. The loss is the cross-entropy of the mean colors of all corrupted
  patches, with `bits` bits for each channel.
  """

  corrupted: float = 0.5
  masked: float = 0.8
  swapped: float = 0.1
  bits: int = 3
  mean: float = 0.5
  std: float = 0.5

  def __post_init__(self) -> None:
    if not 0.0 < self.corrupted <= 1.0:
      raise UserError(
        f'corrupted={self.corrupted:g} must be above 0, or there is nothing to predict,'
        ' and at most 1'
      )
    if min(self.masked, self.swapped) < 0 or self.masked + self.swapped > 1.0:
      raise UserError(
        f'masked={self.masked:g} and swapped={self.swapped:g} are shares of the'
        ' corrupted patches: they must not be negative, and at most 1 together'
      )
    if not 1 <= self.bits <= 8:
      raise UserError(f'bits={self.bits} must be from 1 to 8')

  @property
  def num_classes(self) -> None:
    """None, since labels of the data are not used."""
    return None

  @property
  def images(self) -> images.Normalization:
    return images.Normalization(self.mean, self.std)

  def check(self, batch: dict) -> None:
    image = batch['image']
    if image.dtype != 'uint8':
      raise UserError(
        f'image {image.shape} is {image.dtype}: colors are predicted of uint8 images'
      )
    colors = 2 ** (self.bits * image.shape[3])
    if self.model.num_classes != colors:
      raise UserError(
        f'task.model.num_classes={self.model.num_classes} must be {colors:,}, the'
        f' number of colors of {image.shape[3]} channels with {self.bits} bits each'
      )
    size, stride = image.shape[1:3], self.model.stride
    if any(side % step for side, step in zip(size, stride, strict=True)):
      raise UserError(
        f'images of {shape_text(size)} do not divide into patches of'
        f' {shape_text(stride)}'
      )

  def prepare(self, batch: Arrays, key: jax.Array, frozen: Frozen = None) -> Arrays:
    """Adds `color` (B, N), `hidden` (B, N) and `source` (B, N), and normalizes."""
    del frozen
    image_BHWK = batch['image']
    color_BN = mean_colors(image_BHWK, self.model.stride, self.bits)
    hidden_BN, source_BN = corruption(
      key, *color_BN.shape, self.corrupted, self.masked, self.swapped
    )
    (image,) = self.model_inputs(batch)
    found = dict(image=image, color=color_BN, hidden=hidden_BN, source=source_BN)
    return batch | found

  def loss(self, params: Any, mutable: Any, batch: Arrays, key: jax.Array) -> Loss:
    inputs = batch['image'], batch['source']
    outputs, mutable = self.trained(params, mutable, inputs, dropout=key)
    loss_BN, right_BN = scored(outputs['logits'], batch['color'])
    loss = pretraining.mean_where(loss_BN, batch['hidden'])
    right = pretraining.mean_where(right_BN.astype(jnp.float32), batch['hidden'])
    return loss, (mutable, {'accuracy': right})

  def predict(self, state: State, batch: Arrays, key: jax.Array) -> Arrays:
    """Returns the model's outputs for images that are not corrupted."""
    del key  # nothing is random
    return self.model.apply(state.variables, *self.model_inputs(batch))

  def fill(self, state: State, batch: Arrays, key: jax.Array) -> Arrays:
    """Corrupts patches as in training, and predicts their colors.

    Returns `patches` (B,), the number of corrupted patches; `right_patches` (B,), those
    whose color is predicted; `nll` (B,), the sum of their losses; and `logits`.
    """
    prepared = self.prepare(batch, key)
    outputs = self.model.apply(state.variables, prepared['image'], prepared['source'])
    loss_BN, right_BN = scored(outputs['logits'], prepared['color'])
    hidden_BN = prepared['hidden']
    return {
      'patches': hidden_BN.sum(axis=1),
      'right_patches': (right_BN & hidden_BN).sum(axis=1),
      'nll': jnp.where(hidden_BN, loss_BN, 0.0).sum(axis=1),
      'logits': outputs['logits'],
    }


def mean_colors(
  image_BHWK: jax.Array, patch: tuple[int, int], bits: int = 3
) -> jax.Array:
  """Returns the index of the mean color of each patch (B, N), int32.

  Each channel's mean over the patch keeps its upper `bits` bits; the first channel is
  the most significant.
  """
  batch, height, width, channels = image_BHWK.shape
  rows, columns = height // patch[0], width // patch[1]
  x_BhPwQK = image_BHWK.reshape(batch, rows, patch[0], columns, patch[1], channels)
  mean_BhwK = x_BhPwQK.mean(axis=(2, 4), dtype=jnp.float32)
  mean_BNK = mean_BhwK.reshape(batch, rows * columns, channels)
  levels_BNK = (mean_BNK * (2**bits / 256)).astype(jnp.int32)
  color_BN = levels_BNK[..., 0]
  for channel in range(1, levels_BNK.shape[-1]):
    color_BN = color_BN * 2**bits + levels_BNK[..., channel]
  return color_BN


def corruption(
  key: jax.Array,
  batch: int,
  patches: int,
  corrupted: float,
  masked: float,
  swapped: float,
) -> tuple[jax.Array, jax.Array]:
  """Returns which patches are corrupted, bool (B, N), and their sources (B, N).

  The same number of patches is corrupted in each image, at least one. A source is an
  index of a patch of the image or `masked_vit.MASK`. A swapped patch may by chance get
  its own embedding.
  """
  key_order, key_fate, key_other = jax.random.split(key, 3)
  shape = batch, patches
  order_BN = jax.random.uniform(key_order, shape).argsort(axis=1).argsort(axis=1)
  hidden_BN = order_BN < max(round(corrupted * patches), 1)
  fate_BN = jax.random.uniform(key_fate, shape)
  other_BN = jax.random.randint(key_other, shape, 0, patches)
  own_1N = jnp.arange(patches)[None]
  kept_BN = jnp.where(fate_BN < masked + swapped, other_BN, own_1N)
  source_BN = jnp.where(fate_BN < masked, masked_vit.MASK, kept_BN)
  return hidden_BN, jnp.where(hidden_BN, source_BN, own_1N)


def scored(logits_BNC: jax.Array, color_BN: jax.Array) -> tuple[jax.Array, jax.Array]:
  """Returns the loss of each patch, float32 (B, N), and whether it is right."""
  loss_BN = optax.softmax_cross_entropy_with_integer_labels(logits_BNC, color_BN)
  return loss_BN, logits_BNC.argmax(axis=-1) == color_BN
