"""Losses of pretraining on pairs of texts and images, in float32.

Each is a function of outputs, targets and a mask, and returns one number: the mean over
masked words or regions, 0 if nothing is masked. Sources: arXiv:1810.04805,
arXiv:1908.02265 section 3.1 and its published code, arXiv:2103.00020.

Axes: B batch, T tokens, R regions (without the global one), V vocabulary, C classes or
features, P width of a vector, N negatives, M all regions of the batch.
"""

import jax
import jax.numpy as jnp
import optax

from big_vision_like.errors import UserError
from big_vision_like.ops import precision

# Shares of negatives from other images and from the same one.
ACROSS, INSIDE = 0.7, 0.3


def mean_where(values: jax.Array, counted: jax.Array) -> jax.Array:
  """Returns the mean of the values that are counted; 0 if none is."""
  total = jnp.where(counted, values, 0.0).sum()
  return total / jnp.maximum(counted.sum(), 1)


def masked_words(
  logits_BTV: jax.Array, word_BT: jax.Array, masked_BT: jax.Array
) -> jax.Array:
  """Returns the mean cross-entropy of masked words."""
  loss_BT = optax.softmax_cross_entropy_with_integer_labels(
    precision.at_least_float32(logits_BTV), jnp.where(masked_BT, word_BT, 0)
  )
  return mean_where(loss_BT, masked_BT)


def masked_regions_kl(
  logits_BRC: jax.Array, target_BRC: jax.Array, masked_BR: jax.Array
) -> jax.Array:
  """Returns the mean of KL(target || softmax(logits)) over masked regions."""
  logp_BRC = jax.nn.log_softmax(precision.at_least_float32(logits_BRC))
  target_BRC = precision.at_least_float32(target_BRC)
  loss_BR = optax.losses.kl_divergence(logp_BRC, target_BRC)
  return mean_where(loss_BR, masked_BR)


def masked_regions_mse(
  output_BRC: jax.Array, target_BRC: jax.Array, masked_BR: jax.Array
) -> jax.Array:
  """Returns the mean squared error of the features of masked regions."""
  difference_BRC = precision.at_least_float32(output_BRC) - target_BRC
  return mean_where(jnp.square(difference_BRC).mean(axis=-1), masked_BR)


def masked_regions_nce(
  output_BRC: jax.Array,
  target_BRC: jax.Array,
  masked_BR: jax.Array,
  key: jax.Array,
  num_negatives: int = 128,
) -> jax.Array:
  """Returns the mean cross-entropy of finding a masked region among negatives.

  The score of a candidate is the product of the output with its features. Of the
  negatives, 70 % are regions of other images, and 30 % other regions of the same image;
  both are drawn with replacement. The products of all outputs and features of the batch
  are computed, (B R)^2 numbers.
  """
  batch, regions, width = target_BRC.shape
  if batch < 2 or regions < 2:
    raise UserError(
      f'negatives of a batch of shape {target_BRC.shape}: at least 2 images with 2'
      ' regions are needed'
    )
  across, inside = int(num_negatives * ACROSS), int(num_negatives * INSIDE)
  row_key, column_key, inside_key = jax.random.split(key, 3)
  row_B11 = jnp.arange(batch)[:, None, None]
  column_1R1 = jnp.arange(regions)[None, :, None]

  def other(key: jax.Array, own: jax.Array, count: int, number: int) -> jax.Array:
    shift = jax.random.randint(key, (batch, regions, number), 1, count)
    return (own + shift) % count

  column_BRN = jax.random.randint(column_key, (batch, regions, across), 0, regions)
  across_BRN = other(row_key, row_B11, batch, across) * regions + column_BRN
  inside_BRN = other(inside_key, column_1R1, regions, inside) + row_B11 * regions
  own_BR1 = row_B11 * regions + column_1R1
  index_BRN = jnp.concatenate([own_BR1, across_BRN, inside_BRN], axis=-1)
  scores_BRM = jnp.einsum(
    'BRC,MC->BRM',
    precision.at_least_float32(output_BRC),
    precision.at_least_float32(target_BRC.reshape(-1, width)),
  )
  scores_BRN = jnp.take_along_axis(scores_BRM, index_BRN, axis=-1)
  return mean_where(-jax.nn.log_softmax(scores_BRN)[..., 0], masked_BR)


def alignment(logits_B2: jax.Array, aligned_B: jax.Array) -> jax.Array:
  """Returns the mean cross-entropy of whether pairs belong together (class 0)."""
  label_B = 1 - aligned_B.astype(jnp.int32)
  return optax.softmax_cross_entropy_with_integer_labels(
    precision.at_least_float32(logits_B2), label_B
  ).mean()


def contrastive(
  text_BP: jax.Array,
  image_BP: jax.Array,
  aligned_B: jax.Array,
  temperature: float = 0.07,
) -> jax.Array:
  """Returns the cross-entropy of finding the text of an image, and the reverse.

  Scores are cosines divided by the temperature; the loss is the mean of both directions
  over aligned pairs.
  """
  text_BP, image_BP = (
    x / jnp.maximum(jnp.linalg.norm(x, axis=-1, keepdims=True), 1e-8)
    for x in map(precision.at_least_float32, (text_BP, image_BP))
  )
  scores_BB = image_BP @ text_BP.T / temperature
  label_B = jnp.arange(len(scores_BB))
  both = [
    optax.softmax_cross_entropy_with_integer_labels(scores, label_B)
    for scores in (scores_BB, scores_BB.T)
  ]
  return mean_where((both[0] + both[1]) / 2, aligned_B)
