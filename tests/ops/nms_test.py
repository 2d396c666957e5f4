"""Axes: N candidate boxes, K kept."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from big_vision_like.ops import boxes, nms

RNG = np.random.default_rng(0)


def candidates(count=60, groups=3):
  low = RNG.uniform(0, 40, (count, 2))
  boxes_N4 = np.concatenate([low, low + RNG.uniform(5, 30, (count, 2))], 1)
  scores_N = RNG.permutation(count) / count
  return (
    boxes_N4.astype(np.float32),
    np.float32(scores_N),
    RNG.integers(groups, size=count),
  )


def selected(boxes_N4, scores_N, groups_N, *args, **kwargs):
  arrays = map(jnp.asarray, (boxes_N4, scores_N, groups_N))
  return nms.select(*arrays, *args, **kwargs)


def greedy(boxes_N4, scores_N, threshold):
  """Returns the indices of boxes that remain, one after the other."""
  result = []
  for i in np.argsort(-scores_N, kind='stable'):
    if all(boxes.iou(boxes_N4[i], boxes_N4[j]) <= threshold for j in result):
      result.append(int(i))
  return result


@pytest.mark.parametrize('threshold', (0.1, 0.5))
def test_kept_is_greedy(threshold):
  boxes_N4, scores_N, _ = candidates()
  valid_N = np.arange(60) % 5 != 0
  found = jax.jit(nms.kept, static_argnums=3)(boxes_N4, scores_N, valid_N, threshold)
  places = np.flatnonzero(valid_N)
  expected = places[greedy(boxes_N4[valid_N], scores_N[valid_N], threshold)]
  assert sorted(np.flatnonzero(found)) == sorted(expected)
  assert 5 < len(expected) < 45


def test_equal_scores_keep_the_first():
  same_N4 = np.float32([[0, 0, 9, 9]] * 4)
  found = nms.kept(
    same_N4, np.ones(4, np.float32), np.array([False, True, True, True]), 0.5
  )
  np.testing.assert_array_equal(found, [False, True, False, False])


def test_select_suppresses_within_groups():
  boxes_N4, scores_N, groups_N = candidates()
  found = selected(boxes_N4, scores_N, groups_N, 40, 0.4, least=0.2)
  expected = []
  for group in range(3):
    own = np.flatnonzero((groups_N == group) & (scores_N > 0.2))
    expected += own[greedy(boxes_N4[own], scores_N[own], 0.4)].tolist()
  expected.sort(key=lambda i: -scores_N[i])
  assert len(expected) < 40
  count = int(found.valid_K.sum())
  assert found.index_K[:count].tolist() == expected
  np.testing.assert_allclose(found.scores_K[:count], scores_N[expected], rtol=1e-6)
  first = selected(boxes_N4, scores_N, groups_N, 7, 0.4, least=0.2)
  assert first.index_K.tolist() == expected[:7] and first.valid_K.all()


@pytest.mark.parametrize('soft', ('linear', 'gaussian'))
def test_soft_suppression_lowers_scores(soft):
  boxes_N4 = np.float32([[0, 0, 10, 10], [0, 0, 10, 6], [50, 50, 60, 60]])
  found = selected(
    boxes_N4, jnp.asarray([0.9, 0.8, 0.7]), jnp.zeros(3, int), 3, 0.5, soft=soft
  )
  assert found.index_K.tolist() == [0, 2, 1]
  lowered = 0.8 * (0.4 if soft == 'linear' else np.exp(-(0.6**2) / 0.5))
  np.testing.assert_allclose(found.scores_K, [0.9, 0.7, lowered], rtol=1e-5)


def test_nothing_to_select():
  boxes_N4 = np.zeros((3, 4), np.float32)
  found = selected(boxes_N4, jnp.zeros(3), jnp.zeros(3, int), 2, 0.5)
  assert not found.valid_K.any()
