"""Sections of reports on action detection, with a stand-in for a restored run."""

import types

import numpy as np
import pytest

from big_vision_like.data.transforms import actors
from big_vision_like.errors import UserError
from big_vision_like.evals import action_detection as evals
from big_vision_like.evals.evaluator import Rows
from big_vision_like.report import action_detection, compose
from big_vision_like.spec import spec
from big_vision_like.tasks import action_detection as tasks

CONFIG = {
  'task': spec(tasks.ActionDetection, model=None, optimizer=None),
  'train_data': {'transforms': [spec(actors.RandomActorClip, map_side=6)]},
  'evals': {'objects': spec(evals.ObjectRecall, data=None)},
}


def clip(cell):
  """Returns a clip whose actor attends to one cell of its map."""
  attention = np.zeros((2, 1, 1, 2, 6, 6), np.float32)
  attention[:, :, :, :, cell, cell] = 40
  return {
    'video': np.zeros((4, 12, 12, 3), np.uint8),
    'boxes': np.tile(np.float32([[[1, 1, 3, 3]]]), (2, 2, 1)),
    'box_mask': np.array([True, False]),
    'box_labels': np.array([1, 0]),
    'logits': np.eye(2),
    'attention': attention,
  }


@pytest.fixture
def source():
  clips = [clip(cell) for cell in (1, 2, 5)]
  values = {
    'attention': np.stack([x['attention'][:, :, :, 0] for x in clips]),
    'boxes': np.tile(np.float32([[[1, 1, 2, 2]]]), (3, 1, 1)),
    'there': np.ones((3, 1), bool),
    'acts': np.tile(np.array([[True, False]]), (3, 1)),
  }
  made = types.SimpleNamespace(measure=None, draw=None)
  batch = {name: np.stack([x[name] for x in clips]) for name in clips[0]}
  return types.SimpleNamespace(
    log=types.SimpleNamespace(config=CONFIG),
    names={0: 'none', 1: 'drink'},
    evaluator_of=lambda kind, what: ('objects', made),
    joined=lambda made, measure: Rows(np.arange(3), values, []),
    chosen=lambda made, draw, indices: [clips[i] for i in indices],
    training_batch=lambda size: (None, batch),
    values=values,
  )


def test_the_class_of_reports_is_found_by_what_the_task_predicts():
  assert compose.source_of(CONFIG) is action_detection.Source


def test_clips_are_ranked_by_attention_to_the_object(source):
  content, caption = action_detection.attended(source)
  assert 'In 66.7' in content and '3 clips' in content
  assert 'Best: example' in content and 'Worst: example 2 of objects, 0.0' in content
  assert content.count('<img') == 3 and 'predicted class' in caption
  source.values['there'][:] = False
  with pytest.raises(UserError, match='no clip of evals.objects has an object'):
    action_detection.attended(source)


def test_inputs_are_shown_with_their_actors(source):
  content, caption = action_detection.sample_inputs(source)
  assert content.count('<img') == 3 and '4x12x12x3' in caption
  assert action_detection.map_side(CONFIG) == 6
  assert action_detection.has_graph(source)
