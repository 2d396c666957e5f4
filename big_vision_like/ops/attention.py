"""Scaled dot-product attention, arXiv:1706.03762 section 3.2.1.

Axes: B batch, N queries, M keys, H heads, K query/key size, V value size.
"""

import jax
import jax.numpy as jnp


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
  q_BNHK = q_BNHK / jnp.sqrt(q_BNHK.shape[-1]).astype(q_BNHK.dtype)
  logits_BHNM = jnp.einsum(
    'BNHK,BMHK->BHNM', q_BNHK, k_BMHK, preferred_element_type=jnp.float32
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
) -> jax.Array:
  """Values averaged with the attention `probabilities`: (B, N, H, V), dtype of v."""
  p_BHNM = probabilities(q_BNHK, k_BMHK, bias_BHNM, mask_BHNM)
  return jnp.einsum('BHNM,BMHV->BNHV', p_BHNM.astype(v_BMHV.dtype), v_BMHV)
