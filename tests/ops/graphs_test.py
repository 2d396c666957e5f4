"""Axes: B graphs, N nodes, E edges, D features, H heads."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from big_vision_like.errors import UserError
from big_vision_like.ops import graphs

B, N, E, D = 3, 7, 12, 4
RNG = np.random.default_rng(0)
# Edges occur once in the list, since the dense form joins equal ones.
EDGES_BE2 = np.stack(
  [np.stack(np.divmod(RNG.permutation(N * N)[:E], N), axis=1) for _ in range(B)]
).astype(np.int32)
WEIGHT_BE = RNG.integers(0, 3, (B, E)).astype(np.float32)  # 0: padding
WEIGHT_BE[2] = 0  # a graph without edges
NODES_BND = RNG.normal(size=(B, N, D)).astype(np.float32)
FORMS = {name: make(EDGES_BE2, WEIGHT_BE, N) for name, make in graphs.FORMS.items()}


def attended(edges, nodes_BND, normalizer, epsilon=0.0):
  """Returns the sum of the sources of each node, weighted by a softmax of features."""
  from_BED, to_BED = edges.of_sources(nodes_BND), edges.of_targets(nodes_BND)
  logits_BEH = from_BED[..., :2] + to_BED[..., 2:]
  share_BEH = graphs.shares(edges, 9 * logits_BEH, normalizer, epsilon)
  value_BED = from_BED * share_BEH.repeat(2, axis=-1)
  return edges.into_targets(value_BED)


def by_hand(normalizer, epsilon):
  result_BND = np.zeros((B, N, D))
  logits = {}
  for b in range(B):
    for e, (s, t) in enumerate(EDGES_BE2[b]):
      if WEIGHT_BE[b, e]:
        logits[b, e] = 9 * (NODES_BND[b, s, :2] + NODES_BND[b, t, 2:]).astype(float)
  for (b, e), logit_H in logits.items():
    s, t = EDGES_BE2[b, e]
    same = {
      'exact': lambda x, b=b, t=t: x[0] == b and EDGES_BE2[x][1] == t,
      'graph': lambda x, b=b: x[0] == b,
      'batch': lambda x: True,
    }[normalizer]
    most_H = np.max([logits[x] for x in logits if same(x)], axis=0)
    into = [x for x in logits if x[0] == b and EDGES_BE2[x][1] == t]
    total_H = sum(WEIGHT_BE[x] * np.exp(logits[x] - most_H) for x in into) + epsilon
    share_H = WEIGHT_BE[b, e] * np.exp(logit_H - most_H) / total_H
    result_BND[b, t] += NODES_BND[b, s] * share_H.repeat(2)
  return result_BND


@pytest.mark.parametrize(
  ('normalizer', 'epsilon'),
  [('exact', 0.0), ('exact', 1e-6), ('graph', 1e-6), ('batch', 1e-3)],
)
def test_three_forms_by_hand(normalizer, epsilon):
  expected_BND = by_hand(normalizer, epsilon)
  for name, edges in FORMS.items():
    found_BND = attended(edges, NODES_BND, normalizer, epsilon)
    np.testing.assert_allclose(found_BND, expected_BND, atol=1e-5, err_msg=name)


@pytest.mark.parametrize('normalizer', graphs.NORMALIZERS)
def test_three_forms_have_equal_finite_gradients(normalizer):
  def loss(nodes_BND, edges):
    epsilon = 0.0 if normalizer == 'exact' else 1e-6
    return (attended(edges, nodes_BND, normalizer, epsilon) ** 2).sum()

  gradient, nodes_BND = jax.grad(loss), jnp.asarray(NODES_BND)
  found = [np.asarray(gradient(nodes_BND, edges)) for edges in FORMS.values()]
  for gradient_BND in found:
    assert np.isfinite(gradient_BND).all()
    np.testing.assert_allclose(gradient_BND, found[0], rtol=1e-3, atol=1e-4)
  assert not found[0][2].any()  # of the graph without edges


def test_sums_over_the_edges_into_nodes():
  one_BE1 = jnp.ones((B, E, 1)) * (WEIGHT_BE[..., None] > 0)
  expected_BN = np.zeros((B, N))
  for b, e in zip(*np.nonzero(WEIGHT_BE), strict=True):
    expected_BN[b, EDGES_BE2[b, e, 1]] += 1
  for edges in (FORMS['incidence'], FORMS['segments']):
    np.testing.assert_array_equal(edges.into_targets(one_BE1)[..., 0], expected_BN)


def test_sources_times_weights_by_hand():
  expected_BND = np.zeros((B, N, D))
  for b, e in np.ndindex(B, E):
    s, t = EDGES_BE2[b, e]
    expected_BND[b, t] += WEIGHT_BE[b, e] * NODES_BND[b, s]
  for name, edges in FORMS.items():
    found_BND = edges.mixed(NODES_BND)
    np.testing.assert_allclose(found_BND, expected_BND, atol=1e-5, err_msg=name)


def test_equal_edges_of_the_dense_form_are_one_with_the_sum_of_weights():
  edges_1E2, weight_1E = np.array([[[0, 1], [0, 1], [1, 0]]]), np.ones((1, 3))
  found = graphs.dense(edges_1E2, weight_1E, 2)
  np.testing.assert_array_equal(found.weight_BE.reshape(2, 2), [[0, 1], [2, 0]])


def test_unknown_normalizers_are_refused():
  with pytest.raises(UserError, match='normalizer'):
    attended(FORMS['dense'], NODES_BND, 'node')
  with pytest.raises(UserError, match='needs an epsilon above 0'):
    attended(FORMS['dense'], NODES_BND, 'batch')
