"""End-to-end memory networks over triples, arXiv:1503.08895 and 1811.04132.

A memory network answers whether a query follows from a graph. Both are triples of
words, as ids; id 0, nil, fills the rest. Each hop looks up facts by their similarity to
the current state, and adds what it read.

Axes: B batch, F facts, W words of a triple, V vocabulary, K features.
"""

import flax.linen as nn
import jax
import jax.numpy as jnp

from big_vision_like.errors import check_one_of
from big_vision_like.ops import precision

POSITIONS = ('encoded', 'matrices')


def position_weights(words: int, features: int) -> jax.Array:
  """Returns the weights (W, K) of words by their place, arXiv:1503.08895 section 4.1.

  They are 1 + 4 (k - (K + 1) / 2) (w - (W + 1) / 2) / (K W) for k and w from 1, as in
  the published code of 1811.04132.
  """
  word_W = jnp.arange(1, words + 1) - (words + 1) / 2
  feature_K = jnp.arange(1, features + 1) - (features + 1) / 2
  return 1 + 4 * word_W[:, None] * feature_K[None] / (features * words)


class MemoryNetwork(nn.Module):
  """Reads facts int (B, F, W) and queries (B, W); returns `logits` (B, num_classes).

  Tables of words are adjacent: that of the output of a hop is that of the input of the
  next. `positions='encoded'` weights the features of a word by its place, 'matrices'
  multiplies them by a learned matrix for each place (ours). `linear` leaves the softmax
  over facts out, for the first epoch of training (arXiv:1503.08895 section 4.2,
  "linear start"). Rows of facts that are empty take part as in the published code, with
  a score of 0; `masked` leaves them out.

  Sows `attention`, the weights of facts (B, F), for each hop.
  """

  num_classes: int
  vocab_size: int
  width: int = 20
  hops: int = 10
  positions: str = 'encoded'
  linear: bool = False
  masked: bool = False
  dtype: str = 'float32'

  tiny = dict(width=8, hops=2)

  def __post_init__(self) -> None:
    check_one_of(POSITIONS, positions=self.positions)
    super().__post_init__()

  @nn.compact
  def __call__(
    self, facts_BFW: jax.Array, query_BW: jax.Array, train: bool = False
  ) -> dict[str, jax.Array]:
    del train
    words, init = query_BW.shape[-1], nn.initializers.normal(0.1)
    places_WKK = None
    if self.positions == 'matrices':
      shape = words, self.width, self.width
      places_WKK = self.param('places', _near_identity, shape).astype(self.dtype)

    def encoded(hop: int, ids: jax.Array) -> jax.Array:
      """Returns the sum of the words of each triple, by the table of a hop."""
      table_VK = tables[hop]
      found = jnp.take(table_VK, ids, axis=0)
      if places_WKK is not None:
        return jnp.einsum('...WK,WKL->...L', found, places_WKK)
      weights_WK = position_weights(words, self.width).astype(self.dtype)
      return jnp.einsum('...WK,WK->...K', found, weights_WK)

    not_nil_V1 = jnp.arange(self.vocab_size)[:, None] > 0
    tables = []
    for hop in range(self.hops + 1):
      table_VK = self.param(f'words_{hop}', init, (self.vocab_size, self.width))
      tables.append(jnp.where(not_nil_V1, table_VK, 0.0).astype(self.dtype))
    state_BK = encoded(0, query_BW)
    empty_BF = (facts_BFW == 0).all(axis=-1)
    for hop in range(self.hops):
      keys_BFK, values_BFK = encoded(hop, facts_BFW), encoded(hop + 1, facts_BFW)
      weight_BF = precision.at_least_float32(
        jnp.einsum('BFK,BK->BF', keys_BFK, state_BK)
      )
      if not self.linear:
        scores_BF = jnp.where(empty_BF & self.masked, -jnp.inf, weight_BF)
        # A graph without facts attends to nothing.
        weight_BF = jax.nn.softmax(scores_BF, where=jnp.isfinite(scores_BF))
      self.sow('intermediates', 'attention', weight_BF)
      state_BK += jnp.einsum('BF,BFK->BK', weight_BF.astype(self.dtype), values_BFK)
    dense = dict(use_bias=False, dtype=self.dtype, kernel_init=init)
    hidden_BV = nn.Dense(self.vocab_size, name='to_vocab', **dense)(state_BK)
    logits_BC = nn.Dense(self.num_classes, name='to_answer', **dense)(hidden_BV)
    return {'logits': precision.at_least_float32(logits_BC)}


def _near_identity(key: jax.Array, shape: tuple[int, int, int]) -> jax.Array:
  """Draws matrices (W, K, K) near the identity, for which places do not matter."""
  noise_WKK = jax.random.normal(key, shape) / shape[1] ** 0.5
  return jnp.eye(shape[1])[None] + noise_WKK
