"""Visual tokens: pooled from a map, related to each other, written back to the map.

arXiv:2006.03677 section 3. VT-ResNet has one map, VT-FPN a map for each level. All
reading and writing is attention (`ops.attention`): tokens read pixels, other tokens,
and are read by pixels.

Axes: B batch, h w map, P pixels (row by row), C channels of the map, E channels of the
map that is written, L M tokens, D width of tokens, G heads, K size of a head, V its
size of values, O all values of a pixel, r s rows and columns of tokens.
"""

import dataclasses
import math
from collections.abc import Callable

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from big_vision_like.errors import UserError
from big_vision_like.layers import attention, transformer
from big_vision_like.ops import attention as attention_ops
from big_vision_like.ops import clustering, resampling

# As He's for ReLU, in all layers. Inputs are the first axis; heads are outputs.
START = nn.initializers.variance_scaling(2.0, 'fan_in', 'normal')
START_HEADS = nn.initializers.variance_scaling(
  2.0, 'fan_in', 'normal', in_axis=0, out_axis=(1, 2)
)
# Filters are queries: their products with pixels start as large as pixels, so that
# tokens look at different places from the start.
START_FILTERS = nn.initializers.normal(1.0)

# `Projections` with the sizes of the paper's appendix.
GROUPED = dict(num_heads=16, groups=16, token_groups=4, use_bias=True, inner=True)


@dataclasses.dataclass(frozen=True)
class Projections:
  """How pixels and tokens become queries, keys and values, alike in all modules.

  The defaults are those of the equations of the paper: one head, no biases; pixels are
  their own keys, and their values are as wide as tokens. With `inner` pixels are
  projected to keys, their values are as wide as the map, and one more layer makes
  tokens of what was pooled. Projections of pixels have `groups` of channels, those for
  attention between tokens `token_groups`: consecutive outputs see consecutive inputs.
  `GROUPED` is the form of the appendix of the paper's first version. With `norm` tokens
  are normalized wherever they are read, without parameters; the paper does not say so,
  but SGD at its rates diverges without.
  """

  num_heads: int = 1
  groups: int = 1
  token_groups: int = 1
  use_bias: bool = False
  inner: bool = False
  norm: bool = False

  tiny = dict(num_heads=4, groups=4, token_groups=2)

  def to_heads(self, channels: int, groups: int, name: str) -> attention.Projection:
    """Makes the projection to the given number of channels of all heads."""
    if channels % self.num_heads:
      raise UserError(
        f'projections.num_heads={self.num_heads} heads do not divide the {channels}'
        f' channels of {name!r}: change them, or width or map_width of the model'
      )
    return attention.Projection(
      self.num_heads,
      channels // self.num_heads,
      use_bias=self.use_bias,
      kernel_init=START_HEADS,
      groups=groups,
      name=name,
    )

  def normed(self, tokens_BLD: jax.Array) -> jax.Array:
    """Returns tokens as they are read, with `norm` of mean 0 and variance 1."""
    if not self.norm:
      return tokens_BLD
    norm = nn.LayerNorm(
      use_bias=False, use_scale=False, dtype=tokens_BLD.dtype, parent=None
    )
    return norm.apply({}, tokens_BLD)

  def dense(self, features: int, dtype: str, name: str) -> nn.Dense:
    """Makes a layer that is no attention."""
    return nn.Dense(
      features, use_bias=self.use_bias, kernel_init=START, dtype=dtype, name=name
    )


class Filters(nn.Module):
  """Pixels pooled by learned filters, the same of all images (equation 1)."""

  num_tokens: int
  projections: Projections = Projections()
  dtype: str = 'float32'

  @nn.compact
  def __call__(
    self, x_BhwC: jax.Array, v_BPGV: jax.Array, tokens_BMD: jax.Array | None = None
  ) -> jax.Array:
    x_BPC, count = pixels(x_BhwC), self.num_tokens
    filter_CL = self.param('kernel', START_FILTERS, (x_BPC.shape[-1], count))
    filter_1LC = filter_CL.T[None].astype(x_BPC.dtype)
    q_BL1C = jnp.broadcast_to(
      filter_1LC[:, :, None], (len(x_BPC), count, 1, x_BPC.shape[-1])
    )
    bias_11L1 = None
    if self.projections.use_bias:
      # The same for all pixels, so that it changes no token: it is there to be counted.
      bias_L = self.param('bias', nn.initializers.zeros, (count,))
      bias_11L1 = bias_L[None, None, :, None] / math.sqrt(x_BPC.shape[-1])
    # All heads pool alike: they are one.
    v_BP1O = v_BPGV.reshape(*v_BPGV.shape[:2], 1, -1)
    return _read(self, q_BL1C, x_BPC[:, :, None], v_BP1O, bias_11L1)


class Recurrent(nn.Module):
  """Pixels pooled by filters made of the tokens of the module before (equation 2)."""

  num_tokens: int
  projections: Projections = Projections()
  dtype: str = 'float32'

  @nn.compact
  def __call__(
    self, x_BhwC: jax.Array, v_BPGV: jax.Array, tokens_BMD: jax.Array | None = None
  ) -> jax.Array:
    if tokens_BMD is None or tokens_BMD.shape[1] != self.num_tokens:
      raise UserError(
        f'the recurrent tokenizer makes {self.num_tokens} tokens of as many:'
        f' {0 if tokens_BMD is None else tokens_BMD.shape[1]} were given'
      )
    x_BPC, projections = pixels(x_BhwC), self.projections
    channels = x_BPC.shape[-1]
    query = projections.to_heads(channels, 1, 'query')
    pairs = [(projections.normed(tokens_BMD), query)]
    if projections.inner:
      pairs.append((x_BPC, projections.to_heads(channels, projections.groups, 'key')))
    q_BLGK, *keys = attention.project(pairs, self.dtype)
    k_BPGK = keys[0] if keys else x_BPC.reshape(*x_BPC.shape[:2], *q_BLGK.shape[2:])
    return _read(self, q_BLGK, k_BPGK, v_BPGV)


class Resized(nn.Module):
  """The map of values resized bilinearly to a square of tokens (table 3, pooling)."""

  num_tokens: int
  projections: Projections = Projections()
  dtype: str = 'float32'

  @nn.compact
  def __call__(
    self, x_BhwC: jax.Array, v_BPGV: jax.Array, tokens_BMD: jax.Array | None = None
  ) -> jax.Array:
    side = math.isqrt(self.num_tokens)
    if side**2 != self.num_tokens:
      raise UserError(
        f"num_tokens={self.num_tokens}: tokenizer='pooling' resizes the map to a square"
        f' of tokens, take {side**2} or {(side + 1) ** 2}'
      )
    batch, height, width, _ = x_BhwC.shape
    if self.is_mutable_collection('intermediates'):
      rows_rh = resampling.linear_matrix(height, side)
      columns_sw = resampling.linear_matrix(width, side)
      weight_LP = jnp.asarray(np.kron(rows_rh, columns_sw), jnp.float32)
      weight_B1LP = jnp.broadcast_to(
        weight_LP[None, None], (batch, 1, *weight_LP.shape)
      )
      self.sow('intermediates', 'probs', weight_B1LP)
    v_BhwO = v_BPGV.reshape(batch, height, width, -1)
    y_BrsO = resampling.resize(v_BhwO, (side, side), 'bilinear')
    return y_BrsO.reshape(batch, self.num_tokens, -1)


class Clusters(nn.Module):
  """The mean values of clusters of pixels (table 3, clustering).

  An empty cluster gives zeros.
  """

  num_tokens: int
  projections: Projections = Projections()
  dtype: str = 'float32'

  @nn.compact
  def __call__(
    self, x_BhwC: jax.Array, v_BPGV: jax.Array, tokens_BMD: jax.Array | None = None
  ) -> jax.Array:
    member_BLP = clustering.k_means(pixels(x_BhwC), self.num_tokens)
    weight_BLP = member_BLP / jnp.maximum(member_BLP.sum(axis=-1, keepdims=True), 1.0)
    self.sow('intermediates', 'probs', weight_BLP[:, None])
    v_BPO = v_BPGV.reshape(*v_BPGV.shape[:2], -1)
    return jnp.einsum('BLP,BPO->BLO', weight_BLP.astype(v_BPO.dtype), v_BPO)


# What makes means of pixels. Modules behind the first may have the second kind.
POOLS: dict[str, Callable[..., nn.Module]] = {
  'filter': Filters,
  'recurrent': Recurrent,
  'pooling': Resized,
  'clustering': Clusters,
}


class Tokenizer(nn.Module):
  """Pools a map (B, h, w, C) to tokens (B, L, D), each a mean of values of pixels.

  `kind` is one of `POOLS`; 'recurrent' needs the tokens of the module before. The
  weights of pixels (B, heads, L, P) are sown as `probs`, where intermediates are
  collected, by the module that has the name of the kind.
  """

  kind: str
  num_tokens: int
  width: int
  projections: Projections = Projections()
  dtype: str = 'float32'

  @nn.compact
  def __call__(
    self, x_BhwC: jax.Array, tokens_BMD: jax.Array | None = None
  ) -> jax.Array:
    x_BhwC, projections = x_BhwC.astype(self.dtype), self.projections
    x_BPC = pixels(x_BhwC)
    size = x_BPC.shape[-1] if projections.inner else self.width
    value = projections.to_heads(size, projections.groups, 'value')
    (v_BPGV,) = attention.project([(x_BPC, value)], self.dtype)
    pool = POOLS[self.kind](self.num_tokens, projections, self.dtype, name=self.kind)
    y_BLO = pool(x_BhwC, v_BPGV, tokens_BMD)
    if not projections.inner:
      return y_BLO
    return projections.dense(self.width, self.dtype, 'out')(y_BLO)


class TokenTransformer(nn.Module):
  """Attention between tokens and two layers for each, with residuals (equations 3, 4).

  Keys and queries are half as wide as tokens. `drop_path` drops the branches.
  """

  projections: Projections = Projections()
  drop_path: float = 0.0
  dtype: str = 'float32'

  @nn.compact
  def __call__(self, x_BLD: jax.Array, train: bool = False) -> jax.Array:
    width, projections = x_BLD.shape[-1], self.projections
    y_BLD = projections.normed(x_BLD)
    pairs = [
      (y_BLD, projections.to_heads(size, projections.token_groups, name))
      for name, size in dict(query=width // 2, key=width // 2, value=width).items()
    ]
    q_BLGK, k_BLGK, v_BLGV = attention.project(pairs, self.dtype)
    y_BLD = _read(self, q_BLGK, k_BLGK, v_BLGV)
    x_BLD = x_BLD + dropped(y_BLD, self.drop_path, train, 'drop_path1')
    y_BLD = projections.dense(width, self.dtype, 'fc1')(projections.normed(x_BLD))
    y_BLD = projections.dense(width, self.dtype, 'fc2')(nn.relu(y_BLD))
    return x_BLD + dropped(y_BLD, self.drop_path, train, 'drop_path2')


class GraphConvolution(nn.Module):
  """T + ReLU(A T W): tokens are mixed by one matrix A for all images (table 5).

  A starts as the identity, which mixes nothing.
  """

  projections: Projections = Projections()
  drop_path: float = 0.0
  dtype: str = 'float32'

  @nn.compact
  def __call__(self, x_BLD: jax.Array, train: bool = False) -> jax.Array:
    count, width = x_BLD.shape[1:]
    read = self.projections.normed(x_BLD)
    y_BLD = self.projections.dense(width, self.dtype, 'fc1')(read)
    edge_ML = self.param('adjacency', lambda key, n: jnp.eye(n), count)
    y_BMD = nn.relu(jnp.einsum('ML,BLD->BMD', edge_ML.astype(y_BLD.dtype), y_BLD))
    return x_BLD + dropped(y_BMD, self.drop_path, train, 'drop_path')


class EachToken(nn.Module):
  """T + ReLU(T W): a layer for each token by itself (table 5, no mixing)."""

  projections: Projections = Projections()
  drop_path: float = 0.0
  dtype: str = 'float32'

  @nn.compact
  def __call__(self, x_BLD: jax.Array, train: bool = False) -> jax.Array:
    width = x_BLD.shape[-1]
    read = self.projections.normed(x_BLD)
    y_BLD = nn.relu(self.projections.dense(width, self.dtype, 'fc1')(read))
    return x_BLD + dropped(y_BLD, self.drop_path, train, 'drop_path')


# What relates tokens to each other.
MIXINGS: dict[str, Callable[..., nn.Module]] = {
  'transformer': TokenTransformer,
  'graph': GraphConvolution,
  'none': EachToken,
}


class Projector(nn.Module):
  """Adds to each pixel of a map what it reads of the tokens: (B, h, w, E) (equation 5).

  The map becomes `channels` wide, through another layer if it was not.
  """

  channels: int
  projections: Projections = Projections()
  drop_path: float = 0.0
  dtype: str = 'float32'

  @nn.compact
  def __call__(
    self, x_BhwC: jax.Array, tokens_BLD: jax.Array, train: bool = False
  ) -> jax.Array:
    x_BhwC, projections = x_BhwC.astype(self.dtype), self.projections
    x_BPC, tokens_BLD = pixels(x_BhwC), projections.normed(tokens_BLD)
    query = projections.to_heads(self.channels, projections.groups, 'query')
    key, value = (projections.to_heads(self.channels, 1, x) for x in ('key', 'value'))
    q_BPGK, k_BLGK, v_BLGV = attention.project(
      [(x_BPC, query), (tokens_BLD, key), (tokens_BLD, value)], self.dtype
    )
    y_BPE = _read(self, q_BPGK, k_BLGK, v_BLGV)
    if x_BPC.shape[-1] != self.channels:
      x_BPE = projections.dense(self.channels, self.dtype, 'shortcut')(x_BPC)
    else:
      x_BPE = x_BPC
    y_BPE = x_BPE + dropped(y_BPE, self.drop_path, train, 'drop_path')
    return y_BPE.reshape(*x_BhwC.shape[:3], self.channels)


def pixels(x_BhwC: jax.Array) -> jax.Array:
  """Returns a map as its pixels, row by row: (B, P, C)."""
  batch, height, width, channels = x_BhwC.shape
  return x_BhwC.reshape(batch, height * width, channels)


def dropped(x: jax.Array, rate: float, train: bool, name: str) -> jax.Array:
  """Returns a branch that in training whole examples are without, at this rate."""
  if not (train and rate):
    return x
  return transformer.DropPath(name=name)(x, rate)


def _read(
  module: nn.Module,
  q_BNGK: jax.Array,
  k_BMGK: jax.Array,
  v_BMGV: jax.Array,
  bias: jax.Array | None = None,
) -> jax.Array:
  """Returns what queries read, (B, N, G * V), and has the module sow the weights.

  The bias broadcasts to (B, G, N, M).
  """
  if module.is_mutable_collection('intermediates'):
    p_BGNM = attention_ops.probabilities(q_BNGK, k_BMGK, bias)
    module.sow('intermediates', 'probs', p_BGNM)
  y_BNGV = attention_ops.attend(q_BNGK, k_BMGK, v_BMGV, bias)
  return y_BNGV.reshape(*y_BNGV.shape[:2], -1)
