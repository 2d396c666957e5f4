"""Axes: N objects, H W image, M side of a grid."""

import dataclasses
import json

import cv2
import numpy as np
import pytest

from big_vision_like import spec
from big_vision_like.data import benchmarks
from big_vision_like.data.sources import coco, coco_outlines
from big_vision_like.data.transforms import boxes, image, instance_masks
from big_vision_like.errors import BadRecordError, UserError
from big_vision_like.ops import roi

pytest.importorskip('pycocotools')
HEIGHT, WIDTH = 60, 80
TRIANGLE = [[10.0, 8, 50, 8, 30, 48]]
TWO = [[4.0, 4, 20, 4, 20, 30, 4, 30], [40.0, 10, 70, 10, 70, 50, 40, 50]]


def runs(mask_HW):
  """Returns the run lengths of a mask, as `coco_outlines.sound` gives them."""
  flat = mask_HW.T.ravel()
  edges = np.flatnonzero(np.diff(np.concatenate([[0], flat, [2]])))
  return np.diff(np.concatenate([[0], edges])).astype(np.int64)


def example(outlines):
  """Returns an image with objects that have these outlines and the same as masks."""
  masks_NHW = coco_outlines.decoded(outlines, HEIGHT, WIDTH, range(len(outlines)))
  found = []
  for mask_HW in masks_NHW:
    rows, columns = np.flatnonzero(mask_HW.any(1)), np.flatnonzero(mask_HW.any(0))
    found.append([columns[0], rows[0], columns[-1] + 1, rows[-1] + 1])
  common = {
    'image': np.zeros((HEIGHT, WIDTH, 3), np.uint8),
    'boxes': np.float32(found),
    'box_labels': np.arange(len(outlines), dtype=np.int32),
    'original_size': np.int32([HEIGHT, WIDTH]),
  }
  outlined = common | {'outlines': coco_outlines.listed(outlines)}
  outlined = instance_masks.Placed().map(outlined)
  return outlined, common | {'masks': masks_NHW}


def steps(one):
  one = boxes.flip(one)
  one = boxes.resize(one, 90, 120)
  return boxes.crop(one, 10, 15, 70, 90)


ROUND = (np.hypot(*np.mgrid[-30:30, -40:40]) < 22).astype(np.uint8)


@pytest.mark.parametrize('outline', (TRIANGLE, TWO, runs(ROUND)))
@pytest.mark.parametrize('moved', (False, True))
def test_outlines_follow_the_image(outline, moved):
  outlined, masked = example([outline])
  if moved:
    outlined, masked = steps(outlined), steps(masked)
  cells = instance_masks.BoxMasks(28)
  [ours], [theirs] = (cells.map(x)['box_masks'] for x in (outlined, masked))
  assert ours.dtype == np.uint8 and ours.shape == (28, 28)
  # Masks of the image are rounded to its pixels.
  assert np.abs(ours / 255 - theirs / 255).mean() < 0.04
  assert 0.2 < ours.mean() / 255 < 0.95
  assert not {'outlines', 'placement', 'masks'} & cells.map(outlined).keys()


def test_a_map_of_segments_and_its_objects():
  _, masked = example([TRIANGLE, TWO])
  triangle, two = masked['masks']
  one = {k: x for k, x in masked.items() if k != 'masks'}
  one['segment_map'] = np.where(triangle, 1, 2 * two).astype(np.uint8)
  found = instance_masks.BoxMasks(20).map(one)['box_masks']
  expected = instance_masks.of_map(triangle, masked['boxes'][0], 20)
  np.testing.assert_array_equal(found[0], expected)


def test_shares_are_exact():
  mask_HW = np.zeros((6, 8), bool)
  mask_HW[1:3, 2:5] = True
  found = instance_masks.of_map(mask_HW, np.float32([2, 1, 6, 3]), 4)
  np.testing.assert_array_equal(found, [[255, 255, 255, 0]] * 4)
  half = instance_masks.of_map(mask_HW, np.float32([1.5, 0.5, 2.5, 1.5]), 1)
  np.testing.assert_array_equal(half, [[64]])


def test_objects_that_are_dropped_lose_their_outline():
  outlined, _ = example([TRIANGLE, TWO])
  left = boxes.crop(outlined, 0, 52, 60, 28)  # the triangle ends at column 50
  assert len(left['outlines']) == len(left['boxes']) == 1
  assert left['outlines'][0] == TWO and left['dropped'] == 1
  padded = boxes.Pad([(64, 96)], max_boxes=3).map(instance_masks.BoxMasks(8).map(left))
  assert padded['box_masks'].shape == (3, 8, 8)
  assert padded['box_masks'][0].any() and not padded['box_masks'][1:].any()


def test_images_without_objects_have_no_masks():
  outlined, _ = example([TRIANGLE])
  empty = boxes.with_objects(outlined, np.array([False]))
  assert instance_masks.BoxMasks(8).map(empty)['box_masks'].shape == (0, 8, 8)


def test_targets_of_regions_lose_little():
  """Checks that grid targets differ from those of whole masks in few pixels."""
  outlined, masked = example([TRIANGLE, TWO, runs(ROUND)])
  grids = instance_masks.BoxMasks().map(outlined)['box_masks']
  rng, wrong = np.random.default_rng(0), []
  for grid_MM, mask_HW, box_4 in zip(
    grids, masked['masks'], masked['boxes'], strict=True
  ):
    for _ in range(20):
      side = box_4[2:] - box_4[:2]
      region_4 = box_4 + np.float32(rng.uniform(-0.12, 0.12, 4)) * np.tile(side, 2)
      ours = roi.mask_targets(
        grid_MM[None, None], box_4[None, None], region_4[None, None], 28
      )[0, 0]
      theirs = instance_masks.of_map(mask_HW, region_4, 28) / 255
      wrong.append(np.mean((ours >= 0.5) != (theirs >= 0.5)))
  assert np.mean(wrong) < 0.02


def test_memory_of_a_hundred_objects_is_small():
  count, size = 100, (800, 1344)
  low = np.random.default_rng(0).uniform(0, 600, (count, 2))
  boxes_N4 = np.float32(np.concatenate([low, low + 150], 1))
  sides = boxes_N4[:, [1, 0, 3, 2]] / np.float32([*size, *size])
  one = {
    'image': np.zeros((*size, 3), np.uint8),
    'boxes': boxes_N4,
    'original_size': np.int32(size),
    'outlines': coco_outlines.of_boxes(sides, *size),
    'placement': np.array([1.0, 0, 1, 0]),
  }
  found = instance_masks.BoxMasks().map(one)['box_masks']
  assert found.nbytes == count * 112 * 112
  assert found.mean() > 250


def test_records_without_masks_are_named():
  with pytest.raises(UserError, match='records have no `outlines`'):
    instance_masks.Placed().map({'image': None})
  with pytest.raises(UserError, match='BoxMasks needs `outlines`'):
    instance_masks.BoxMasks().map({'boxes': np.zeros((0, 4))})


def test_unusable_outlines_are_counted(tmp_path):
  """Checks boxes without area or outside, polygons of two points, other run lengths."""
  square = [[10.0, 10, 30, 10, 30, 30, 10, 30]]
  shapes = [
    ([10, 10, 20, 20], square),
    ([10, 10, 20, 20], {'size': [60, 80], 'counts': runs(ROUND).tolist()}),
    ([10, 10, 0, 20], square),
    ([90, 10, 20, 20], square),
    ([10, 10, 20, 20], [[10.0, 10, 30, 30]]),
    ([10, 10, 20, 20], {'size': [9, 9], 'counts': [81]}),
    ([10, 10, 20, 20], None),
  ]
  content = {
    'images': [
      dict(id=i, file_name=f'{i}.png', height=HEIGHT, width=WIDTH) for i in (1, 2)
    ],
    'categories': [dict(id=7, name='thing')],
    'annotations': [
      dict(id=i, image_id=1, category_id=7, bbox=box, iscrowd=0, segmentation=shape)
      for i, (box, shape) in enumerate(shapes, start=1)
    ],
  }
  path = tmp_path / 'own.json'
  path.write_text(json.dumps(content))
  for i in (1, 2):
    cv2.imwrite(str(tmp_path / f'{i}.png'), np.zeros((HEIGHT, WIDTH, 3), np.uint8))
  source = coco.Coco(str(path), str(tmp_path), outlines=True, tolerated=1.0)
  assert source.left_out == {
    'without area': 1,
    'outside of the image': 1,
    'whose polygons are malformed': 1,
    coco_outlines.NEITHER: 2,
  }
  many, none = (prepared(source[i]) for i in range(2))
  assert many['box_mask'].tolist() == [True, True, False]
  assert many['box_masks'].shape == none['box_masks'].shape == (3, 28, 28)
  assert many['box_masks'][0].mean() > 250 and not none['box_mask'].any()
  with pytest.raises(BadRecordError, match='has 2 objects: more than max_boxes=1'):
    prepared(source[0], max_boxes=1)
  assert (
    source.fingerprint() != dataclasses.replace(source, outlines=False).fingerprint()
  )
  strict = coco.Coco(str(path), str(tmp_path), outlines=True)
  with pytest.raises(UserError, match='5 of 7 annotations cannot be used'):
    len(strict)


def prepared(record, max_boxes=3):
  """Returns a record in the form of a training batch."""
  for transform in (
    image.Decode(),
    instance_masks.Placed(),
    boxes.Objects(),
    boxes.ResizeShort(90),
    instance_masks.BoxMasks(28),
    boxes.Pad([(96, 128)], max_boxes=max_boxes),
  ):
    record = transform.map(record)
  return record


@pytest.mark.parametrize('name', ('coco', 'scenes_simple'))
def test_data_sets_have_masks_for_training(name):
  data = benchmarks.INSTANCES[name]
  names = [spec.symbol(node) for node in data.train_input(2)['transforms']]
  assert names.index(instance_masks.BoxMasks) == len(names) - 2
  assert names.index(boxes.Objects) > 1
  names = [spec.symbol(node) for node in data.eval_input(2)['transforms']]
  assert instance_masks.BoxMasks not in names
