"""Masks that define which keys a query may attend to.

The functions of this module make `Mask` objects, which `&` combines. A mask stores
conditions instead of (B, H, N, M) booleans, so that kernels can skip hidden keys and
need no memory for the mask; `dense` lists the booleans.

Axes: B batch, N queries, M keys, H heads; dimensions of size 1 broadcast.
"""

import flax.struct
import jax
import jax.numpy as jnp
import numpy as np

from big_vision_like.errors import UserError


@flax.struct.dataclass
class Mask:
  """Conditions that must all hold; a condition that is None hides nothing.

  Query n sees key m if -left <= m - n <= right, where the indices n of queries are
  counted from `first`; if both have the same segment number (keys of segment 0 are
  padding; without `queries_BN` all other keys are visible); and if `listed_BHNM` is
  true.
  """

  left: int | None = flax.struct.field(pytree_node=False, default=None)
  right: int | None = flax.struct.field(pytree_node=False, default=None)
  first: jax.Array | None = None
  queries_BN: jax.Array | None = None
  keys_BM: jax.Array | None = None
  listed_BHNM: jax.Array | None = None

  def __and__(self, other: 'Mask') -> 'Mask':
    """Combines both masks: a key is visible if both show it."""
    if self.keys_BM is not None and other.keys_BM is not None:
      listed_BHNM = _both(other.listed_BHNM, other._same_segment())
      other = other.replace(queries_BN=None, keys_BM=None, listed_BHNM=listed_BHNM)
    segments = self if other.keys_BM is None else other
    return Mask(
      left=_smaller(self.left, other.left),
      right=_smaller(self.right, other.right),
      first=other.first if self.first is None else self.first,
      queries_BN=segments.queries_BN,
      keys_BM=segments.keys_BM,
      listed_BHNM=_both(self.listed_BHNM, other.listed_BHNM),
    )

  @property
  def is_causal_alone(self) -> bool:
    """Whether the mask is exactly `causal()`."""
    arrays = self.first, self.queries_BN, self.keys_BM, self.listed_BHNM
    return self.right == 0 and self.left is None and all(x is None for x in arrays)

  def dense(self, num_queries: int, num_keys: int) -> jax.Array | None:
    """Returns booleans that broadcast to (B, H, N, M); None if nothing is hidden."""
    mask_BHNM = _both(self.listed_BHNM, self._same_segment())
    if self.left is None and self.right is None:
      return mask_BHNM
    ahead_NM = np.arange(num_keys)[None, :] - np.arange(num_queries)[:, None]
    if self.first is not None:
      ahead_NM = jnp.asarray(ahead_NM) - self.first
    near_NM = None if self.left is None else ahead_NM >= -self.left
    if self.right is not None:
      near_NM = _both(near_NM, ahead_NM <= self.right)
    return _both(mask_BHNM, jnp.asarray(near_NM)[None, None])

  def _same_segment(self) -> jax.Array | None:
    if self.keys_BM is None:
      return None
    seen_BHNM = (self.keys_BM != 0)[:, None, None, :]
    if self.queries_BN is None:
      return seen_BHNM
    same_BNM = self.queries_BN[:, :, None] == self.keys_BM[:, None, :]
    return seen_BHNM & same_BNM[:, None]

  def as_segments(self, num_queries: int) -> tuple[jax.Array, jax.Array]:
    """Returns segments (B, N) and (B, M) for kernels that only compare for equality."""
    if self.queries_BN is None:
      seen_BM = (self.keys_BM != 0).astype(jnp.int32)
      return jnp.ones((seen_BM.shape[0], num_queries), jnp.int32), seen_BM
    return jnp.where(self.queries_BN == 0, -1, self.queries_BN), self.keys_BM

  def sees_any(self, num_queries: int, num_keys: int) -> jax.Array | None:
    """Returns whether each query sees any key, (B, N), without comparing all pairs.

    Returns None if all do. It does not support masks with a list or a `first`.
    """
    low_N = np.maximum(np.arange(num_queries) - (self.left or 0), 0)
    high_N = np.full(num_queries, num_keys - 1)
    if self.left is None:
      low_N[:] = 0
    if self.right is not None:
      high_N = np.minimum(high_N, np.arange(num_queries) + self.right)
    if self.keys_BM is None:
      return None if (low_N <= high_N).all() else jnp.asarray(low_N <= high_N)[None]
    queries_BN, keys_BM = self.as_segments(num_queries)

    def one(queries_N: jax.Array, keys_M: jax.Array) -> jax.Array:
      # Keys are sorted by (segment, index). The first key that is not before a query's
      # (segment, lowest index) is the one it sees, if it sees any.
      order_M = jnp.argsort(keys_M, stable=True)
      sorted_M = keys_M[order_M]
      start_N = jnp.searchsorted(sorted_M, queries_N)
      if self.left is not None:
        start_M = jnp.searchsorted(sorted_M, sorted_M)
        place_M = start_M.astype(jnp.uint32) * num_keys + order_M.astype(jnp.uint32)
        place_N = start_N.astype(jnp.uint32) * num_keys + low_N.astype(np.uint32)
        start_N = jnp.searchsorted(place_M, place_N)
      found_N = order_M[jnp.minimum(start_N, num_keys - 1)]
      same_N = (start_N < num_keys) & (keys_M[found_N] == queries_N)
      return same_N & (found_N <= high_N)

    batch = max(len(queries_BN), len(keys_BM))
    return jax.vmap(one)(
      jnp.broadcast_to(queries_BN, (batch, num_queries)),
      jnp.broadcast_to(keys_BM, (batch, num_keys)),
    )


def causal() -> Mask:
  """Returns a mask that lets a query see the keys up to its own index."""
  return Mask(right=0)


def window(left: int | None, right: int | None) -> Mask:
  """Returns a mask of a query's own key, `left` before, `right` after (None: all)."""
  for name, size in ('left', left), ('right', right):
    if size is not None and size < 0:
      raise UserError(f'a window of {name}={size}: write at least 0, or None for all')
  return Mask(left=left, right=right)


def up_to(index: jax.Array) -> Mask:
  """Returns a causal mask for cached decoding, where the first query has this index."""
  return Mask(right=0, first=jnp.asarray(index))


def padding(seen_BM: jax.Array) -> Mask:
  """Returns a mask that hides keys where `seen_BM` is zero or False."""
  _check(seen_BM, 2, 'a padding mask (batch, keys)')
  return Mask(keys_BM=seen_BM.astype(jnp.int32))


def segments(queries_BN: jax.Array, keys_BM: jax.Array | None = None) -> Mask:
  """Returns a mask that lets a query see its own segment (1, 2, ...); 0 is hidden.

  Keys have the segments of the queries unless given.
  """
  keys_BM = queries_BN if keys_BM is None else keys_BM
  for x in queries_BN, keys_BM:
    _check(x, 2, 'segments (batch, tokens)')
    if not jnp.issubdtype(x.dtype, jnp.integer):
      raise UserError(f'segments are whole numbers, not {x.dtype}')
  return Mask(queries_BN=queries_BN, keys_BM=keys_BM)


def blocks(num_tokens: int, size: int) -> Mask:
  """Returns a mask that lets tokens see their own block of `size` neighbours."""
  return segments(jnp.arange(num_tokens)[None] // size + 1)


def listed(mask: jax.Array) -> Mask:
  """Returns an arbitrary mask: bool (B, H, N, M), or (B, N, M) for edges of a graph."""
  if mask.ndim == 3:
    mask = mask[:, None]
  _check(mask, 4, 'a mask (batch, heads, queries, keys)')
  if mask.dtype != jnp.bool:
    raise UserError(
      f'a mask is bool, True where a key is seen; this one of shape {mask.shape} is'
      f' {mask.dtype}: write mask > 0 or the like'
    )
  return Mask(listed_BHNM=mask)


def _check(x: jax.Array, rank: int, what: str) -> None:
  if x.ndim != rank:
    raise UserError(f'{what} has {rank} dimensions; this one has shape {x.shape}')


def _smaller(a: int | None, b: int | None) -> int | None:
  return min((x for x in (a, b) if x is not None), default=None)


def _both(a: jax.Array | None, b: jax.Array | None) -> jax.Array | None:
  if a is None or b is None:
    return b if a is None else a
  return a & b
