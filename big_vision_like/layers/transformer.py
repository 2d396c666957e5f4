"""Pre-norm Transformer encoder, as in arXiv:2010.11929 equations 2 and 3.

Axes: B batch, N tokens, D width, L depth.
"""

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax.ad_checkpoint import checkpoint_name

from big_vision_like.errors import UserError
from big_vision_like.layers import attention
from big_vision_like.ops import sharding

LAYER_NORM_EPSILON = 1e-6

REMAT_POLICIES = {
  'dots': jax.checkpoint_policies.save_only_these_names(attention.PRODUCT),
  'full': jax.checkpoint_policies.nothing_saveable,
}


# How the parameters of blocks lie on a mesh with a `tensor` axis (arXiv:1909.08053
# section 3): heads and hidden units are split, so that each block sums twice.
SHARDING_RULES = (
  ('(.*/)?attention/(query|key|value)/kernel', (None, sharding.TENSOR, None)),
  ('(.*/)?attention/(query|key|value)/bias', (sharding.TENSOR, None)),
  ('(.*/)?attention/out/kernel', (sharding.TENSOR, None, None)),
  ('(.*/)?mlp/fc1/kernel', (None, sharding.TENSOR)),
  ('(.*/)?mlp/fc1/bias', (sharding.TENSOR,)),
  ('(.*/)?mlp/fc2/kernel', (sharding.TENSOR, None)),
)


class Mlp(nn.Module):
  """Dense, GELU (tanh approximation), Dense, with dropout after each."""

  hidden: int
  dropout: float = 0.0
  dtype: str = 'float32'

  @nn.compact
  def __call__(self, x_BND: jax.Array, train: bool = False) -> jax.Array:
    init = dict(
      kernel_init=nn.initializers.xavier_uniform(),
      bias_init=nn.initializers.normal(1e-6),
      dtype=self.dtype,
    )
    width = x_BND.shape[-1]
    by_hidden = dict(dot_general=sharding.dot_general(None, sharding.TENSOR))
    x_BNM = nn.Dense(self.hidden, **init, **by_hidden, name='fc1')(x_BND)
    x_BNM = checkpoint_name(x_BNM, attention.PRODUCT)
    x_BNM = sharding.constrain(x_BNM, sharding.BATCH, None, sharding.TENSOR)
    x_BNM = nn.gelu(x_BNM)
    x_BNM = nn.Dropout(self.dropout, deterministic=not train)(x_BNM)
    by_hidden = dict(dot_general=sharding.dot_general(sharding.TENSOR, None))
    x_BND = nn.Dense(width, **init, **by_hidden, name='fc2')(x_BNM)
    return nn.Dropout(self.dropout, deterministic=not train)(x_BND)


class DropPath(nn.Module):
  """Drops a residual branch for whole examples (stochastic depth, arXiv:1603.09382)."""

  @nn.compact
  def __call__(self, x_BND: jax.Array, rate: jax.Array) -> jax.Array:
    shape = (x_BND.shape[0],) + (1,) * (x_BND.ndim - 1)
    keep = 1.0 - rate
    kept_B11 = jax.random.bernoulli(self.make_rng('dropout'), keep, shape)
    return x_BND * (kept_B11.astype(jnp.float32) / keep).astype(x_BND.dtype)


class EncoderBlock(nn.Module):
  """x + attention(norm(x)), then x + mlp(norm(x))."""

  num_heads: int
  mlp_dim: int
  dropout: float = 0.0
  stochastic_depth: bool = False
  dtype: str = 'float32'

  @nn.compact
  def __call__(
    self, x_BND: jax.Array, drop_path: jax.Array, train: bool = False
  ) -> jax.Array:
    norm = dict(epsilon=LAYER_NORM_EPSILON, dtype=self.dtype)
    # Of batch and state, which fsdp both splits, it is the state that is gathered.
    x_BND = sharding.constrain(x_BND, sharding.BATCH, None, None)
    y_BND = nn.LayerNorm(**norm, name='norm1')(x_BND)
    y_BND = attention.MultiHeadAttention(self.num_heads, self.dtype, name='attention')(
      y_BND
    )
    y_BND = nn.Dropout(self.dropout, deterministic=not train)(y_BND)
    if train and self.stochastic_depth:
      y_BND = DropPath(name='drop_path1')(y_BND, drop_path)
    x_BND = x_BND + y_BND
    y_BND = nn.LayerNorm(**norm, name='norm2')(x_BND)
    y_BND = Mlp(self.mlp_dim, self.dropout, self.dtype, name='mlp')(y_BND, train)
    if train and self.stochastic_depth:
      y_BND = DropPath(name='drop_path2')(y_BND, drop_path)
    return x_BND + y_BND


class Encoder(nn.Module):
  """A stack of blocks and a final norm.

  `scan` compiles one block and loops over it: parameters are stacked under `blocks`
  instead of named `block_0`, ...; `remat` ('none', 'dots', 'full') says what is
  recomputed in the backward pass. `drop_path` grows linearly from 0 to its value.
  """

  depth: int
  num_heads: int
  mlp_dim: int
  dropout: float = 0.0
  drop_path: float = 0.0
  scan: bool = False
  remat: str = 'none'
  dtype: str = 'float32'

  @nn.compact
  def __call__(self, x_BND: jax.Array, train: bool = False) -> jax.Array:
    if self.remat not in ('none', *REMAT_POLICIES):
      known = ', '.join(['none', *REMAT_POLICIES])
      raise UserError(f'remat={self.remat!r} is not one of {known}')
    block_class = EncoderBlock
    if self.remat != 'none':
      block_class = nn.remat(
        EncoderBlock,
        policy=REMAT_POLICIES[self.remat],
        static_argnums=(3,),  # train
        prevent_cse=not self.scan,  # a loop body is not merged with its recomputation
      )
    block = dict(
      num_heads=self.num_heads,
      mlp_dim=self.mlp_dim,
      dropout=self.dropout,
      stochastic_depth=self.drop_path > 0,
      dtype=self.dtype,
    )
    rates_L = jnp.linspace(0.0, self.drop_path, self.depth)
    if self.scan:
      blocks = block_class(**block, name='blocks')
      x_BND, _ = nn.scan(
        lambda block, x_BND, rate: (block(x_BND, rate, train), None),
        variable_axes={'params': 0, 'intermediates': 0},
        split_rngs={'params': True, 'dropout': True},
        length=self.depth,
      )(blocks, x_BND, rates_L)
    else:
      for i in range(self.depth):
        x_BND = block_class(**block, name=f'block_{i}')(x_BND, rates_L[i], train)
    return nn.LayerNorm(epsilon=LAYER_NORM_EPSILON, dtype=self.dtype, name='norm')(
      x_BND
    )
