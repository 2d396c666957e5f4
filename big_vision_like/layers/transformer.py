"""Stacks of Transformer blocks, encoders and decoders (arXiv:1706.03762 section 3.1).

Axes: B batch, N tokens, M tokens of the memory, D width, H heads, F hidden units, I O
features before and after a layer, L depth.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import flax.linen as nn
import flax.struct
import jax
import jax.numpy as jnp
import numpy as np
from jax.ad_checkpoint import checkpoint_name

from big_vision_like.errors import UserError, check_one_of
from big_vision_like.layers import attention
from big_vision_like.ops import sharding
from big_vision_like.ops.masks import Mask

LAYER_NORM_EPSILON = 1e-6


def gelu_exact(x: jax.Array) -> jax.Array:
  """Returns x times the cumulative standard normal distribution (arXiv:1606.08415).

  It uses the error function as PyTorch does, which takes a third of the time of its
  complement in Flax on CPUs. Half precision has too few digits for the sum, so Flax's
  version computes it.
  """
  if x.dtype.itemsize < 4:
    return nn.gelu(x, approximate=False)
  return 0.5 * x * (1.0 + jax.lax.erf(x * math.sqrt(0.5)))


ACTIVATIONS = {
  'gelu': nn.gelu,  # the tanh approximation
  'gelu_exact': gelu_exact,
  'relu': nn.relu,
  'silu': nn.silu,  # also known as swish
}

REMAT_POLICIES = {
  'dots': jax.checkpoint_policies.save_only_these_names(attention.PRODUCT),
  'full': jax.checkpoint_policies.nothing_saveable,
}


# Sharding of the blocks' parameters over a mesh with a `tensor` axis (arXiv:1909.08053
# section 3): heads and hidden units are sharded; each block sums over devices twice.
SHARDING_RULES = (
  ('(.*/)?(cross_)?attention/(query|key|value)/kernel', (None, sharding.TENSOR, None)),
  ('(.*/)?(cross_)?attention/(query|key|value)/bias', (sharding.TENSOR, None)),
  ('(.*/)?(cross_)?attention/out/kernel', (sharding.TENSOR, None, None)),
  ('(.*/)?mlp/(fc1|gate)/kernel', (None, sharding.TENSOR)),
  ('(.*/)?mlp/(fc1|gate)/bias', (sharding.TENSOR,)),
  ('(.*/)?mlp/fc2/kernel', (sharding.TENSOR, None)),
)


class Mlp(nn.Module):
  """An MLP of two Dense layers: Dense, activation, Dense, with dropout after each.

  `hidden_dropout` is the dropout rate after the activation if it differs from
  `dropout`. `gated` multiplies by a second Dense: activation(gate(x)) * fc1(x)
  (arXiv:2002.05202). `kernel_init` and `bias_init` initialize all kernels and biases.
  """

  hidden: int
  dropout: float = 0.0
  dtype: str = 'float32'
  activation: str = 'gelu'
  gated: bool = False
  use_bias: bool = True
  hidden_dropout: float | None = None
  kernel_init: Callable[..., jax.Array] = nn.initializers.xavier_uniform()
  bias_init: Callable[..., jax.Array] = nn.initializers.normal(1e-6)

  @nn.compact
  def __call__(self, x_BND: jax.Array, train: bool = False) -> jax.Array:
    check_one_of(ACTIVATIONS, activation=self.activation)
    activation, by_hidden = ACTIVATIONS[self.activation], (None, sharding.TENSOR)
    dense = dict(
      use_bias=self.use_bias,
      kernel_init=self.kernel_init,
      bias_init=self.bias_init,
      dtype=self.dtype,
    )
    first = 'gate' if self.gated else 'fc1'
    x_BNF = activation(_dense(self.hidden, first, x_BND, by_hidden, **dense))
    if self.gated:
      x_BNF *= _dense(self.hidden, 'fc1', x_BND, by_hidden, **dense)
    rate = self.dropout if self.hidden_dropout is None else self.hidden_dropout
    x_BNF = nn.Dropout(rate, deterministic=not train)(x_BNF)
    x_BND = _dense(x_BND.shape[-1], 'fc2', x_BNF, (sharding.TENSOR, None), **dense)
    return nn.Dropout(self.dropout, deterministic=not train)(x_BND)


def _dense(
  features: int,
  name: str,
  x_BNI: jax.Array,
  axes: tuple[sharding.Axis, sharding.Axis],
  **dense: Any,
) -> jax.Array:
  """Applies a Dense layer whose kernel is sharded over these axes of the mesh."""
  y_BNO = nn.Dense(
    features, dot_general=sharding.dot_general(*axes), **dense, name=name
  )(x_BNI)
  if axes[1] is None:
    return y_BNO
  y_BNO = checkpoint_name(y_BNO, attention.PRODUCT)
  return sharding.constrain(y_BNO, sharding.BATCH, None, axes[1])


class DropPath(nn.Module):
  """Stochastic depth: drops a residual branch for whole examples (arXiv:1603.09382).

  The branch has any shape (B, ...), such as tokens or maps.
  """

  @nn.compact
  def __call__(self, x: jax.Array, rate: jax.Array | float) -> jax.Array:
    shape = (x.shape[0],) + (1,) * (x.ndim - 1)
    keep = 1.0 - rate
    kept = jax.random.bernoulli(self.make_rng('dropout'), keep, shape)
    return x * (kept.astype(jnp.float32) / keep).astype(x.dtype)


@flax.struct.dataclass
class Context:
  """The inputs of all blocks of a stack besides their tokens.

  `bias_BHNM` and `mask` apply to self-attention. `position_BND` is added to its queries
  and keys (arXiv:2005.12872). With `memory_BMD` the blocks form a decoder: they also
  attend to the memory, masked by `memory_mask`, with `memory_position_BMD` added to its
  keys. `input_1ND` is added to the tokens before each block, and `relative_RHK` holds
  keys by distance (see `MultiHeadAttention`).
  """

  bias_BHNM: jax.Array | None = None
  mask: Mask | jax.Array | None = None
  position_BND: jax.Array | None = None
  memory_BMD: jax.Array | None = None
  memory_mask: Mask | jax.Array | None = None
  memory_position_BMD: jax.Array | None = None
  input_1ND: jax.Array | None = None
  relative_RHK: jax.Array | None = None


class Block(nn.Module):
  """A Transformer block: self-attention, attention to a memory if given, and an MLP.

  Each is a residual branch f: with norm='pre', x + f(norm(x)) (arXiv:2010.11929
  equations 2 and 3); with 'post', norm(x + f(x)) (arXiv:1706.03762). `layer_scale` is
  the initial value of a learned vector that scales each branch (arXiv:2103.17239); None
  disables it. `attention_args` and `mlp_args` are extra arguments of
  `MultiHeadAttention` and `Mlp`, or of the classes that replace them:
  `attention_class` takes the number of heads and the dtype and is called like
  `MultiHeadAttention`; `mlp_class` replaces `Mlp`. Without `self_attention` the block
  attends to the memory only.
  """

  num_heads: int
  mlp_dim: int
  dropout: float = 0.0
  stochastic_depth: bool = False
  dtype: str = 'float32'
  norm: str = 'pre'
  epsilon: float = LAYER_NORM_EPSILON
  layer_scale: float | None = None
  attention_args: Mapping[str, Any] = flax.core.FrozenDict()
  mlp_args: Mapping[str, Any] = flax.core.FrozenDict()
  attention_class: Callable[..., nn.Module] = attention.MultiHeadAttention
  mlp_class: Callable[..., nn.Module] = Mlp
  self_attention: bool = True

  @nn.compact
  def __call__(
    self,
    x_BND: jax.Array,
    drop_path: jax.Array,
    train: bool = False,
    cache_length: int | None = None,
    context: Context = Context(),  # noqa: B008 - it cannot be changed
  ) -> jax.Array:
    attend = dict(train=train, cache_length=cache_length)
    attention_args = dict(
      num_heads=self.num_heads, dtype=self.dtype, **self.attention_args
    )

    def attention_branch(y_BND: jax.Array) -> jax.Array:
      # Self-attention passes one sequence, so that its projections are joined.
      query_BND = _plus(y_BND, context.position_BND)
      key_BND = None if query_BND is y_BND else query_BND
      return self.attention_class(**attention_args, name='attention')(
        query_BND,
        key_BND,
        y_BND,
        context.bias_BHNM,
        context.mask,
        relative_RHK=context.relative_RHK,
        **attend,
      )

    def memory_branch(y_BND: jax.Array) -> jax.Array:
      memory_BMI = context.memory_BMD  # its width may differ
      return self.attention_class(**attention_args, name='cross_attention')(
        _plus(y_BND, context.position_BND),
        _plus(memory_BMI, context.memory_position_BMD),
        memory_BMI,
        mask=context.memory_mask,
        **attend,
      )

    def mlp_branch(y_BND: jax.Array) -> jax.Array:
      return self.mlp_class(
        self.mlp_dim, self.dropout, self.dtype, **self.mlp_args, name='mlp'
      )(y_BND, train)

    x_BND = _plus(x_BND, context.input_1ND)
    # With fsdp, batch and state are both sharded. This makes XLA gather the state.
    x_BND = sharding.constrain(x_BND, sharding.BATCH, None, None)
    branches = [attention_branch] if self.self_attention else []
    if context.memory_BMD is not None:
      branches.append(memory_branch)
    branches.append(mlp_branch)
    for number, branch in enumerate(branches, start=1):
      norm = nn.LayerNorm(epsilon=self.epsilon, dtype=self.dtype, name=f'norm{number}')
      y_BND = branch(norm(x_BND) if self.norm == 'pre' else x_BND)
      if branch is not mlp_branch:  # which has its own dropout
        y_BND = nn.Dropout(self.dropout, deterministic=not train)(y_BND)
      if self.layer_scale is not None:
        init = nn.initializers.constant(self.layer_scale)
        scale_D = self.param(f'layer_scale{number}', init, y_BND.shape[-1:])
        y_BND *= scale_D.astype(y_BND.dtype)[None, None]
      if train and self.stochastic_depth:
        y_BND = DropPath(name=f'drop_path{number}')(y_BND, drop_path)
      x_BND = x_BND + y_BND
      if self.norm == 'post':
        x_BND = norm(x_BND)
    return x_BND


def _plus(x_BND: jax.Array, position: jax.Array | None) -> jax.Array:
  return x_BND if position is None else x_BND + position.astype(x_BND.dtype)


class Stack(nn.Module):
  """A stack of blocks and a final norm: an encoder or, with a memory, a decoder.

  `scan` compiles one block and loops over it: parameters are stacked under `blocks`
  instead of named `block_0`, .... `remat` ('none', 'dots' or 'full') selects the values
  recomputed in the backward pass. `drop_path` is the stochastic depth rate of the last
  block, growing linearly from 0, or one rate for each block. `block_args` are extra
  arguments of `Block`. `each` holds fields of `context` that differ between blocks,
  with a leading axis L. `every` returns the output of each block, (L, B, N, D), all
  passed through the one final norm, which the next block does not see
  (arXiv:2005.12872).
  """

  depth: int
  num_heads: int
  mlp_dim: int
  dropout: float = 0.0
  drop_path: float | Sequence[float] = 0.0
  scan: bool = False
  remat: str = 'none'
  dtype: str = 'float32'
  norm: str = 'pre'
  final_norm: bool = True
  epsilon: float = LAYER_NORM_EPSILON
  block_args: Mapping[str, Any] = flax.core.FrozenDict()
  every: bool = False

  @nn.compact
  def __call__(
    self,
    x_BND: jax.Array,
    train: bool = False,
    context: Context = Context(),  # noqa: B008 - it cannot be changed
    cache_length: int | None = None,
    each: Mapping[str, jax.Array] = flax.core.FrozenDict(),
  ) -> jax.Array:
    check_one_of(('none', *REMAT_POLICIES), remat=self.remat)
    if self.norm not in ('pre', 'post'):
      raise UserError(f"norm={self.norm!r} is not one of 'pre', 'post'")
    block_class = Block
    if self.remat != 'none':
      block_class = nn.remat(
        Block,
        policy=REMAT_POLICIES[self.remat],
        static_argnums=(3, 4),  # train, cache_length
        prevent_cse=not self.scan,  # a loop body is not merged with its recomputation
      )
    block = dict(
      num_heads=self.num_heads,
      mlp_dim=self.mlp_dim,
      dropout=self.dropout,
      stochastic_depth=bool(np.any(np.asarray(self.drop_path) > 0)),
      dtype=self.dtype,
      norm=self.norm,
      epsilon=self.epsilon,
      **self.block_args,
    )
    if not np.ndim(self.drop_path):
      rates_L = jnp.linspace(0.0, self.drop_path, self.depth)
    elif len(self.drop_path) == self.depth:
      rates_L = jnp.asarray(self.drop_path)
    else:
      raise UserError(
        f'drop_path has {len(self.drop_path)} rates, but there are {self.depth} blocks'
      )
    if self.scan:
      blocks = block_class(**block, name='blocks')

      def body(
        block: nn.Module,
        x_BND: jax.Array,
        rate: jax.Array,
        own: Mapping[str, jax.Array],
        context: Context,
      ) -> tuple[jax.Array, jax.Array | None]:
        x_BND = block(x_BND, rate, train, cache_length, context.replace(**own))
        return x_BND, x_BND if self.every else None

      x_BND, outputs = nn.scan(
        body,
        variable_axes={'params': 0, 'intermediates': 0, 'cache': 0},
        split_rngs={'params': True, 'dropout': True},
        in_axes=(0, 0, nn.broadcast),
        length=self.depth,
      )(blocks, x_BND, rates_L, dict(each), context)
    else:
      outputs = []
      for i in range(self.depth):
        x_BND = block_class(**block, name=f'block_{i}')(
          x_BND,
          rates_L[i],
          train,
          cache_length,
          context.replace(**{name: array[i] for name, array in each.items()}),
        )
        outputs.append(x_BND)
      outputs = jnp.stack(outputs) if self.every else None
    result = outputs if self.every else x_BND
    if not self.final_norm:
      return result
    return nn.LayerNorm(epsilon=self.epsilon, dtype=self.dtype, name='norm')(result)
