"""Heads of models that encode pairs of a text and an image, as regions.

Each head takes an `Encoded` and returns float32 logits. A model applies the heads in
its argument `heads` and returns their logits under the names given there.

Axes: B batch, N batch of pairs of images, T tokens, R regions, D width of the text, E
width of the image, P width of the pooled vectors, I O features before and after a
layer, V vocabulary, C classes.
"""

from collections.abc import Mapping

import flax.linen as nn
import flax.struct
import jax
import jax.numpy as jnp

from big_vision_like.errors import UserError
from big_vision_like.layers import bert, transformer
from big_vision_like.ops import precision

# Added to the scores of padded regions, as published.
HIDDEN = -10000.0
# PyTorch's initializer of matrices.
_START = nn.initializers.variance_scaling(1 / 3, 'fan_in', 'uniform')


@flax.struct.dataclass
class Encoded:
  """The encoding of a batch of pairs, and what heads need besides.

  `fused_BP` stands for the pair, after dropout. `embedding_VD` embeds word pieces.
  """

  text_BTD: jax.Array
  image_BRE: jax.Array
  fused_BP: jax.Array
  region_mask_BR: jax.Array
  embedding_VD: jax.Array


def logits_of(
  heads: Mapping[str, nn.Module], encoded: Encoded, train: bool
) -> dict[str, jax.Array]:
  """Returns the logits of each head under its name."""
  return {
    name: precision.at_least_float32(head(encoded, train))
    for name, head in heads.items()
  }


class Words(nn.Module):
  """Logits of the vocabulary at each token (B, T, V), for masked words."""

  activation: str = 'gelu_exact'
  dtype: str = 'float32'

  @nn.compact
  def __call__(self, encoded: Encoded, train: bool = False) -> jax.Array:
    head = bert.WordsHead(self.activation, self.dtype, name='words')
    return head(encoded.text_BTD, encoded.embedding_VD)


class Regions(nn.Module):
  """Logits of a detector's classes, or its features, at each region (B, R, C)."""

  num_outputs: int = 1601
  activation: str = 'gelu_exact'
  dtype: str = 'float32'

  @nn.compact
  def __call__(self, encoded: Encoded, train: bool = False) -> jax.Array:
    x_BRE = encoded.image_BRE
    x_BRE = bert.Dense(x_BRE.shape[-1], dtype=self.dtype, name='transform')(x_BRE)
    x_BRE = transformer.ACTIVATIONS[self.activation](x_BRE)
    x_BRE = nn.LayerNorm(epsilon=bert.EPSILON, dtype=self.dtype, name='norm')(x_BRE)
    return bert.Dense(self.num_outputs, dtype=self.dtype, name='classes')(x_BRE)


class Classes(nn.Module):
  """A linear classifier of pairs (B, C).

  Two classes tell whether text and image belong together (0: they do), one scores
  options or candidates, three are visual entailment.
  """

  num_outputs: int
  dtype: str = 'float32'

  @nn.compact
  def __call__(self, encoded: Encoded, train: bool = False) -> jax.Array:
    return bert.Dense(self.num_outputs, dtype=self.dtype, name='classes')(
      encoded.fused_BP
    )


class Answers(nn.Module):
  """A classifier of pairs with a hidden layer (B, C), arXiv:1912.02315.

  The hidden layer is twice as wide as its input. With `images=2`, successive pairs
  belong together, as in NLVR2: the classifier reads their vectors side by side and
  returns (B / 2, C), with a hidden layer as wide as its input.
  """

  num_outputs: int
  images: int = 1
  dtype: str = 'float32'

  tiny = dict(num_outputs=50)

  @nn.compact
  def __call__(self, encoded: Encoded, train: bool = False) -> jax.Array:
    x_BP = encoded.fused_BP
    batch, width = x_BP.shape
    if batch % self.images:
      raise UserError(
        f'a batch of {batch} does not divide into groups of images={self.images}: the'
        ' images of a question must follow each other'
      )
    x_NI = x_BP.reshape(batch // self.images, self.images * width)
    x_NO = bert.Dense(2 * width, dtype=self.dtype, name='hidden')(x_NI)
    x_NO = transformer.gelu_exact(x_NO)
    x_NO = nn.LayerNorm(epsilon=bert.EPSILON, dtype=self.dtype, name='norm')(x_NO)
    return bert.Dense(self.num_outputs, dtype=self.dtype, name='answers')(x_NO)


class NormedDense(nn.Module):
  """A Dense layer whose whole kernel has a learned norm, `scale` (arXiv:1602.07868)."""

  features: int
  dtype: str = 'float32'

  @nn.compact
  def __call__(self, x_BI: jax.Array) -> jax.Array:
    kernel_IO = self.param('kernel', _START, (x_BI.shape[-1], self.features))
    norm = jnp.linalg.norm(kernel_IO)
    scale = self.param('scale', lambda _, shape: norm.reshape(shape), ())
    bias_O = self.param('bias', nn.initializers.zeros, (self.features,))
    kernel_IO = (kernel_IO * (scale / norm)).astype(self.dtype)
    return x_BI.astype(self.dtype) @ kernel_IO + bias_O.astype(self.dtype)[None]


class NormedAnswers(nn.Module):
  """The classifier of answers (B, C) of arXiv:1908.02265: weight norm and dropout."""

  num_outputs: int
  dropout: float = 0.5
  dtype: str = 'float32'

  tiny = dict(num_outputs=50)

  @nn.compact
  def __call__(self, encoded: Encoded, train: bool = False) -> jax.Array:
    x_BP = encoded.fused_BP
    hidden = NormedDense(2 * x_BP.shape[-1], self.dtype, name='hidden')
    x_BI = nn.Dropout(self.dropout, deterministic=not train)(nn.relu(hidden(x_BP)))
    return NormedDense(self.num_outputs, self.dtype, name='answers')(x_BI)


class RegionScores(nn.Module):
  """A score of each region (B, R), for referring expressions; -10000 at padding."""

  dropout: float = 0.1
  dtype: str = 'float32'

  @nn.compact
  def __call__(self, encoded: Encoded, train: bool = False) -> jax.Array:
    x_BRE = nn.Dropout(self.dropout, deterministic=not train)(encoded.image_BRE)
    scores_BR1 = bert.Dense(1, dtype=self.dtype, name='score')(x_BRE)
    scores_BR = precision.at_least_float32(scores_BR1)[..., 0]
    return scores_BR + jnp.where(encoded.region_mask_BR, 0.0, HIDDEN)


class WordScores(nn.Module):
  """A score of each token (B, T)."""

  dropout: float = 0.1
  dtype: str = 'float32'

  @nn.compact
  def __call__(self, encoded: Encoded, train: bool = False) -> jax.Array:
    x_BTD = nn.Dropout(self.dropout, deterministic=not train)(encoded.text_BTD)
    return bert.Dense(1, dtype=self.dtype, name='score')(x_BTD)[..., 0]
