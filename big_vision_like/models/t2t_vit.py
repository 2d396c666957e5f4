"""Tokens-to-Token ViT, arXiv:2101.11986.

Extends `vit`. Three soft splits, which extract overlapping patches, replace the patch
embedding. Between them, a narrow attention layer processes all tokens, and its output
is reshaped to a map again. A deep and narrow Transformer with fixed sinusoidal
positions follows. Where the paper and its published code differ, this module follows
the code.

The random matrix of the Performer and the positions are constants: they are stored in
the collection `constants` and have neither gradients nor optimizer state.

Axes: B batch, H W image (H heads, of attention), h w grid, N tokens, I features of a
soft split, C channels, D width, E width of tokens between soft splits or of new
features, K size of a head (a row), F features of the Performer, G half of the width, R
distances.
"""

import functools
import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from big_vision_like.errors import UserError, check_one_of
from big_vision_like.layers import attention, convolution, transformer
from big_vision_like.models import vit
from big_vision_like.ops import attention as attention_ops
from big_vision_like.ops import positions, precision, sharding
from big_vision_like.ops.soft_split import soft_split

# Kernel size, stride and padding of each soft split.
SPLITS = ((7, 4, 2), (3, 2, 1), (3, 2, 1))
STRIDE = math.prod(stride for _, stride, _ in SPLITS)
TOKENS = ('performer', 'transformer')
BACKBONES = ('plain', 'se', 'ghost')
# The hidden layer of squeeze-excite is this many times narrower than its input.
SQUEEZE = 16
# The dense backbone takes its stochastic depth rates from a linear ramp of this length.
DENSE_RATES = 12

# By published name without t2t_vit_: layer between soft splits, width, depth, heads,
# MLP ratio (table 1 and the published code), backbone, groups of a dense backbone.
SIZES = {
  '7': ('performer', 256, 7, 4, 2, 'plain', ()),
  '10': ('performer', 256, 10, 4, 2, 'plain', ()),
  '12': ('performer', 256, 12, 4, 2, 'plain', ()),
  '14': ('performer', 384, 14, 6, 3, 'plain', ()),
  '19': ('performer', 448, 19, 7, 3, 'plain', ()),
  '24': ('performer', 512, 24, 8, 3, 'plain', ()),
  't_14': ('transformer', 384, 14, 6, 3, 'plain', ()),
  't_19': ('transformer', 448, 19, 7, 3, 'plain', ()),
  't_24': ('transformer', 512, 24, 8, 3, 'plain', ()),
  '14_resnext': ('performer', 384, 14, 32, 3, 'plain', ()),
  '14_wide': ('performer', 768, 4, 12, 3, 'plain', ()),
  '14_se': ('performer', 384, 14, 6, 3, 'se', ()),
  '16_ghost': ('performer', 384, 16, 6, 3, 'ghost', ()),
  'dense': ('performer', 128, 19, 8, 2, 'plain', (3, 6, 6, 4)),
}

# The published code truncates at -2 and 2, which is 100 standard deviations.
NORMAL = nn.initializers.normal(0.02)


def variant(name: str) -> dict[str, Any]:
  """Returns the arguments of `T2TViT` for a name such as '14', 't_14' or '14_se'."""
  if name not in SIZES:
    raise UserError(f'unknown T2T-ViT {name!r}: choose one of {", ".join(SIZES)}')
  tokens, width, depth, num_heads, ratio, backbone, groups = SIZES[name]
  return dict(
    tokens=tokens,
    width=width,
    depth=depth,
    num_heads=num_heads,
    mlp_dim=ratio * width,
    backbone=backbone,
    groups=groups,
  )


class T2TViT(vit.ViT, kw_only=True):
  """A ViT with three soft splits, for images whose sides are multiples of 16 pixels.

  `tokens` is the attention between soft splits: 'performer' (linear, by random
  features) or 'transformer'; its width is `token_dim`. `token_dropout` is the dropout
  rate of the Performer. `backbone` is 'plain', 'se' (squeeze-excite after attention) or
  'ghost' (half of the features are scaled copies of the other half).

  With `groups` the backbone is dense: `groups` lists the number of blocks in each
  group, `depth` in total. Each block widens the tokens by `growth`, and transitions
  between groups halve the width. With `posemb='sinusoid'` the positions are fixed; they
  are stored as a constant because published models have resized ones for other image
  sizes.
  """

  patch: int = STRIDE
  posemb: str = 'sinusoid'
  activation: str = 'gelu_exact'
  epsilon: float = 1e-5
  tokens: str = 'performer'
  token_dim: int = 64
  token_dropout: float = 0.1
  backbone: str = 'plain'
  groups: Sequence[int] = ()
  growth: int = 64

  start = vit.Start(token=NORMAL, head=NORMAL)
  resizes = vit.ViT.resizes | {
    'pos_embedding': functools.partial(positions.resize_grid, method='cubic_torch')
  }
  tiny = dict(
    patch=STRIDE,
    width=32,
    depth=2,
    num_heads=2,
    mlp_dim=96,  # three times the width, as a ghost backbone requires
    token_dim=16,
    groups=(1, 1),
    growth=16,
    rep_size=32,
  )

  @property
  def attends(self) -> bool:
    """Whether attention rollout applies; it does not to a dense backbone."""
    return not self.groups

  def embedded(self, image_BHWC: jax.Array, train: bool) -> jax.Array:
    if self.patch != STRIDE or self.resnet is not None:
      raise UserError(
        f'patch={self.patch!r}, resnet={self.resnet!r}: the soft splits of a T2T-ViT'
        f' turn images into tokens of {STRIDE}x{STRIDE} pixels; leave both out'
      )
    check_one_of(TOKENS, tokens=self.tokens)
    size = image_BHWC.shape[1:3]
    if any(side < STRIDE or side % STRIDE for side in size):
      near = [sorted({max(side // STRIDE, 1), -(-side // STRIDE)}) for side in size]
      sizes = [
        f'{rows * STRIDE}x{columns * STRIDE}' for rows in near[0] for columns in near[1]
      ]
      raise UserError(
        f'images of {size[0]}x{size[1]} do not divide into tokens of'
        f' {STRIDE}x{STRIDE} pixels: resize them to {" or ".join(sizes)}'
      )
    return TokensToToken(
      width=self.width,
      token_dim=self.token_dim,
      tokens=self.tokens,
      activation=self.activation,
      dropout=self.token_dropout,
      epsilon=self.epsilon,
      remat=self.remat,
      dtype=self.dtype,
      name='tokens_to_token',
    )(image_BHWC, train)

  def position_table(self, layers: int, grid: tuple[int, int]) -> jax.Array:
    if self.posemb != 'sinusoid':
      return super().position_table(layers, grid)
    shape = (1, len(self.leading) + grid[0] * grid[1], self.width)
    self.check_table('constants', 'pos_embedding', shape, grid)
    return self.variable(
      'constants',
      'pos_embedding',
      lambda: jnp.asarray(positions.sinusoid_table(*shape[1:])),
    ).value

  def stack(self, name: str) -> nn.Module:
    check_one_of(BACKBONES, backbone=self.backbone)
    if not self.groups:
      return super().stack(name)
    if sum(self.groups) != self.depth:
      raise UserError(
        f'groups={tuple(self.groups)} have {sum(self.groups)} blocks, not depth='
        f'{self.depth}'
      )
    if self.scan:
      raise UserError('scan=True needs equal blocks; those of a dense backbone differ')
    return DenseStack(
      groups=self.groups,
      growth=self.growth,
      mlp_ratio=self.mlp_dim / self.width,
      drop_path=self.drop_path,
      epsilon=self.epsilon,
      dtype=self.dtype,
      block=dict(
        num_heads=self.num_heads,
        dropout=self.dropout,
        remat=self.remat,
        epsilon=self.epsilon,
        dtype=self.dtype,
        block_args=self.block_args,
      ),
      name=name,
    )

  @property
  def block_args(self) -> dict[str, Any]:
    if self.backbone == 'ghost':
      return dict(
        attention_class=GhostAttention,
        mlp_class=GhostMlp,
        mlp_args=dict(activation=self.activation),
      )
    mlp = dict(
      activation=self.activation, kernel_init=NORMAL, bias_init=nn.initializers.zeros
    )
    if self.backbone == 'se':
      return dict(attention_class=GatedAttention, mlp_args=mlp)
    return dict(attention_args=ATTENTION, mlp_args=mlp)


# Arguments of `MultiHeadAttention` in all backbones that use it.
ATTENTION = dict(use_bias=False, out_bias=True, kernel_init=NORMAL)


class TokensToToken(nn.Module):
  """The soft splits: images (B, H, W, C) to tokens (B, H / 16, W / 16, D), section 3.1.

  Figure 4 of the paper shows them.
  """

  width: int
  token_dim: int
  tokens: str
  activation: str
  dropout: float
  epsilon: float
  remat: str = 'none'
  dtype: str = 'float32'

  @nn.compact
  def __call__(self, image_BHWC: jax.Array, train: bool = False) -> jax.Array:
    first, *others = SPLITS
    x_BhwI = soft_split(image_BHWC, *first)
    self.sow('intermediates', 'split0', x_BhwI)
    for i, split in enumerate(others, start=1):
      x_BhwI = soft_split(self.attended(f'layer{i}', x_BhwI, train), *split)
      self.sow('intermediates', f'split{i}', x_BhwI)
    return _dense(self.width, 'project', self.dtype)(x_BhwI)

  def attended(self, name: str, x_BhwI: jax.Array, train: bool) -> jax.Array:
    """Applies a narrow attention layer to a map and returns a map (B, h, w, E)."""
    layer_class = TokenLayer
    if self.remat != 'none':
      layer_class = nn.remat(TokenLayer, static_argnums=(2,))
    batch, *grid, features = x_BhwI.shape
    x_BNE = layer_class(
      width=self.token_dim,
      tokens=self.tokens,
      activation=self.activation,
      dropout=self.dropout,
      epsilon=self.epsilon,
      dtype=self.dtype,
      name=name,
    )(x_BhwI.reshape(batch, grid[0] * grid[1], features), train)
    return x_BNE.reshape(batch, *grid, self.token_dim)


class TokenLayer(nn.Module):
  """A layer between soft splits: attention with one head, then an MLP, (B, N, E).

  Attention changes the width, so its residual connection adds the values instead of the
  input. With 'transformer', dot products are divided by the square root of the input's
  width, as in the published code.
  """

  width: int
  tokens: str
  activation: str
  dropout: float
  epsilon: float
  dtype: str = 'float32'

  @nn.compact
  def __call__(self, x_BNI: jax.Array, train: bool = False) -> jax.Array:
    norm = functools.partial(nn.LayerNorm, epsilon=self.epsilon, dtype=self.dtype)
    performer, width = self.tokens == 'performer', self.width
    joined = _dense(3 * width, 'qkv', self.dtype, use_bias=performer)
    parts = jnp.split(joined(norm(name='norm1')(x_BNI)), 3, axis=-1)
    q_BN1E, k_BN1E, v_BN1E = (part_BNE[:, :, None] for part_BNE in parts)
    if performer:
      y_BN1E = attention_ops.attend_linear(q_BN1E, k_BN1E, v_BN1E, self.features())
    else:
      # `attend` divides by the square root of the token width; the factor corrects
      # that. It is applied in float32, because rounding it would bias all products.
      factor = math.sqrt(width / x_BNI.shape[-1])
      q_BN1E = (precision.at_least_float32(q_BN1E) * factor).astype(q_BN1E.dtype)
      y_BN1E = attention_ops.attend(q_BN1E, k_BN1E, v_BN1E)
    rate = self.dropout if performer else 0.0
    y_BNE = _dense(width, 'out', self.dtype)(y_BN1E[:, :, 0])
    y_BNE = v_BN1E[:, :, 0] + nn.Dropout(rate, deterministic=not train)(y_BNE)
    return y_BNE + transformer.Mlp(
      width,
      dropout=rate,
      hidden_dropout=0.0,
      dtype=self.dtype,
      activation=self.activation,
      kernel_init=NORMAL,
      bias_init=nn.initializers.zeros,
      name='mlp',
    )(norm(name='norm2')(y_BNE), train)

  def features(self) -> jax.Array:
    """Returns the constant random matrix (F, E), with F = E / 2 features."""
    if self.width % 2:
      raise UserError(
        f'token_dim={self.width}: the Performer has token_dim / 2 features; choose an'
        f' even width such as {self.width + 1}'
      )
    shape = self.width // 2, self.width

    def draw() -> jax.Array:
      rows_FK = nn.initializers.orthogonal()(self.make_rng('params'), shape)
      return math.sqrt(shape[0]) * rows_FK

    return self.variable('constants', 'w', draw).value


class GatedAttention(nn.Module):
  """Self-attention whose outputs are scaled by squeeze-excite gates (table 6)."""

  num_heads: int
  dtype: str = 'float32'

  @nn.compact
  def __call__(self, x_BND: jax.Array, *others: Any, **options: Any) -> jax.Array:
    attend = attention.MultiHeadAttention(
      self.num_heads, self.dtype, **ATTENTION, name='attention'
    )
    y_BND = attend(x_BND, *others, **options)
    if self.is_mutable_collection('intermediates'):  # where the other blocks sow it
      self.sow(
        'intermediates', 'probs', attend.get_variable('intermediates', 'probs')[-1]
      )
    gate = convolution.SqueezeExcite(
      max(x_BND.shape[-1] // SQUEEZE, 1),
      kernel_init=NORMAL,
      use_bias=False,
      dtype=self.dtype,
      name='squeeze_excite',
    )
    return gate(y_BND[:, :, None])[:, :, 0]  # as a map with a single column


class GhostAttention(nn.Module):
  """Self-attention that computes only half of the queries, keys and values.

  The other half are copies of these features, each scaled by a learned number
  (arXiv:1911.11907).
  """

  num_heads: int
  dtype: str = 'float32'

  @nn.compact
  def __call__(
    self,
    x_BND: jax.Array,
    key_BND: jax.Array | None = None,
    value_BND: jax.Array | None = None,
    bias_BHNN: jax.Array | None = None,
    mask: Any = None,
    train: bool = False,
    cache_length: int | None = None,
    relative_RHK: jax.Array | None = None,
  ) -> jax.Array:
    if cache_length is not None or relative_RHK is not None or key_BND is not None:
      raise UserError(
        "backbone='ghost' supports self-attention only, without relative positions"
      )
    width = x_BND.shape[-1]
    if width % 2 or width % self.num_heads:
      raise UserError(
        f'width {width} of a ghost backbone must be even and divisible by'
        f' {self.num_heads} heads'
      )
    heads = self.num_heads, width // self.num_heads

    def project(name: str) -> jax.Array:
      half_BNG = _dense(width // 2, f'half_{name}', self.dtype, use_bias=False)(x_BND)
      ghost_BNG = Factors(dtype=self.dtype, name=f'ghost_{name}')(half_BNG)
      y_BND = jnp.concatenate([half_BNG, ghost_BNG], axis=-1)
      return y_BND.reshape(*y_BND.shape[:2], *heads)

    q_BNHK, k_BNHK, v_BNHK = map(project, ('query', 'key', 'value'))
    if self.is_mutable_collection('intermediates'):
      p_BHNN = attention_ops.probabilities(q_BNHK, k_BNHK, bias_BHNN, mask)
      self.sow('intermediates', 'probs', p_BHNN)
    y_BNHK = attention_ops.attend(q_BNHK, k_BNHK, v_BNHK, bias_BHNN, mask)
    return nn.DenseGeneral(
      width,
      axis=(-2, -1),
      kernel_init=NORMAL,
      dtype=self.dtype,
      dot_general=sharding.dot_general(sharding.TENSOR, None, None),
      name='out',
    )(y_BNHK)


class GhostMlp(nn.Module):
  """An MLP with scaled copies of its first layer's outputs as further hidden units.

  A Dense layer and an activation compute the first third of the hidden units. The
  other two thirds are copies of it, each feature scaled by a learned number and
  followed by the activation. A second Dense layer reads all of them. `hidden` is the
  total number of hidden units, three times the width.
  """

  hidden: int
  dropout: float = 0.0
  dtype: str = 'float32'
  activation: str = 'gelu_exact'

  @nn.compact
  def __call__(self, x_BND: jax.Array, train: bool = False) -> jax.Array:
    width = x_BND.shape[-1]
    if self.hidden != 3 * width:
      raise UserError(
        f'mlp_dim={self.hidden}: the MLP of a ghost backbone has 3 times its width, '
        f'{3 * width}'
      )
    check_one_of(transformer.ACTIVATIONS, activation=self.activation)
    activation = transformer.ACTIVATIONS[self.activation]
    first_BND = activation(_dense(width, 'fc1', self.dtype)(x_BND))
    parts = [first_BND]
    for i in (2, 3):
      ghost_BND = Factors(dtype=self.dtype, name=f'ghost{i}')(first_BND)
      parts.append(activation(ghost_BND))
    drop = nn.Dropout(self.dropout, deterministic=not train)
    y_BND = _dense(width, 'fc2', self.dtype)(drop(jnp.concatenate(parts, axis=-1)))
    return drop(y_BND)


class Factors(nn.Module):
  """A learned scale for each feature: a depthwise convolution of single tokens.

  The kernel (1, 1, D) is initialized as PyTorch initializes that convolution.
  """

  dtype: str = 'float32'

  @nn.compact
  def __call__(self, x_BND: jax.Array) -> jax.Array:
    def init(key: jax.Array, shape: Sequence[int]) -> jax.Array:
      return jax.random.uniform(key, shape, minval=-1.0, maxval=1.0)

    kernel_11D = self.param('kernel', init, (1, 1, x_BND.shape[-1]))
    return x_BND.astype(self.dtype) * kernel_11D.astype(self.dtype)


class DenseStack(nn.Module):
  """A dense backbone: groups of blocks and a final norm (arXiv:1608.06993).

  Block `unit{i}` processes the tokens, `growth{i}` computes new features from its
  output, and these are concatenated to the unchanged tokens. Between groups,
  `transition{i}` halves the width. Units and transitions share one counter i that
  starts at 0, as in the published code. `block` holds arguments of `transformer.Stack`.
  All blocks of group g drop paths at entry g of `DENSE_RATES` rates that grow linearly
  from 0 to `drop_path`.
  """

  groups: Sequence[int]
  growth: int
  mlp_ratio: float
  drop_path: float
  epsilon: float
  block: Mapping[str, Any]
  dtype: str = 'float32'

  @nn.compact
  def __call__(
    self,
    x_BND: jax.Array,
    train: bool = False,
    each: Mapping[str, jax.Array] | None = None,
  ) -> jax.Array:
    if each:
      raise UserError('a dense backbone supports positions at the stem only')
    rates = np.linspace(0.0, self.drop_path, DENSE_RATES)
    i = 0
    for group, depth in enumerate(self.groups):
      for _ in range(depth):
        x_BND = self.unit(i, x_BND, float(rates[group]), train)
        i += 1
      if group < len(self.groups) - 1:
        x_BND = self.transition(i, x_BND)
        i += 1
    return nn.LayerNorm(epsilon=self.epsilon, dtype=self.dtype, name='norm')(x_BND)

  def unit(self, i: int, x_BND: jax.Array, rate: float, train: bool) -> jax.Array:
    """Returns the tokens with the new features of a block concatenated."""
    y_BND = transformer.Stack(
      depth=1,
      mlp_dim=int(x_BND.shape[-1] * self.mlp_ratio),
      drop_path=(rate,),
      final_norm=False,
      **self.block,
      name=f'unit{i}',
    )(x_BND, train)
    new_BNE = _dense(self.growth, f'growth{i}', self.dtype)(y_BND)
    return jnp.concatenate([x_BND, new_BNE], axis=-1)

  def transition(self, i: int, x_BND: jax.Array) -> jax.Array:
    """Returns tokens of half the width, after a Dense layer and GELU."""
    half_BNG = _dense(x_BND.shape[-1] // 2, f'transition{i}', self.dtype)(x_BND)
    return nn.gelu(half_BNG, approximate=False)


def _dense(
  features: int, name: str, dtype: str, use_bias: bool = True
) -> Callable[[jax.Array], jax.Array]:
  return nn.Dense(
    features,
    use_bias=use_bias,
    kernel_init=NORMAL,
    dtype=dtype,
    dot_general=sharding.dot_general(None, None),
    name=name,
  )
