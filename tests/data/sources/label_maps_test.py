import pickle

import cv2
import numpy as np
import pytest

from big_vision_like.data import segmentation
from big_vision_like.data.sources import label_map_classes, label_maps
from big_vision_like.errors import BadRecordError, UserError


def write(root, images=(), maps=()):
  for names, folder in (images, 'images'), (maps, 'maps'):
    for name in names:
      path = root / folder / name
      path.parent.mkdir(parents=True, exist_ok=True)
      array = np.zeros((3, 4, 3) if folder == 'images' else (3, 4), np.uint8)
      path.write_bytes(cv2.imencode(path.suffix, array)[1].tobytes())
  for folder in 'images', 'maps':
    (root / folder).mkdir(exist_ok=True, parents=True)
  return dict(images=str(root / 'images'), maps=str(root / 'maps'))


def test_images_and_maps_are_paired_by_name(tmp_path):
  where = write(
    tmp_path,
    ['b/2_left.png', 'a/1_left.png', 'a/readme.jpg'],
    ['a/1_ids.png', 'b/2_ids.png', 'a/9_ids.png', 'a/1_color.png'],
  )
  source = label_maps.LabelMaps(**where, ending='_left.png', map_ending='_ids.png')
  assert len(source) == 2 and source[1]['file'] == b'b/2_left.png'
  assert source[0]['label_map'] == (tmp_path / 'maps/a/1_ids.png').read_bytes()
  assert source.left_out == {
    'label maps without an image': 1,
    'other files than _left.png among images': 1,
    'other files than _ids.png among label maps': 1,
  }
  assert not source.problems() and len(source.files) == 4
  again = pickle.loads(pickle.dumps(source))
  assert again[0] == source[0] and again.fingerprint() == source.fingerprint()
  with pytest.raises(IndexError):
    source[2]


def test_problems_give_one_sentence(tmp_path):
  where = write(tmp_path / 'a', ['1.jpg', '2.jpg', '3.jpg'], ['1.png', '3.png'])
  source = label_maps.LabelMaps(**where)
  assert len(source.problems()) == 1
  with pytest.raises(UserError, match=r'1 of 3 images .* no label map .*\(2\)'):
    len(source)
  some = label_maps.LabelMaps(**where, tolerated=0.5)
  assert len(some) == 2 and some.left_out == {'images without a label map': 1}
  with pytest.raises(UserError, match='has 2 images with a label map, not the 5'):
    len(label_maps.LabelMaps(**where, tolerated=0.5, examples=5))
  empty = write(tmp_path / 'b')
  with pytest.raises(UserError, match='no image .* has a label map .*: 0 such images'):
    len(label_maps.LabelMaps(**empty))
  with pytest.raises(UserError, match='there is no folder'):
    len(label_maps.LabelMaps(images=str(tmp_path / 'c'), maps=empty['maps']))
  (tmp_path / 'a/maps/1.png').unlink()
  with pytest.raises(BadRecordError, match=r'1\.png cannot be read'):
    some[0]


def test_missing_folders_are_replaced_for_plans(tmp_path):
  missing = label_maps.LabelMaps(str(tmp_path / 'a'), str(tmp_path / 'b'), examples=9)
  planned = missing.planned()
  assert len(planned) == 9 and {'image', 'label_map'} <= planned[8].keys()
  unknown = label_maps.LabelMaps(str(tmp_path / 'a'), str(tmp_path / 'b')).planned()
  with pytest.raises(UserError, match='train_data.source.examples=N'):
    len(unknown)


@pytest.mark.parametrize(
  ('classes', 'count', 'some'),
  [
    (label_map_classes.ADE20K, 150, {0: 'wall', 12: 'person', 149: 'flag'}),
    (label_map_classes.CITYSCAPES, 19, {0: 'road', 13: 'car', 18: 'bicycle'}),
    (label_map_classes.COCO_STUFF, 171, {0: 'person', 80: 'banner', 170: 'wood'}),
    (label_map_classes.LIP, 20, {0: 'background', 13: 'face', 19: 'right shoe'}),
  ],
)
def test_classes_of_data_sets(classes, count, some):
  assert len(classes.names) == len(classes.values) == len({*classes.names}) == count
  assert {label: classes.names[label] for label in some} == some
  assert not {*classes.values} & {*classes.ignored}


def test_values_of_published_files():
  coco = dict(
    zip(
      label_map_classes.COCO_STUFF.values,
      label_map_classes.COCO_STUFF.names,
      strict=True,
    )
  )
  # Ids minus 1: the last thing is 90, stuff is 92 to 182.
  assert (coco[89], coco[91], coco[181]) == ('toothbrush', 'banner', 'wood')
  assert 25 not in coco and max(coco) == 181
  assert label_map_classes.CITYSCAPES.values[9:11] == (22, 23)  # terrain, sky


def test_inputs_name_their_fields():
  data = segmentation.ade20k(512)
  names = data.eval_input(2).transforms[-1].names
  assert {'truth_map', 'original_size'} <= {*names} and 'image_0.5' not in names
  names = data.at_scales().eval_input(2).transforms[-1].names
  assert 'image_0.5' in names and 'image_1' not in names
  assert data.train_input(2).transforms[1]['values'][0] == 1
