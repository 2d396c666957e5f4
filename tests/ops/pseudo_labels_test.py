import hypothesis
import hypothesis.strategies as st
import numpy as np
import pytest

from big_vision_like.ops import pseudo_labels

CONFIDENCE = np.array([0.95, 0.9, 0.61, 0.60, 0.31, 0.2, 0.9, 0.29], np.float32)
LABEL = np.array([0, 0, 0, 0, 0, 0, 1, 1])


def test_thresholds_are_the_highest_hundredths_that_enough_images_reach():
  found = pseudo_labels.choose(LABEL, CONFIDENCE, 3, per_class=3)
  np.testing.assert_allclose(found.threshold_K, [0.61, 0.3, 0.3])
  np.testing.assert_array_equal(found.available_K, [3, 1, 0])
  np.testing.assert_array_equal(found.copies_N, [1, 1, 1, 0, 0, 0, 3, 0])


def test_without_a_number_per_class_confident_images_are_used_once():
  found = pseudo_labels.choose(LABEL, CONFIDENCE, 2, min_confidence=0.6)
  np.testing.assert_array_equal(found.copies_N, CONFIDENCE >= np.float32(0.6))


@hypothesis.settings(max_examples=30, deadline=None, derandomize=True)
@hypothesis.given(st.integers(1, 400), st.integers(0, 99))
def test_fractions_of_copies_are_drawn(per_class, seed):
  label = np.random.default_rng(0).integers(0, 2, 2000)
  confidence = np.full(2000, 0.5, np.float32)
  found = pseudo_labels.choose(label, confidence, 2, per_class=per_class, seed=seed)
  for k in range(2):
    copies = found.copies_N[label == k]
    wanted = per_class / found.available_K[k]
    assert set(copies) <= {int(wanted), int(wanted) + 1}
    spread = np.sqrt(len(copies) * (wanted % 1) * (1 - wanted % 1))
    assert abs(copies.sum() - per_class) <= 5 * spread + 1
  again = pseudo_labels.choose(label, confidence, 2, per_class=per_class, seed=seed)
  np.testing.assert_array_equal(found.copies_N, again.copies_N)


@pytest.mark.parametrize('lowest', [0.0, 0.3, 0.305, 1.0])
def test_a_threshold_is_never_below_the_lowest(lowest):
  assert pseudo_labels.threshold(np.zeros(3), 1, lowest) == lowest
  assert pseudo_labels.threshold(np.ones(3), 3, lowest) == 1.0
