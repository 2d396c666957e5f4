"""Tests of distances between sets of features, against SciPy and scikit-learn.

Axes: N M examples, D features, C classes.
"""

import jax
import numpy as np
import pytest
from scipy import linalg, stats
from sklearn import neighbors

from big_vision_like.errors import UserError
from big_vision_like.ops import distances
from big_vision_like.ops.distances import Moments

RNG = np.random.default_rng(0)


def gaussian(mean_D, covariance_DD):
  return Moments(1000, np.asarray(mean_D, float), np.asarray(covariance_DD, float))


def test_moments_are_numpy_s_however_they_are_split():
  x_ND = (RNG.normal(size=(57, 6)) + 1e4).astype(np.float32)
  for parts in ([x_ND], np.array_split(x_ND, 9), [x_ND[:1], x_ND[1:], x_ND[:0]]):
    found = distances.moments(parts)
    assert found.count == 57
    np.testing.assert_allclose(found.mean_D, x_ND.astype(float).mean(0), rtol=1e-12)
    covariance_DD = np.cov(x_ND.astype(float), rowvar=False)
    np.testing.assert_allclose(found.covariance_DD, covariance_DD, rtol=1e-8)
  with pytest.raises(UserError, match='1 examples have no covariance'):
    distances.moments([x_ND[:1]])


def test_frechet_of_gaussians_in_closed_form():
  mean_D = RNG.normal(size=8)
  unit = gaussian(np.zeros(8), np.eye(8))
  moved = distances.frechet(unit, gaussian(mean_D, np.eye(8)))
  np.testing.assert_allclose(moved, np.square(mean_D).sum(), atol=1e-9)
  # Covariances that commute: the sum of squared differences of deviations.
  one_D, other_D = RNG.uniform(0.1, 3, (2, 8))
  turn_DD = stats.ortho_group.rvs(8, random_state=0)
  turned = [
    gaussian(np.zeros(8), (turn_DD * x_D**2) @ turn_DD.T) for x_D in (one_D, other_D)
  ]
  np.testing.assert_allclose(
    distances.frechet(*turned), np.square(one_D - other_D).sum(), atol=1e-9
  )


def test_frechet_of_samples_approaches_the_closed_form():
  one, other = RNG.normal(size=(2, 200_000, 4))
  other = other * 2 + [1, 0, 0, 0]
  found = distances.frechet(distances.moments([one]), distances.moments([other]))
  assert abs(found - 5) < 0.05
  assert distances.frechet(*[distances.moments([one])] * 2) < 1e-9


def test_frechet_is_scipy_s():
  for width, count in ((5, 40), (30, 200)):
    one, other = (
      RNG.normal(size=(count, width)) @ RNG.normal(size=(width, width)) for _ in 'ab'
    )
    a, b = distances.moments([one]), distances.moments([other])
    root = linalg.sqrtm(a.covariance_DD @ b.covariance_DD).real
    want = np.square(a.mean_D - b.mean_D).sum() + np.trace(
      a.covariance_DD + b.covariance_DD - 2 * root
    )
    np.testing.assert_allclose(distances.frechet(a, b), want, rtol=1e-8)


def test_frechet_without_full_rank():
  # Fewer examples than features have singular covariances, also of equal sets.
  one, other = (distances.moments([RNG.normal(size=(10, 64))]) for _ in 'ab')
  assert distances.frechet(one, one) < 1e-9
  # The spaces of the two sets hardly meet, so the traces remain.
  found = distances.frechet(one, other)
  assert 60 < found < np.trace(one.covariance_DD + other.covariance_DD) + 20
  with pytest.raises(UserError, match='width 64 and 3 cannot be compared'):
    distances.frechet(one, gaussian(np.zeros(3), np.eye(3)))


def test_the_bias_of_few_samples():
  real = gaussian(np.ones(16), 2 * np.eye(16))
  few, more, many = (distances.frechet_of_perfect(real, n) for n in (20, 200, 20_000))
  assert few > 5 * more > 50 * many > 0
  # As measured on independent samples of the same Gaussian.
  drawn = RNG.normal(1, np.sqrt(2), (50, 200, 16))
  measured = np.mean([distances.frechet(real, distances.moments([x])) for x in drawn])
  np.testing.assert_allclose(more, measured, rtol=0.25)


def test_inception_score():
  certain_MC = np.tile(np.eye(10), (20, 1))
  assert distances.inception_score(certain_MC, 10) == pytest.approx((10, 0))
  flat_MC = np.full((40, 10), 0.1)
  assert distances.inception_score(flat_MC, 4) == pytest.approx((1, 0))
  # By SciPy's relative entropy, over two uneven parts.
  share_MC = RNG.dirichlet(np.ones(5), 41)
  scores = [
    np.exp(np.mean([stats.entropy(row, part.mean(0)) for row in part]))
    for part in (share_MC[:20], share_MC[20:])
  ]
  found = distances.inception_score(share_MC, 2)
  np.testing.assert_allclose(found, [np.mean(scores), np.std(scores)], rtol=1e-10)
  with pytest.raises(UserError, match='3 samples do not divide into splits=10'):
    distances.inception_score(share_MC[:3])


def by_sklearn(probes, examples, neighbours):
  found = neighbors.NearestNeighbors(n_neighbors=neighbours + 1).fit(examples)
  radii_N = found.kneighbors(examples)[0][:, -1]
  apart_MN = np.linalg.norm(probes[:, None] - examples[None], axis=-1)
  return (apart_MN <= radii_N[None]).any(axis=1).mean()


@pytest.mark.parametrize('rows', [distances.ROWS, 16])
def test_precision_and_recall_are_scikit_learn_s(rows, monkeypatch):
  monkeypatch.setattr(distances, 'ROWS', rows)
  real, generated = RNG.normal(size=(70, 5)), 0.6 * RNG.normal(size=(45, 5)) + 0.5
  real, generated = real.astype(np.float32), generated.astype(np.float32)
  for neighbours in (1, 3):
    found = distances.precision_recall(real, generated, neighbours)
    want = (
      by_sklearn(generated, real, neighbours),
      by_sklearn(real, generated, neighbours),
    )
    np.testing.assert_allclose(found, want)
  assert found[0] > found[1] > 0
  with pytest.raises(UserError, match='3 generated examples have no neighbour 3'):
    distances.precision_recall(real, generated[:3])


def test_sets_apart_share_nothing_and_equal_sets_all():
  x_ND = RNG.normal(size=(30, 4)).astype(np.float32)
  assert distances.precision_recall(x_ND, x_ND) == (1.0, 1.0)
  assert distances.precision_recall(x_ND, x_ND + 100) == (0.0, 0.0)


def test_distances_far_from_zero_are_precise():
  x_ND = (RNG.normal(size=(20, 64)) + 300).astype(np.float32)
  found = distances.squared_distances(x_ND[:7], x_ND)
  wide = x_ND.astype(float)
  want = np.square(wide[:7, None] - wide[None]).sum(-1)
  assert jax.numpy.asarray(found).dtype == np.float32
  np.testing.assert_allclose(found, want, atol=1e-3)
