import dataclasses
import functools

import numpy as np
import pytest
import tensorflow_datasets as tfds
from scipy import ndimage

from big_vision_like.data.procedural import scenes
from big_vision_like.data.sources import tfds as sources

CONFIGS = {config.name: config for config in scenes.Scenes.BUILDER_CONFIGS}


@functools.cache
def drawn(name, count=60):
  return [scenes.draw(CONFIGS[name], 'train', i) for i in range(count)]


def names_of(example):
  """Returns the id of the segment at each pixel."""
  red, green, blue = np.moveaxis(example['panoptic_image'].astype(np.int64), -1, 0)
  return red + 256 * green + 65536 * blue


@pytest.mark.parametrize('name', list(CONFIGS))
def test_boxes_areas_and_maps_agree(name):
  config = CONFIGS[name]
  for example in drawn(name):
    size = config.height, config.width
    assert example['image'].shape == (*size, 3)
    assert example['image'].dtype == example['panoptic_image'].dtype == np.uint8
    names_HW, ids_HW = names_of(example), example['segmentation'][..., 0]
    things, segments = example['objects'], example['panoptic_objects']
    assert segments[: len(things)] == things
    assert len({segment['id'] for segment in segments}) == len(segments)
    assert set(np.unique(names_HW)) - {0} == {s['id'] for s in segments}
    assert set(np.unique(ids_HW)) == {0, *range(1, len(things) + 1)}
    for i, segment in enumerate(segments, start=1):
      mask_HW = names_HW == segment['id']
      if i <= len(things):
        np.testing.assert_array_equal(mask_HW, ids_HW == i)
      (rows, columns), *_ = ndimage.find_objects(mask_HW.astype(int))
      box = rows.start, columns.start, rows.stop, columns.stop
      assert segment['bbox'] == pytest.approx(np.divide(box, size * 2))
      assert segment['area'] == mask_HW.sum() > 0
      assert (segment['label'] < len(config.things)) == (i <= len(things))


def test_simple_scenes_are_as_described():
  config, counts, sides, labels = CONFIGS['simple'], [], [], []
  for example in drawn('simple'):
    image, ids_HW = example['image'], example['segmentation'][..., 0]
    assert image.shape == (48, 48, 3)
    assert image[ids_HW == 0].max() <= round(0.15 * 255)
    assert (names_of(example) > 0).sum() == (ids_HW > 0).sum()  # there is no stuff
    counts.append(len(example['objects']))
    for i, thing in enumerate(example['objects'], start=1):
      colors = np.unique(image[ids_HW == i], axis=0)
      assert len(colors) == 1 and colors.min() >= round(0.4 * 255)
      top, left, bottom, right = np.multiply(thing['bbox'], 48)
      sides.append(round(max(bottom - top, right - left)))
      labels.append(thing['label'])
      box = ids_HW[round(top) : round(bottom), round(left) : round(right)]
      assert set(np.unique(box)) <= {0, i}  # boxes do not overlap
      assert not thing['is_crowd']
      # The share of its box that a shape fills.
      share = thing['area'] / box.size
      want = {'square': 1.0, 'disc': np.pi / 4, 'triangle': 0.5}
      assert share == pytest.approx(want[config.things[thing['label']]], abs=0.07)
  assert set(counts) == {1, 2, 3} and 1.8 < np.mean(counts) < 2.2
  assert min(sides) == 10 and max(sides) == 19
  assert set(labels) == {0, 1, 2}


def test_hidden_scenes_have_everything():
  config, examples = CONFIGS['hidden'], drawn('hidden')
  things = [o for e in examples for o in e['objects']]
  stuff = [o for e in examples for o in e['panoptic_objects'] if o not in e['objects']]
  assert {o['label'] for o in things} == set(range(6))
  assert {o['label'] for o in stuff} == set(range(6, 10))
  assert all(o['area'] >= scenes.SEEN_PIXELS for o in things)
  crowds = [o for o in things if o['is_crowd']]
  assert 3 <= len(crowds) <= 18  # 15 % of 60 scenes
  counts = [sum(not o['is_crowd'] for o in e['objects']) for e in examples]
  assert min(counts) == 3 and max(counts) == 8
  # Counts hidden things: their box reaches over the pixels of another thing.
  covered = 0
  for example in examples:
    ids_HW = example['segmentation'][..., 0]
    for i, thing in enumerate(example['objects'], start=1):
      box = np.multiply(thing['bbox'], (96, 128) * 2).round().astype(int)
      inside = ids_HW[box[0] : box[2], box[1] : box[3]]
      covered += len(set(np.unique(inside)) - {0, i}) > 0
  assert covered > 60
  assert config.counts == (10_000, 500)


@pytest.mark.parametrize('kind', scenes.THINGS)
def test_shapes_turn_about_their_centres(kind):
  still = scenes.shape(kind, 64, 64, 32, 32, 40, 0.0)
  assert still[12:52, 12:52].sum() == still.sum() > 250
  turned = scenes.shape(kind, 64, 64, 32, 32, 40, np.pi / 2)
  assert (np.rot90(still) == turned).mean() > 0.98
  moved = scenes.shape(kind, 64, 64, 35, 30, 40, 0.0)
  np.testing.assert_array_equal(moved[3:, :-2], still[:-3, 2:])


def test_an_example_is_a_function_of_seed_split_and_index():
  config = CONFIGS['hidden']
  first = scenes.draw(config, 'train', 3)
  np.testing.assert_array_equal(first['image'], drawn('hidden')[3]['image'])
  other = dataclasses.replace(config, seed=1)
  for example in (
    scenes.draw(config, 'train', 4),
    scenes.draw(config, 'validation', 3),
    scenes.draw(other, 'train', 3),
  ):
    assert not np.array_equal(first['image'], example['image'])
  with pytest.raises(ValueError, match="split='test' is not one of"):
    scenes.draw(config, 'test', 0)


def test_records_hold_the_drawn_examples(tmp_path):
  tfds.disable_progress_bar()
  for name, config in CONFIGS.items():
    small = dataclasses.replace(config, name=f'few_{name}', counts=(5, 2))
    builder = scenes.Scenes(data_dir=tmp_path, config=small)
    builder.download_and_prepare(file_format='array_record')
    for split, count in zip(scenes.SPLITS, small.counts, strict=True):
      source = sources.Tfds(f'scenes/few_{name}', split, data_dir=str(tmp_path))
      assert len(source) == count
      for index, example in enumerate(builder.as_data_source(split)):
        want = scenes.draw(small, split, index)
        for picture in ('image', 'segmentation', 'panoptic_image'):
          np.testing.assert_array_equal(example[picture], want[picture])
        for key in ('objects', 'panoptic_objects'):
          for field in ('id', 'area', 'label', 'is_crowd'):
            assert list(example[key][field]) == [o[field] for o in want[key]]
          boxes = [o['bbox'] for o in want[key]]
          np.testing.assert_allclose(example[key]['bbox'], boxes, rtol=1e-6)
