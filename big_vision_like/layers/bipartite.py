"""Attention between a set of elements and a few latents, arXiv:2103.01209 section 3.1.

One set ("from", such as the pixels of an image) is modulated by another ("to", such as
latent components). Simplex attention compares queries with keys. Duplex attention
compares queries with centroids, as k-means does.

Axes: B batch, N elements, K latents, D width of elements, W width of latents, P width
of positions, H heads, S width of a head, E = 2 S features of a query and its position.
"""

import math

import flax.linen as nn
import jax
import jax.numpy as jnp

from big_vision_like.errors import UserError, check_one_of
from big_vision_like.layers import equalized
from big_vision_like.ops import attention, modulation

INTEGRATIONS = ('mul', 'add', 'both')
NORMS = ('layer', 'instance', 'none')
EPSILON = 1e-8


def normalized(x_BND: jax.Array, norm: str, integration: str) -> jax.Array:
  """Returns elements normalized for their modulation, without parameters.

  The mean is removed if a shift follows ('add', 'both'), and the scale if a gain
  follows ('mul', 'both'). `norm='layer'` takes statistics over D, 'instance' over N.
  """
  if norm == 'none':
    return x_BND
  axis = -1 if norm == 'layer' else -2
  if integration != 'mul':
    x_BND -= x_BND.mean(axis=axis, keepdims=True)
  return x_BND if integration == 'add' else modulation.rms_normalized(x_BND, axis)


def assignments(p_BHNK: jax.Array) -> jax.Array:
  """Returns the share of each element in each latent's centroid: (B, H, K, N)."""
  total_BH1K = p_BHNK.sum(axis=-2, keepdims=True)
  return (p_BHNK / (total_BH1K + EPSILON)).swapaxes(-1, -2)


class BipartiteAttention(nn.Module):
  """Modulates elements by the latents that they attend to.

  `duplex` compares queries with centroids: learned ones, updated `iterations` - 1 times
  as the means of the elements assigned to each latent. With one iteration the keys are
  not used. `integration` multiplies the normalized elements by 1 + the attended values,
  adds the values, or both. `gate_from` and `gate_to` scale the probabilities of each
  element or latent by learned gates. `dropout` drops single probabilities and whole
  latents, each with half of the rate.
  """

  width: int
  num_heads: int = 1
  duplex: bool = False
  iterations: int = 1
  integration: str = 'mul'
  norm: str = 'layer'
  gate_from: bool = False
  gate_to: bool = False
  dropout: float = 0.12
  dtype: str = 'float32'

  @nn.compact
  def __call__(
    self,
    x_BND: jax.Array,
    y_BKW: jax.Array,
    x_position_NP: jax.Array,
    y_position_KP: jax.Array,
    train: bool = False,
    carried_BHKN: jax.Array | None = None,
  ) -> dict[str, jax.Array]:
    """Returns `elements` (B, N, D), `attention` (B, H, N, K), `assignments`.

    `carried_BHKN` are assignments of another layer, whose means replace the learned
    centroids.
    """
    self._check()

    def dense(name: str, features: int = self.width) -> equalized.Dense:
      return equalized.Dense(features, dtype=self.dtype, name=name)

    query_BND = dense('query')(x_BND)
    where_1ND = dense('from_position')(x_position_NP)[None]
    key_BKD = dense('key')(y_BKW) + dense('to_position')(y_position_KP)[None]
    value_BKD = dense('value')(y_BKW)
    if self.duplex:
      p_BHNK = self._duplex(
        query_BND, where_1ND, len(y_position_KP), carried_BHKN, train
      )
    else:
      query_BNHS = self._heads(query_BND + where_1ND)
      p_BHNK = self._compared(query_BNHS, self._heads(key_BKD), train)
    if self.gate_to:
      gate_BHK = self._gate('to_gate', y_BKW, y_position_KP, 0.0)
      p_BHNK *= gate_BHK[:, :, None]
    if self.gate_from:
      gate_BHN = self._gate('from_gate', x_BND, x_position_NP, 1.0)
      p_BHNK *= gate_BHN[..., None]
    value_BKHS = self._heads(value_BKD)
    context_BNHS = jnp.einsum('BHNK,BKHS->BNHS', p_BHNK.astype(self.dtype), value_BKHS)
    context_BND = context_BNHS.reshape(x_BND.shape)
    double = 2 if self.integration == 'both' else 1
    control = dense('modulation', double * self.width)(context_BND)
    return {
      'elements': self._integrated(x_BND, control),
      'attention': p_BHNK,
      'assignments': assignments(p_BHNK),
    }

  def _check(self) -> None:
    check_one_of(INTEGRATIONS, integration=self.integration)
    check_one_of(NORMS, norm=self.norm)
    if self.width % self.num_heads:
      raise UserError(f'{self.num_heads} heads do not divide a width of {self.width}')

  def _heads(self, x: jax.Array) -> jax.Array:
    return x.reshape(*x.shape[:-1], self.num_heads, -1)

  def _duplex(
    self,
    query_BND: jax.Array,
    where_1ND: jax.Array,
    latents: int,
    carried_BHKN: jax.Array | None,
    train: bool,
  ) -> jax.Array:
    """Returns probabilities of centroids, (B, H, N, K)."""
    heads, size = self.num_heads, 2 * self.width // self.num_heads
    where_BND = jnp.broadcast_to(where_1ND, query_BND.shape)
    both_BNHE = self._heads(jnp.concatenate([query_BND, where_BND], axis=-1))
    weight_HE = self.param('weight', nn.initializers.ones, (heads, size))
    # Scores are divided by the root of the width of a head, not of twice the width.
    scaled_BNHE = both_BNHE * (math.sqrt(2) * weight_HE[None, None]).astype(self.dtype)
    if carried_BHKN is None:
      init = nn.initializers.normal(1.0)
      centroids_HKE = self.param('centroids', init, (heads, latents, size))
      centroids_KHE = centroids_HKE.swapaxes(0, 1).astype(self.dtype)
      shape = len(query_BND), *centroids_KHE.shape
      centroids_BKHE = jnp.broadcast_to(centroids_KHE[None], shape)
    else:
      centroids_BKHE = _means(carried_BHKN, both_BNHE)
    p_BHNK = self._compared(scaled_BNHE, centroids_BKHE, train)
    for _ in range(self.iterations - 1):
      centroids_BKHE = _means(assignments(p_BHNK), both_BNHE)
      p_BHNK = self._compared(scaled_BNHE, centroids_BKHE, train)
    return p_BHNK

  def _compared(self, query: jax.Array, key: jax.Array, train: bool) -> jax.Array:
    """Returns probabilities (B, H, N, K), some of them dropped in training."""
    p_BHNK, rate = attention.probabilities(query, key), self.dropout / 2
    p_BHNK = nn.Dropout(rate)(p_BHNK, deterministic=not train)
    return nn.Dropout(rate, broadcast_dims=(2,))(p_BHNK, deterministic=not train)

  def _gate(
    self, name: str, x: jax.Array, position: jax.Array, shift: float
  ) -> jax.Array:
    """Returns gates (B, H, elements) in (0, 1)."""
    logits = equalized.Dense(self.num_heads, dtype=self.dtype, name=name)(x)
    own = equalized.Dense(self.num_heads, dtype=self.dtype, name=f'{name}_position')
    return nn.sigmoid(logits + own(position)[None] + shift).swapaxes(1, 2)

  def _integrated(self, x_BND: jax.Array, control: jax.Array) -> jax.Array:
    x_BND = normalized(x_BND, self.norm, self.integration)
    gain, shift = control, control
    if self.integration == 'both':
      gain, shift = jnp.split(control, 2, axis=-1)
    if self.integration != 'add':
      x_BND *= 1 + gain
    return x_BND if self.integration == 'mul' else x_BND + shift


def _means(assignments_BHKN: jax.Array, x_BNHE: jax.Array) -> jax.Array:
  """Returns the centroids of elements, (B, K, H, E)."""
  share_BHKN = assignments_BHKN.astype(x_BNHE.dtype)
  return jnp.einsum('BHKN,BNHE->BKHE', share_BHKN, x_BNHE)
