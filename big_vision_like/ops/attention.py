"""Scaled dot-product attention, arXiv:1706.03762 section 3.2.1.

Axes: B batch, N queries, M keys, H heads of queries, G heads of keys and values (H, or
a divisor of it: arXiv:2305.13245), R = H / G, K query/key size, V value size, F random
features; n m as N and M, padded to whole blocks.
"""

import functools
import math
from collections.abc import Callable, Sequence

import jax
import jax.numpy as jnp
import numpy as np
from jax.experimental.pallas.ops.tpu import splash_attention
from jax.sharding import PartitionSpec as P

from big_vision_like.errors import UserError, check_one_of
from big_vision_like.ops import masks, precision, sharding
from big_vision_like.ops.masks import Mask

Kernel = Callable[..., jax.Array]
HIGHEST = jax.lax.Precision.HIGHEST

IMPLEMENTATIONS = ('auto', 'xla', 'cudnn', 'pallas')

# With this many tokens or more, 'auto' uses the kernel on TPUs. Compiled for v5e
# (bfloat16, batch 32, 12 heads of 64), a layer and its gradient move 1.4 GiB with XLA
# and 0.7 with the kernel at 256 tokens, 6.8 and 3.0 at 577, 14.4 and 2.7 at 1024. These
# numbers do not show how long the matrix units wait between blocks of few tokens.
PALLAS_MIN_TOKENS = 512

# Blocks of queries and keys are multiples of a TPU's lanes. Larger blocks, with their
# gradient, leave too little of its vector memory.
LANES = 128
MAX_BLOCK = 1024
MAX_HEAD = 128

# A single kernel for all gradients stores gradients of queries once per block of keys.
# With more blocks than this, a second kernel is used, whose memory grows only with the
# number of tokens.
MAX_FUSED_BLOCKS = 2

# Added to the probabilities before the weighted mean over keys, where the softmax runs
# over queries (arXiv:2006.15055, algorithm 1).
MEAN_EPSILON = 1e-8

# Added to the denominator of linear attention (arXiv:2101.11986, its published code).
LINEAR_EPSILON = 1e-8

# Sharding of (B, N, H, K) over a mesh.
HEADS = (sharding.BATCH, None, sharding.TENSOR, None)


def probabilities(
  q_BNHK: jax.Array,
  k_BMGK: jax.Array,
  bias_BHNM: jax.Array | None = None,
  mask: Mask | jax.Array | None = None,
  over: str = 'keys',
) -> jax.Array:
  """Returns the softmax over keys of q.k / sqrt(K) + bias: (B, H, N, M), in float32.

  Bias (float) and mask (a `masks.Mask`, or bool with True where a key is visible)
  broadcast to (B, H, N, M). A query that may attend to nothing gets zeros. With
  `over='queries'` the softmax runs over queries, which compete for each key.

  Raises `UserError` for incompatible shapes or types.
  """
  mask = _checked(q_BNHK, k_BMGK, bias_BHNM, mask, over)
  batch, num_queries, heads, size = q_BNHK.shape
  num_keys, groups = k_BMGK.shape[1:3]
  # Heads before tokens, as the products need them: XLA on CPUs takes 0.7x the time.
  q_BHNK, k_BGMK = q_BNHK.swapaxes(1, 2), k_BMGK.swapaxes(1, 2)
  float_type = precision.float_type(q_BNHK, k_BMGK)
  if groups == heads:
    logits_BHNM = jnp.einsum(
      'BHNK,BHMK->BHNM', q_BHNK, k_BGMK, preferred_element_type=float_type
    )
  else:
    logits_BGRNM = jnp.einsum(
      'BGRNK,BGMK->BGRNM',
      q_BHNK.reshape(batch, groups, heads // groups, num_queries, size),
      k_BGMK,
      preferred_element_type=float_type,
    )
    logits_BHNM = logits_BGRNM.reshape(batch, heads, num_queries, num_keys)
  # Scaling after the product avoids rounding, and is cheap compared to the softmax.
  logits_BHNM *= 1 / math.sqrt(size)
  if bias_BHNM is not None:
    logits_BHNM += bias_BHNM
  mask_BHNM = None if mask is None else mask.dense(num_queries, num_keys)
  if mask_BHNM is not None:
    logits_BHNM = jnp.where(mask_BHNM, logits_BHNM, jnp.finfo(float_type).min)
  axis = -1 if over == 'keys' else -2
  largest = jax.lax.stop_gradient(logits_BHNM.max(axis=axis, keepdims=True))
  e_BHNM = jnp.exp(logits_BHNM - largest)
  if mask_BHNM is not None:
    e_BHNM = jnp.where(mask_BHNM, e_BHNM, 0.0)
  return e_BHNM / _sum(e_BHNM, axis)


def _sum(x_BHNM: jax.Array, axis: int) -> jax.Array:
  """Returns the sum over an axis, which is kept; 1 where it is 0, to divide by."""
  total = x_BHNM.sum(axis=axis, keepdims=True)
  return jnp.where(total == 0.0, 1.0, total)


def attend(
  q_BNHK: jax.Array,
  k_BMGK: jax.Array,
  v_BMGV: jax.Array,
  bias_BHNM: jax.Array | None = None,
  mask: Mask | jax.Array | None = None,
  implementation: str = 'auto',
  over: str = 'keys',
  dropout: float = 0.0,
  dropout_key: jax.Array | None = None,
) -> jax.Array:
  """Returns values averaged by the attention `probabilities`: (B, N, H, V), dtype of v.

  With `over='queries'` each query gets the mean of the values, weighted by its
  probabilities. `dropout` drops individual probabilities, using `dropout_key`.

  `implementation` is 'xla' (computes all (B, H, N, M) probabilities, on any platform),
  'cudnn' (flash attention, arXiv:2205.14135, on NVIDIA GPUs; half precision, K = V a
  multiple of 8 up to 128), 'pallas' (the splash kernel on TPUs; interpreted on other
  platforms, slowly) or 'auto': the fastest of these that supports the arguments, chosen
  when the program is lowered for a platform. Kernels support neither bias nor dropout.
  'pallas' skips blocks that causal and window masks hide, supports segments, and does
  not support listed masks. 'cudnn' skips what a causal mask hides and turns all other
  masks into booleans. If batch or heads do not divide over the mesh, 'xla' is used.

  Raises `UserError` for incompatible shapes or types, and for an implementation that
  does not support the arguments.
  """
  if implementation not in IMPLEMENTATIONS:
    known = ', '.join(IMPLEMENTATIONS)
    raise UserError(
      f'attention implementation {implementation!r} is not one of {known}'
    )
  mask = _checked(q_BNHK, k_BMGK, bias_BHNM, mask, over, v_BMGV)
  if dropout and dropout_key is None:
    raise UserError(f'attention with dropout={dropout} needs a dropout_key')
  qkv = q_BNHK, k_BMGK, v_BMGV

  def plain(*qkv: jax.Array) -> jax.Array:
    return _xla(*qkv, bias_BHNM, mask, over, dropout, dropout_key)

  reason = None
  if bias_BHNM is not None:
    reason = 'it supports no bias'
  elif over == 'queries':
    reason = 'its softmax runs over keys'
  elif dropout:
    reason = 'it supports no dropout'
  refused = {
    'cudnn': reason or _why_not_cudnn(*qkv),
    'pallas': reason or _why_not_pallas(*qkv, mask),
  }
  if reason := refused.get(implementation):
    raise UserError(
      f'attention implementation {implementation!r} cannot be used: {reason}; use'
      " 'auto'"
    )
  if implementation == 'xla' or not _divides_over_mesh(q_BNHK, k_BMGK):
    return plain(*qkv)
  if implementation == 'cudnn':
    return _cudnn(*qkv, mask)
  if implementation == 'pallas':
    return jax.lax.platform_dependent(
      *qkv,
      tpu=functools.partial(_splash, mask=mask),
      default=functools.partial(_splash, mask=mask, interpret=True),
    )
  kernels = {}
  if not refused['cudnn']:
    kernels['cuda'] = functools.partial(_cudnn, mask=mask)
  tokens = min(q_BNHK.shape[1], k_BMGK.shape[1])
  if tokens >= PALLAS_MIN_TOKENS and not refused['pallas']:
    kernels['tpu'] = functools.partial(_splash, mask=mask)
  if not kernels:
    return plain(*qkv)
  return jax.lax.platform_dependent(*qkv, **kernels, default=plain)


def random_features(x_BNHK: jax.Array, w_FK: jax.Array) -> jax.Array:
  """Returns exp(w x - |x|^2 / 2) / sqrt(F): (B, N, H, F), float32 (arXiv:2009.14794).

  If the rows of w are drawn from N(0, I), the expected product of the features of two
  vectors is the exponential of the product of the vectors.
  """
  if w_FK.ndim != 2 or w_FK.shape[-1] != x_BNHK.shape[-1]:
    raise UserError(
      f'features {w_FK.shape} are not (features, size) for vectors {x_BNHK.shape}'
    )
  x_BNHK = precision.at_least_float32(x_BNHK)
  # Absolute errors of an exponent are relative errors of the feature.
  product_BNHF = jnp.einsum(
    'BNHK,FK->BNHF', x_BNHK, w_FK.astype(x_BNHK.dtype), precision=HIGHEST
  )
  square_BNH1 = jnp.square(x_BNHK).sum(axis=-1, keepdims=True)
  return jnp.exp(product_BNHF - square_BNH1 / 2) / math.sqrt(len(w_FK))


def attend_linear(
  q_BNHK: jax.Array, k_BMHK: jax.Array, v_BMHV: jax.Array, w_FK: jax.Array
) -> jax.Array:
  """Returns linear attention by `random_features` (Performer): (B, N, H, V), v's dtype.

  It approximates a softmax over keys of q.k, without division by sqrt(K). Time and
  memory grow with N + M instead of N * M. Features and their sums are float32.

  Raises `UserError` for incompatible shapes.
  """
  _checked(q_BNHK, k_BMHK, None, None, 'keys', v_BMHV)
  if q_BNHK.shape[2] != k_BMHK.shape[2]:
    raise UserError(
      f'queries {q_BNHK.shape} and keys {k_BMHK.shape} of linear attention differ in'
      ' the number of heads'
    )
  q_BNHF, k_BMHF = random_features(q_BNHK, w_FK), random_features(k_BMHK, w_FK)
  v_BMHV, dtype = precision.at_least_float32(v_BMHV), v_BMHV.dtype
  einsum = functools.partial(jnp.einsum, precision=HIGHEST)
  sum_BHVF = einsum('BMHV,BMHF->BHVF', v_BMHV, k_BMHF)
  y_BNHV = einsum('BNHF,BHVF->BNHV', q_BNHF, sum_BHVF)
  total_BNH = einsum('BNHF,BHF->BNH', q_BNHF, k_BMHF.sum(axis=1))
  return (y_BNHV / (total_BNH + LINEAR_EPSILON)[..., None]).astype(dtype)


def _checked(
  q_BNHK: jax.Array,
  k_BMGK: jax.Array,
  bias_BHNM: jax.Array | None,
  mask: Mask | jax.Array | None,
  over: str,
  v_BMGV: jax.Array | None = None,
) -> Mask | None:
  """Returns the mask as a `Mask`; raises if shapes are incompatible."""
  check_one_of(('keys', 'queries'), over=over)
  shapes = f'queries {q_BNHK.shape} and keys {k_BMGK.shape}'
  if q_BNHK.ndim != 4 or k_BMGK.ndim != 4:
    raise UserError(f'{shapes} are not (batch, tokens, heads, size)')
  batch, num_queries, heads, size = q_BNHK.shape
  other, num_keys, groups, key_size = k_BMGK.shape
  if (batch, size) != (other, key_size):
    raise UserError(f'{shapes} differ in batch or size')
  if heads % groups:
    raise UserError(f'{shapes}: {groups} heads of keys do not divide {heads}')
  if v_BMGV is not None and v_BMGV.shape[:3] != k_BMGK.shape[:3]:
    raise UserError(
      f'keys {k_BMGK.shape} and values {v_BMGV.shape} differ in more than the size'
    )
  if mask is not None and not isinstance(mask, Mask):
    mask = masks.listed(mask)
  whole = batch, heads, num_queries, num_keys
  parts = {'bias': (bias_BHNM, whole)}
  if mask is not None:
    parts['mask'] = mask.listed_BHNM, whole
    parts['segments of queries'] = mask.queries_BN, (batch, num_queries)
    parts['segments or padding of keys'] = mask.keys_BM, (batch, num_keys)
  for name, (array, shape) in parts.items():
    if array is None:
      continue
    fits = array.ndim == len(shape) and all(
      n in (1, m) for n, m in zip(array.shape, shape, strict=True)
    )
    if not fits:
      raise UserError(f'{name}: shape {array.shape} does not broadcast to {shape}')
  return mask


def _xla(
  q_BNHK: jax.Array,
  k_BMGK: jax.Array,
  v_BMGV: jax.Array,
  bias_BHNM: jax.Array | None,
  mask: Mask | None,
  over: str,
  dropout: float,
  dropout_key: jax.Array | None,
) -> jax.Array:
  p_BHNM = probabilities(q_BNHK, k_BMGK, bias_BHNM, mask, over)
  if over == 'queries':
    mask_BHNM = None if mask is None else mask.dense(*p_BHNM.shape[2:])
    p_BHNM += MEAN_EPSILON if mask_BHNM is None else MEAN_EPSILON * mask_BHNM
    p_BHNM /= _sum(p_BHNM, axis=-1)
  if dropout:
    kept_BHNM = jax.random.bernoulli(dropout_key, 1.0 - dropout, p_BHNM.shape)
    p_BHNM = jnp.where(kept_BHNM, p_BHNM / (1.0 - dropout), 0.0)
  batch, heads, num_queries, num_keys = p_BHNM.shape
  p_BHNM, v_BGMV = p_BHNM.astype(v_BMGV.dtype), v_BMGV.swapaxes(1, 2)
  groups, size = v_BMGV.shape[2:]
  if groups == heads:
    y_BHNV = jnp.einsum('BHNM,BHMV->BHNV', p_BHNM, v_BGMV)
  else:
    p_BGRNM = p_BHNM.reshape(batch, groups, heads // groups, num_queries, num_keys)
    y_BGRNV = jnp.einsum('BGRNM,BGMV->BGRNV', p_BGRNM, v_BGMV)
    y_BHNV = y_BGRNV.reshape(batch, heads, num_queries, size)
  return y_BHNV.swapaxes(1, 2)


def _divides_over_mesh(q_BNHK: jax.Array, k_BMGK: jax.Array) -> bool:
  mesh = sharding.current_mesh()
  if mesh is None:
    return True
  batch, groups = len(q_BNHK), k_BMGK.shape[2]
  return (
    batch % sharding.num_shards(mesh) == 0 and groups % mesh.shape[sharding.TENSOR] == 0
  )


def _on_each_device(
  kernel: Kernel, arrays: Sequence[jax.Array], axes: Sequence[Sequence[sharding.Axis]]
) -> jax.Array:
  """Runs the kernel on each device's examples and heads, since XLA cannot shard it.

  `axes` are the mesh axes that shard each array; dimensions of size 1 are replicated.
  """
  mesh = sharding.current_mesh()
  if mesh is None:
    return kernel(*arrays)
  specs = [
    P(*(axis if n > 1 else None for n, axis in zip(x.shape, by, strict=True)))
    for x, by in zip(arrays, axes, strict=True)
  ]
  # Kernels do not declare over which mesh axes their outputs vary.
  return jax.shard_map(
    kernel, mesh=mesh, in_specs=tuple(specs), out_specs=P(*HEADS), check_vma=False
  )(*arrays)


def _why_not_cudnn(
  q_BNHK: jax.Array, k_BMGK: jax.Array, v_BMGV: jax.Array
) -> str | None:
  dtypes = {x.dtype for x in (q_BNHK, k_BMGK, v_BMGV)}
  if dtypes not in ({jnp.dtype('bfloat16')}, {jnp.dtype('float16')}):
    names = ', '.join(sorted(map(str, dtypes)))
    return f'it computes in bfloat16 or float16, not {names}'
  size, value_size = q_BNHK.shape[-1], v_BMGV.shape[-1]
  if size != value_size or size > 128 or size % 8:
    return (
      f'its heads must have one size, a multiple of 8 up to 128, not {size} and'
      f' {value_size} (values)'
    )
  if not _has_cudnn():
    return 'no cuDNN is installed with this JAX'
  return None


@functools.cache
def _has_cudnn() -> bool:
  """Returns whether JAX can trace the kernel: without cuDNN it finds no version."""
  x_1818 = jax.ShapeDtypeStruct((1, 8, 1, 8), jnp.bfloat16)
  try:
    jax.eval_shape(functools.partial(_cudnn, mask=None), x_1818, x_1818, x_1818)
  except RuntimeError:
    return False
  return True


def _cudnn(
  q_BNHK: jax.Array, k_BMGK: jax.Array, v_BMGV: jax.Array, mask: Mask | None
) -> jax.Array:
  """Runs cuDNN's kernel, padded to an even number of tokens, as its gradient needs."""
  num_queries, num_keys = q_BNHK.shape[1], k_BMGK.shape[1]
  rows, columns = num_queries % 2, num_keys % 2
  arrays = [
    _pad_tokens(q_BNHK, num_queries + rows),
    _pad_tokens(k_BMGK, num_keys + columns),
    _pad_tokens(v_BMGV, num_keys + columns),
  ]
  causal = mask is not None and mask.is_causal_alone
  mask_BHNM = None
  if mask is not None and not causal:
    mask_BHNM = mask.dense(num_queries, num_keys)
  if mask_BHNM is not None:
    whole = *mask_BHNM.shape[:2], num_queries, num_keys
    padding = (0, 0), (0, 0), (0, rows), (0, columns)
    arrays.append(jnp.pad(jnp.broadcast_to(mask_BHNM, whole), padding))

  def kernel(
    q_BnHK: jax.Array, k_BmGK: jax.Array, v_BmGV: jax.Array, *listed: jax.Array
  ) -> jax.Array:
    lengths_B = jnp.full((len(q_BnHK),), num_keys, jnp.int32)
    return jax.nn.dot_product_attention(
      q_BnHK,
      k_BmGK,
      v_BmGV,
      mask=listed[0] if listed else None,
      is_causal=causal,
      key_value_seq_lengths=lengths_B if columns and not listed else None,
      implementation='cudnn',
    )

  axes = [HEADS] * 3 + [(sharding.BATCH, sharding.TENSOR, None, None)]
  y_BNHV = _on_each_device(kernel, arrays, axes[: len(arrays)])[:, :num_queries]
  if mask_BHNM is None:
    return y_BNHV
  seen_BNH1 = mask_BHNM.any(axis=-1, keepdims=True).swapaxes(1, 2)
  return jnp.where(seen_BNH1, y_BNHV, 0)


def _why_not_pallas(
  q_BNHK: jax.Array, k_BMGK: jax.Array, v_BMGV: jax.Array, mask: Mask | None
) -> str | None:
  if mask is not None and mask.listed_BHNM is not None:
    return 'it supports no listed mask'
  if mask is not None and mask.first is not None:
    return 'it supports no mask for a step of decoding'
  dtypes = {x.dtype for x in (q_BNHK, k_BMGK, v_BMGV)}
  if dtypes not in ({jnp.dtype('bfloat16')}, {jnp.dtype('float32')}):
    names = ', '.join(sorted(map(str, dtypes)))
    return f'it computes in bfloat16 or float32, not {names}'
  size = max(q_BNHK.shape[-1], v_BMGV.shape[-1])
  if size > MAX_HEAD:
    return f'heads of {size} are larger than {MAX_HEAD}'
  return None


def _splash(
  q_BNHK: jax.Array,
  k_BMGK: jax.Array,
  v_BMGV: jax.Array,
  mask: Mask | None,
  interpret: bool = False,
) -> jax.Array:
  """Runs the splash kernel on whole blocks; no query sees the padding's keys."""
  num_queries, num_keys = q_BNHK.shape[1], k_BMGK.shape[1]
  block_q, padded_queries = _blocks(num_queries)
  block_k, padded_keys = _blocks(num_keys)
  # A square root rounded to half precision would bias all logits.
  scaled_BNHK = (q_BNHK.astype(jnp.float32) / math.sqrt(q_BNHK.shape[-1])).astype(
    q_BNHK.dtype
  )
  arrays = [
    _pad_tokens(scaled_BNHK, padded_queries),
    _pad_tokens(k_BMGK, padded_keys),
    _pad_tokens(v_BMGV, padded_keys),
  ]
  mask = Mask() if mask is None else mask
  if mask.keys_BM is not None:
    queries_BN, keys_BM = mask.as_segments(num_queries)
    arrays += [
      _pad_tokens(queries_BN, padded_queries),
      _pad_tokens(keys_BM, padded_keys),
    ]
  static = _splash_mask(mask, (num_queries, num_keys), (padded_queries, padded_keys))
  fused = padded_keys // block_k <= MAX_FUSED_BLOCKS
  block_sizes = splash_attention.BlockSizes(
    block_q=block_q,
    block_kv=block_k,
    block_q_dkv=block_q,
    block_kv_dkv=block_k,
    block_q_dq=None if fused else block_q,
    block_kv_dq=None if fused else block_k,
    use_fused_bwd_kernel=fused,
  )

  def kernel(
    q_BnHK: jax.Array, k_BmGK: jax.Array, v_BmGV: jax.Array, *segments: jax.Array
  ) -> jax.Array:
    batch, _, heads, _ = q_BnHK.shape
    groups = k_BmGK.shape[2]
    make = splash_attention.make_splash_mqa_single_device
    one_example = make(
      splash_attention.MultiHeadMask([static] * (heads // groups)),
      block_sizes=block_sizes,
      interpret=interpret,
    )
    # Maps over heads of keys, with their heads of queries, and examples with segments.
    each_head = jax.vmap(one_example, in_axes=(0, 0, 0, None))
    ids = None
    if segments:
      ids = splash_attention.SegmentIds(
        *(jnp.broadcast_to(x_BN, (batch, x_BN.shape[1])) for x_BN in segments)
      )
    q_BHnK = q_BnHK.swapaxes(1, 2)
    y_BGRnV = jax.vmap(each_head)(
      q_BHnK.reshape(batch, groups, -1, *q_BHnK.shape[2:]),
      k_BmGK.swapaxes(1, 2),
      v_BmGV.swapaxes(1, 2),
      ids,
    )
    return y_BGRnV.reshape(batch, heads, *y_BGRnV.shape[3:]).swapaxes(1, 2)

  axes = [HEADS] * 3 + [(sharding.BATCH, None)] * 2
  y_BNHV = _on_each_device(kernel, arrays, axes[: len(arrays)])[:, :num_queries]
  seen_BN = mask.sees_any(num_queries, num_keys)
  return y_BNHV if seen_BN is None else jnp.where(seen_BN[:, :, None, None], y_BNHV, 0)


def _splash_mask(
  mask: Mask, tokens: tuple[int, int], padded: tuple[int, int]
) -> splash_attention.Mask:
  """Returns the static part of a mask, including the keys of the padding."""
  if mask.left is None and mask.right is None:
    static = splash_attention.FullMask(padded)
  elif mask.left is None and mask.right == 0:
    static = splash_attention.CausalMask(padded)
  else:
    static = splash_attention.LocalMask(padded, (mask.left, mask.right), offset=0)
  num_queries, num_keys = tokens
  behind = mask.right is not None and num_queries + mask.right <= num_keys
  if padded[1] == num_keys or behind or mask.keys_BM is not None:
    return static  # segments hide the padding as well
  seen_nm = np.broadcast_to(np.arange(padded[1]) < num_keys, padded)
  keys = splash_attention.NumpyMask(seen_nm)
  return keys if isinstance(static, splash_attention.FullMask) else static & keys


def _blocks(tokens: int) -> tuple[int, int]:
  """Returns the block size, and the size of the fewest blocks that hold all tokens."""
  number = math.ceil(tokens / MAX_BLOCK)
  size = math.ceil(tokens / number / LANES) * LANES
  return size, number * size


def _pad_tokens(x: jax.Array, padded: int) -> jax.Array:
  """Appends zeros along the second axis, the axis of tokens."""
  return jnp.pad(x, [(0, padded - n if i == 1 else 0) for i, n in enumerate(x.shape)])
