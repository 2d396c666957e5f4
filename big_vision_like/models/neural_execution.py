"""Neural Execution Engines, arXiv:2006.08084.

An engine executes one subroutine of an algorithm, such as the smallest of several
numbers. A small encoder and decoder read the visible numbers and return a number, as
bits, and a pointer to one of the numbers. A mask network finds out from the pointer
which numbers are visible in the next step. `ops.programs` has the algorithms around
engines.

Axes: B batch, S states, which do not see each other, L slots, one of each state's
numbers, Q queries, D features, E hidden units, K bits, N layers, or rows of masks.
"""

import functools
from collections.abc import Mapping
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from big_vision_like.errors import UserError, check_one_of
from big_vision_like.layers import transformer
from big_vision_like.ops import bits as binary
from big_vision_like.ops import positions, precision

SCORES = ('mlp', 'dot')
NUMBERS = ('bits', 'table')
Dense = functools.partial(nn.Dense, kernel_init=nn.initializers.glorot_uniform())
Weights = Mapping[str, jax.Array]
# Added to the scores of hidden slots.
HIDDEN = -1e9


class Score(nn.Module):
  """The weights of an MLP that scores pairs of vectors, for `mlp_scores`."""

  width: int
  hidden: int
  dtype: str = 'float32'

  @nn.compact
  def __call__(self) -> Weights:
    zeros, glorot = nn.initializers.zeros, nn.initializers.glorot_uniform()
    shapes = {
      'first': (glorot, (2 * self.width, self.hidden)),
      'first_bias': (zeros, (self.hidden,)),
      'last': (glorot, (self.hidden, 1)),
      'last_bias': (zeros, (1,)),
    }
    return {k: self.param(k, *x).astype(self.dtype) for k, x in shapes.items()}


def mlp_scores(
  weights: Weights, q_BSQD: jax.Array, k_BSLD: jax.Array | None = None
) -> jax.Array:
  """Returns MLP([q, k]) + MLP([k, q]): (B, S, Q, L), of all pairs of q without a k.

  The first layer is applied to both halves of its input separately, so that only a sum,
  a ReLU and a product with a vector are left for each pair.
  """
  first_DE, second_DE = jnp.split(weights['first'], 2)
  bias_111E = weights['first_bias'][None, None, None]

  def pairs(x_BSQD: jax.Array, y_BSLD: jax.Array) -> jax.Array:
    x_BSQE = jnp.einsum('BSQD,DE->BSQE', x_BSQD, first_DE) + bias_111E
    y_BSLE = jnp.einsum('BSLD,DE->BSLE', y_BSLD, second_DE)
    h_BSQLE = nn.relu(x_BSQE[:, :, :, None] + y_BSLE[:, :, None])
    return jnp.einsum('BSQLE,E->BSQL', h_BSQLE, weights['last'][:, 0])

  if k_BSLD is None:
    score_BSQL = pairs(q_BSQD, q_BSQD)
    score_BSQL += score_BSQL.swapaxes(-1, -2)
  else:
    score_BSQL = pairs(q_BSQD, k_BSLD) + pairs(k_BSLD, q_BSQD).swapaxes(-1, -2)
  return score_BSQL + 2 * weights['last_bias'][None, None, None]


def dot_scores(q_BSQD: jax.Array, k_BSLD: jax.Array | None = None) -> jax.Array:
  """Returns scaled products (B, S, Q, L), a control of the paper for `mlp_scores`."""
  k_BSLD = q_BSQD if k_BSLD is None else k_BSLD
  return jnp.einsum('BSQD,BSLD->BSQL', q_BSQD, k_BSLD) * q_BSQD.shape[-1] ** -0.5


class Attention(nn.Module):
  """Attention with one head, and one projection for queries, keys and values.

  Returns vectors (B, S, Q, D) and probabilities (B, S, Q, L). Scores are products if
  there are no `weights` of an MLP.
  """

  dtype: str = 'float32'

  @nn.compact
  def __call__(
    self,
    weights: Weights | None,
    x_BSQD: jax.Array,
    memory_BSLD: jax.Array | None = None,
    hidden_BSL: jax.Array | None = None,
  ) -> tuple[jax.Array, jax.Array]:
    project = Dense(x_BSQD.shape[-1], dtype=self.dtype, name='project')
    vectors = [project(x) for x in (x_BSQD, memory_BSLD) if x is not None]
    scores = functools.partial(mlp_scores, weights) if weights else dot_scores
    score_BSQL = precision.at_least_float32(scores(*vectors))
    if hidden_BSL is not None:
      score_BSQL += HIDDEN * hidden_BSL[:, :, None].astype(score_BSQL.dtype)
    p_BSQL = jax.nn.softmax(score_BSQL)
    y_BSQD = jnp.einsum('BSQL,BSLD->BSQD', p_BSQL.astype(self.dtype), vectors[-1])
    return Dense(x_BSQD.shape[-1], dtype=self.dtype, name='out')(y_BSQD), p_BSQL


class Layer(nn.Module):
  """A layer of the encoder or, if there is a memory, of the decoder.

  Each sublayer is x = norm(r x + (2 - r) f(x)), with r = `residual`. Returns vectors
  and the probabilities of the last attention.
  """

  hidden: int
  residual: float
  dropout: float
  dtype: str = 'float32'

  @nn.compact
  def __call__(
    self,
    x_BSQD: jax.Array,
    weights: Weights | None,
    hidden_BSL: jax.Array,
    memory_BSLD: jax.Array | None,
    train: bool,
  ) -> tuple[jax.Array, jax.Array]:
    def added(x_BSQD: jax.Array, y_BSQD: jax.Array, name: str) -> jax.Array:
      y_BSQD = nn.Dropout(self.dropout, deterministic=not train)(y_BSQD)
      x_BSQD = self.residual * x_BSQD + (2 - self.residual) * y_BSQD
      return nn.LayerNorm(epsilon=1e-6, dtype=self.dtype, name=name)(x_BSQD)

    own_BSL = hidden_BSL if memory_BSLD is None else None
    attend = Attention(self.dtype, name='attention')
    y_BSQD, p_BSQL = attend(weights, x_BSQD, None, own_BSL)
    x_BSQD = added(x_BSQD, y_BSQD, 'norm')
    if memory_BSLD is not None:
      attend = Attention(self.dtype, name='cross')
      y_BSQD, p_BSQL = attend(weights, x_BSQD, memory_BSLD, hidden_BSL)
      x_BSQD = added(x_BSQD, y_BSQD, 'cross_norm')
    h_BSQE = nn.relu(Dense(self.hidden, dtype=self.dtype, name='fc1')(x_BSQD))
    y_BSQD = Dense(x_BSQD.shape[-1], dtype=self.dtype, name='fc2')(h_BSQE)
    return added(x_BSQD, y_BSQD, 'mlp_norm'), p_BSQL


class Stack(nn.Module):
  """Layers of one kind, with parameters stacked under `blocks` if they are scanned.

  Returns the vectors of the last layer, and the probabilities of all: a leading axis.
  """

  depth: int
  scan: bool
  remat: str
  layer: Mapping[str, Any]

  @nn.compact
  def __call__(
    self,
    x_BSQD: jax.Array,
    weights: Weights | None,
    hidden_BSL: jax.Array,
    memory_BSLD: jax.Array | None = None,
    train: bool = False,
  ) -> tuple[jax.Array, jax.Array]:
    shared, layer_class = (weights, hidden_BSL, memory_BSLD), Layer
    if self.remat != 'none':
      layer_class = nn.remat(
        Layer,
        policy=transformer.REMAT_POLICIES[self.remat],
        static_argnums=(5,),  # train
        prevent_cse=not self.scan,
      )
    if self.scan:
      return nn.scan(
        lambda layer, x_BSQD, shared: layer(x_BSQD, *shared, train),
        variable_axes={'params': 0},
        split_rngs={'params': True, 'dropout': True},
        in_axes=nn.broadcast,
        length=self.depth,
      )(layer_class(**self.layer, name='blocks'), x_BSQD, shared)
    each = []
    for i in range(self.depth):
      layer = layer_class(**self.layer, name=f'block_{i}')
      x_BSQD, p_BSQL = layer(x_BSQD, *shared, train)
      each.append(p_BSQL)
    return x_BSQD, jnp.stack(each)


class Subroutine(nn.Module):
  """Reads the visible ones of numbers; returns a number and a pointer.

  `numbers` (B, S, L) are ints of at most `bits` bits; those where `hidden` (B, S, L) is
  True are not seen. The decoder reads zero, the number whose vector is zero, unless
  there is a number `previous` (B, S). Returns `logits` of bits (B, S, K), `pointer`
  (B, S, L), the probabilities of slots, `encoded` (B, S, L, D), and `attention`
  (B, layers, S, L), of which `pointer` is the last.

  With `positions` the encoder counts visible slots, and, as in the published code,
  sqrt(width) is added to all features of the decoder. `scores='dot'` is the control
  with scaled products, `numbers='table'` the one with an independent vector for each
  number.
  """

  bits: int
  width: int = 16
  depth: int = 6
  hidden: int = 128
  positions: bool = False
  scores: str = 'mlp'
  numbers: str = 'bits'
  residual: float = 1.5
  dropout: float = 0.0
  scan: bool = False
  remat: str = 'none'
  dtype: str = 'float32'

  tiny = dict(depth=2, hidden=16)

  def __post_init__(self) -> None:
    check_one_of(SCORES, scores=self.scores)
    check_one_of(NUMBERS, numbers=self.numbers)
    check_one_of(('none', *transformer.REMAT_POLICIES), remat=self.remat)
    if not 1 <= self.bits <= 16:
      raise UserError(f'bits={self.bits} must be from 1 to 16')
    super().__post_init__()

  @nn.compact
  def __call__(
    self,
    numbers_BSL: jax.Array,
    hidden_BSL: jax.Array,
    previous_BS: jax.Array | None = None,
    train: bool = False,
  ) -> dict[str, jax.Array]:
    if self.numbers == 'bits':
      embed = Dense(self.width, use_bias=False, dtype=self.dtype, name='embed')
    else:
      embed = nn.Embed(2**self.bits, self.width, dtype=self.dtype, name='embed')

    def embedded(number: jax.Array) -> jax.Array:
      x = number if self.numbers == 'table' else binary.to_bits(number, self.bits)
      return embed(x) * jnp.asarray(self.width**0.5, self.dtype)

    x_BSLD = embedded(numbers_BSL)
    if previous_BS is None:
      y_BSQD = jnp.zeros((*hidden_BSL.shape[:2], 1, self.width), x_BSLD.dtype)
    else:
      y_BSQD = embedded(previous_BS[..., None])
    if self.positions:
      place_BSL = jnp.cumsum(~hidden_BSL.astype(bool), axis=-1)
      position_BSLD = positions.sinusoid(place_BSL, self.width, 'halves')
      x_BSLD += position_BSLD.astype(x_BSLD.dtype)
      y_BSQD += jnp.asarray(self.width**0.5, y_BSQD.dtype)
    drop = functools.partial(nn.Dropout, self.dropout, deterministic=not train)
    x_BSLD, y_BSQD = drop(name='drop')(x_BSLD), drop(name='drop_decoder')(y_BSQD)
    weights = None
    if self.scores == 'mlp':
      weights = Score(self.width, self.hidden, self.dtype, name='score')()
    layer = dict(hidden=self.hidden, residual=self.residual, dropout=self.dropout)
    stack = functools.partial(
      *(Stack, self.depth, self.scan, self.remat, layer | dict(dtype=self.dtype))
    )
    x_BSLD, _ = stack(name='encoder')(x_BSLD, weights, hidden_BSL, train=train)
    y_BSQD, p_NBSQL = stack(name='decoder')(y_BSQD, weights, hidden_BSL, x_BSLD, train)
    logits_BSK = Dense(self.bits, dtype=self.dtype, name='head')(y_BSQD)[:, :, 0]
    return {
      'logits': precision.at_least_float32(logits_BSK),
      'pointer': p_NBSQL[-1, :, :, 0],
      'encoded': x_BSLD,
      'attention': p_NBSQL[:, :, :, 0].swapaxes(0, 1),
    }


class MaskNetwork(nn.Module):
  """Finds the next mask: bool (N, L) and pointers int (N,) to `logits` (N, L).

  A slot is hidden in the next step if its logit is positive. It depends on the slot
  and on both neighbours.
  """

  filters: int = 16
  dropout: float = 0.0
  dtype: str = 'float32'

  @nn.compact
  def __call__(
    self, hidden_NL: jax.Array, pointer_N: jax.Array, train: bool = False
  ) -> dict[str, jax.Array]:
    pointed_NL = jax.nn.one_hot(pointer_N, hidden_NL.shape[1])
    x_NL2 = jnp.stack([hidden_NL.astype(pointed_NL.dtype), pointed_NL], axis=-1)
    glorot = nn.initializers.glorot_uniform()
    x_NLF = nn.Conv(
      *(self.filters, (3,)), dtype=self.dtype, kernel_init=glorot, name='conv'
    )(2 * x_NL2 - 1)
    x_NLF = nn.Dropout(self.dropout, deterministic=not train)(nn.relu(x_NLF))
    logits_NL1 = Dense(1, dtype=self.dtype, name='head')(x_NLF)
    return {'logits': precision.at_least_float32(logits_NL1[..., 0])}


class Engine(nn.Module):
  """A subroutine with its mask network, if the algorithm has masks.

  Arguments are those of `Subroutine`, and pointers int (B, S) for the mask network.
  Returns the subroutine's outputs, and `mask_logits` (B, S, L) with a mask network.
  """

  subroutine: Subroutine
  mask: MaskNetwork | None = None

  @property
  def bits(self) -> int:
    """The number of bits of numbers."""
    return self.subroutine.bits

  def __call__(
    self,
    numbers_BSL: jax.Array,
    hidden_BSL: jax.Array,
    pointer_BS: jax.Array | None = None,
    previous_BS: jax.Array | None = None,
    train: bool = False,
  ) -> dict[str, jax.Array]:
    outputs = self.subroutine(numbers_BSL, hidden_BSL, previous_BS, train)
    if self.mask is None:
      return outputs
    slots = hidden_BSL.shape[-1]
    rows = hidden_BSL.reshape(-1, slots), pointer_BS.reshape(-1)
    logits_NL = self.mask(*rows, train)['logits']
    return outputs | {'mask_logits': logits_NL.reshape(hidden_BSL.shape)}

  def execute(
    self,
    numbers_BSL: jax.Array,
    hidden_BSL: jax.Array,
    previous_BS: jax.Array | None = None,
  ) -> dict[str, jax.Array]:
    """Returns `logits`, `pointer` and the `number` int (B, S) of the logits."""
    outputs = self.subroutine(numbers_BSL, hidden_BSL, previous_BS)
    found = {name: outputs[name] for name in ('logits', 'pointer')}
    return found | {'number': binary.from_bits(outputs['logits'] > 0)}

  def next_mask(self, hidden_BL: jax.Array, pointer_B: jax.Array) -> jax.Array:
    """Returns the logits (B, L) of slots that are hidden in the next step."""
    return self.mask(hidden_BL, pointer_B)['logits']
