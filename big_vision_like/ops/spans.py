"""Spans of words from tags of the BIO scheme.

Tag 0 is O, no entity; of kind k, 1 + 2 k is B, the first word, and 2 + 2 k is I, a
further word.

Axes: B batch, W words, N spans; 2 is the first and the last word.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp


class Spans(NamedTuple):
  """Spans (B, N, 2), their kinds (B, N), which of them exist, and how many were cut."""

  spans_BN2: jax.Array
  kinds_BN: jax.Array
  mask_BN: jax.Array
  cut_B: jax.Array


def of_tags(tags_BW: jax.Array, mask_BW: jax.Array, most: int) -> Spans:
  """Returns the first `most` spans of each row of tags, in their order.

  Words with a `mask_BW` of False are no part of a span. An I that does not continue an
  entity of its kind begins one, as in the evaluation of CoNLL-2000 (conlleval). Entries
  without a span are zeros.
  """
  words = tags_BW.shape[1]
  tags_BW = jnp.where(mask_BW, tags_BW, 0)
  kind_BW = (tags_BW - 1) // 2  # -1 of words without an entity
  before_BW = jnp.pad(kind_BW, ((0, 0), (1, 0)), constant_values=-1)[:, :-1]
  continues_BW = (tags_BW > 0) & (tags_BW % 2 == 0) & (kind_BW == before_BW)
  begins_BW = (tags_BW > 0) & ~continues_BW
  # A span ends before the next word that does not continue it.
  goes_on_BW = jnp.pad(continues_BW, ((0, 0), (0, 1)))[:, 1:]
  place_1W = jnp.arange(words)[None]
  stop_BW = jnp.where(goes_on_BW, words, place_1W)
  last_BW = jax.lax.cummin(stop_BW, axis=1, reverse=True)
  first_BN = jnp.argsort(~begins_BW, axis=1, stable=True)[:, :most]
  first_BN = jnp.pad(first_BN, ((0, 0), (0, max(most - words, 0))))
  count_B = begins_BW.sum(axis=1)
  mask_BN = jnp.arange(most)[None] < count_B[:, None]
  last_BN, kind_BN = (
    jnp.take_along_axis(x_BW, first_BN, axis=1) for x_BW in (last_BW, kind_BW)
  )
  spans_BN2 = jnp.stack([first_BN, last_BN], axis=-1)
  return Spans(
    jnp.where(mask_BN[..., None], spans_BN2, 0).astype(jnp.int32),
    jnp.where(mask_BN, kind_BN, 0).astype(jnp.int32),
    mask_BN,
    jnp.maximum(count_B - most, 0),
  )
