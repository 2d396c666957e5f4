"""Entities and relations in sentences: two heads on a BERT. Extends `bert`.

Words are tagged by the vectors of their first pieces, as BERT tags names (arXiv:
1810.04805 section 5.3); tags are those of `ops.spans`. Each ordered pair of entities
has a relation, or none: it is scored from the first and the last word of both entities
and their kinds.

Axes: B batch, T tokens, W words, N M entities, D width, E features of an entity, P of a
pair, C tags, K kinds, R relations (0: none); 2 is the first and the last word.
"""

import flax.linen as nn
import jax
import jax.numpy as jnp

from big_vision_like.layers import bert as layers
from big_vision_like.layers import transformer
from big_vision_like.models import bert
from big_vision_like.ops import precision, spans


class Relations(nn.Module):
  """Tags words, and relates the entities that are given or found.

  Inputs are `tokens_BT` and `token_mask_BT` of BERT, `first_BW`, the place of the first
  piece of each word, and `word_mask_BW`, False at padding. Entities are given by
  `spans_BN2` and `kinds_BN`, as in training; otherwise they are the first
  `max_entities` that the tags describe.

  Returns `tags` (B, W, 1 + 2 num_kinds) and `relations` (B, N, M, num_relations),
  logits of the relation of entity N, the subject, to entity M, the object. Entities
  that are not given are returned as `spans`, `kinds` and `entity_mask`, with `cut`
  (B,), the number of entities beyond.
  """

  encoder: bert.Bert
  num_kinds: int
  num_relations: int
  max_entities: int = 16
  pair_width: int = 128
  dropout: float = 0.1
  dtype: str = 'float32'

  sharding_rules = transformer.SHARDING_RULES
  tiny = dict(pair_width=16)

  @nn.compact
  def __call__(
    self,
    tokens_BT: jax.Array,
    token_mask_BT: jax.Array,
    first_BW: jax.Array,
    word_mask_BW: jax.Array,
    spans_BN2: jax.Array | None = None,
    kinds_BN: jax.Array | None = None,
    train: bool = False,
  ) -> dict[str, jax.Array]:
    text_BTD = self.encoder(tokens_BT, None, token_mask_BT, train)['text']
    words_BWD = jnp.take_along_axis(text_BTD, first_BW[..., None], axis=1)
    drop = nn.Dropout(self.dropout, deterministic=not train)
    tags_BWC = layers.Dense(1 + 2 * self.num_kinds, dtype=self.dtype, name='tags')(
      drop(words_BWD)
    )
    tags_BWC = precision.at_least_float32(tags_BWC)
    outputs = {'tags': tags_BWC}
    if spans_BN2 is None:
      found = spans.of_tags(tags_BWC.argmax(axis=-1), word_mask_BW, self.max_entities)
      spans_BN2, kinds_BN, mask_BN, cut_B = found
      outputs |= {
        'spans': spans_BN2,
        'kinds': kinds_BN,
        'entity_mask': mask_BN,
        'cut': cut_B,
      }
    related_BNMR = self._related(drop(words_BWD), spans_BN2, kinds_BN)
    return outputs | {'relations': related_BNMR}

  def _related(
    self, words_BWD: jax.Array, spans_BN2: jax.Array, kinds_BN: jax.Array
  ) -> jax.Array:
    """Returns logits of the relation of each ordered pair of entities, float32."""
    ends = [
      jnp.take_along_axis(words_BWD, spans_BN2[..., end, None], axis=1)
      for end in (0, 1)
    ]
    kinds_BNK = jax.nn.one_hot(kinds_BN, self.num_kinds, dtype=words_BWD.dtype)
    entities_BNE = jnp.concatenate([*ends, kinds_BNK], axis=-1)
    # Of each entity first, which is much less than of each pair.
    subjects_BNP, objects_BMP = (
      layers.Dense(self.pair_width, dtype=self.dtype, name=name)(entities_BNE)
      for name in ('subject', 'object')
    )
    pairs_BNMP = nn.gelu(subjects_BNP[:, :, None] + objects_BMP[:, None])
    logits_BNMR = layers.Dense(self.num_relations, dtype=self.dtype, name='relations')(
      pairs_BNMP
    )
    return precision.at_least_float32(logits_BNMR)
