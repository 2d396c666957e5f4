import numpy as np
import pytest

from big_vision_like.ops import ridge


def exact_scores(x_train, y_train, x_test, num_classes, l2):
  """Solves the normal equations in float64."""
  mean, std = x_train.mean(axis=0), x_train.std(axis=0) + 1e-5
  a, b = (
    np.pad((x.astype(np.float64) - mean) / std, ((0, 0), (0, 1)), constant_values=100)
    for x in (x_train, x_test)
  )
  y = 2 * np.eye(num_classes)[y_train] - 1
  return b @ np.linalg.solve(a.T @ a + l2 * np.eye(a.shape[1]), a.T @ y)


@pytest.mark.parametrize('num_examples', [12, 40])  # dual and primal
def test_scores_solve_the_normal_equations(num_examples):
  rng = np.random.default_rng(0)
  y_train = rng.permutation(num_examples) % 4
  x_train = rng.normal(size=(num_examples, 16)).astype(np.float32)
  x_train[:, 0] = 3.0  # a constant feature, with deviation 0
  x_test = rng.normal(size=(7, 16)).astype(np.float32)
  got = ridge.ridge_scores(x_train, y_train, x_test, num_classes=4)
  want = exact_scores(x_train, y_train, x_test, 4, 1024.0)
  assert got.shape == (7, 4)
  np.testing.assert_allclose(got, want, rtol=1e-3, atol=1e-3)


def test_fewer_shots_of_a_seed_are_part_of_more():
  labels = np.arange(60) % 3
  one, five = (ridge.fewshot_indices(labels, shots, seed=2) for shots in (1, 5))
  np.testing.assert_array_equal(labels[five], np.repeat([0, 1, 2], 5))
  np.testing.assert_array_equal(one, five[::5])
  assert len(set(five)) == 15
  assert not np.array_equal(five, ridge.fewshot_indices(labels, 5, seed=3))


def test_a_rare_class_gives_all_that_it_has():
  labels = np.array([0, 0, 0, 0, 7, 7])
  drawn = ridge.fewshot_indices(labels, 3, seed=0)
  # As in the published evaluator: a permutation of each class, truncated.
  rng = np.random.default_rng(0)
  want = [rng.permutation(np.flatnonzero(labels == k))[:3] for k in (0, 7)]
  np.testing.assert_array_equal(drawn, np.concatenate(want))
  assert ridge.rare_classes(labels, 3) == {7: 2} and not ridge.rare_classes(labels, 2)


@pytest.mark.parametrize('labels, shots', [([], 1), ([[0, 1]], 1), ([0, 1], 0)])
def test_unusable_labels_and_shots(labels, shots):
  with pytest.raises(ValueError, match='vector|at least 1'):
    ridge.fewshot_indices(labels, shots, seed=0)
