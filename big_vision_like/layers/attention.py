"""Multi-head attention, arXiv:1706.03762 section 3.2.2.

Axes: B batch, N queries, M keys, D width, H heads, K size of a head, T projections; S
keys of the cache; n queries of all beams; R distances; G groups of I inputs and O
outputs.
"""

import collections
import functools
from collections.abc import Callable, Sequence

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax.ad_checkpoint import checkpoint_name

from big_vision_like.errors import UserError
from big_vision_like.ops import attention, masks, positions, sharding
from big_vision_like.ops.masks import Mask

# Name of the values that remat='dots' keeps for the backward pass. Names are needed
# because the parts of a joined product are kept, not the product (compiled for v5e,
# keeping the parts moves 5 % less memory).
PRODUCT = 'product'


class Projection(nn.Module):
  """The parameters of a projection to heads: `kernel` (D, H, K) and `bias` (H, K).

  The kernel is initialized by `kernel_init`, or by default as one of `init_parts`
  parts that together form one Xavier matrix. With `groups` the kernel is (D / groups,
  H, K): each group of consecutive outputs of all heads sees one group of consecutive
  inputs.
  """

  num_heads: int
  size: int
  use_bias: bool = True
  init_parts: int = 1
  kernel_init: Callable[..., jax.Array] | None = None
  groups: int = 1

  @nn.compact
  def parameters(self, width: int) -> tuple[jax.Array, jax.Array | None]:
    outputs = self.num_heads * self.size
    if width % self.groups or outputs % self.groups:
      raise UserError(
        f'projection {self.name!r}: {self.groups} groups do not divide {width} inputs'
        f' and {outputs} outputs'
      )
    width //= self.groups

    def init(key: jax.Array, shape: tuple[int, int, int]) -> jax.Array:
      # Xavier's fan-out counts all heads and all parts.
      flat = width, outputs
      scale = sum(flat) / (width + self.init_parts * flat[1])
      start = nn.initializers.variance_scaling(scale, 'fan_avg', 'uniform')
      return start(key, flat).reshape(shape)

    heads = self.num_heads, self.size
    kernel_IHK = self.param('kernel', self.kernel_init or init, (width, *heads))
    if not self.use_bias:
      return kernel_IHK, None
    return kernel_IHK, self.param('bias', nn.initializers.zeros, heads)


def project(
  pairs: Sequence[tuple[jax.Array, Projection]], dtype: str
) -> list[jax.Array]:
  """Applies each projection to its sequence (B, N, D): (B, N, H, K).

  Projections of the same sequence with the same shape share one matrix product.
  """
  joined = collections.defaultdict(list)
  for i, (x_BND, projection) in enumerate(pairs):
    shape = projection.num_heads, projection.size, projection.groups
    joined[id(x_BND), *shape].append(i)
  results: dict[int, jax.Array] = {}
  for places in joined.values():
    projected = _project([pairs[i][1] for i in places], pairs[places[0]][0], dtype)
    results |= zip(places, projected, strict=True)
  return [results[i] for i in range(len(pairs))]


def _project(
  projections: Sequence[Projection], x_BND: jax.Array, dtype: str
) -> list[jax.Array]:
  parameters = [p.parameters(x_BND.shape[-1]) for p in projections]
  kernel_ITHK = jnp.stack([kernel.astype(dtype) for kernel, _ in parameters], axis=1)
  kernel_ITHK = sharding.gathered(kernel_ITHK, (None, None, sharding.TENSOR, None))
  # T is next to the sharded heads, so that joining moves nothing between devices.
  # Compiled for v5e, a block and its gradient move 7 % less memory than with three
  # products at 197 tokens, 2 % less at 256, and 6 % more at 1024 (where attention is a
  # kernel). With T first they move 16 % more at 197, with joined biases 3 % less.
  x_BND, groups = x_BND.astype(dtype), projections[0].groups
  if groups == 1:
    y_BNTHK = jnp.einsum('BND,DTHK->BNTHK', x_BND, kernel_ITHK)
  else:
    y_BNTHK = _grouped(x_BND, kernel_ITHK, groups)
  y_BNTHK = sharding.constrain(
    y_BNTHK, sharding.BATCH, None, None, sharding.TENSOR, None
  )
  results = []
  # The gradient of a split is one concatenation, of slices a sum of padded arrays.
  parts = jax.lax.split(y_BNTHK, (1,) * len(parameters), axis=2)
  for y_BN1HK, (_, bias_HK) in zip(parts, parameters, strict=True):
    y_BNHK = y_BN1HK[:, :, 0]
    if bias_HK is not None:
      y_BNHK += bias_HK.astype(dtype)[None, None]
    results.append(checkpoint_name(y_BNHK, PRODUCT))
  return results


def _grouped(x_BND: jax.Array, kernel_ITHK: jax.Array, groups: int) -> jax.Array:
  """Projects each group of inputs to its own outputs: (B, N, T, H, K)."""
  inputs, *shape = kernel_ITHK.shape
  x_BNGI = x_BND.reshape(*x_BND.shape[:2], groups, inputs)
  kernel_ITGO = kernel_ITHK.reshape(inputs, shape[0], groups, -1)
  y_BNTGO = jnp.einsum('BNGI,ITGO->BNTGO', x_BNGI, kernel_ITGO)
  return y_BNTGO.reshape(*x_BND.shape[:2], *shape)


class MultiHeadAttention(nn.Module):
  """Multi-head attention from one sequence to another, or to itself.

  `size` is the size of a head's queries and keys, `value_size` the size of its values;
  both default to the width divided by the number of heads. `num_kv_heads` heads of keys
  and values are shared by the `num_heads` heads of queries (1: arXiv:1911.02150, more:
  arXiv:2305.13245). `qk_norm` applies a norm to queries and keys (arXiv:2302.05442
  section 2). With `init_parts=3` queries, keys and values are initialized as one
  matrix, as in PyTorch. `kernel_init` initializes all four kernels; the default is
  Xavier. `use_bias` applies to all four projections; `out_bias` overrides it for the
  output. `dropout` is the dropout rate of the probabilities; `implementation` is an
  argument of `ops.attention.attend`. The probabilities (B, H, N, M) are sown as `probs`
  where intermediates are collected.

  With `cache_length` the tokens continue the tokens of earlier calls. Keys and values
  of up to `cache_length` tokens are stored in the collection `cache`; those of another
  sequence are computed once. Queries may then be k beams per example, (B * k, N, D).

  `relative_RHK` holds further keys, one for each distance between two tokens. Their
  products with the queries are added to the logits (arXiv:2010.11929 appendix D.4).
  """

  num_heads: int
  dtype: str = 'float32'
  implementation: str = 'auto'
  num_kv_heads: int | None = None
  size: int | None = None
  value_size: int | None = None
  use_bias: bool = True
  qk_norm: bool = False
  init_parts: int = 1
  dropout: float = 0.0
  kernel_init: Callable[..., jax.Array] | None = None
  out_bias: bool | None = None

  @nn.compact
  def __call__(
    self,
    x_BND: jax.Array,
    key_BMI: jax.Array | None = None,
    value_BMI: jax.Array | None = None,
    bias_BHNM: jax.Array | None = None,
    mask: Mask | jax.Array | None = None,
    train: bool = False,
    cache_length: int | None = None,
    relative_RHK: jax.Array | None = None,
  ) -> jax.Array:
    width, heads = x_BND.shape[-1], self.num_heads
    groups = self.num_kv_heads or heads
    if (self.size is None or self.value_size is None) and width % heads:
      raise UserError(f'width {width} is not divisible by {heads} heads')
    if heads % groups:
      raise UserError(f'{heads} heads are not divisible by num_kv_heads={groups}')
    size = self.size or width // heads
    value_size = self.value_size or width // heads
    project_to = functools.partial(
      Projection,
      use_bias=self.use_bias,
      init_parts=self.init_parts,
      kernel_init=self.kernel_init,
    )
    query = project_to(heads, size, name='query')
    key = project_to(groups, size, name='key')
    value = project_to(groups, value_size, name='value')

    cached = cache_length is not None and self.has_variable('cache', 'keys')
    if cached and key_BMI is not None:
      (q_BNHK,) = self.normed(project([(x_BND, query)], self.dtype))
      k_BMHK, v_BMHK = (self.get_variable('cache', name) for name in ('keys', 'values'))
    else:
      key_BMI, is_self = (x_BND, True) if key_BMI is None else (key_BMI, False)
      value_BMI = key_BMI if value_BMI is None else value_BMI
      pairs = [(x_BND, query), (key_BMI, key), (value_BMI, value)]
      q_BNHK, k_BMHK, v_BMHK = self.normed(project(pairs, self.dtype))
      if cache_length is not None and is_self:
        k_BMHK, v_BMHK, mask = self.remember(k_BMHK, v_BMHK, cache_length)
      elif cache_length is not None:
        self.put_variable('cache', 'keys', k_BMHK)
        self.put_variable('cache', 'values', v_BMHK)
    if relative_RHK is not None:
      relative_BHNM = positions.relative_logits(q_BNHK, relative_RHK)
      bias_BHNM = relative_BHNM if bias_BHNM is None else bias_BHNM + relative_BHNM
    if self.is_mutable_collection('intermediates'):
      p_BHNM = attention.probabilities(q_BNHK, k_BMHK, bias_BHNM, mask)
      self.sow('intermediates', 'probs', p_BHNM)
    dropout = self.dropout if train else 0.0
    q_shape, batch = q_BNHK.shape, len(k_BMHK)
    queries = q_shape[0] // batch * q_shape[1]  # beams count as further queries
    y_BnHK = attention.attend(
      q_BNHK.reshape(batch, queries, *q_shape[2:]),
      k_BMHK,
      v_BMHK,
      bias_BHNM,
      mask,
      self.implementation,
      dropout=dropout,
      dropout_key=self.make_rng('dropout') if dropout else None,
    )
    x_BND = nn.DenseGeneral(
      width,
      axis=(-2, -1),
      use_bias=self.use_bias if self.out_bias is None else self.out_bias,
      kernel_init=self.kernel_init or nn.initializers.xavier_uniform(),
      dtype=self.dtype,
      dot_general=sharding.dot_general(sharding.TENSOR, None, None),
      name='out',
    )(y_BnHK.reshape(*q_shape[:3], value_size))
    return checkpoint_name(x_BND, PRODUCT)

  def normed(self, qkv: Sequence[jax.Array]) -> list[jax.Array]:
    """Normalizes queries and keys over a head if `qk_norm` is set; leaves values."""
    if not self.qk_norm:
      return list(qkv)
    return [
      nn.LayerNorm(epsilon=1e-6, use_bias=False, dtype=self.dtype, name=f'{name}_norm')(
        x_BNHK
      )
      for name, x_BNHK in zip(('query', 'key'), qkv, strict=False)
    ] + list(qkv[2:])

  def remember(
    self, k_BNHK: jax.Array, v_BNHK: jax.Array, length: int
  ) -> tuple[jax.Array, jax.Array, Mask]:
    """Appends keys and values to a cache of `length`; returns the cache and a mask."""
    index = self.variable('cache', 'index', jnp.zeros, (), jnp.int32)
    mask = masks.up_to(index.value)
    so_far = []
    for name, x_BNHK in ('keys', k_BNHK), ('values', v_BNHK):
      shape = len(x_BNHK), length, *x_BNHK.shape[2:]
      x_BSHK = self.variable('cache', name, jnp.zeros, shape, x_BNHK.dtype)
      x_BSHK.value = jax.lax.dynamic_update_slice_in_dim(
        x_BSHK.value, x_BNHK, index.value, axis=1
      )
      so_far.append(x_BSHK.value)
    index.value += k_BNHK.shape[1]
    return *so_far, mask
