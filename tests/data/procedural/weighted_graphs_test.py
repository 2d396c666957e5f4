"""Axes: N nodes, S states, L slots."""

import numpy as np
import pytest
from scipy.sparse import csgraph

from big_vision_like.data.procedural import weighted_graphs
from big_vision_like.errors import UserError


@pytest.mark.parametrize('algorithm', weighted_graphs.ALGORITHMS)
def test_answers_as_scipy(algorithm):
  source = weighted_graphs.WeightedGraphs(
    nodes=12, algorithm=algorithm, examples=24, split='test'
  )
  for example in source:
    weight_NN = example['weight']
    np.testing.assert_array_equal(weighted_graphs.checked(weight_NN), weight_NN)
    true_N = np.minimum(csgraph.dijkstra(weight_NN, indices=0), 256)
    np.testing.assert_array_equal(example['distance'], true_N)
    assert example['total'] == csgraph.minimum_spanning_tree(weight_NN).sum()
  most = max(example['weight'].max() for example in source)
  assert most <= (21 if algorithm == 'dijkstra' else 255)


@pytest.mark.parametrize('nodes', [4, 9, 25])
def test_kinds_of_graphs(nodes):
  rng = np.random.default_rng(0)
  for kind in weighted_graphs.KINDS:
    for _ in range(8):
      edge_NN = kind(rng, nodes)
      assert edge_NN.dtype == bool and not edge_NN.diagonal().any()
      np.testing.assert_array_equal(edge_NN, edge_NN.T)
      if kind is weighted_graphs.regular:
        assert len(set(edge_NN.sum(axis=0).tolist())) == 1
      if kind in (weighted_graphs.grown, weighted_graphs.small_world):
        assert csgraph.connected_components(edge_NN)[0] == 1


def test_regular_graphs_of_many_nodes_end():
  rng = np.random.default_rng(0)
  for nodes in (25, 50):
    edge_NN = weighted_graphs.regular(rng, nodes)
    assert 2 <= edge_NN.sum(axis=0).max() <= 8


@pytest.mark.parametrize('algorithm', weighted_graphs.ALGORITHMS)
def test_states(algorithm):
  source = weighted_graphs.GraphSteps(algorithm=algorithm, examples=50, split='train')
  hidden_pairs = 0
  for example in source:
    numbers_SL, hidden_SL = example['numbers'], example['hidden']
    assert numbers_SL.shape == hidden_SL.shape == (18, 9)
    for state, slot in enumerate(example['pointer']):
      shown = numbers_SL[state][~hidden_SL[state]]
      assert example['target'][state] == shown.min() == numbers_SL[state, slot]
      after_L = hidden_SL[state].copy()
      after_L[slot] = True
      np.testing.assert_array_equal(example['next_hidden'][state], after_L)
    assert hidden_SL[:9].sum(axis=1).tolist() == list(range(9))
    assert numbers_SL[8, example['pointer'][8]] == 512
    hidden_pairs += hidden_SL[9:, 1].sum()
    lone_S = (~hidden_SL).sum(axis=1) == 1
    assert (example['target'][lone_S] > 0).all()
  assert 0.15 < hidden_pairs / (9 * 50) < 0.35


@pytest.mark.parametrize(
  ('weights', 'sentence'),
  [
    (np.array([[0, -3], [-3, 0]]), 'weight -3 of the edge 0-1 must be from 1 to 255'),
    (np.array([[0, 300], [300, 0]]), 'weight 300 of the edge 0-1 must be at most 255'),
    (np.array([[0, 1], [2, 0]]), 'edge 0-1 differs in the other direction'),
    (np.zeros((2, 3), int), r'are \(nodes, nodes\), not \(2, 3\)'),
    (np.zeros((2, 2)), 'are integers, not float64'),
  ],
)
def test_wrong_weights_are_refused(weights, sentence):
  with pytest.raises(UserError, match=sentence):
    weighted_graphs.checked(weights)


def test_wrong_fields_are_reported():
  for change, sentence in (
    (dict(nodes=3), 'nodes=3 must be from 4'),
    (dict(algorithm='bfs'), 'algorithm'),
  ):
    with pytest.raises(UserError, match=sentence):
      weighted_graphs.WeightedGraphs(
        **(dict(nodes=9, examples=1, split='test') | change)
      )
