"""Exact bipartite matching of minimum cost, on the device.

Axes: B batch, T targets (rows), Q queries (columns).
"""

import functools
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax.sharding import PartitionSpec as P

from big_vision_like.errors import UserError
from big_vision_like.ops import precision, sharding


def match(cost_BTQ: jax.Array, valid_BT: jax.Array | None = None) -> jax.Array:
  """Returns each target's query in the one-to-one matching of minimum cost: (B, T).

  The result is int32 in [0, Q), and -1 where `valid_BT` is False. Raises `UserError` if
  T > Q. Pairs whose cost is not finite are never matched: as many valid targets as
  possible are matched, and the others get -1. Costs are compared in float32; no
  gradient flows through the matching.

  The algorithm is shortest augmenting paths (Jonker and Volgenant, Computing 38, 1987;
  for T < Q: Crouse, doi:10.1109/TAES.2016.140952), after an initialization in which
  each target takes its cheapest query if that is free. Only targets that lost theirs
  need a search, and each step of a search processes all queries at once.
  `optax.assignment`, which processes them one by one, takes 1.7 to 8.6 times as long on
  an H200 (96 matchings of 20 targets to 100 queries, tools/benchmark/matching.py).
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
  cost_BTQ = precision.at_least_float32(jax.lax.stop_gradient(cost_BTQ))
  if valid_BT is None:
    valid_BT = jnp.ones((batch, targets), bool)
  usable_BTQ = jnp.isfinite(cost_BTQ) & valid_BT[:, :, None]
  largest_B11 = jnp.abs(cost_BTQ).max(
    axis=(1, 2), keepdims=True, where=usable_BTQ, initial=jnp.finfo(jnp.float32).tiny
  )
  # Scaling by powers of two rounds nothing, and no sum of costs becomes infinite.
  _, exponent_B11 = jnp.frexp(largest_B11)
  cost_BTQ, largest_B11 = (jnp.ldexp(x, -exponent_B11) for x in (cost_BTQ, largest_B11))
  # More than other pairs could save, so that as few targets as possible pay this.
  never_B11 = (2 * targets + 1) * largest_B11
  cost_BTQ = jnp.where(usable_BTQ, cost_BTQ, never_B11)
  match_all, mesh = jax.vmap(_match), sharding.current_mesh()
  if mesh is not None and batch % sharding.num_shards(mesh) == 0:
    # Otherwise all devices would synchronize after each step to see if all are done.
    spec = P(sharding.BATCH)
    match_all = jax.shard_map(
      match_all, mesh=mesh, in_specs=spec, out_specs=spec, check_vma=False
    )
  query_BT = match_all(cost_BTQ, valid_BT)
  pairs_BTQ = query_BT[:, :, None] == jnp.arange(queries)[None, None]
  return jnp.where((pairs_BTQ & usable_BTQ).any(axis=2), query_BT, -1)


class _State(NamedTuple):
  """A matching, and the search for a query for one more target, `root`.

  With `price_Q` added to costs, each matched target has a cheapest query. The search is
  Dijkstra's: an edge from a target to a query costs what the query costs above the
  target's own; the edge from a query to the target that has it is free.
  """

  query_T: jax.Array  # -1: none
  target_Q: jax.Array  # -1: free
  price_Q: jax.Array
  open_T: jax.Array  # targets that still need a search
  root: jax.Array
  distance_Q: jax.Array  # from the root
  before_Q: jax.Array  # the previous target on the path
  done_Q: jax.Array
  target: jax.Array  # its queries are searched next; -1: the search is over
  offset: jax.Array  # the distance of `target` minus the cost of its own query
  found: jax.Array  # the query that the previous target will get; -1: none yet


def _match(cost_TQ: jax.Array, valid_T: jax.Array) -> jax.Array:
  """Runs all steps of all searches in one loop.

  A batch then ends with its slowest example, whereas nested loops would wait for the
  slowest example in each inner loop.
  """

  def step(state: _State) -> _State:
    searching = state.found < 0
    state = _where(searching, _search(cost_TQ, state), _hand_over(state))
    return _where(state.target < 0, _next_root(state), state)

  state = jax.lax.while_loop(
    lambda state: state.open_T.any(), step, _start(cost_TQ, valid_T)
  )
  return state.query_T


def _start(cost_TQ: jax.Array, valid_T: jax.Array) -> _State:
  targets, queries = cost_TQ.shape
  index_T = jnp.arange(targets, dtype=jnp.int32)
  best_T = cost_TQ.argmin(axis=1).astype(jnp.int32)
  wanted_TQ = valid_T[:, None] & (best_T[:, None] == jnp.arange(queries)[None])
  first_Q = jnp.where(wanted_TQ, index_T[:, None], targets).min(axis=0)
  query_T = jnp.where(first_Q[best_T] == index_T, best_T, -1)
  nowhere = jnp.int32(-1)
  return _next_root(
    _State(
      query_T=query_T,
      target_Q=jnp.where(first_Q < targets, first_Q, -1),
      price_Q=jnp.zeros(queries, cost_TQ.dtype),
      open_T=valid_T & (query_T < 0),
      root=nowhere,
      distance_Q=jnp.zeros(queries, cost_TQ.dtype),
      before_Q=jnp.full(queries, nowhere),
      done_Q=jnp.zeros(queries, bool),
      target=nowhere,
      offset=jnp.zeros((), cost_TQ.dtype),
      found=nowhere,
    )
  )


def _next_root(state: _State) -> _State:
  """Closes the last root and starts a search from the first open target."""
  open_T = state.open_T & (jnp.arange(len(state.open_T)) != state.root)
  root = open_T.argmax().astype(jnp.int32)
  return state._replace(
    open_T=open_T,
    root=root,
    distance_Q=jnp.full_like(state.distance_Q, jnp.inf),
    done_Q=jnp.zeros_like(state.done_Q),
    target=root,
    offset=jnp.zeros_like(state.offset),
    found=jnp.int32(-1),
  )


def _search(cost_TQ: jax.Array, state: _State) -> _State:
  """Relaxes the queries of `target` and moves to the nearest one that is not done."""
  queries = len(state.price_Q)
  through_Q = cost_TQ[state.target] + state.price_Q + state.offset
  nearer_Q = ~state.done_Q & (through_Q < state.distance_Q)
  distance_Q = jnp.where(nearer_Q, through_Q, state.distance_Q)
  open_Q = jnp.where(state.done_Q, jnp.inf, distance_Q)
  nearest = open_Q.min()
  # Among equally near queries, free ones come before others, then the first counts.
  index_Q = jnp.arange(queries, dtype=jnp.int32)
  rank_Q = jnp.where(state.target_Q < 0, index_Q, index_Q + queries)
  query = jnp.where(open_Q == nearest, rank_Q, 2 * queries).min() % queries
  target = state.target_Q[query]
  free = target < 0
  done_Q = state.done_Q | (~free & (index_Q == query))
  raised_Q = state.price_Q + jnp.where(done_Q, nearest - distance_Q, 0.0)
  return state._replace(
    price_Q=jnp.where(free, raised_Q, state.price_Q),
    distance_Q=distance_Q,
    before_Q=jnp.where(nearer_Q, state.target, state.before_Q),
    done_Q=done_Q,
    target=jnp.where(free, state.target, target),
    offset=nearest - (cost_TQ[target, query] + state.price_Q[query]),
    found=jnp.where(free, query, -1),
  )


def _hand_over(state: _State) -> _State:
  """Gives `found` to the previous target, whose old query is handed over next."""
  queries, targets = len(state.target_Q), len(state.query_T)
  target = state.before_Q[state.found]
  to_target_T = jnp.arange(targets) == target
  of_query_Q = jnp.arange(queries) == state.found
  return state._replace(
    query_T=jnp.where(to_target_T, state.found, state.query_T),
    target_Q=jnp.where(of_query_Q, target, state.target_Q),
    target=jnp.where(target == state.root, -1, target),
    found=state.query_T[target],
  )


def _where(condition: jax.Array, yes: _State, no: _State) -> _State:
  return jax.tree.map(functools.partial(jnp.where, condition), yes, no)
