"""VisualBERT, arXiv:1908.03557: one stream for the text and the regions of an image.

The regions follow the word pieces in the sequence of a BERT. It takes the inputs of
ViLBERT and applies the same heads, so that a config exchanges one for the other.
VisualBERT ignores locations; with `locations` they are embedded, as in the
single-stream baseline of arXiv:1908.02265.

Outputs: `text` (B, T, D), `image` (B, R, D), `pooled_text` and `fused` (B, D), made
from the first token, and the logits of each head under its name in `heads`.

Axes: B batch, T tokens, R regions, N both, F features, D width.
"""

from collections.abc import Mapping

import flax.core
import flax.linen as nn
import jax
import jax.numpy as jnp

from big_vision_like.layers import bert, pairs, transformer
from big_vision_like.ops import masks


class VisualBert(nn.Module):
  """VisualBERT maps texts and regions of images to named arrays (see above).

  Regions have the type 1 of an own table of types, and the first of an own table of
  positions, whose other rows are for regions that belong to words.
  """

  vocab_size: int
  width: int
  depth: int
  num_heads: int
  mlp_dim: int
  heads: Mapping[str, nn.Module] = flax.core.FrozenDict()
  locations: bool = False
  max_length: int = 512
  num_types: int = 2
  activation: str = 'gelu_exact'
  dropout: float = 0.1
  attention_dropout: float = 0.1
  scan: bool = False
  remat: str = 'none'
  dtype: str = 'float32'

  sharding_rules = transformer.SHARDING_RULES
  tiny = dict(vocab_size=128, width=32, depth=2, num_heads=2, mlp_dim=64)

  @nn.compact
  def __call__(
    self,
    tokens_BT: jax.Array,
    token_types_BT: jax.Array,
    token_mask_BT: jax.Array,
    regions_BRF: jax.Array,
    locations_BR5: jax.Array,
    region_mask_BR: jax.Array,
    train: bool = False,
  ) -> dict[str, jax.Array]:
    embeddings = bert.Embeddings(
      self.vocab_size,
      self.width,
      self.max_length,
      self.num_types,
      dropout=self.dropout,
      dtype=self.dtype,
      name='embeddings',
    )
    text_BTD = embeddings.added(tokens_BT, token_types_BT)
    embed = dict(features=self.width, embedding_init=bert.NORMAL, dtype=self.dtype)
    region_type = nn.Embed(self.num_types, **embed, name='region_type')
    region_position = nn.Embed(self.max_length, **embed, name='region_position')
    image_BRD = bert.Dense(self.width, dtype=self.dtype, name='region_features')(
      regions_BRF
    )
    if self.locations:
      image_BRD += bert.Dense(self.width, dtype=self.dtype, name='region_locations')(
        locations_BR5
      )
    added_D = region_type(jnp.int32(1)) + region_position(jnp.int32(0))
    image_BRD += added_D[None, None]
    x_BND = jnp.concatenate([text_BTD, image_BRD], axis=1)
    x_BND = embeddings.normed(x_BND, train)
    seen_BN = jnp.concatenate([token_mask_BT, region_mask_BR], axis=1)
    x_BND = transformer.Stack(
      depth=self.depth,
      num_heads=self.num_heads,
      mlp_dim=self.mlp_dim,
      dropout=self.dropout,
      scan=self.scan,
      remat=self.remat,
      dtype=self.dtype,
      norm='post',
      final_norm=False,
      epsilon=bert.EPSILON,
      block_args=bert.block_args(self.activation, self.attention_dropout),
      name='encoder',
    )(x_BND, train, transformer.Context(mask=masks.padding(seen_BN)))
    pooled_BD = bert.Dense(self.width, dtype=self.dtype, name='pooler')(x_BND[:, 0])
    pooled_BD = nn.tanh(pooled_BD)
    fused_BD = nn.Dropout(self.dropout, deterministic=not train)(pooled_BD)
    text_BTD, image_BRD = jnp.split(x_BND, (tokens_BT.shape[1],), axis=1)
    encoded = pairs.Encoded(
      text_BTD, image_BRD, fused_BD, region_mask_BR, embeddings.word.embedding
    )
    return {
      'text': text_BTD,
      'image': image_BRD,
      'pooled_text': pooled_BD,
      'fused': fused_BD,
      **pairs.logits_of(self.heads, encoded, train),
    }
