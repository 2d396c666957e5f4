"""Tests of reports about two-stage detectors."""

import dataclasses
import re

import jax.numpy as jnp
import ml_collections as mlc
import numpy as np
import pages
import pytest

from big_vision_like import optim
from big_vision_like.data.input import pipeline
from big_vision_like.data.sources.base import Source
from big_vision_like.evals import detection as precision
from big_vision_like.models import rcnn, resnet
from big_vision_like.report import compose
from big_vision_like.report import rcnn as report_rcnn
from big_vision_like.spec import spec
from big_vision_like.tasks import two_stage_detection

SIDE, ROWS, COUNT = 64, 2, 3
BOX, OTHER = (8, 8, 40, 32), (40, 44, 60, 60)


@dataclasses.dataclass(frozen=True)
class Rectangles(Source):
  """A rectangle in each image, and a second one in the first image."""

  length: int

  def __len__(self) -> int:
    return self.length

  def __getitem__(self, index: int) -> dict[str, np.ndarray]:
    boxes = np.float32([BOX, OTHER])
    image = np.full((SIDE, SIDE, 3), 0.3, np.float32)
    there = np.array([True, index == 0])
    for (left, top, right, bottom), seen in zip(
      boxes.astype(int).tolist(), there, strict=True
    ):
      image[top:bottom, left:right] = 0.9 if seen else 0.3
    return {
      'image': image,
      'size': np.int32([SIDE, SIDE]),
      'boxes': boxes * there[:, None],
      'box_labels': np.zeros(ROWS, np.int32),
      'box_mask': there,
      'box_masks': np.full((ROWS, 8, 8), 255, np.uint8),
      'image_id': np.int32(100 + index),
    }


class Knowing(rcnn.RCNN):
  """A detector that finds the first rectangle, with a mask of its left half."""

  def __call__(self, image_BHWC, size_B2=None, train=False):
    outputs = dict(super().__call__(image_BHWC, size_B2, train))
    count, most = len(image_BHWC), self.detections
    first_K = jnp.tile((jnp.arange(most) == 0)[None], (count, 1))
    box = jnp.float32(BOX)
    proposals = jnp.zeros_like(outputs['proposals']).at[:, 1].set(box[None])
    half = jnp.concatenate([jnp.ones((28, 14)), jnp.zeros((28, 14))], axis=1)
    return outputs | {
      'boxes_xyxy': jnp.where(first_K[..., None], box[None, None], 0.0),
      'scores': jnp.where(first_K, 0.9, 0.0),
      'labels': jnp.where(first_K, 0, -1),
      'masks': jnp.tile(half[None, None], (count, most, 1, 1)),
      'proposals': proposals,
    }


def config_of() -> mlc.ConfigDict:
  examples = spec(Rectangles, length=COUNT)
  model = spec(
    Knowing,
    num_classes=2,
    backbone=spec(
      resnet.ResNet, depths=(1, 1, 1, 1), bottleneck=False, root=4,
      channels=(2, 2, 2, 2), norm='frozen',
    ),
    rpn=spec(rcnn.RPN, channels=4, candidates=(20, 20), proposals=(12, 12)),
    channels=4,
    hidden=4,
    detections=3,
    masks=True,
  )  # fmt: skip
  return mlc.ConfigDict(
    dict(
      total_steps=2,
      task=spec(
        two_stage_detection.TwoStageDetection,
        model=model,
        optimizer=spec(optim.adamw, rate=1e-3),
      ),
      train_data=spec(pipeline.TrainInput, source=examples, batch_size=8),
      evals=dict(
        val=spec(
          precision.CocoAP,
          data=spec(pipeline.EvalInput, source=examples, batch_size=8),
          names=('card', 'other'),
        )
      ),
    )
  )


@pytest.fixture(scope='module')
def sections(tmp_path_factory) -> dict[str, str]:
  """Returns the page's sections by heading."""
  report_rcnn.OF_MODELS[Knowing] = report_rcnn.OF_MODELS[rcnn.RCNN]
  run = pages.untrained(config_of(), tmp_path_factory.mktemp('runs') / 'cards')
  text = compose.render([pages.source_of(run)])
  return dict(re.findall('<section><h2[^>]*>(.*?)</h2>(.*?)</section>', text, re.S))


def test_sections_of_detectors_by_regions(sections):
  shown = ['Objects', 'Precision', 'Proposals', 'Masks']
  assert set(shown) <= sections.keys()
  assert not {'Attention', 'Queries', 'Panoptic'} & sections.keys()
  for heading in (*shown, 'Inputs'):
    assert 'Not shown' not in sections[heading], sections[heading]


def test_objects_found_and_missed(sections):
  text = sections['Objects']
  assert '4 objects: 3 are found' in text and '1 are missed' in text


def test_proposals_are_counted_by_the_objects_they_cover(sections):
  text = sections['Proposals']
  assert 'The share of 4 objects' in text
  assert pages.rows_of(text) == [
    ['proposals', 'IoU 0.5', 'IoU 0.7'],
    ['10', '75.0\u00a0%', '75.0\u00a0%'],
    ['12', '75.0\u00a0%', '75.0\u00a0%'],
  ]
  assert len(pages.pictures_of(text)) == 3


def test_masks_are_drawn_over_the_image(sections):
  sheet_HWC = pages.pictures_of(sections['Masks'])[0].astype(int)
  height, width = sheet_HWC.shape[:2]
  shown_HWC, found_HWC = sheet_HWC[:, :height], sheet_HWC[:, width - height :]
  changed_HW = np.abs(shown_HWC - found_HWC).sum(-1) > 30
  scale = height / SIDE
  inside = changed_HW[round(10 * scale) : round(30 * scale)]
  assert inside[:, round(10 * scale) : round(22 * scale)].mean() > 0.8
  assert inside[:, round(26 * scale) : round(62 * scale)].mean() < 0.05
