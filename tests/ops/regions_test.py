"""Axes: N regions, K objects, S sampled regions."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from big_vision_like.ops import regions


def test_anchors_of_a_small_map():
  found = regions.anchors((2, 2), 8, (16,), (0.25, 1.0))
  np.testing.assert_allclose(
    found,
    [
      [-16, -4, 16, 4], [-8, -8, 8, 8], [-8, -4, 24, 4], [0, -8, 16, 8],
      [-16, 4, 16, 12], [-8, 0, 8, 16], [-8, 4, 24, 12], [0, 0, 16, 16],
    ],
  )  # fmt: skip
  wide, _, high = regions.anchors((1, 1), 4, (32,), rounded=True)
  np.testing.assert_array_equal(wide, [-23, -11, 23, 11])
  np.testing.assert_array_equal(high, [-11, -23, 11, 23])


@pytest.mark.parametrize('stds', ((1, 1, 1, 1), (0.1, 0.1, 0.2, 0.2)))
def test_deltas_and_back(stds):
  boxes_N4 = jnp.asarray([[0.0, 0, 10, 20], [5, 5, 9, 6]])
  true_N4 = jnp.asarray([[5.0, 0, 25, 10], [1, 2, 3, 9]])
  deltas_N4 = regions.encode(boxes_N4, true_N4, stds)
  first = [1.0, -0.25, np.log(2), np.log(0.5)] / np.float32(stds)
  np.testing.assert_allclose(deltas_N4[0], first, rtol=1e-6)
  back_N4 = regions.decode(boxes_N4, deltas_N4, stds)
  np.testing.assert_allclose(back_N4, true_N4, rtol=1e-5, atol=1e-5)


def test_large_deltas_and_boxes_without_area_stay_finite():
  box_14 = jnp.asarray([[0.0, 0, 16, 16]])
  grown = regions.decode(box_14, jnp.asarray([[0.0, 0, 99, 99]]))
  np.testing.assert_allclose(grown, [[8 - 500, 8 - 500, 8 + 500, 8 + 500]], rtol=1e-5)
  flat_14 = jnp.asarray([[3.0, 3, 3, 9]])
  deltas, gradient = jax.value_and_grad(
    lambda box: regions.encode(box, box_14).sum() + regions.encode(box_14, box).sum()
  )(flat_14)
  assert np.isfinite(deltas) and np.isfinite(gradient).all()


def test_assignment_by_thresholds():
  true_K4 = jnp.asarray([[0.0, 0, 10, 10], [20, 20, 40, 40], [0, 0, 99, 99]])
  valid_K = jnp.asarray([True, True, False])
  regions_N4 = jnp.asarray(
    [[0.0, 0, 10, 9], [0, 0, 10, 5], [0, 0, 10, 4], [20, 20, 40, 28], [90, 90, 99, 99]]
  )
  found = regions.assign(regions_N4, true_K4, valid_K, 0.7, 0.5)
  assert found.object_N[:4].tolist() == [0, 0, 0, 1]
  assert found.positive_N.tolist() == [True, False, False, False, False]
  assert found.negative_N.tolist() == [False, False, True, True, True]
  # The best region of the second object has an IoU of 0.4.
  found = regions.assign(regions_N4, true_K4, valid_K, 0.7, 0.5, low_quality=0.3)
  assert found.positive_N.tolist() == [True, False, False, True, False]
  assert found.negative_N.tolist() == [False, False, True, False, True]
  found = regions.assign(regions_N4, true_K4, valid_K, 0.7, 0.5, low_quality=0.45)
  assert not found.positive_N[3]


def test_images_without_objects_have_negatives_only():
  found = regions.assign(
    jnp.ones((4, 4)), jnp.zeros((2, 4)), jnp.zeros(2, bool), 0.7, 0.3, low_quality=0.0
  )
  assert found.negative_N.all() and not found.positive_N.any()


@pytest.mark.parametrize(
  'positives, negatives, expected',
  [
    (40, 50, (5, 15)),
    (3, 50, (3, 17)),
    (40, 4, (5, 4)),
    (0, 30, (0, 20)),
    (0, 0, (0, 0)),
  ],
)
def test_samples_have_the_right_numbers(positives, negatives, expected):
  kind_N = np.random.default_rng(0).permutation(
    [1] * positives + [0] * negatives + [-1] * 10
  )
  picked = jax.vmap(
    lambda key: regions.sample(
      key, jnp.asarray(kind_N == 1), jnp.asarray(kind_N == 0), 20, 5
    )
  )(jax.random.split(jax.random.key(0), 200))
  counts = picked.positive_S.sum(1), picked.negative_S.sum(1)
  for count, want in zip(counts, expected, strict=True):
    assert (count == want).all()
  kinds = kind_N[np.asarray(picked.index_S)]
  assert (kinds[np.asarray(picked.positive_S)] == 1).all()
  assert (kinds[np.asarray(picked.negative_S)] == 0).all()
  used = np.asarray(picked.positive_S | picked.negative_S)
  for index_S, used_S in zip(np.asarray(picked.index_S), used, strict=True):
    assert len({*index_S[used_S]}) == used_S.sum()  # no index twice
  if positives == 40:  # each index is in about an eighth of the samples
    times = np.bincount(
      np.asarray(picked.index_S)[np.asarray(picked.positive_S)], minlength=len(kind_N)
    )[kind_N == 1]
    assert times.min() > 5 and times.max() < 60
