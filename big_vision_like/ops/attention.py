"""Scaled dot-product attention, arXiv:1706.03762 section 3.2.1.

Axes: B batch, N queries, M keys, H heads, K query/key size, V value size; n m as N and
M, padded to whole blocks.
"""

import functools
import math
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
from jax.experimental.pallas.ops.tpu import splash_attention
from jax.sharding import PartitionSpec as P

from big_vision_like.errors import UserError
from big_vision_like.ops import sharding

Kernel = Callable[[jax.Array, jax.Array, jax.Array], jax.Array]

IMPLEMENTATIONS = ('auto', 'xla', 'cudnn', 'pallas')

# From this many tokens on, a TPU takes the kernel. Compiled for v5e (bfloat16, batch
# 32, 12 heads of 64), a layer and its gradient move 1.4 GiB through XLA and 0.7 through
# the kernel at 256 tokens, 6.8 and 3.0 at 577, 14.4 and 2.7 at 1024; the count does not
# show how long the matrix units wait between blocks of few tokens.
PALLAS_MIN_TOKENS = 512

# Blocks of queries and keys are multiples of a TPU's lanes; larger ones, with their
# gradient, leave too little of its vector memory.
LANES = 128
MAX_BLOCK = 1024
MAX_HEAD = 128


def probabilities(
  q_BNHK: jax.Array,
  k_BMHK: jax.Array,
  bias_BHNM: jax.Array | None = None,
  mask_BHNM: jax.Array | None = None,
) -> jax.Array:
  """Softmax over keys of q.k / sqrt(K) + bias: (B, H, N, M), in float32.

  Bias (float) and mask (bool, True may be attended) broadcast to (B, H, N, M). A query
  with nothing to attend gets zeros.
  """
  logits_BHNM = jnp.einsum(
    'BNHK,BMHK->BHNM', _scaled(q_BNHK), k_BMHK, preferred_element_type=jnp.float32
  )
  if bias_BHNM is not None:
    logits_BHNM += bias_BHNM
  if mask_BHNM is None:
    return jax.nn.softmax(logits_BHNM, axis=-1)
  mask_BHNM = jnp.broadcast_to(mask_BHNM, logits_BHNM.shape)
  lowest = jnp.finfo(jnp.float32).min
  p_BHNM = jax.nn.softmax(jnp.where(mask_BHNM, logits_BHNM, lowest), axis=-1)
  return jnp.where(mask_BHNM, p_BHNM, 0.0)


def attend(
  q_BNHK: jax.Array,
  k_BMHK: jax.Array,
  v_BMHV: jax.Array,
  bias_BHNM: jax.Array | None = None,
  mask_BHNM: jax.Array | None = None,
  implementation: str = 'auto',
) -> jax.Array:
  """Values averaged with the attention `probabilities`: (B, N, H, V), dtype of v.

  `implementation` is 'xla' (all (B, H, N, M) probabilities, anywhere), 'cudnn' (flash
  attention, arXiv:2205.14135, on NVIDIA GPUs; half precision, K = V a multiple of 8 up
  to 128), 'pallas' (the splash kernel on TPUs; interpreted elsewhere, slowly) or
  'auto': of these the fastest that can serve, chosen when the program is lowered for a
  platform. Kernels take neither bias nor mask; where batch or heads do not divide over
  the mesh, 'xla' serves.

  Raises `UserError` for an implementation that cannot serve.
  """
  if implementation not in IMPLEMENTATIONS:
    known = ', '.join(IMPLEMENTATIONS)
    raise UserError(
      f'attention implementation {implementation!r} is not one of {known}'
    )
  qkv = q_BNHK, k_BMHK, v_BMHV
  if bias_BHNM is None and mask_BHNM is None:
    refused = {'cudnn': _why_not_cudnn(*qkv), 'pallas': _why_not_pallas(*qkv)}
  else:
    refused = dict.fromkeys(('cudnn', 'pallas'), 'it takes neither bias nor mask')
  if reason := refused.get(implementation):
    raise UserError(
      f"attention implementation {implementation!r} cannot serve: {reason}; use 'auto'"
    )

  plain = functools.partial(_xla, bias_BHNM=bias_BHNM, mask_BHNM=mask_BHNM)
  if implementation == 'xla' or not _divides_over_mesh(q_BNHK):
    return plain(*qkv)
  if implementation == 'cudnn':
    return _on_each_device(_cudnn)(*qkv)
  if implementation == 'pallas':
    interpreted = _on_each_device(functools.partial(_splash, interpret=True))
    return jax.lax.platform_dependent(
      *qkv, tpu=_on_each_device(_splash), default=interpreted
    )
  kernels = {}
  if not refused['cudnn']:
    kernels['cuda'] = _on_each_device(_cudnn)
  tokens = min(q_BNHK.shape[1], k_BMHK.shape[1])
  if tokens >= PALLAS_MIN_TOKENS and not refused['pallas']:
    kernels['tpu'] = _on_each_device(_splash)
  if not kernels:
    return plain(*qkv)
  return jax.lax.platform_dependent(*qkv, **kernels, default=plain)


def _scaled(q_BNHK: jax.Array) -> jax.Array:
  """q / sqrt(K): a root rounded to half precision would bias all logits."""
  scale = 1 / math.sqrt(q_BNHK.shape[-1])
  return (q_BNHK.astype(jnp.float32) * scale).astype(q_BNHK.dtype)


def _xla(
  q_BNHK: jax.Array,
  k_BMHK: jax.Array,
  v_BMHV: jax.Array,
  bias_BHNM: jax.Array | None = None,
  mask_BHNM: jax.Array | None = None,
) -> jax.Array:
  p_BHNM = probabilities(q_BNHK, k_BMHK, bias_BHNM, mask_BHNM)
  return jnp.einsum('BHNM,BMHV->BNHV', p_BHNM.astype(v_BMHV.dtype), v_BMHV)


def _divides_over_mesh(x_BNHK: jax.Array) -> bool:
  mesh = sharding.current_mesh()
  if mesh is None:
    return True
  batch, _, heads, _ = x_BNHK.shape
  return (
    batch % sharding.num_shards(mesh) == 0 and heads % mesh.shape[sharding.TENSOR] == 0
  )


def _on_each_device(kernel: Kernel) -> Kernel:
  """The kernel for a device's own examples and heads: XLA cannot split it itself."""
  mesh = sharding.current_mesh()
  if mesh is None:
    return kernel
  spec = P(sharding.BATCH, None, sharding.TENSOR, None)
  # Kernels do not say over which axes of the mesh their outputs vary.
  return jax.shard_map(
    kernel, mesh=mesh, in_specs=(spec,) * 3, out_specs=spec, check_vma=False
  )


def _why_not_cudnn(
  q_BNHK: jax.Array, k_BMHK: jax.Array, v_BMHV: jax.Array
) -> str | None:
  dtypes = {x.dtype for x in (q_BNHK, k_BMHK, v_BMHV)}
  if dtypes not in ({jnp.dtype('bfloat16')}, {jnp.dtype('float16')}):
    names = ', '.join(sorted(map(str, dtypes)))
    return f'it computes in bfloat16 or float16, not {names}'
  size, value_size = q_BNHK.shape[-1], v_BMHV.shape[-1]
  if size != value_size or size > 128 or size % 8:
    return (
      f'heads of {size} (values of {value_size}) are not of one size, a multiple of 8'
      ' up to 128'
    )
  if not _has_cudnn():
    return 'no cuDNN is installed with this JAX'
  return None


@functools.cache
def _has_cudnn() -> bool:
  """Whether JAX can trace it: without the library, it knows no version."""
  x_1818 = jax.ShapeDtypeStruct((1, 8, 1, 8), jnp.bfloat16)
  try:
    jax.eval_shape(_cudnn, x_1818, x_1818, x_1818)
  except RuntimeError:
    return False
  return True


def _cudnn(q_BNHK: jax.Array, k_BMHK: jax.Array, v_BMHV: jax.Array) -> jax.Array:
  """Pads tokens to an even number, without which it has no gradient."""
  batch, num_queries, _, _ = q_BNHK.shape
  num_keys = k_BMHK.shape[1]
  padding = dict(key_value_seq_lengths=jnp.full((batch,), num_keys, jnp.int32))
  y_BnHV = jax.nn.dot_product_attention(
    _pad_tokens(q_BNHK, num_queries + num_queries % 2),
    _pad_tokens(k_BMHK, num_keys + num_keys % 2),
    _pad_tokens(v_BMHV, num_keys + num_keys % 2),
    implementation='cudnn',
    **(padding if num_keys % 2 else {}),
  )
  return y_BnHV[:, :num_queries]


def _why_not_pallas(
  q_BNHK: jax.Array, k_BMHK: jax.Array, v_BMHV: jax.Array
) -> str | None:
  dtypes = {x.dtype for x in (q_BNHK, k_BMHK, v_BMHV)}
  if dtypes not in ({jnp.dtype('bfloat16')}, {jnp.dtype('float32')}):
    names = ', '.join(sorted(map(str, dtypes)))
    return f'it computes in bfloat16 or float32, not {names}'
  size = max(q_BNHK.shape[-1], v_BMHV.shape[-1])
  if size > MAX_HEAD:
    return f'heads of {size} are larger than {MAX_HEAD}'
  return None


def _splash(
  q_BNHK: jax.Array, k_BMHK: jax.Array, v_BMHV: jax.Array, interpret: bool = False
) -> jax.Array:
  """Pads tokens to whole blocks; no query sees the keys of the padding."""
  num_queries, num_keys = q_BNHK.shape[1], k_BMHK.shape[1]
  block_q, padded_queries = _blocks(num_queries)
  block_k, padded_keys = _blocks(num_keys)
  mask_nm = np.broadcast_to(
    np.arange(padded_keys) < num_keys, (padded_queries, padded_keys)
  )
  kernel = splash_attention.make_splash_mha_single_device(
    splash_attention.MultiHeadMask(
      [splash_attention.NumpyMask(mask_nm)] * q_BNHK.shape[2]
    ),
    block_sizes=splash_attention.BlockSizes(
      block_q=block_q,
      block_kv=block_k,
      block_q_dkv=block_q,
      block_kv_dkv=block_k,
      use_fused_bwd_kernel=True,
    ),
    interpret=interpret,
  )
  y_BHnV = jax.vmap(kernel)(
    _pad_tokens(_scaled(q_BNHK), padded_queries).swapaxes(1, 2),
    _pad_tokens(k_BMHK, padded_keys).swapaxes(1, 2),
    _pad_tokens(v_BMHV, padded_keys).swapaxes(1, 2),
  )
  return y_BHnV[:, :, :num_queries].swapaxes(1, 2)


def _blocks(tokens: int) -> tuple[int, int]:
  """The size of a block, and of the fewest such that hold all tokens."""
  number = math.ceil(tokens / MAX_BLOCK)
  size = math.ceil(tokens / number / LANES) * LANES
  return size, number * size


def _pad_tokens(x_BNHK: jax.Array, padded: int) -> jax.Array:
  padding = padded - x_BNHK.shape[1]
  return jnp.pad(x_BNHK, ((0, 0), (0, padding), (0, 0), (0, 0)))
