"""Prediction for a JSON file of a video and its actors."""

import dataclasses
import json

import battery
import cv2
import jax
import numpy as np
import pytest

from big_vision_like.errors import UserError
from big_vision_like.inference import actions, predict_actions

PREPARE = actions.ActorPreprocessing(
  frames=8, size=(24, 24), per_slice=4, map_side=6, label_names=('none', *'abcd')
)
CASES = battery.cases()


@pytest.fixture
def clip(tmp_path):
  """Writes a folder of 12 frames, 40x20 pixels, and a file with two actors."""
  (tmp_path / 'film').mkdir()
  for i in range(12):
    frame = np.full((20, 40, 3), 20 * i, np.uint8)
    cv2.imwrite(str(tmp_path / f'film/{i:02}.png'), frame)
  path = tmp_path / 'clip.json'
  boxes = [[2, 0, 0, 10, 10], [10, 8, 0, 18, 10]]
  content = {
    'video': 'film',
    'centre': 5,
    'actors': [{'name': 'left', 'boxes': boxes}, {'boxes': [[4, 20, 5, 40, 20]]}],
  }
  path.write_text(json.dumps(content))
  return path, content


def test_boxes_are_interpolated_and_in_cells(clip):
  path, _ = clip
  found = PREPARE(path)
  assert found.names == ('left', 'actor 2')
  assert found.video_THWC.shape == (8, 24, 24, 3)
  assert found.video_THWC[:, 0, 0, 0].tolist() == [20 * i for i in range(2, 10)]
  # Frame 5, at 3 / 8 of the way, and frame 9.
  np.testing.assert_allclose(
    found.boxes_AS4[0], [[0.45, 0, 1.95, 3], [1.05, 0, 2.55, 3]], rtol=1e-5
  )
  assert PREPARE.with_size(32).size == (32, 32)
  normalized = PREPARE.normalized(np.array([[[[[0, 255, 0]]]]], np.uint8))
  np.testing.assert_allclose(normalized.ravel(), [-1, 1, -1], atol=1e-6)


def test_prediction_with_pictures(clip):
  path, _ = clip
  case = CASES['actors_graph']
  variables = battery.variables(case.model, *case.inputs)
  prepare = dataclasses.replace(PREPARE, per_slice=1)  # the model has a slice a frame
  predictor = predict_actions.ActionPredictor(case.model, variables, prepare, top=2)
  rows, found, pictures = predictor(path)
  assert [row[0] for row in rows] == ['left', 'left', 'actor 2', 'actor 2']
  assert {one['class'] for one in found} <= {'none', *'abcd'} and not pictures
  predictor.draws = True
  _, again, pictures = predictor(path)
  assert again == found
  assert pictures[''].ndim == 3 and pictures['-actor2'].shape[0] == 8
  clip = prepare(path)
  inputs = prepare.normalized(clip.video_THWC)[None], clip.boxes_AS4[None]
  logits = case.model.apply(variables, *inputs, np.ones((1, 2), bool))['logits']
  probs = jax.nn.softmax(logits[0], axis=-1)
  assert found[0]['score'] == pytest.approx(float(probs[0].max()), rel=1e-4)


@pytest.mark.parametrize(
  ('change', 'words'),
  [
    (dict(actors=[]), 'a clip needs `video` and at least one of `actors`'),
    (dict(actors=[{'boxes': [[1, 2]]}]), 'actor 1: `boxes` must be rows of frame'),
    (dict(video='other.mp4'), 'other.mp4 cannot be read: No such file'),
    (dict(actors=[{'boxes': [[99, 0, 0, 9, 9]]}]), 'has 12 frames, but a box is for'),
  ],
)
def test_bad_files_are_named(clip, change, words):
  path, content = clip
  path.write_text(json.dumps(content | change))
  with pytest.raises(UserError, match=words):
    PREPARE(path)


def test_files_that_are_no_json_are_named(tmp_path):
  path = tmp_path / 'a.json'
  path.write_text('{')
  with pytest.raises(UserError, match='a.json is not JSON'):
    PREPARE(path)
