"""Layers for visual tokens: tokenizers, token mixing, and projectors.

They implement arXiv:2006.03677, section 3. Tokenizers pool a feature map to tokens,
mixing layers relate the tokens to each other, and projectors write them back to the
map. VT-ResNet has one map, VT-FPN one map per level. Filters, transformers and
projectors are forms of attention (`ops.attention`): tokens attend to pixels, tokens to
tokens, and pixels to tokens.

Axes: B batch, h w map, P pixels (row by row), C channels of the map, E channels of the
map that is written, L M tokens, D width of tokens, G heads, K size of a head, V size of
a head's values, O size of a pixel's values over all heads, r s rows and columns of
tokens.
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

# He initialization for ReLU, in all layers. Kernels of projections to heads have the
# inputs on their first axis; both other axes are outputs.
START = nn.initializers.variance_scaling(2.0, 'fan_in', 'normal')
START_HEADS = nn.initializers.variance_scaling(
  2.0, 'fan_in', 'normal', in_axis=0, out_axis=(1, 2)
)
# Filters are queries. With unit variance, their products with pixels are initially as
# large as the pixels, so tokens attend to different places from the start.
START_FILTERS = nn.initializers.normal(1.0)

# Arguments of `Projections`: the sizes in the paper's appendix.
GROUPED = dict(num_heads=16, groups=16, token_groups=4, use_bias=True, inner=True)


@dataclasses.dataclass(frozen=True)
class Projections:
  """Settings of the projections to queries, keys and values, shared by all modules.

  The defaults follow the equations of the paper: one head and no biases; pixels are
  their own keys, and their values are as wide as tokens. With `inner`, pixels are
  projected to keys, their values are as wide as the map, and another dense layer maps
  the pooled values to tokens. Projections of pixels have `groups` groups of channels,
  and projections for attention between tokens have `token_groups`; consecutive outputs
  read consecutive inputs. `GROUPED` is the form in the appendix of the paper's first
  version. With `norm`, tokens are normalized, without parameters, wherever they
  are read; the paper does not mention this, but SGD at its learning rates diverges
  without it.
  """

  num_heads: int = 1
  groups: int = 1
  token_groups: int = 1
  use_bias: bool = False
  inner: bool = False
  norm: bool = False

  tiny = dict(num_heads=4, groups=4, token_groups=2)

  def to_heads(self, channels: int, groups: int, name: str) -> attention.Projection:
    """Returns a projection to `channels` channels, divided among the heads."""
    if channels % self.num_heads:
      raise UserError(
        f'projections.num_heads={self.num_heads} does not divide the {channels}'
        f' channels of {name!r}: change num_heads, or width or map_width of the model'
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
    """Returns tokens; with `norm`, scaled to mean 0 and variance 1."""
    if not self.norm:
      return tokens_BLD
    norm = nn.LayerNorm(
      use_bias=False, use_scale=False, dtype=tokens_BLD.dtype, parent=None
    )
    return norm.apply({}, tokens_BLD)

  def dense(self, features: int, dtype: str, name: str) -> nn.Dense:
    """Returns a dense layer, for use outside attention."""
    return nn.Dense(
      features, use_bias=self.use_bias, kernel_init=START, dtype=dtype, name=name
    )


class Filters(nn.Module):
  """Pooling of pixels by learned filters, shared by all images (equation 1)."""

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
      # The softmax over pixels cancels this bias, so it changes no token. It exists so
      # that the number of parameters is as published.
      bias_L = self.param('bias', nn.initializers.zeros, (count,))
      bias_11L1 = bias_L[None, None, :, None] / math.sqrt(x_BPC.shape[-1])
    # All heads pool with the same weights, so they are merged into one.
    v_BP1O = v_BPGV.reshape(*v_BPGV.shape[:2], 1, -1)
    return _read(self, q_BL1C, x_BPC[:, :, None], v_BP1O, bias_11L1)


class Recurrent(nn.Module):
  """Pooling of pixels by filters from the previous module's tokens (equation 2)."""

  num_tokens: int
  projections: Projections = Projections()
  dtype: str = 'float32'

  @nn.compact
  def __call__(
    self, x_BhwC: jax.Array, v_BPGV: jax.Array, tokens_BMD: jax.Array | None = None
  ) -> jax.Array:
    if tokens_BMD is None or tokens_BMD.shape[1] != self.num_tokens:
      raise UserError(
        f'the recurrent tokenizer needs {self.num_tokens} tokens as input, but got'
        f' {0 if tokens_BMD is None else tokens_BMD.shape[1]}'
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
  """Bilinear resizing of the values to a square of tokens (table 3, pooling)."""

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
        f' of tokens; use {side**2} or {(side + 1) ** 2}'
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
  """Means of the values in each k-means cluster of pixels (table 3, clustering).

  The token of an empty cluster is zero.
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


# Kinds of tokenizers. 'recurrent' needs the tokens of a previous module.
POOLS: dict[str, Callable[..., nn.Module]] = {
  'filter': Filters,
  'recurrent': Recurrent,
  'pooling': Resized,
  'clustering': Clusters,
}


class Tokenizer(nn.Module):
  """A pooling of a map (B, h, w, C) to tokens (B, L, D), means of pixels' values.

  `kind` is one of `POOLS`; 'recurrent' needs the tokens of the previous module. If
  intermediates are collected, the submodule named `kind` sows the weights of pixels
  (B, heads, L, P) as `probs`.
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
    pool = POOLS[self.kind](self.num_tokens, projections, self.dtype, name=self.kind)
    if self.kind == 'filter' and not projections.inner:
      # Means of values are values of means, which are fewer than pixels.
      mean_BLC = pool(x_BhwC, x_BPC[:, :, None])
      (v_BLGV,) = attention.project([(mean_BLC, value)], self.dtype)
      return v_BLGV.reshape(*v_BLGV.shape[:2], -1)
    (v_BPGV,) = attention.project([(x_BPC, value)], self.dtype)
    y_BLO = pool(x_BhwC, v_BPGV, tokens_BMD)
    if not projections.inner:
      return y_BLO
    return projections.dense(self.width, self.dtype, 'out')(y_BLO)


class TokenTransformer(nn.Module):
  """Attention between tokens, then a two-layer MLP, both residual (equations 3, 4).

  Keys and queries are half as wide as tokens. `drop_path` is the rate at which each of
  the two branches is dropped.
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
  """A graph convolution T + ReLU(A T W), with one matrix A for all images (table 5).

  A is initialized as the identity, which mixes no tokens.
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
  """A layer T + ReLU(T W) that does not mix tokens (table 5)."""

  projections: Projections = Projections()
  drop_path: float = 0.0
  dtype: str = 'float32'

  @nn.compact
  def __call__(self, x_BLD: jax.Array, train: bool = False) -> jax.Array:
    width = x_BLD.shape[-1]
    read = self.projections.normed(x_BLD)
    y_BLD = nn.relu(self.projections.dense(width, self.dtype, 'fc1')(read))
    return x_BLD + dropped(y_BLD, self.drop_path, train, 'drop_path')


# Layers between tokenizer and projector, by name.
MIXINGS: dict[str, Callable[..., nn.Module]] = {
  'transformer': TokenTransformer,
  'graph': GraphConvolution,
  'none': EachToken,
}


class Projector(nn.Module):
  """Attention of pixels to tokens, added to the map: (B, h, w, E) (equation 5).

  The output has `channels` channels. If the input has another number, a dense layer
  projects it.
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
    k_BLGK, v_BLGV = attention.project(
      [(tokens_BLD, key), (tokens_BLD, value)], self.dtype
    )
    if projections.num_heads == projections.groups == 1 and not projections.use_bias:
      # Keys are projected to pixels instead of queries to keys, which are more.
      kernel_CGK, _ = query.parameters(x_BPC.shape[-1])
      kernel_CGK *= math.sqrt(x_BPC.shape[-1] / self.channels)
      k_BL1C = jnp.einsum('BLGK,CGK->BLGC', k_BLGK, kernel_CGK.astype(self.dtype))
      y_BPE = _read(self, x_BPC[:, :, None], k_BL1C, v_BLGV)
    else:
      (q_BPGK,) = attention.project([(x_BPC, query)], self.dtype)
      y_BPE = _read(self, q_BPGK, k_BLGK, v_BLGV)
    if x_BPC.shape[-1] != self.channels:
      x_BPE = projections.dense(self.channels, self.dtype, 'shortcut')(x_BPC)
    else:
      x_BPE = x_BPC
    y_BPE = x_BPE + dropped(y_BPE, self.drop_path, train, 'drop_path')
    return y_BPE.reshape(*x_BhwC.shape[:3], self.channels)


def pixels(x_BhwC: jax.Array) -> jax.Array:
  """Returns the pixels of a map, row by row: (B, P, C)."""
  batch, height, width, channels = x_BhwC.shape
  return x_BhwC.reshape(batch, height * width, channels)


def dropped(x: jax.Array, rate: float, train: bool, name: str) -> jax.Array:
  """Returns a branch, in training dropped for whole examples at the given rate."""
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
  """Returns the output of attention, (B, N, G * V).

  The bias broadcasts to (B, G, N, M). If intermediates are collected, the module sows
  the attention weights (B, G, N, M) as `probs`.
  """
  if module.is_mutable_collection('intermediates'):
    p_BGNM = attention_ops.probabilities(q_BNGK, k_BMGK, bias)
    module.sow('intermediates', 'probs', p_BGNM)
  y_BNGV = attention_ops.attend(q_BNGK, k_BMGK, v_BMGV, bias)
  return y_BNGV.reshape(*y_BNGV.shape[:2], -1)
