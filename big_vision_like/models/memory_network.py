"""End-to-end memory networks over triples, arXiv:1503.08895 and 1811.04132.

A memory network answers whether a query follows from a graph. Both are triples of
words, as ids; id 0, nil, fills the rest. Each hop looks up facts by their similarity to
the current state, and adds what it read.

Axes: B batch, F facts, W words of a triple, V vocabulary, X words at each place (W V),
K L features, S uses of tables.
"""

import flax.linen as nn
import jax
import jax.numpy as jnp

from big_vision_like.errors import check_one_of
from big_vision_like.ops import precision

POSITIONS = ('encoded', 'matrices', 'hop_matrices')


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
  multiplies them by a learned matrix for each place, and 'hop_matrices' by one for each
  place and each input and output of a hop (the last two are ours). The query is encoded
  as the input of the first hop. `linear` leaves the softmax
  over facts out, for the first epoch of training (arXiv:1503.08895 section 4.2,
  "linear start"). Rows of facts that are empty take part as in the published code, with
  a score of 0: a hop whose query matches no fact attends to them, and reads nothing.
  Since the answer is linear in the state, this is how it depends on whether something
  matched. `masked` leaves empty rows out.

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
    words = query_BW.shape[-1]
    tables = self._tables(words)
    # A row of facts is a sum of words, so its score is a sum of scores of words: those
    # of all words at all places are computed once, and gathered.
    starts_W = jnp.arange(words) * self.vocab_size
    facts_BX = (facts_BFW + starts_W[None, None]).reshape(len(facts_BFW), -1)
    state_BK = jnp.take(tables[0], query_BW + starts_W[None], axis=0).sum(axis=1)
    empty_BF = (facts_BFW == 0).all(axis=-1)
    for hop in range(self.hops):
      keys_XK, values_XK = tables[2 * hop : 2 * hop + 2]
      products_BX = precision.at_least_float32(state_BK @ keys_XK.T)
      products_BX = jnp.take_along_axis(products_BX, facts_BX, axis=1)
      weight_BF = products_BX.reshape(facts_BFW.shape).sum(axis=-1)
      if not self.linear:
        scores_BF = jnp.where(empty_BF & self.masked, -jnp.inf, weight_BF)
        # A graph without facts attends to nothing.
        weight_BF = jax.nn.softmax(scores_BF, where=jnp.isfinite(scores_BF))
      self.sow('intermediates', 'attention', weight_BF)
      state_BK += _spread(weight_BF, facts_BX, len(values_XK)).astype(self.dtype) @ (
        values_XK
      )
    init = nn.initializers.normal(0.1)
    dense = dict(use_bias=False, dtype=self.dtype, kernel_init=init)
    hidden_BV = nn.Dense(self.vocab_size, name='to_vocab', **dense)(state_BK)
    logits_BC = nn.Dense(self.num_classes, name='to_answer', **dense)(hidden_BV)
    return {'logits': precision.at_least_float32(logits_BC)}

  def _tables(self, words: int) -> list[jax.Array]:
    """Returns vectors (X, K) of words at places: keys, values, keys, and so on."""
    uses, width = 2 * self.hops, self.width
    shape: tuple[int, ...] = (words, width, width)
    if self.positions == 'hop_matrices':
      shape = uses, *shape
    if self.positions != 'encoded':
      places = self.param('places', _near_identity, shape).astype(self.dtype)
      places_SWKL = jnp.broadcast_to(places, (uses, words, width, width))
    not_nil_V1 = jnp.arange(self.vocab_size)[:, None] > 0
    tables = []
    for hop in range(self.hops + 1):
      init = nn.initializers.normal(0.1)
      table_VK = self.param(f'words_{hop}', init, (self.vocab_size, width))
      tables.append(jnp.where(not_nil_V1, table_VK, 0.0).astype(self.dtype))
    found = []
    for use in range(uses):
      table_VK = tables[(use + 1) // 2]
      if self.positions == 'encoded':
        weights_WK = position_weights(words, width).astype(self.dtype)
        table_WVK = table_VK[None] * weights_WK[:, None]
      else:
        table_WVK = jnp.einsum('VK,WKL->WVL', table_VK, places_SWKL[use])
      found.append(table_WVK.reshape(-1, width))
    return found


def _spread(weight_BF: jax.Array, facts_BX: jax.Array, size: int) -> jax.Array:
  """Returns the sum of weights of the facts that each word occurs in (B, size)."""
  each_BX = jnp.repeat(weight_BF, facts_BX.shape[1] // weight_BF.shape[1], axis=1)
  row_B1 = jnp.arange(len(weight_BF))[:, None]
  return (
    jnp.zeros((len(weight_BF), size), each_BX.dtype).at[row_B1, facts_BX].add(each_BX)
  )


def _near_identity(key: jax.Array, shape: tuple[int, ...]) -> jax.Array:
  """Draws matrices (..., K, K) near the identity, for which places do not matter."""
  noise = jax.random.normal(key, shape) / shape[-1] ** 0.5
  return jnp.broadcast_to(jnp.eye(shape[-1]), shape) + noise
