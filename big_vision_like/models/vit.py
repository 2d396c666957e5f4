"""Vision Transformer, arXiv:2010.11929.

An image is split into patches, which are embedded linearly. Positions are added, and a
pre-norm Transformer encoder processes the tokens. Hybrids split the feature map of a
ResNet into patches instead.

Tokens are pooled by a class token (as in the paper), by global average
(arXiv:2205.01580) or by attention (arXiv:2106.04560). Fixed sine-cosine positions
follow arXiv:2205.01580, register tokens follow arXiv:2309.16588.

Axes: B batch, H W image, f g input of the patch embedding (the image, or a feature map
of I channels), h w grid, C channels or classes, N tokens, M tokens with registers, D
width, E half of D, L depth, P learned tokens; R size of the representation (D without
a representation layer).
"""

import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp

from big_vision_like.errors import UserError, check_one_of
from big_vision_like.layers import attention, resnet, transformer
from big_vision_like.ops import positions, precision

# Width, depth, hidden width of the MLP, heads: arXiv:2010.11929 table 1,
# arXiv:2106.04560 table 2, arXiv:2106.10270 table 2. So400m, g-opt and G-opt are from
# arXiv:2305.13035, e is from arXiv:2209.06794.
SIZES = {
  'Ti': (192, 12, 768, 3),
  'S': (384, 12, 1536, 6),
  'M': (512, 12, 2048, 8),
  'B': (768, 12, 3072, 12),
  'L': (1024, 24, 4096, 16),
  'So400m': (1152, 27, 4304, 16),
  'H': (1280, 32, 5120, 16),
  'g': (1408, 40, 6144, 16),
  'g-opt': (1536, 40, 6144, 16),
  'G': (1664, 48, 8192, 16),
  'G-opt': (1536, 48, 8192, 16),
  'e': (1792, 56, 15360, 16),
}
# Units in each stage of the ResNet and the patch size on its feature map, by ResNet and
# total stride. R/16 has only the root: its stride of 4 times the patch size of 8 gives
# 32, but the published files are named R/16.
HYBRIDS = {
  'R/16': ((), 8),
  'R26/32': ((2, 2, 2, 2), 1),
  'R50/16': ((3, 4, 9), 1),
  'R50/32': ((3, 4, 6, 3), 1),
}


def variant(name: str) -> dict[str, Any]:
  """Returns the arguments of `ViT` for a name such as `'B/16'` or `'R50+B/16'`."""
  match = re.fullmatch(r'(?:(R\d*)\+)?([\w-]+)/(\d+)', name)
  if match is None or match[2] not in SIZES:
    known = ', '.join(SIZES)
    raise UserError(
      f'unknown ViT variant {name!r}: write SIZE/PATCH, where SIZE is one of {known}'
    )
  width, depth, mlp_dim, num_heads = SIZES[match[2]]
  sizes = dict(
    patch=int(match[3]),
    width=width,
    depth=depth,
    mlp_dim=mlp_dim,
    num_heads=num_heads,
  )
  if match[1] is None:
    return sizes
  trunk = f'{match[1]}/{match[3]}'
  if trunk not in HYBRIDS:
    known = ', '.join(HYBRIDS)
    raise UserError(f'unknown hybrid {name!r}: ResNets and strides are {known}')
  stages, patch = HYBRIDS[trunk]
  return sizes | dict(patch=patch, resnet=stages)


class Start(NamedTuple):
  """Initializers of a ViT's parameters, which models that extend it may replace.

  `token`, `positions` and `head` are initializers of learned tokens, of tables of
  positions, and of the head's kernel.
  `attention` and `mlp` are extra arguments of these layers in each block. `embed` maps
  the number of inputs of the patch embedding to extra arguments of that layer.
  """

  token: Callable[..., jax.Array] = nn.initializers.zeros
  head: Callable[..., jax.Array] = nn.initializers.zeros
  positions: Callable[..., jax.Array] = nn.initializers.normal(0.02)
  attention: Mapping[str, Any] = {}
  mlp: Mapping[str, Any] = {}
  embed: Callable[[int], Mapping[str, Any]] = lambda inputs: {}


class ViT(nn.Module):
  """A Vision Transformer that maps images (B, H, W, C) in [-1, 1] to named arrays.

  Returns a dict with `logits` (B, C), float32; `pre_logits` (B, R), the head's input;
  `features` (B, D), the pooled tokens; and `tokens` (B, N, D), the encoder's output.
  Images and patches may be square or not, as long as patches divide images.

  `pool` is 'token', 'gap' or 'map'. `posemb` is 'learned', 'learned2d' (one table for
  rows and one for columns), 'relative' (keys by distance), 'sincos2d' or 'none'.
  `posemb_at` says where positions enter: at the 'stem' only, or in all blocks, with a
  table for 'every' block or one 'shared' by all. `resnet` lists the number of units in
  each stage of a hybrid's ResNet. `registers` is the number of register tokens, which
  only the encoder sees. `activation` is the activation of MLPs (see
  `layers.transformer`), `epsilon` the epsilon of layer norms. `rep_size` > 0 adds the
  tanh layer that pre-training uses. The head's kernel is initialized to zero and its
  bias to `head_bias`.
  """

  num_classes: int
  patch: int | tuple[int, int]
  width: int
  depth: int
  num_heads: int
  mlp_dim: int
  pool: str = 'token'
  posemb: str = 'learned'
  posemb_at: str = 'stem'
  resnet: Sequence[int] | None = None
  registers: int = 0
  rep_size: int = 0
  activation: str = 'gelu'
  epsilon: float = transformer.LAYER_NORM_EPSILON
  dropout: float = 0.0
  drop_path: float = 0.0
  head_bias: float = 0.0
  scan: bool = False
  remat: str = 'none'
  dtype: str = 'float32'

  sharding_rules = transformer.SHARDING_RULES
  resizes = {
    'pos_embedding': positions.resize_grid,
    'pos_rows': positions.resize_rows,
    'pos_columns': positions.resize_columns,
    'relative_keys': positions.keep_relative,
  }
  tiny = dict(
    patch=8, width=32, depth=2, num_heads=2, mlp_dim=64, resnet=(2, 1), rep_size=32
  )
  # All tokens of the grid attend to each other, so attention rollout is defined.
  attends = True
  start = Start()

  @property
  def leading(self) -> tuple[str, ...]:
    """The names of learned tokens before the patches that are read at the end."""
    return ('cls',) if self.pool == 'token' else ()

  @property
  def num_placed(self) -> int:
    """The number of leading tokens that have a learned position."""
    return len(self.leading)

  @property
  def drop_paths(self) -> float | Sequence[float]:
    """The rates of stochastic depth, see `transformer.Stack`."""
    return self.drop_path

  @property
  def stride(self) -> tuple[int, int]:
    """The height and width of a token in pixels."""
    trunk, patch = self._strides()
    return trunk * patch[0], trunk * patch[1]

  def grid(self, image_size: tuple[int, int]) -> tuple[int, int]:
    """Returns the rows and columns of the token grid for an image (height, width)."""
    trunk, patch = self._strides()
    height, width = (-(-side // trunk) for side in image_size)
    return height // patch[0], width // patch[1]

  def table_grid(
    self, variables: Mapping[str, Any]
  ) -> tuple[int | None, tuple[int, int] | None]:
    """Returns the number of grid positions in a learned table, and the grid's shape.

    Each is None where the tables among parameters and constants do not determine it.
    """
    tables = {**variables['params'], **variables.get('constants', {})}
    if 'pos_rows' in tables:
      return None, (tables['pos_rows'].shape[1], tables['pos_columns'].shape[1])
    if 'pos_embedding' in tables:
      return tables['pos_embedding'].shape[1] - self.num_placed, None
    return None, None

  def _strides(self) -> tuple[int, tuple[int, int]]:
    """Returns the stride of the ResNet and the patch size on its feature map."""
    trunk = 1
    if self.resnet is not None:  # the root has stride 4, each stage but the first 2
      trunk = 4 * 2 ** max(len(self.resnet) - 1, 0)
    patch = (self.patch,) * 2 if isinstance(self.patch, int) else tuple(self.patch)
    return trunk, patch

  @nn.compact
  def __call__(
    self, image_BHWC: jax.Array, train: bool = False
  ) -> dict[str, jax.Array]:
    x_BND, each = self.placed(image_BHWC, train)
    self.sow('intermediates', 'with_position', x_BND)
    return self.finished(self.encoded(x_BND, train, each))

  def placed(
    self, image_BHWC: jax.Array, train: bool
  ) -> tuple[jax.Array, dict[str, jax.Array]]:
    """Returns tokens with positions, (B, N, D), and further inputs of each block."""
    return self.with_positions(self.embedded(image_BHWC, train))

  def with_positions(self, x_BhwD: jax.Array) -> tuple[jax.Array, dict[str, jax.Array]]:
    """Returns what `placed` returns, for patches that are embedded already."""
    grid = x_BhwD.shape[1:3]
    x_BND = x_BhwD.reshape(len(x_BhwD), grid[0] * grid[1], self.width)
    for name in reversed(self.leading):
      token_11D = self.param(name, self.start.token, (1, 1, self.width))
      x_BND = self.in_front(token_11D, x_BND)
    stem_1ND, each = self.positions(grid)
    if stem_1ND is not None:
      x_BND += stem_1ND.astype(x_BND.dtype)
    return x_BND, each

  def encoded(
    self, x_BND: jax.Array, train: bool, each: Mapping[str, jax.Array], **options: Any
  ) -> jax.Array:
    """Returns the encoder's output (B, N, D); `options` are arguments of `stack`."""
    x_BMD = x_BND
    if self.registers:
      init = nn.initializers.normal(0.02)
      registers_1PD = self.param('registers', init, (1, self.registers, self.width))
      x_BMD = self.in_front(registers_1PD, x_BND)
    x_BMD = nn.Dropout(self.dropout, deterministic=not train)(x_BMD)
    # Options may change the number of rows.
    tokens = self.stack(name='encoder', **options)(x_BMD, train, each=each)
    return tokens[:, self.registers :]

  def finished(self, tokens_BND: jax.Array) -> dict[str, jax.Array]:
    """Returns the model's outputs for the encoder's output."""
    features_BD = self.pooled(tokens_BND)
    pre_logits_BR = features_BD
    if self.rep_size:
      pre_logits_BR = nn.tanh(
        nn.Dense(self.rep_size, dtype=self.dtype, name='pre_logits')(features_BD)
      )
    return {
      **self.classified(pre_logits_BR, tokens_BND),
      'pre_logits': pre_logits_BR,
      'features': features_BD,
      'tokens': tokens_BND,
    }

  def embedded(self, image_BHWC: jax.Array, train: bool) -> jax.Array:
    """Returns the image as a grid of tokens, (B, h, w, D)."""
    del train  # the patch embedding has no dropout
    map_BfgI = image_BHWC
    if self.resnet is not None:
      *_, map_BfgI = resnet.Trunk(self.resnet, dtype=self.dtype, name='resnet')(
        image_BHWC
      ).values()
    _, patch = self._strides()
    _, height, width, channels = map_BfgI.shape
    if height % patch[0] or width % patch[1]:
      what = 'images' if self.resnet is None else 'feature maps'
      raise UserError(
        f'{what} of {height}x{width} do not divide into patches of'
        f' {patch[0]}x{patch[1]}'
      )
    return nn.Conv(
      self.width,
      patch,
      strides=patch,
      padding='VALID',
      dtype=self.dtype,
      **self.start.embed(patch[0] * patch[1] * channels),
      name='embed',
    )(map_BfgI)

  def stack(self, name: str, **options: Any) -> nn.Module:
    """Returns the encoder: blocks and the final norm, with options of `Stack`."""
    return transformer.Stack(
      depth=self.depth,
      num_heads=self.num_heads,
      mlp_dim=self.mlp_dim,
      dropout=self.dropout,
      drop_path=self.drop_paths,
      scan=self.scan,
      remat=self.remat,
      dtype=self.dtype,
      epsilon=self.epsilon,
      name=name,
      **{'block_args': self.block_args, **options},
    )

  @property
  def block_args(self) -> dict[str, Any]:
    """Extra arguments of the blocks."""
    return dict(
      attention_args=self.start.attention,
      mlp_args={'activation': self.activation, **self.start.mlp},
    )

  def classified(
    self, pre_logits_BR: jax.Array, tokens_BND: jax.Array
  ) -> dict[str, jax.Array]:
    """Returns the outputs of all heads, float32, including `logits` (B, C)."""
    del tokens_BND  # the pooled vector is enough
    return {'logits': self.head('head', pre_logits_BR)}

  def head(self, name: str, x_BR: jax.Array) -> jax.Array:
    """Returns the class logits (B, C) of a head, float32."""
    logits_BC = nn.Dense(
      self.num_classes,
      kernel_init=self.start.head,
      bias_init=nn.initializers.constant(self.head_bias),
      dtype=self.dtype,
      name=name,
    )(x_BR)
    return precision.at_least_float32(logits_BC)

  def in_front(self, learned_1PD: jax.Array, x_BND: jax.Array) -> jax.Array:
    """Prepends learned tokens, which are the same for all images."""
    shape = (len(x_BND), *learned_1PD.shape[1:])
    learned_BPD = jnp.broadcast_to(learned_1PD, shape).astype(x_BND.dtype)
    return jnp.concatenate([learned_BPD, x_BND], axis=1)

  def positions(
    self, grid: tuple[int, int]
  ) -> tuple[jax.Array | None, dict[str, jax.Array]]:
    """Returns the positions added at the stem, and further inputs of each block."""
    check_one_of(('stem', 'every', 'shared'), posemb_at=self.posemb_at)
    if self.posemb == 'none':
      return None, {}
    at_stem = self.posemb_at == 'stem'
    layers = self.depth if self.posemb_at == 'every' else 1
    if self.posemb == 'relative':
      if at_stem:
        raise UserError(
          "posemb='relative' acts in the blocks: posemb_at must be 'every' or 'shared'"
        )
      heads = self.num_heads, self.width // self.num_heads
      count = self.registers + len(self.leading) + grid[0] * grid[1]
      keys_LRHK = self.table('relative_keys', (layers, 2 * count - 1, *heads), grid)
      return None, {'relative_RHK': self.by_block(keys_LRHK)}
    pos_LND = self.position_table(layers, grid)
    if at_stem:
      return pos_LND, {}
    # Registers come first and have no position.
    pos_LND = jnp.pad(pos_LND, ((0, 0), (self.registers, 0), (0, 0)))
    return None, {'input_1ND': self.by_block(pos_LND[:, None])}

  def position_table(self, layers: int, grid: tuple[int, int]) -> jax.Array:
    """Returns positions of leading tokens, if any, and of the grid: (L, N, D)."""
    prefix, width = len(self.leading), self.width
    if self.posemb == 'learned':
      count = self.num_placed + grid[0] * grid[1]
      pos_LND = self.table('pos_embedding', (layers, count, width), grid)
      prefix -= self.num_placed
    elif self.posemb == 'sincos2d':
      pos_LND = positions.sincos2d(*grid, width)
    elif self.posemb == 'learned2d':
      rows_LhE = self.table('pos_rows', (layers, grid[0], width // 2), grid)
      columns_LwE = self.table('pos_columns', (layers, grid[1], width // 2), grid)
      pos_LND = jax.vmap(positions.grid2d)(rows_LhE, columns_LwE)[:, 0]
    else:
      known = "'learned', 'learned2d', 'relative', 'sincos2d', 'none'"
      raise UserError(f'posemb={self.posemb!r} is not one of {known}')
    return jnp.pad(pos_LND, ((0, 0), (prefix, 0), (0, 0)))

  def table(self, name: str, shape: Sequence[int], grid: tuple[int, int]) -> jax.Array:
    """Returns a learned table; raises an error that names both grids on a mismatch."""
    self.check_table('params', name, shape, grid)
    return self.param(name, self.start.positions, tuple(shape))

  def check_table(
    self, collection: str, name: str, shape: Sequence[int], grid: tuple[int, int]
  ) -> None:
    """Raises if a table of this name exists but belongs to another grid."""
    if not self.has_variable(collection, name):
      return
    have = self.get_variable(collection, name).shape
    if have != tuple(shape):
      what = {'params': 'parameter', 'constants': 'constant'}[collection]
      raise UserError(
        f'the {what} {name} has shape {have}, but images of this size make a grid of'
        f' {grid[0]}x{grid[1]} that needs {tuple(shape)}: resize the positions with'
        ' ops.positions.resize, init_from or load(..., image_size=...)'
      )

  def by_block(self, table: jax.Array) -> jax.Array:
    """Broadcasts a shared table to all blocks; keeps one table per block as it is."""
    return jnp.broadcast_to(table, (self.depth, *table.shape[1:]))

  def pooled(self, tokens_BND: jax.Array) -> jax.Array:
    """Returns one vector (B, D) per image."""
    if self.pool == 'token':
      return tokens_BND[:, 0]
    if self.pool == 'gap':
      return tokens_BND.mean(axis=1)
    if self.pool == 'map':
      return MapHead(
        self.num_heads,
        self.mlp_dim,
        self.activation,
        self.epsilon,
        self.dtype,
        name='map_head',
      )(tokens_BND)
    raise UserError(f"pool={self.pool!r} is not one of 'token', 'gap', 'map'")


class MapHead(nn.Module):
  """A pooling head in which one learned query attends to all tokens."""

  num_heads: int
  mlp_dim: int
  activation: str = 'gelu'
  epsilon: float = transformer.LAYER_NORM_EPSILON
  dtype: str = 'float32'

  @nn.compact
  def __call__(self, x_BND: jax.Array) -> jax.Array:
    batch, _, dim = x_BND.shape
    probe_11D = self.param('probe', nn.initializers.xavier_uniform(), (1, 1, dim))
    probe_B1D = jnp.broadcast_to(probe_11D, (batch, 1, dim)).astype(x_BND.dtype)
    x_B1D = attention.MultiHeadAttention(self.num_heads, self.dtype, name='attention')(
      probe_B1D, x_BND
    )
    y_B1D = nn.LayerNorm(epsilon=self.epsilon, dtype=self.dtype, name='norm')(x_B1D)
    y_B1D = transformer.Mlp(
      self.mlp_dim, dtype=self.dtype, activation=self.activation, name='mlp'
    )(y_B1D)
    return (x_B1D + y_B1D)[:, 0]
