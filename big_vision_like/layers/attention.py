"""Multi-head attention, arXiv:1706.03762 section 3.2.2.

Axes: B batch, N queries, M keys, D width, H heads, K size of a head.
"""

import flax.linen as nn
import jax

from big_vision_like.errors import UserError
from big_vision_like.ops import attention, sharding


class MultiHeadAttention(nn.Module):
  """Queries from one sequence, keys and values from another (or the same).

  The probabilities (B, H, N, M) are sown as `probs` where intermediates are collected.
  """

  num_heads: int
  dtype: str = 'float32'

  @nn.compact
  def __call__(
    self,
    x_BND: jax.Array,
    kv_BMD: jax.Array | None = None,
    bias_BHNM: jax.Array | None = None,
    mask_BHNM: jax.Array | None = None,
  ) -> jax.Array:
    kv_BMD = x_BND if kv_BMD is None else kv_BMD
    width = x_BND.shape[-1]
    if width % self.num_heads:
      raise UserError(f'width {width} is not divisible by {self.num_heads} heads')
    # DenseGeneral draws its kernel as (D, H*K): Xavier's fan-out is that of all heads.
    project = dict(
      features=(self.num_heads, width // self.num_heads),
      kernel_init=nn.initializers.xavier_uniform(),
      dtype=self.dtype,
    )
    by_head = (sharding.BATCH, None, sharding.TENSOR, None)
    q_BNHK = nn.DenseGeneral(**project, name='query')(x_BND)
    k_BMHK = nn.DenseGeneral(**project, name='key')(kv_BMD)
    v_BMHK = nn.DenseGeneral(**project, name='value')(kv_BMD)
    q_BNHK, k_BMHK, v_BMHK = (
      sharding.constrain(x, *by_head) for x in (q_BNHK, k_BMHK, v_BMHK)
    )
    if self.is_mutable_collection('intermediates'):
      p_BHNM = attention.probabilities(q_BNHK, k_BMHK, bias_BHNM, mask_BHNM)
      self.sow('intermediates', 'probs', p_BHNM)
    y_BNHK = attention.attend(q_BNHK, k_BMHK, v_BMHK, bias_BHNM, mask_BHNM)
    return nn.DenseGeneral(
      width,
      axis=(-2, -1),
      kernel_init=nn.initializers.xavier_uniform(),
      dtype=self.dtype,
      name='out',
    )(y_BNHK)
