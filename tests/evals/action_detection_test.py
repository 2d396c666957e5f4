"""Video mAP, and object recall of attention, from rows of clips to scalars."""

import numpy as np
import pytest

from big_vision_like.data.input import pipeline
from big_vision_like.data.sources.action_clips import ActionClips
from big_vision_like.data.transforms import actors, labels
from big_vision_like.errors import UserError
from big_vision_like.evals import action_detection as evals

ARRAYS = ['video', 'boxes', 'box_labels', 'box_mask']
OBJECTS = ['object_boxes', 'object_mask', 'acts']
PLACES = np.float32([[0.1, 0.1, 0.4, 0.9], [0.6, 0.2, 0.9, 0.9]])


def action(index, label):
  """Returns an action of the first of two persons, with an object on a key frame."""
  return {
    'video': np.full((12, 8, 8, 3), 20 * index, np.uint8),
    'frames': np.array([2, 9]),
    'boxes': np.repeat(PLACES[:, None], 8, axis=1),
    'labels': np.array([label, 0], np.int32),
    'label': label,
    'key_frames': np.array([4]),
    'key_boxes': PLACES[:1],
    'key_labels': np.array([label], np.int32),
    'key_instances': np.array([0], np.int32),
    'object_frames': np.array([4]),
    'object_boxes': np.float32([[0.5, 0.5, 0.7, 0.7]]),
    'object_hidden': np.array([False]),
    'centres': np.array([3, 5, 8]),
    'instance': 0,
    'id': index,
  }


def data(around, *more, max_actors=3):
  how = actors.ActorClip(
    max_actors, frames=8, size=8, per_slice=4, map_side=6, max_objects=2 if more else 0
  )
  source = ActionClips([action(i, 1 + i % 2) for i in range(3)], around=around)
  return pipeline.EvalInput(
    source=source, transforms=[how, labels.Keep([*ARRAYS, *more])], batch_size=4
  )


def predict(state, batch, key):
  """Predicts labels from the brightness of clips: the second action is wrong."""
  del key
  level = batch['video'][:, 0, 0, 0, 0] // 20
  wrong_BA = (level[:, None] == 1) & (batch['boxes'][..., 0, 0] < 2)
  label_BA = (batch['box_labels'] + wrong_BA) % 3
  logits = 4.0 * (np.arange(3)[None, None] == label_BA[..., None])
  return {'logits': logits, 'attention': state}


def test_video_map():
  made = evals.VideoMAP(data=data('centres'), num_classes=3, names=('none', 'a', 'b'))
  found = made.run(predict, None)
  # Class a is found in both of its actions; class b became background.
  assert found.scalars['mAP_0.5'] == found.scalars['mAP_0.3'] == pytest.approx(0.5)
  assert found.scalars['tube_accuracy'] == pytest.approx(5 / 6)
  assert found.texts['classes'] == ['a: 100.00 %', 'b: 0.00 %']
  assert made.reports() == {r'mAP_.*|tube_accuracy': 'max'}


def test_video_map_needs_clips_of_actions():
  plain = pipeline.EvalInput(source=[action(0, 1)], transforms=[], batch_size=1)
  with pytest.raises(UserError, match='video mAP needs an ActionClips'):
    evals.VideoMAP(data=plain, num_classes=3)
  with pytest.raises(UserError, match='`names` has 1 names, but num_classes=3'):
    evals.VideoMAP(data=data('centres'), num_classes=3, names=('a',))


def test_actor_accuracy():
  found = evals.ActorAccuracy(data=data('centres')).run(predict, None)
  assert found.scalars['accuracy'] == pytest.approx(15 / 18)


def attention(sharp):
  """Returns logits of 3 actors, 1 layer and 2 graphs, that look at one cell."""
  logits = np.zeros((4, 3, 1, 2, 2, 6, 6), np.float32)
  logits[:, 0, :, 1, 0, 3, 4] = sharp
  logits[:, 1] = 50 * (np.arange(36).reshape(6, 6) == 0)
  return logits


def test_object_recall():
  made = evals.ObjectRecall(data=data('objects', *OBJECTS), slice=0, pictures=1)
  found = made.run(predict, attention(50.0))
  assert found.scalars['recall_0.5'] == 1
  assert found.scalars['mass'] == pytest.approx(1, abs=1e-6)
  assert found.scalars['recall'] == pytest.approx(0.99)
  assert found.texts['recall_by_mass'][0] == '0 %: 100.0 %'
  assert found.pictures['attention'].shape[0] == 1
  # Equal attention: the box covers cells 3 and 4 in both directions.
  found = made.run(predict, attention(0.0))
  assert found.scalars['mass'] == pytest.approx(4 / 36)
  with pytest.raises(UserError, match='slice=2 is not one of the 2 slices'):
    evals.ObjectRecall(data=made.data, slice=2).run(predict, attention(0.0))
