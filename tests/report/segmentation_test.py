import types

import numpy as np
import pytest

from big_vision_like.data.input import pipeline
from big_vision_like.errors import UserError
from big_vision_like.evals import mean_iou
from big_vision_like.report import compose, segmentation
from big_vision_like.spec import spec
from big_vision_like.tasks import semantic_segmentation

NAMES = {0: 'sky', 1: 'sea', 2: 'sand'}


def rows():
  """Returns three images: all, half, and none of their labelled pixels are right."""
  found = []
  for wrong in 0, 4, 8:
    truth = np.tile(np.array([[0, 1], [0, 1]], np.uint8), (2, 2))
    truth[0] = 255
    shown = np.where(truth == 255, 0, truth)
    shown.ravel()[4 : 4 + wrong + wrong // 2] = 2
    size = np.array(truth.shape, np.int32)
    image = np.repeat(shown[..., None], 3, axis=-1).astype(np.uint8)
    found.append(
      dict(image=image, truth_map=truth, found_map=shown, original_size=size, size=size)
    )
  return found


@pytest.fixture
def source():
  examples = rows()
  made = mean_iou.MeanIoU(
    data=pipeline.EvalInput(source=examples, transforms=(), batch_size=1),
    num_classes=3,
    names=tuple(NAMES.values()),
  )
  count = [
    made.measure(
      {'found_map': row['found_map'][None]}, {k: x[None] for k, x in row.items()}
    )['confusion'][0]
    for row in examples
  ]
  found = segmentation.Found('val', made, np.arange(3), np.array(count))
  batch = {name: np.stack([x[name] for x in examples]) for name in ('image',)}
  batch['label_map'] = np.stack([x['truth_map'] for x in examples])
  return types.SimpleNamespace(
    found=found,
    names=NAMES,
    chosen=lambda made, measure, indices: [examples[i] for i in indices],
    training_batch=lambda size: (None, batch),
  )


def test_the_class_of_reports_is_found_by_the_prediction_of_the_task():
  config = {
    'task': spec(semantic_segmentation.Segmentation, model=None, optimizer=None)
  }
  assert compose.source_of(config) is segmentation.Source


def test_classes_are_listed_with_their_confusions(source):
  content, caption = segmentation.by_class(source)
  count_CD = source.found.count_NCD.sum(axis=0)
  assert f'{100 * mean_iou.scores(count_CD)["mIoU"]:.1f}' in content
  assert content.count('sand') >= 2 and 'precision' in caption
  source.found.count_NCD[:] = 0
  with pytest.raises(UserError, match='no image of evals.val has a label'):
    segmentation.by_class(source)


def test_best_and_worst_images_are_shown(source):
  np.testing.assert_allclose(source.found.quality_N, [1.0, 0.5, 0.0])
  content, _ = segmentation.predicted(source)
  assert 'Best: example 0 of val' in content and 'Worst: example 2 of val' in content
  assert content.count('<img') == 3


def test_training_images_are_shown_with_their_label_maps(source):
  content, caption = segmentation.sample_inputs(source)
  assert content.count('<img') == 3 and '4x4' in caption
  source.training_batch = lambda size: (None, {'image': np.zeros((1, 4, 4, 3))})
  with pytest.raises(UserError, match='have no `label_map`'):
    segmentation.sample_inputs(source)
