"""Greedy search and beam search for likely sequences, on the device.

A step takes each sequence's last token (b,), the index of the next token, and a cache,
and returns logits (b, V) and the cache. Sequences found are (..., T) ids without BOS,
up to and including EOS, padded with 0.

Axes: B batch, K beams, C candidates, b = B * K, V vocabulary, T tokens.
"""

import math
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from big_vision_like.ops import precision

Step = Callable[[jax.Array, jax.Array, Any], tuple[jax.Array, Any]]

WORST = -1e7  # score of an empty slot


def greedy(
  step: Step,
  cache: Any,
  first_B: jax.Array,
  length: int,
  eos_id: int,
  never: Sequence[int] = (),
) -> jax.Array:
  """Returns the most likely token at each step, at most `length` of them: (B, T).

  `first_B` holds the tokens to start from (BOS). Tokens in `never` are not chosen.
  """

  def more(carry: tuple) -> jax.Array:
    index, _, _, done_B, _ = carry
    return (index < length) & ~done_B.all()

  def body(carry: tuple) -> tuple:
    index, token_B, ids_BT, done_B, cache = carry
    logits_BV, cache = step(token_B, index, cache)
    token_B = _without(logits_BV, never).argmax(axis=-1).astype(jnp.int32)
    token_B = jnp.where(done_B, 0, token_B)
    ids_BT = jax.lax.dynamic_update_index_in_dim(ids_BT, token_B, index, axis=1)
    return index + 1, token_B, ids_BT, done_B | (token_B == eos_id), cache

  batch = len(first_B)
  ids_BT = jnp.zeros((batch, length), jnp.int32)
  start = jnp.int32(0), first_B.astype(jnp.int32), ids_BT, jnp.zeros(batch, bool), cache
  return jax.lax.while_loop(more, body, start)[2]


class _Beams(NamedTuple):
  """Live sequences by log probability and finished ones by score, best first."""

  index: jax.Array
  token_BK: jax.Array
  live_BK: jax.Array
  ids_BKT: jax.Array
  finished_BK: jax.Array
  finished_ids_BKT: jax.Array
  cache: Any


def beam_search(
  step: Step,
  cache: Any,
  first_B: jax.Array,
  length: int,
  eos_id: int,
  beams: int,
  alpha: float = 0.6,
  reorder: Callable[[Any, jax.Array], Any] = lambda cache, beam_BK: cache,
  never: Sequence[int] = (),
) -> tuple[jax.Array, jax.Array]:
  """Returns the `beams` best sequences, best first, (B, K, T), and their scores (B, K).

  The score is log p / ((5 + n) / 6)^alpha for n tokens, including EOS (arXiv:1609.08144
  section 7). Of 2 * `beams` candidates at each step, those that end join the finished
  sequences, which are kept separately from the live ones. The search stops when no live
  sequence can beat the worst finished one. An example without finished sequences gets
  its live ones. `reorder(cache, beam_BK)` gives each beam the cache entries of its
  parent; the rows of the cache are B * K beams.
  """
  batch = len(first_B)

  def penalty(tokens: jax.Array | int) -> jax.Array:
    return ((5.0 + tokens) / 6.0) ** alpha

  def more(state: _Beams) -> jax.Array:
    best_B = state.live_BK[:, 0] / penalty(length)
    return (state.index < length) & ~(state.finished_BK[:, -1] > best_B).all()

  def body(state: _Beams) -> _Beams:
    token_b = state.token_BK.reshape(-1)
    logits_bV, cache = step(token_b, state.index, state.cache)
    logp_bV = _without(jax.nn.log_softmax(precision.at_least_float32(logits_bV)), never)
    vocabulary = logp_bV.shape[-1]
    logp_BKV = logp_bV.reshape(batch, beams, -1) + state.live_BK[..., None]
    logp_BC, place_BC = jax.lax.top_k(logp_BKV.reshape(batch, -1), 2 * beams)
    parent_BC, token_BC = place_BC // vocabulary, place_BC % vocabulary
    ids_BCT = jnp.take_along_axis(state.ids_BKT, parent_BC[..., None], axis=1)
    ids_BCT = jax.lax.dynamic_update_index_in_dim(
      ids_BCT, token_BC, state.index, axis=2
    )
    ends_BC = token_BC == eos_id

    live_BK, kept_BK = jax.lax.top_k(jnp.where(ends_BC, WORST, logp_BC), beams)
    score_BC = jnp.where(ends_BC, logp_BC / penalty(state.index + 1), WORST)
    all_scores_BA = jnp.concatenate([state.finished_BK, score_BC], axis=1)
    all_ids_BAT = jnp.concatenate([state.finished_ids_BKT, ids_BCT], axis=1)
    finished_BK, best_BK = jax.lax.top_k(all_scores_BA, beams)
    return _Beams(
      index=state.index + 1,
      token_BK=jnp.take_along_axis(token_BC, kept_BK, axis=1),
      live_BK=live_BK,
      ids_BKT=jnp.take_along_axis(ids_BCT, kept_BK[..., None], axis=1),
      finished_BK=finished_BK,
      finished_ids_BKT=jnp.take_along_axis(all_ids_BAT, best_BK[..., None], axis=1),
      cache=reorder(cache, jnp.take_along_axis(parent_BC, kept_BK, axis=1)),
    )

  # At first all beams are equal, so only one counts.
  live_BK = jnp.broadcast_to(
    jnp.where(jnp.arange(beams) == 0, 0.0, WORST), (batch, beams)
  )
  ids_BKT = jnp.zeros((batch, beams, length), jnp.int32)
  token_BK = jnp.broadcast_to(first_B.astype(jnp.int32)[:, None], (batch, beams))
  worst_BK = jnp.full((batch, beams), WORST)
  start = _Beams(jnp.int32(0), token_BK, live_BK, ids_BKT, worst_BK, ids_BKT, cache)
  end = jax.lax.while_loop(more, body, start)
  some_B1 = end.finished_BK[:, :1] > WORST
  scores_BK = jnp.where(some_B1, end.finished_BK, end.live_BK / penalty(length))
  return jnp.where(some_B1[..., None], end.finished_ids_BKT, end.ids_BKT), scores_BK


def _without(logits_BV: jax.Array, never: Sequence[int]) -> jax.Array:
  return logits_BV.at[:, list(never)].set(-math.inf) if never else logits_BV
