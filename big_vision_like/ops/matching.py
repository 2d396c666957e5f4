"""Bipartite matching of least cost, exact, on the device.

Axes: B batch, T targets (rows), Q queries (columns), N queries and columns that
stand for none.
"""

import jax
import jax.numpy as jnp
import optax
from jax.sharding import PartitionSpec as P

from big_vision_like.errors import UserError
from big_vision_like.ops import sharding


def match(cost_BTQ: jax.Array, valid_BT: jax.Array | None = None) -> jax.Array:
  """For each target its query in the one-to-one matching of least total cost: (B, T).

  int32 in [0, Q); -1 where `valid_BT` is False. T may not exceed Q (UserError). Pairs
  whose cost is not finite are never matched: as many valid targets as possible are, and
  the others get -1. Costs count as float32; no gradient passes.

  The Hungarian algorithm (Kuhn, 1955) of `optax.assignment`, for a batch.
  """
  batch, targets, queries = cost_BTQ.shape
  if targets > queries:
    raise UserError(
      f'{targets} targets cannot each have one of {queries} queries: the cost is'
      f' {list(cost_BTQ.shape)}; give the model more queries (slots), or the data fewer'
      ' rows of padding.'
    )
  if not targets:
    return jnp.zeros((batch, 0), jnp.int32)
  cost_BTQ = jax.lax.stop_gradient(cost_BTQ).astype(jnp.float32)
  usable_BTQ = jnp.isfinite(cost_BTQ)
  if valid_BT is not None:
    usable_BTQ &= valid_BT[:, :, None]
  largest_B11 = jnp.abs(cost_BTQ).max(
    axis=(1, 2), keepdims=True, where=usable_BTQ, initial=jnp.finfo(jnp.float32).tiny
  )
  # Powers of two, so that nothing is rounded and no sum of costs is infinite.
  _, exponent_B11 = jnp.frexp(largest_B11)
  cost_BTQ, largest_B11 = (jnp.ldexp(x, -exponent_B11) for x in (cost_BTQ, largest_B11))
  # More than others could save by it: so few targets as possible pay this.
  never_B11 = (2 * targets + 1) * largest_B11
  cost_BTN = jnp.where(usable_BTQ, cost_BTQ, never_B11)
  if valid_BT is not None:
    # Padding has columns of its own, else it would search among queries for long.
    free_BTT = ~valid_BT[:, :, None] & jnp.eye(targets, dtype=bool)[None]
    none_BTT = jnp.where(free_BTT, 0.0, never_B11)
    cost_BTN = jnp.concatenate([cost_BTN, none_BTT], axis=2)
  match_all, mesh = jax.vmap(_match), sharding.current_mesh()
  if mesh is not None and batch % sharding.num_shards(mesh) == 0:
    # Else all devices would ask each other, after each step, whether they are done.
    spec = P(sharding.BATCH)
    match_all = jax.shard_map(
      match_all, mesh=mesh, in_specs=spec, out_specs=spec, check_vma=False
    )
  query_BT = match_all(cost_BTN)
  pairs_BTQ = query_BT[:, :, None] == jnp.arange(queries)[None, None]
  return jnp.where((pairs_BTQ & usable_BTQ).any(axis=2), query_BT, -1)


def _match(cost_TQ: jax.Array) -> jax.Array:
  target_T, query_T = optax.assignment.hungarian_algorithm(cost_TQ)
  return jnp.zeros_like(query_T).at[target_T].set(query_T)
