"""Transformer, arXiv:1706.03762: an encoder-decoder for sequences of tokens.

One matrix embeds source and target tokens and computes the logits. Implementations
differ in details that the paper leaves open; `STYLES` lists the choices of five.

Axes: B batch, S source tokens, T target tokens, D width, V vocabulary, L learned
positions; b = B * beams.
"""

from collections.abc import Mapping
from typing import Any

import flax.core
import flax.linen as nn
import jax
import jax.numpy as jnp
from flax import traverse_util

from big_vision_like.errors import UserError, check_one_of
from big_vision_like.layers import transformer
from big_vision_like.ops import masks, positions, precision

# Width, depth, hidden width of the MLP, heads: arXiv:1706.03762 table 3.
SIZES = {'base': (512, 6, 2048, 8), 'big': (1024, 6, 4096, 16)}

# Deviations from the paper. 't2t' is tensor2tensor from base_v2 on, 'flax' is Flax's
# wmt example.
STYLES: dict[str, dict[str, Any]] = {
  'paper': {},
  't2t': dict(
    norm='pre',
    final_norm=True,
    positions='t2t',
    t2t_inputs=True,
    attention_args=dict(use_bias=False, dropout=0.1),
    mlp_args=dict(hidden_dropout=0.1),
  ),
  'flax': dict(
    norm='pre',
    final_norm=True,
    positions='t2t',
    embedding_scale='output',
    attention_args=dict(use_bias=False, dropout=0.1),
    mlp_args=dict(hidden_dropout=0.1),
  ),
  'torch': dict(
    final_norm=True,
    epsilon=1e-5,
    positions='none',
    embedding_scale='none',
    attention_args=dict(dropout=0.1),
    mlp_args=dict(hidden_dropout=0.1),
  ),
  'marian': dict(
    epsilon=1e-5,
    positions='halves',
    logits_bias=True,
    mlp_args=dict(activation='silu'),
  ),
}


def variant(name: str) -> dict[str, int]:
  """Returns the arguments of `Transformer` for 'base' or 'big'."""
  if name not in SIZES:
    raise UserError(f'unknown Transformer {name!r}: choose one of {", ".join(SIZES)}')
  width, depth, mlp_dim, num_heads = SIZES[name]
  return dict(width=width, depth=depth, mlp_dim=mlp_dim, num_heads=num_heads)


class Transformer(nn.Module):
  """An encoder-decoder that maps source (B, S) and target (B, T) ids to named arrays.

  The target is the decoder's input and starts with BOS. The `logits` (B, T, V) at a
  token predict the next token and do not depend on later ones. Padding (`pad_id`) is
  masked out of attention. With segments (1, 2, ...; 0 is padding), one row packs
  several pairs, which do not attend to each other and whose positions start at 0.

  `positions` is a layout of `ops.positions.sinusoid`, 'learned' (`max_length`
  positions) or 'none'. `embedding_scale='input'` multiplies embeddings by sqrt(D),
  'output' divides logits by it. `t2t_inputs` adds a learned vector to each source token
  and sets padding to zero. `decoder_depth` defaults to `depth`. `attention_args` and
  `mlp_args` are extra arguments of `MultiHeadAttention` and `Mlp`.
  """

  vocab_size: int
  width: int
  depth: int
  num_heads: int
  mlp_dim: int
  decoder_depth: int | None = None
  dropout: float = 0.1
  norm: str = 'post'
  final_norm: bool = False
  epsilon: float = transformer.LAYER_NORM_EPSILON
  positions: str = 'interleaved'
  max_length: int = 512
  embedding_scale: str = 'input'
  t2t_inputs: bool = False
  logits_bias: bool = False
  pad_id: int = 0
  attention_args: Mapping[str, Any] = flax.core.FrozenDict()
  mlp_args: Mapping[str, Any] = flax.core.FrozenDict()
  scan: bool = False
  remat: str = 'none'
  dtype: str = 'float32'

  sharding_rules = transformer.SHARDING_RULES
  tiny = dict(
    vocab_size=128, width=32, depth=2, decoder_depth=2, num_heads=2, mlp_dim=64
  )

  def setup(self) -> None:
    check_one_of(('input', 'output', 'none'), embedding_scale=self.embedding_scale)
    # Embeddings have unit variance after any scaling by sqrt(D).
    deviation = self.width**-0.5 if self.embedding_scale == 'input' else 1.0
    shape = self.vocab_size, self.width
    self.embedding = self.param('embedding', nn.initializers.normal(deviation), shape)
    if self.positions == 'learned':
      self.pos_embedding = self.param(
        'pos_embedding', nn.initializers.normal(0.02), (self.max_length, self.width)
      )
    if self.t2t_inputs:
      self.target_space = self.param(
        'target_space', nn.initializers.normal(self.width**-0.5), (self.width,)
      )
    if self.logits_bias:
      self.head_bias = self.param('logits_bias', nn.initializers.zeros, shape[:1])
    self.drop = nn.Dropout(self.dropout)
    stack = dict(
      num_heads=self.num_heads,
      mlp_dim=self.mlp_dim,
      dropout=self.dropout,
      scan=self.scan,
      remat=self.remat,
      dtype=self.dtype,
      norm=self.norm,
      final_norm=self.final_norm,
      epsilon=self.epsilon,
      block_args=dict(
        attention_args=self.attention_args,
        mlp_args=dict(activation='relu', hidden_dropout=0.0) | dict(self.mlp_args),
      ),
    )
    self.encoder = transformer.Stack(depth=self.depth, **stack)
    self.decoder = transformer.Stack(depth=self.decoder_depth or self.depth, **stack)

  def __call__(
    self,
    source_BS: jax.Array,
    target_BT: jax.Array,
    source_segment_BS: jax.Array | None = None,
    target_segment_BT: jax.Array | None = None,
    source_position_BS: jax.Array | None = None,
    target_position_BT: jax.Array | None = None,
    train: bool = False,
  ) -> dict[str, jax.Array]:
    memory_BSD = self.encode(source_BS, source_segment_BS, source_position_BS, train)
    features_BTD = self.decode(
      target_BT,
      memory_BSD,
      source_BS,
      source_segment_BS,
      target_segment_BT,
      target_position_BT,
      train,
    )
    return {
      'logits': self.logits(features_BTD),
      'features': features_BTD,
      'memory': memory_BSD,
    }

  def encode(
    self,
    source_BS: jax.Array,
    segment_BS: jax.Array | None = None,
    position: jax.Array | None = None,
    train: bool = False,
  ) -> jax.Array:
    """Returns the encoder's output for each source token, (B, S, D)."""
    if source_BS.ndim != 2 or source_BS.shape[1] == 0:
      raise UserError(f'a source of shape {source_BS.shape} is not (batch, tokens)')
    x_BSD = self.embed(source_BS, position)
    if self.t2t_inputs:
      x_BSD += self.target_space.astype(x_BSD.dtype)[None, None]
    x_BSD = self.drop(x_BSD, deterministic=not train)
    if segment_BS is None:
      mask = masks.padding(source_BS != self.pad_id)
    else:
      mask = masks.segments(segment_BS)
    return self.encoder(x_BSD, train, transformer.Context(mask=mask))

  def decode(
    self,
    target_BT: jax.Array,
    memory_BSD: jax.Array,
    source_BS: jax.Array,
    source_segment_BS: jax.Array | None = None,
    target_segment_BT: jax.Array | None = None,
    position: jax.Array | None = None,
    train: bool = False,
    cache_length: int | None = None,
  ) -> jax.Array:
    """Returns the decoder's output for each target token, (B, T, D); see `logits`.

    With `cache_length` (and `cache` mutable), the tokens continue the tokens of earlier
    calls, at `position` (which broadcasts). Each source may have several beams, (b, T).
    """
    if target_segment_BT is None:
      # The first token is never masked, even if BOS and padding share an id.
      seen_BT = target_BT != self.pad_id
      seen_BT |= jnp.arange(target_BT.shape[1])[None] == 0
      mask = masks.causal() & masks.padding(seen_BT)
      memory_mask = masks.padding(source_BS != self.pad_id)
    else:
      mask = masks.causal() & masks.segments(target_segment_BT)
      memory_mask = masks.segments(target_segment_BT, source_segment_BS)
    x_BTD = self.embed(target_BT, position)
    x_BTD = self.drop(x_BTD, deterministic=not train)
    context = transformer.Context(
      mask=mask, memory_BMD=memory_BSD, memory_mask=memory_mask
    )
    return self.decoder(x_BTD, train, context, cache_length)

  def embed(self, ids_BT: jax.Array, position: jax.Array | None) -> jax.Array:
    """Embeds tokens and adds their positions, (B, T, D)."""
    x_BTD = self.embedding.astype(self.dtype)[ids_BT]
    if self.embedding_scale == 'input':
      x_BTD *= self.width**0.5
    if self.t2t_inputs:
      x_BTD *= (ids_BT != self.pad_id).astype(x_BTD.dtype)[..., None]
    if self.positions == 'none':
      return x_BTD
    if position is None:
      position = jnp.arange(ids_BT.shape[1])[None]  # the same for all examples
    if self.positions == 'learned':
      added = positions.lookup(self.pos_embedding, position)
    else:
      added = positions.sinusoid(position, self.width, self.positions)
    return x_BTD + added.astype(x_BTD.dtype)

  def logits(self, features_BTD: jax.Array) -> jax.Array:
    """Returns logits over the vocabulary, float32 (B, T, V)."""
    logits_BTV = jnp.einsum(
      'BTD,VD->BTV',
      features_BTD,
      self.embedding.astype(self.dtype),
      preferred_element_type=precision.float_type(features_BTD),
    )
    if self.embedding_scale == 'output':
      logits_BTV /= self.width**0.5
    if self.logits_bias:
      logits_BTV += self.head_bias[None, None]
    return logits_BTV

  def next_logits(
    self,
    token_b: jax.Array,
    index: jax.Array,
    memory_BSD: jax.Array,
    source_BS: jax.Array,
    cache_length: int,
  ) -> jax.Array:
    """Returns logits (b, V) of the token after each of `token_b`, using the cache."""
    features_b1D = self.decode(
      token_b[:, None],
      memory_BSD,
      source_BS,
      position=jnp.full((1, 1), index),
      cache_length=cache_length,
    )
    return self.logits(features_b1D)[:, 0]


def reorder(cache: Mapping[str, Any], beam_BK: jax.Array) -> dict[str, Any]:
  """Reorders a decoder's cache so that each beam has the rows of its parent (B, K).

  Keys and values of the source are the same for all beams and are stored once.
  """
  batch, beams = beam_BK.shape
  row_b = (jnp.arange(batch)[:, None] * beams + beam_BK).reshape(-1)

  def moved(path: str, x: jax.Array) -> jax.Array:
    modules = path.split('/')
    if 'cross_attention' in modules or modules[-1] == 'index':
      return x
    return jnp.take(x, row_b, axis=1 if 'blocks' in modules else 0)

  flat = traverse_util.flatten_dict(cache, sep='/')
  flat = {path: moved(path, x) for path, x in flat.items()}
  return traverse_util.unflatten_dict(flat, sep='/')
