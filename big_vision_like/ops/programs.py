"""Algorithms that call learned subroutines, as compiled loops (arXiv:2006.08084).

A subroutine is a function of ints `numbers` (B, S, L), a mask `hidden` (B, S, L) and
ints `previous` (B, S), the last numbers found. It returns arrays, among them `number`
int (B, S), which it computes, and `pointer` (B, S, L), probabilities of slots; ties
point to the first slot. A masker is a function of `hidden` (B, L) and the slot (B,)
that was pointed to. It returns logits (B, L), which are positive where slots are hidden
next. Programs know neither how numbers are written nor how they are compared.

Axes: B batch, S states computed at once, L slots, N nodes, T steps; one more slot than
N numbers is written M.
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from big_vision_like.errors import UserError

Arrays = dict[str, jax.Array]
Subroutine = Callable[[jax.Array, jax.Array, jax.Array], Arrays]
Masker = Callable[[jax.Array, jax.Array], jax.Array]


def _pointed(found: Arrays) -> jax.Array:
  """Returns the slot (B, S) with the largest probability, the first of several."""
  return found['pointer'].argmax(axis=-1)


def _scanned(step: Callable, first: Any, steps: int) -> tuple[Any, Arrays]:
  """Runs a step repeatedly; arrays of its trace get an axis of steps, the second."""
  last, trace = jax.lax.scan(lambda carry, _: step(carry), first, length=steps)
  return last, {name: jnp.moveaxis(x, 0, 1) for name, x in trace.items()}


def _run(
  subroutine: Subroutine,
  masker: Masker,
  numbers_BL: jax.Array,
  hidden_BL: jax.Array,
  steps: int,
) -> Arrays:
  """Calls a subroutine in each step on the same numbers, with the next mask.

  The trace has the outputs of the subroutine in each step (B, T, ...), the mask
  `hidden` (B, T, L) that it saw, and `mask_logits` (B, T, L) of the next one.
  """

  def step(carry: tuple) -> tuple[tuple, Arrays]:
    hidden_BL, previous_B = carry
    found = subroutine(numbers_BL[:, None], hidden_BL[:, None], previous_B[:, None])
    pointer_B, found = _pointed(found)[:, 0], {k: x[:, 0] for k, x in found.items()}
    mask_logits_BL = masker(hidden_BL, pointer_B)
    trace = found | {'hidden': hidden_BL, 'mask_logits': mask_logits_BL}
    return (mask_logits_BL > 0, found['number']), trace

  first = hidden_BL, jnp.zeros(len(numbers_BL), jnp.int32)
  return _scanned(step, first, steps)[1]


def selection_sort(
  select: Subroutine, masker: Masker, numbers_BL: jax.Array, steps: int
) -> Arrays:
  """Sorts: finds the smallest visible number, hides it, and repeats this `steps` times.

  The last of the numbers is the end token, larger than all others. Returns `sorted` int
  (B, T), and the trace of `select`.
  """
  trace = _run(select, masker, numbers_BL, jnp.zeros(numbers_BL.shape, bool), steps)
  return trace | {'sorted': trace['number']}


def merge_sort(
  merge: Subroutine, masker: Masker, numbers_BN: jax.Array, end: int, padding: int
) -> Arrays:
  """Sorts by merging neighbours, whose length doubles from 1 (bottom-up).

  Numbers are padded at the end to a power of two. Two lists are merged next to each
  other, each followed by the end token. Only the first numbers of both are visible;
  `masker` hides the one that was taken and shows its right neighbour. All pairs of a
  length are merged at once. Returns `sorted` int (B, N), and the trace of the last
  merge, of one pair.
  """
  batch, count = numbers_BN.shape
  size, length = 1 << max(count - 1, 1).bit_length(), 1
  pad = ((0, 0), (0, size - count))
  lists_BL = jnp.pad(numbers_BN, pad, constant_values=padding)
  while length < size:
    pairs_B2L = lists_BL.reshape(-1, 2, length)
    ends = ((0, 0), (0, 0), (0, 1))
    pairs_BM = jnp.pad(pairs_B2L, ends, constant_values=end).reshape(-1, 2 * length + 2)
    slot_M = jnp.arange(pairs_BM.shape[1])
    hidden_BM = jnp.broadcast_to((slot_M % (length + 1) != 0)[None], pairs_BM.shape)
    trace = _run(merge, masker, pairs_BM, hidden_BM, 2 * length) | {'numbers': pairs_BM}
    lists_BL, length = trace['number'].reshape(batch, -1), 2 * length
  return trace | {'sorted': lists_BL[:, :count]}


def _visit(
  select: Subroutine,
  masker: Masker,
  start_B: jax.Array,
  nodes: int,
  end: int,
  infinity: int,
  relax: Callable[[Arrays], jax.Array],
) -> Arrays:
  """Visits nodes by the smallest value: that of the start is 0, of others infinite.

  `relax` returns new values (B, N) of all nodes, given the `node` (B,) that is visited,
  its `number` (B,), all values `value` (B, N), and those `hidden` (B, N) next. Once the
  end token is selected, nothing changes any more.
  """
  row_B = jnp.arange(len(start_B))
  value_BN = jnp.full((len(start_B), nodes), infinity, jnp.int32)
  value_BN = value_BN.at[row_B, start_B].set(0)

  def step(carry: tuple) -> tuple[tuple, Arrays]:
    value_BN, hidden_BM, ended_B = carry
    numbers_BM = jnp.pad(value_BN, ((0, 0), (0, 1)), constant_values=end)
    previous_B1 = jnp.zeros((len(start_B), 1), jnp.int32)
    found = select(numbers_BM[:, None], hidden_BM[:, None], previous_B1)
    pointer_B, number_B = _pointed(found)[:, 0], found['number'][:, 0]
    mask_logits_BM = masker(hidden_BM, pointer_B)
    ended_B |= pointer_B == nodes
    # An end that was selected is no node, and nothing is done with the first one.
    node_B = jnp.where(ended_B, 0, pointer_B)
    after_BM = mask_logits_BM > 0
    seen = dict(node=node_B, number=number_B, value=value_BN, hidden=after_BM[:, :-1])
    trace = {
      'node': jnp.where(ended_B, -1, node_B),
      'number': number_B,
      'value': value_BN,
      'pointer': found['pointer'][:, 0],
      'hidden': hidden_BM,
      'mask_logits': mask_logits_BM,
    }
    kept_B1 = ended_B[:, None]
    value_BN = jnp.where(kept_B1, value_BN, relax(seen))
    hidden_BM = jnp.where(kept_B1, hidden_BM, after_BM)
    return (value_BN, hidden_BM, ended_B), trace

  hidden_BM = jnp.zeros((len(start_B), nodes + 1), bool)
  first = value_BN, hidden_BM, jnp.zeros(len(start_B), bool)
  (value_BN, *_), trace = _scanned(step, first, nodes)
  return trace | {'last': value_BN}


def _smaller(
  select: Subroutine, pair_BN2: jax.Array, hidden_BN2: jax.Array
) -> jax.Array:
  """Returns the smaller of two numbers (B, N)."""
  return select(pair_BN2, hidden_BN2, jnp.zeros(pair_BN2.shape[:2], jnp.int32))[
    'number'
  ]


def dijkstra(
  select: Subroutine,
  add: Subroutine,
  masker: Masker,
  weight_BNN: jax.Array,
  start_B: jax.Array,
  end: int,
  infinity: int,
) -> Arrays:
  """Finds the lengths of shortest paths from a node, by Dijkstra's algorithm.

  Weights are 0 where there is no edge. Returns `distance` int (B, N), which is
  `infinity` for nodes without a path, and a trace: `node` (B, T), the node that is
  visited in each step, -1 after the end, with its `number`, and before the step `value`
  (B, T, N) and `hidden` (B, T, N + 1).
  """
  edge_BNN = with_infinity(weight_BNN, infinity)

  def relax(seen: Arrays) -> jax.Array:
    own_BN = jnp.take_along_axis(edge_BNN, seen['node'][:, None, None], axis=1)[:, 0]
    from_BN = jnp.broadcast_to(seen['number'][:, None], own_BN.shape)
    pair_BN2 = jnp.stack([own_BN, from_BN], axis=-1)
    visible_BN2 = jnp.zeros(pair_BN2.shape, bool)
    through_BN = add(pair_BN2, visible_BN2, jnp.zeros_like(own_BN))['number']
    pair_BN2 = jnp.stack([seen['value'], through_BN], axis=-1)
    return _smaller(select, pair_BN2, visible_BN2)

  nodes = weight_BNN.shape[-1]
  trace = _visit(select, masker, start_B, nodes, end, infinity, relax)
  return trace | {'distance': trace.pop('last')}


def prim(
  select: Subroutine,
  masker: Masker,
  weight_BNN: jax.Array,
  start_B: jax.Array,
  end: int,
  infinity: int,
) -> Arrays:
  """Finds a minimum spanning tree from a node, by Prim's algorithm.

  Weights are 0 where there is no edge. Returns `edges` int (B, T), the weight of the
  edge to the node of each step (0 for the first), `total` (B,), their sum, and the
  trace of `dijkstra`. In a graph of several parts, the tree of each is found; the
  weight of its first node is `infinity`, and not part of the sum.
  """
  edge_BNN = with_infinity(weight_BNN, infinity)

  def relax(seen: Arrays) -> jax.Array:
    own_BN = jnp.take_along_axis(edge_BNN, seen['node'][:, None, None], axis=1)[:, 0]
    pair_BN2 = jnp.stack([seen['value'], own_BN], axis=-1)
    hidden_BN2 = jnp.stack([jnp.zeros_like(seen['hidden']), seen['hidden']], axis=-1)
    return _smaller(select, pair_BN2, hidden_BN2)

  nodes = weight_BNN.shape[-1]
  trace = _visit(select, masker, start_B, nodes, end, infinity, relax)
  counted_BT = (trace['node'] >= 0) & (trace['number'] < infinity)
  edges_BT = jnp.where(trace['node'] >= 0, trace['number'], 0)
  return trace | {
    'edges': edges_BT,
    'total': jnp.where(counted_BT, trace['number'], 0).sum(axis=1),
  }


def with_infinity(weight_BNN: jax.Array, infinity: int) -> jax.Array:
  """Returns weights that are infinite where there is no edge."""
  if weight_BNN.ndim != 3 or weight_BNN.shape[1] != weight_BNN.shape[2]:
    raise UserError(f'weights {weight_BNN.shape} are not (graphs, nodes, nodes)')
  return jnp.where(weight_BNN == 0, infinity, weight_BNN)
