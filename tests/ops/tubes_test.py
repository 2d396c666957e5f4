"""Tubes and video mAP; `tools/check_golden.py` compares it with the published code."""

import numpy as np
import pytest

from big_vision_like.ops import tubes

FRAMES = np.arange(3, 9)


def tube(*box, frames=FRAMES):
  return tubes.Tube(frames, np.tile(np.float64([box]), (len(frames), 1)))


def truth(label, *box, frames=(4, 7)):
  return tubes.Truth(label, np.array(frames), np.tile(np.float64([box]), (2, 1)))


def instance(scores, *all_tubes, known):
  return tubes.Instance(known, all_tubes, np.array(scores))


def average_precision(instances, threshold=0.5):
  return tubes.video_average_precision(instances, 3, threshold)


def test_overlap_is_the_mean_over_key_frames():
  found = tubes.overlap(
    tube(0, 0, 4, 4), np.array([4, 7]), np.zeros((2, 4)) + [0, 0, 4, 2]
  )
  assert found == pytest.approx(0.5)
  # A frame without a box of the tube counts as 0.
  boxes_K4 = np.zeros((2, 4)) + [0, 0, 4, 4]
  assert tubes.overlap(tube(0, 0, 4, 4), np.array([4, 20]), boxes_K4) == 0.5
  assert tubes.overlap(tube(0, 0, 4, 4), np.array([], int), np.zeros((0, 4))) == 0


def test_suppression_ends_for_tubes_without_area():
  flat, whole = tube(2, 2, 2, 2), tube(0, 0, 4, 4)
  kept = tubes.suppressed(
    [flat, whole, flat, tube(0, 0, 4, 3)], [0.9, 0.8, 0.7, 0.6], 0.2
  )
  assert kept == [0, 1, 2]


def test_duplicates_are_wrong_and_trapezoids_are_summed():
  far = tube(10, 10, 14, 14)
  scores = [[0.1, 0.9, 0.0], [0.1, 0.8, 0.1], [0.9, 0.1, 0.0]]
  known = [truth(1, 0, 0, 4, 4)]
  one = instance(scores, tube(0, 0, 4, 4), far, far, known=known)
  # Precision and recall are (1, 0), (1, 1/2), (1/2, 1/2).
  missed = tubes.Instance(known, (), None)
  found = average_precision([one, missed])
  assert found[0] == pytest.approx(0.5) and np.isnan(found[1])
  # Without the wrong one, only the area to a recall of one half is left.
  assert average_precision([one])[0] == pytest.approx(1.0)


def test_other_actions_within_the_bounds_are_ground_truth():
  known = [truth(1, 0, 0, 4, 4), truth(2, 10, 10, 14, 14)]
  scores = [[0.0, 0.9, 0.1], [0.0, 0.2, 0.8]]
  found = average_precision(
    [instance(scores, tube(0, 0, 4, 4), tube(10, 10, 14, 14), known=known)]
  )
  np.testing.assert_allclose(found, [1.0, 1.0])


def test_a_class_with_predictions_but_no_truth_has_no_precision():
  scores = [[0.0, 0.1, 0.9]]
  found = average_precision(
    [instance(scores, tube(0, 0, 4, 4), known=[truth(1, 0, 0, 4, 4)])]
  )
  assert found[0] == 0.0 and np.isnan(found[1])


def test_background_is_no_prediction():
  scores = [[0.9, 0.1, 0.0]]
  known = [truth(1, 0, 0, 4, 4)]
  assert average_precision([instance(scores, tube(0, 0, 4, 4), known=known)])[0] == 0


def test_mass_within_a_box():
  logits_hw = np.zeros((4, 4))
  assert tubes.mass_within(logits_hw, np.array([0.4, 0.5, 1.4, 2.4])) == 4 / 16
  assert tubes.mass_within(logits_hw, np.array([-9.0, -9.0, 20.0, 20.0])) == 1
  assert tubes.mass_within(logits_hw, np.array([8.0, 8.0, 9.0, 9.0])) == 0
  logits_hw[1, 2] = 50
  assert tubes.mass_within(logits_hw, np.array([2.0, 1.0, 2.0, 1.0])) > 0.999


def test_recall_curve():
  curve = tubes.recall_curve(np.array([0.25, 0.75]), 5)
  np.testing.assert_array_equal(curve, [1, 0.5, 0.5, 0, 0])
