"""Clips of annotated actions."""

import numpy as np
import pytest

from big_vision_like.data.transforms import actors
from big_vision_like.errors import BadRecordError, UserError


def record(**changes):
  """Returns an action of frames 10 to 29 with two actors, in a video of 40 frames."""
  frames_F = np.arange(10, 30)
  one = np.stack([frames_F / 100, frames_F / 100, frames_F / 50, frames_F / 40], axis=1)
  example = {
    'video': np.tile(np.arange(40, dtype=np.uint8)[:, None, None, None], (1, 6, 8, 3)),
    'frames': np.array([10, 29]),
    'boxes': np.stack([one, np.tile([[0.5, 0.5, 0.9, 1.0]], (20, 1))]),
    'labels': np.array([3, 0], np.int32),
    'centre': 12,
    'instance': 0,
    'key_frames': np.array([12, 20]),
    'key_boxes': np.float32([[0.12, 0.12, 0.24, 0.3], [0.2, 0.2, 0.4, 0.5]]),
    'key_instances': np.array([0, 0]),
    'object_frames': np.array([12, 12, 20]),
    'object_boxes': np.float32([[0.1, 0.2, 0.3, 0.4], [0, 0, 1, 1], [0, 0, 1, 1]]),
    'object_hidden': np.array([False, True, False]),
    'file': b'v.mp4',
    'id': 5,
  }
  return example | changes


HOW = actors.ActorClip(3, frames=8, size=16, per_slice=4, map_side=4, max_objects=2)


def test_frames_and_boxes_outside_of_an_action_are_its_first_or_last():
  made = HOW.map(record())
  # Frames 9 to 16, of which 9 is before the action.
  np.testing.assert_array_equal(
    made['video'][:, 0, 0, 0], [10, 10, 11, 12, 13, 14, 15, 16]
  )
  assert made['video'].shape == (8, 16, 16, 3)
  np.testing.assert_allclose(made['boxes'][0, :, 0], [4 * 0.12, 4 * 0.16], rtol=1e-6)
  assert made['boxes'].shape == (3, 2, 4) and made['boxes'].dtype == np.float32
  assert made['box_mask'].tolist() == [True, True, False]
  assert made['box_labels'].tolist() == [3, 0, 0]
  late = HOW.map(record(centre=29))
  assert late['video'][-5:, 0, 0, 0].tolist() == [29] * 5
  np.testing.assert_allclose(late['boxes'][0, 1], [1.16, 1.16, 2.32, 2.9], rtol=1e-6)


def test_published_frames_of_slices():
  how = actors.ActorClip(size=8)
  made = how.map(
    record(frames=np.array([0, 39]), boxes=np.zeros((1, 40, 4)), centre=20)
  )
  assert made['video'][[0, -1], 0, 0, 0].tolist() == [5, 36]  # centre - 15, centre + 16
  assert made['boxes'].shape == (20, 8, 4)


def test_objects_and_who_acts():
  made = HOW.map(record())
  assert made['object_mask'].tolist() == [True, False]  # the other one is hidden
  np.testing.assert_allclose(made['object_boxes'][0], [0.4, 0.8, 1.2, 1.6], rtol=1e-6)
  assert made['acts'].tolist() == [True, False, False]
  made = actors.RandomActorClip(3, 8, 16, 4, 4).random_map(
    record(), np.random.default_rng(0)
  )
  assert 'acts' not in made


def test_random_centres_are_those_of_the_action():
  how = actors.RandomActorClip(3, frames=4, size=8, per_slice=4, map_side=4)
  found = {
    int(how.random_map(record(), np.random.default_rng(i))['video'][1, 0, 0, 0])
    for i in range(300)
  }
  assert found == {*range(10, 30)}


def test_a_clip_without_actors_has_only_padding():
  made = HOW.map(record(boxes=np.zeros((0, 20, 4)), labels=np.zeros(0, np.int32)))
  assert not made['box_mask'].any() and not made['acts'].any()


def test_bad_records_are_named():
  with pytest.raises(UserError, match=r'id 5 \(v.mp4\) has 2 actors, but max_actors=1'):
    actors.ActorClip(1, 8, 16, 4, 4).map(record())
  boxes = record()['boxes'].copy()
  boxes[1, 2, 2] = np.nan
  with pytest.raises(BadRecordError, match=r'a box of actor 1 .* is not a number'):
    HOW.map(record(boxes=boxes))
  with pytest.raises(BadRecordError, match='has 5 frames, but an action in it starts'):
    HOW.map(record(video=record()['video'][:5]))
  with pytest.raises(UserError, match='has 2 objects, but max_objects=1'):
    hidden = np.zeros(3, bool)
    actors.ActorClip(3, 8, 16, 4, 4, 1).map(record(object_hidden=hidden))
  with pytest.raises(UserError, match='frames=6 must be a multiple of per_slice=4'):
    actors.RandomActorClip(frames=6)
