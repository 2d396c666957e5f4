"""Vision Transformer, arXiv:2010.11929.

An image is cut into patches, each embedded linearly; with positions added, a pre-norm
Transformer encoder reads them. Pooling by class token (the paper), global average
(arXiv:2205.01580) or attention (arXiv:2106.04560); fixed sine-cosine positions as in
arXiv:2205.01580.

Axes: B batch, H W image, h w grid, C channels or classes, N tokens, D width,
R size of the representation (D without one).
"""

import re

import flax.linen as nn
import jax
import jax.numpy as jnp

from big_vision_like.errors import UserError
from big_vision_like.layers import attention, transformer
from big_vision_like.ops import positions

# Width, depth, hidden width of the MLP, heads: arXiv:2010.11929 table 1,
# arXiv:2106.04560 table 2, arXiv:2106.10270 table 2.
SIZES = {
  'Ti': (192, 12, 768, 3),
  'S': (384, 12, 1536, 6),
  'M': (512, 12, 2048, 8),
  'B': (768, 12, 3072, 12),
  'L': (1024, 24, 4096, 16),
  'H': (1280, 32, 5120, 16),
  'g': (1408, 40, 6144, 16),
  'G': (1664, 48, 8192, 16),
}


def variant(name: str) -> dict[str, int]:
  """The sizes of `'B/16'` and the like, as arguments of `ViT`."""
  match = re.fullmatch(r'(\w+)/(\d+)', name)
  if match is None or match[1] not in SIZES:
    known = ', '.join(SIZES)
    raise UserError(f'no ViT variant {name!r}: write SIZE/PATCH with SIZE of {known}')
  width, depth, mlp_dim, num_heads = SIZES[match[1]]
  return dict(
    patch=int(match[2]),
    width=width,
    depth=depth,
    mlp_dim=mlp_dim,
    num_heads=num_heads,
  )


class ViT(nn.Module):
  """Images (B, H, W, C) in [-1, 1] to a dict of named arrays, float32 logits.

  `pool` is 'token', 'gap' or 'map'; `posemb` 'learned', 'sincos2d' or 'none';
  `rep_size` > 0 adds the tanh layer used in pre-training; the head starts at zero
  with bias `head_bias`. Image and patch may be any size that divide, square or not.
  """

  num_classes: int
  patch: int | tuple[int, int]
  width: int
  depth: int
  num_heads: int
  mlp_dim: int
  pool: str = 'token'
  posemb: str = 'learned'
  rep_size: int = 0
  dropout: float = 0.0
  drop_path: float = 0.0
  head_bias: float = 0.0
  scan: bool = False
  remat: str = 'none'
  dtype: str = 'float32'

  sharding_rules = transformer.SHARDING_RULES

  @nn.compact
  def __call__(
    self, image_BHWC: jax.Array, train: bool = False
  ) -> dict[str, jax.Array]:
    patch = (self.patch,) * 2 if isinstance(self.patch, int) else tuple(self.patch)
    batch, height, width, _ = image_BHWC.shape
    if height % patch[0] or width % patch[1]:
      raise UserError(
        f'images of {height}x{width} do not divide into patches of'
        f' {patch[0]}x{patch[1]}'
      )
    x_BhwD = nn.Conv(
      self.width, patch, strides=patch, padding='VALID', dtype=self.dtype, name='embed'
    )(image_BHWC)
    _, height, width, _ = x_BhwD.shape
    x_BND = x_BhwD.reshape(batch, height * width, self.width)
    x_BND = self.add_positions(x_BND, height, width)
    self.sow('intermediates', 'with_position', x_BND)
    x_BND = nn.Dropout(self.dropout, deterministic=not train)(x_BND)
    tokens_BND = transformer.Stack(
      depth=self.depth,
      num_heads=self.num_heads,
      mlp_dim=self.mlp_dim,
      dropout=self.dropout,
      drop_path=self.drop_path,
      scan=self.scan,
      remat=self.remat,
      dtype=self.dtype,
      name='encoder',
    )(x_BND, train)
    features_BD = self.pooled(tokens_BND)
    pre_logits_BR = features_BD
    if self.rep_size:
      pre_logits_BR = nn.tanh(
        nn.Dense(self.rep_size, dtype=self.dtype, name='pre_logits')(features_BD)
      )
    logits_BC = nn.Dense(
      self.num_classes,
      kernel_init=nn.initializers.zeros,
      bias_init=nn.initializers.constant(self.head_bias),
      dtype=self.dtype,
      name='head',
    )(pre_logits_BR)
    return {
      'logits': logits_BC.astype(jnp.float32),
      'pre_logits': pre_logits_BR,
      'features': features_BD,
      'tokens': tokens_BND,
    }

  def add_positions(self, x_BND: jax.Array, height: int, width: int) -> jax.Array:
    """Adds positions to the patches, and the class token in front of them."""
    batch, dim = x_BND.shape[0], x_BND.shape[-1]
    with_token = self.pool == 'token'
    if with_token:
      token_11D = self.param('cls', nn.initializers.zeros, (1, 1, dim))
      token_B1D = jnp.broadcast_to(token_11D, (batch, 1, dim)).astype(x_BND.dtype)
      x_BND = jnp.concatenate([token_B1D, x_BND], axis=1)
    if self.posemb == 'none':
      return x_BND
    if self.posemb == 'learned':
      shape = (1, x_BND.shape[1], dim)
      pos_1ND = self.param('pos_embedding', nn.initializers.normal(0.02), shape)
    elif self.posemb == 'sincos2d':
      pos_1ND = jnp.pad(
        positions.sincos2d(height, width, dim),
        ((0, 0), (int(with_token), 0), (0, 0)),
      )
    else:
      raise UserError(
        f"posemb={self.posemb!r} is not one of 'learned', 'sincos2d', 'none'"
      )
    return x_BND + pos_1ND.astype(x_BND.dtype)

  def pooled(self, tokens_BND: jax.Array) -> jax.Array:
    """One vector per image."""
    if self.pool == 'token':
      return tokens_BND[:, 0]
    if self.pool == 'gap':
      return tokens_BND.mean(axis=1)
    if self.pool == 'map':
      return MapHead(self.num_heads, self.mlp_dim, self.dtype, name='map_head')(
        tokens_BND
      )
    raise UserError(f"pool={self.pool!r} is not one of 'token', 'gap', 'map'")


class MapHead(nn.Module):
  """Multi-head attention pooling: one learned query reads all tokens."""

  num_heads: int
  mlp_dim: int
  dtype: str = 'float32'

  @nn.compact
  def __call__(self, x_BND: jax.Array) -> jax.Array:
    batch, _, dim = x_BND.shape
    probe_11D = self.param('probe', nn.initializers.xavier_uniform(), (1, 1, dim))
    probe_B1D = jnp.broadcast_to(probe_11D, (batch, 1, dim)).astype(x_BND.dtype)
    x_B1D = attention.MultiHeadAttention(self.num_heads, self.dtype, name='attention')(
      probe_B1D, x_BND
    )
    y_B1D = nn.LayerNorm(
      epsilon=transformer.LAYER_NORM_EPSILON, dtype=self.dtype, name='norm'
    )(x_B1D)
    y_B1D = transformer.Mlp(self.mlp_dim, dtype=self.dtype, name='mlp')(y_B1D)
    return (x_B1D + y_B1D)[:, 0]
