"""Several clips of each action."""

import numpy as np
import pytest

from big_vision_like.data.sources.action_clips import ActionClips
from big_vision_like.errors import UserError


def actions():
  return [
    {
      'frames': np.array([5, 9]),
      'centres': np.array([9, 5, 7]),
      'object_frames': np.array([6, 6, 8, 20]),
      'object_hidden': np.array([False, False, True, False]),
      'id': 0,
    },
    {
      'frames': np.array([0, 3]),
      'centres': np.array([2]),
      'object_frames': np.array([], int),
      'object_hidden': np.array([], bool),
      'id': 1,
    },
  ]


def test_clips_are_ordered_by_action():
  clips = ActionClips(actions())
  assert clips.places.tolist() == [[0, 9], [0, 5], [0, 7], [1, 2]]
  assert len(clips) == 4 and clips[3]['centre'] == 2 and clips[3]['id'] == 3
  with pytest.raises(IndexError):
    clips[4]
  assert ActionClips(actions(), clips=2).places.tolist() == [[0, 9], [0, 5], [1, 2]]


def test_frames_with_visible_objects():
  clips = ActionClips(actions(), around='objects')
  assert clips.places.tolist() == [[0, 6]]
  assert clips.fingerprint() != ActionClips(actions()).fingerprint()
  with pytest.raises(
    UserError, match="around='objects': its actions have no annotated"
  ):
    len(ActionClips(actions()[1:], around='objects'))
  with pytest.raises(UserError, match="around='all' is not one of centres, objects"):
    ActionClips(actions(), around='all')
