"""Axes: B batch, Q predictions, H W image, M side of a mask, h w mask logits."""

import contextlib
import io

import cv2
import found
import jax.numpy as jnp
import numpy as np
import pytest
from pycocotools import coco, cocoeval, mask

from big_vision_like import files
from big_vision_like.data.input import pipeline
from big_vision_like.data.sources import coco_outlines
from big_vision_like.data.transforms import boxes, image, labels
from big_vision_like.errors import UserError
from big_vision_like.evals import detection, instance_masks

HEIGHT, WIDTH, SIDE = 40, 56, 28
DISCS = ((12, 14, 9), (26, 38, 11), (5, 50, 4))  # the last is a crowd


def png(array):
  return cv2.imencode('.png', array)[1].tobytes()


def runs(mask_HW):
  """Returns the run lengths of a mask, as `coco_outlines.sound` gives them."""
  flat = mask_HW.T.ravel().astype(int)
  edges = np.flatnonzero(np.diff(np.concatenate([[0], flat, [2]])))
  return np.diff(np.concatenate([[0], edges])).astype(np.int64)


def record(number, outlines=False):
  """Returns a record of two discs and a crowd, and the map of its objects."""
  y, x = np.mgrid[:HEIGHT, :WIDTH]
  map_HW, sides = np.zeros((HEIGHT, WIDTH), np.uint8), []
  for i, (row, column, radius) in enumerate(DISCS, start=1):
    map_HW[np.hypot(y - row, x - column - number) < radius] = i
    rows, columns = np.nonzero(map_HW == i)
    low = [rows.min() / HEIGHT, columns.min() / WIDTH]
    sides.append([*low, (rows.max() + 1) / HEIGHT, (columns.max() + 1) / WIDTH])
  masks = [map_HW == i for i in (1, 2, 3)]
  made = {
    'image': png(np.zeros((HEIGHT, WIDTH, 3), np.uint8)),
    'id': 10 + number,
    'objects': {
      'bbox': np.float32(sides),
      'label': np.int64([0, 1, 1]),
      'is_crowd': np.array([False, False, True]),
      'area': np.float32([m.sum() for m in masks]),
    },
  }
  if outlines:
    return made | {'outlines': coco_outlines.listed([runs(m) for m in masks])}, map_HW
  return made | {'segmentation': png(map_HW)}, map_HW


def data(records):
  names = ('image', 'boxes', 'box_labels', 'crowd', 'area', 'image_id', 'original_size')
  return pipeline.EvalInput(
    source=records,
    transforms=[
      image.Decode(),
      boxes.Objects(crowds=True),
      labels.Keep(names),
      boxes.ResizeShort(80),
      boxes.Pad([(96, 128)], max_boxes=4),
    ],
    batch_size=2,
  )


def disc(share):
  """Returns a disc with a share of the radius of its box, (M, M)."""
  cell = (np.arange(SIDE) + 0.5) / SIDE * 2 - 1
  return np.float32(np.hypot(cell[:, None], cell[None]) < share)


def evaluate(share=1.0, records=None, outputs=None, **options):
  records = records or [record(i)[0] for i in range(3)]

  def predict(state, batch, key):
    count = len(batch['boxes'])
    found = {
      'scores': jnp.tile(jnp.asarray([[0.9, 0.8, 0.0, 0.0]]), (count, 1)) * state,
      'labels': jnp.tile(jnp.asarray([[0, 1, -1, -1]]), (count, 1)),
      'boxes_xyxy': batch['boxes'] / 2,  # in pixels of the original
      'masks': jnp.broadcast_to(disc(share)[None, None], (count, 4, SIDE, SIDE)),
    }
    return found if outputs is None else outputs(found, batch)

  options = dict(pictures=0, masks=True) | options
  made = detection.CocoAP(data=data(records), **options)
  return found.run(made, predict, jnp.float32(1.0))


@pytest.mark.parametrize('outlines', (False, True))
def test_masks_are_measured_next_to_boxes(outlines):
  records = [record(i, outlines)[0] for i in range(3)]
  whole = evaluate(records=records)
  assert whole['AP'] == 1 and whole['mask_AP50'] == 1 and whole['mask_AP'] > 0.7
  half = evaluate(0.8, records)  # an IoU of about 0.64
  assert half['AP'] == 1 and half['mask_AP50'] == 1 and half['mask_AP75'] == 0
  assert evaluate(0.5, records)['mask_AP50'] == 0


def test_without_masks_nothing_changes():
  plain = evaluate(masks=False)
  assert not any(name.startswith('mask_') for name in plain)
  assert plain == {k: v for k, v in evaluate().items() if not k.startswith('mask_')}


def test_results_match_pycocotools_on_the_saved_file(tmp_path):
  path = str(tmp_path / 'found.json')
  maps = [record(i)[1] for i in range(3)]
  ours = evaluate(0.9, save=path)
  saved = files.read_json(path)
  assert len(saved) == 6  # rows without an object are left out
  annotations = []
  for i, map_HW in enumerate(maps):
    for k, (label, crowd) in enumerate([(0, 0), (1, 0), (1, 1)], start=1):
      own = mask.encode(np.asfortranarray((map_HW == k).astype(np.uint8)))
      left, top, width, height = mask.toBbox(own).tolist()
      annotations.append(
        dict(id=len(annotations) + 1, image_id=10 + i, category_id=label,
             iscrowd=crowd, bbox=[left, top, width, height],
             area=int((map_HW == k).sum()), segmentation=own)
      )  # fmt: skip
  truth = coco.COCO()
  truth.dataset = {
    'images': [dict(id=10 + i, height=HEIGHT, width=WIDTH) for i in range(3)],
    'categories': [{'id': 0}, {'id': 1}],
    'annotations': annotations,
  }
  with contextlib.redirect_stdout(io.StringIO()):
    truth.createIndex()
    measured = cocoeval.COCOeval(truth, truth.loadRes(saved), 'segm')
    measured.evaluate()
    measured.accumulate()
    measured.summarize()
  assert ours['mask_AP'] == pytest.approx(measured.stats[0], abs=1e-9)
  assert ours['mask_AR100'] == pytest.approx(measured.stats[8], abs=1e-9)


def test_mask_logits_of_a_padded_image():
  """Checks logits at every fourth pixel of the padded image, as DETR predicts them."""
  maps = [record(i)[1] for i in range(3)]

  def outputs(found, batch):
    large = np.zeros((3, 4, 96, 128), np.float32)
    for i, map_HW in enumerate(maps):
      for k in (1, 2):
        large[i, k - 1, :80, :112] = (map_HW == k).repeat(2, 0).repeat(2, 1)
    logits = large.reshape(3, 4, 24, 4, 32, 4).mean((3, 5)) * 20 - 10
    own = jnp.asarray(logits)[(batch['image_id'] - 10) % 3]
    return {k: x for k, x in found.items() if k != 'masks'} | {'mask_logits': own}

  result = evaluate(outputs=outputs)
  assert result['mask_AP50'] == 1 and result['mask_AP75'] == 1


def test_pasted_masks_are_interpolated_at_centres():
  mask_MM = np.random.default_rng(0).uniform(size=(5, 5))
  box_4 = np.array([2.3, 1.7, 14.9, 9.2])
  pasted_HW = instance_masks.pasted(mask_MM, box_4, 12, 16)
  left, top, right, bottom = box_4

  def at(y, x):
    if not (0 <= y <= 4 and 0 <= x <= 4):  # zeros surround the mask
      padded = np.pad(mask_MM, 1)
      y, x = y + 1, x + 1
    else:
      padded = np.pad(mask_MM, ((0, 1), (0, 1)))
    i, j = int(np.floor(y)), int(np.floor(x))
    if not (0 <= i < len(padded) - 1 and 0 <= j < len(padded) - 1):
      return 0.0
    a, b = y - i, x - j
    up = padded[i, j] * (1 - b) + padded[i, j + 1] * b
    down = padded[i + 1, j] * (1 - b) + padded[i + 1, j + 1] * b
    return up * (1 - a) + down * a

  for row, column in np.ndindex(12, 16):
    y = (row + 0.5 - top) / (bottom - top) * 5 - 0.5
    x = (column + 0.5 - left) / (right - left) * 5 - 0.5
    inside = -0.5 <= y <= 4.5 and -0.5 <= x <= 4.5
    assert pasted_HW[row, column] == (inside and at(y, x) >= 0.5)
  assert 5 < pasted_HW.sum() < 90
  assert not instance_masks.pasted(mask_MM, np.array([3.0, 3, 3, 9]), 12, 16).any()


def test_missing_fields_are_named():
  records = [record(i)[0] for i in range(3)]
  for one in records:
    del one['segmentation']
  with pytest.raises(UserError, match='the data have no masks to compare with'):
    evaluate(records=records)
  with pytest.raises(UserError, match='needs a model that predicts masks'):
    evaluate(outputs=lambda found, _: {'scores': found['scores'], 'labels':
             found['labels'], 'boxes_xyxy': found['boxes_xyxy']})  # fmt: skip
