"""Tests of programs with exact subroutines, without anything learned.

Axes: B batch, S states, L slots, N nodes.
"""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.sparse import csgraph

from big_vision_like.data.procedural import weighted_graphs
from big_vision_like.errors import UserError
from big_vision_like.ops import programs

END, INFINITY, MERGE_END, PADDING = 512, 256, 256, 257
GRAPH_NN = np.zeros((9, 9), np.int32)
EDGES = (
  *((0, 1, 4), (0, 7, 8), (1, 2, 8), (1, 7, 11), (2, 3, 7), (2, 5, 4), (2, 8, 2)),
  *((3, 4, 9), (3, 5, 14), (4, 5, 10), (5, 6, 2), (6, 7, 1), (6, 8, 6), (7, 8, 7)),
)
for a, b, weight in EDGES:
  GRAPH_NN[a, b] = GRAPH_NN[b, a] = weight


def smallest(numbers_BSL, hidden_BSL, previous_BS, rank=lambda x: x):
  """Selects the smallest visible number."""
  pointer_BS = jnp.where(hidden_BSL, 10_000, rank(numbers_BSL)).argmin(axis=-1)
  return {
    'number': jnp.take_along_axis(numbers_BSL, pointer_BS[..., None], axis=-1)[..., 0],
    'pointer': jax.nn.one_hot(pointer_BS, numbers_BSL.shape[-1]),
  }


def add(numbers_BSL, hidden_BSL, previous_BS):
  """Adds, and knows infinity."""
  return {'number': jnp.minimum(numbers_BSL.sum(axis=-1), INFINITY)}


def hide(hidden_BL, pointer_B):
  """Hides the slot that was pointed to."""
  pointed_BL = jax.nn.one_hot(pointer_B, hidden_BL.shape[1]) > 0
  return jnp.where(hidden_BL | pointed_BL, 1.0, -1.0)


def show_next(hidden_BL, pointer_B):
  """Hides the slot that was pointed to, and shows its right neighbour."""
  slot_BL = jnp.arange(hidden_BL.shape[1])[None] - pointer_B[:, None]
  return jnp.where((slot_BL == 0) | hidden_BL & (slot_BL != 1), 1.0, -1.0)


def end_is_last(numbers_BSL):
  return jnp.where(numbers_BSL == MERGE_END, END, numbers_BSL)


@pytest.fixture(scope='module')
def lists_BL():
  lists_BL = np.random.default_rng(0).integers(0, 256, (3, 11)).astype(np.int32)
  lists_BL[1, 3:6] = 7  # equal numbers
  return lists_BL


def test_selection_sort(lists_BL):
  ended_BL = np.pad(lists_BL, ((0, 0), (0, 1)), constant_values=END)
  sort = jax.jit(functools.partial(programs.selection_sort, smallest, hide, steps=12))
  trace = sort(ended_BL)
  np.testing.assert_array_equal(trace['sorted'], np.sort(ended_BL))
  assert trace['hidden'].shape == (3, 12, 12)
  assert trace['hidden'][0].sum(axis=1).tolist() == list(range(12))


def test_a_sort_is_one_loop_of_any_number_of_steps():
  text = str(
    jax.make_jaxpr(
      functools.partial(programs.selection_sort, smallest, hide, steps=100)
    )(jnp.zeros((1, 101), jnp.int32))
  )
  assert text.count('scan[') == 1 and 'length=100' in text


@pytest.mark.parametrize('count', [1, 2, 8, 11])
def test_merge_sort(lists_BL, count):
  merge = functools.partial(smallest, rank=end_is_last)
  sort = jax.jit(
    lambda x: programs.merge_sort(merge, show_next, x, MERGE_END, PADDING)['sorted']
  )
  lists_BL = lists_BL[:, :count]
  np.testing.assert_array_equal(sort(lists_BL), np.sort(lists_BL))


def distances(graphs_BNN, add=add):
  start_B = jnp.zeros(len(graphs_BNN), jnp.int32)
  return programs.dijkstra(smallest, add, hide, graphs_BNN, start_B, END, INFINITY)


def trees(graphs_BNN):
  start_B = jnp.zeros(len(graphs_BNN), jnp.int32)
  return programs.prim(smallest, hide, graphs_BNN, start_B, END, INFINITY)


def test_the_published_graph():
  found = jax.jit(distances)(GRAPH_NN[None])
  assert found['distance'][0].tolist() == [0, 4, 12, 19, 21, 11, 9, 8, 14]
  tree = jax.jit(trees)(GRAPH_NN[None])
  assert tree['edges'][0, 1:].tolist() == [4, 8, 2, 4, 2, 1, 7, 9]
  assert tree['node'][0, 1:].tolist() == [1, 2, 8, 5, 6, 7, 3, 4]
  assert tree['total'].tolist() == [37]


@pytest.fixture(scope='module')
def graphs_BNN():
  kinds = [
    weighted_graphs.WeightedGraphs(
      nodes=9, algorithm=algorithm, examples=8, split='test'
    )
    for algorithm in weighted_graphs.ALGORITHMS
  ]
  return np.stack([example['weight'] for kind in kinds for example in kind])


def test_random_graphs_as_scipy(graphs_BNN):
  found_BN = jax.jit(distances)(graphs_BNN)['distance']
  total_B = jax.jit(trees)(graphs_BNN)['total']
  for weight_NN, found_N, total in zip(graphs_BNN, found_BN, total_B, strict=True):
    true_N = csgraph.dijkstra(weight_NN, indices=0)
    # Sums above 255 are infinite here.
    np.testing.assert_array_equal(found_N, np.minimum(true_N, INFINITY))
    assert total == csgraph.minimum_spanning_tree(weight_NN).sum()


def test_unconnected_graphs_have_infinite_distances_and_several_trees():
  weight_NN = np.zeros((5, 5), np.int32)
  weight_NN[0, 1] = weight_NN[1, 0] = 3
  weight_NN[2, 3] = weight_NN[3, 2] = 4
  found = jax.jit(distances)(weight_NN[None])
  assert found['distance'][0].tolist() == [0, 3, INFINITY, INFINITY, INFINITY]
  assert jax.jit(trees)(weight_NN[None])['total'].tolist() == [7]


def test_nothing_changes_after_the_end():
  def early(numbers_BSL, hidden_BSL, previous_BS):
    """Selects the end once two nodes are hidden."""
    found = smallest(numbers_BSL, hidden_BSL, previous_BS)
    if numbers_BSL.shape[-1] == 2:
      return found
    end_BS = hidden_BSL.sum(axis=-1) >= 2
    last_L = jnp.arange(numbers_BSL.shape[-1]) == numbers_BSL.shape[-1] - 1
    pointer_BSL = jnp.where(
      end_BS[..., None], last_L[None, None] * 1.0, found['pointer']
    )
    return found | {'pointer': pointer_BSL}

  start_B = jnp.zeros(1, jnp.int32)
  found = jax.jit(
    lambda x: programs.dijkstra(early, add, hide, x, start_B, END, INFINITY)
  )(GRAPH_NN[None])
  assert found['node'][0].tolist() == [0, 1] + [-1] * 7
  assert found['distance'][0].tolist() == [0, 4, 12, 256, 256, 256, 256, 8, 256]


def test_weights_that_are_no_graphs_are_refused():
  with pytest.raises(UserError, match=r'weights \(1, 2, 3\) are not \(graphs'):
    programs.with_infinity(jnp.zeros((1, 2, 3), jnp.int32), INFINITY)
