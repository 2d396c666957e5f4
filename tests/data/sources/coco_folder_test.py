import json
import os

import pictures
import pytest

from big_vision_like.data.sources import coco
from big_vision_like.data.sources.coco_folder import parts_of
from big_vision_like.errors import UserError

PNG = pictures.EXAMPLES[0]['image']


def make(root, annotations, images, name='0.png'):
  """Writes an image into a folder, and an annotation file for it."""
  entries = dict(
    images=[dict(id=1, file_name=name, height=9, width=12)],
    categories=[dict(id=3, name='cat'), dict(id=7, name='dog')],
    annotations=[
      dict(id=1, image_id=1, category_id=7, bbox=[1, 1, 4, 4], area=16, iscrowd=0)
    ],
  )
  (root / annotations).parent.mkdir(parents=True, exist_ok=True)
  (root / annotations).write_text(json.dumps(entries))
  (root / images).mkdir(parents=True, exist_ok=True)
  (root / images / name).write_bytes(PNG)


LAYOUTS = {
  'ours': [('train.json', 'train'), ('val.json', 'val')],
  'coco': [
    ('annotations/instances_train2017.json', 'train2017'),
    ('annotations/instances_val2017.json', 'val2017'),
  ],
  'roboflow': [
    ('train/_annotations.coco.json', 'train'),
    ('valid/_annotations.coco.json', 'valid'),
    ('test/_annotations.coco.json', 'test'),
  ],
  'inner': [('train.json', 'images/train'), ('test.json', 'images/test')],
  'shared': [('training.json', 'images'), ('validation.json', 'images')],
}


@pytest.mark.parametrize('layout', LAYOUTS)
def test_layouts_are_found(layout, tmp_path):
  for annotations, images in LAYOUTS[layout]:
    make(tmp_path, annotations, images)
  if layout == 'coco':
    make(tmp_path, 'annotations/captions_train2017.json', 'train2017')
    make(tmp_path, 'annotations/person_keypoints_val2017.json', 'val2017')
  parts = parts_of(str(tmp_path))
  wanted = dict(zip(('train', 'val'), LAYOUTS[layout], strict=False))
  for part, (annotations, images) in wanted.items():
    assert parts[part] == dict(
      annotations=os.path.join(tmp_path, annotations),
      images=os.path.join(tmp_path, images),
    )
    source = coco.Coco(**parts[part])
    assert source.problems() == [] and source.category_names == ['cat', 'dog']


def test_missing_parts_give_one_sentence(tmp_path):
  with pytest.raises(UserError, match=r'for train and val \(no .json file\)'):
    parts_of(str(tmp_path))
  make(tmp_path, 'train.json', 'train')
  with pytest.raises(
    UserError, match=r'for val \(only train.json\): COCO-style folders'
  ):
    parts_of(str(tmp_path))
  make(tmp_path, 'val.json', 'val')
  (tmp_path / 'val' / '0.png').unlink()
  with pytest.raises(UserError, match='val.json names the image 0.png, which'):
    parts_of(str(tmp_path))
  make(tmp_path, 'annotations/train_old.json', 'train')
  told = 'several annotation files for train, train.json, annotations/train_old.json'
  with pytest.raises(UserError, match=told):
    parts_of(str(tmp_path))
  with pytest.raises(UserError, match='does not exist'):
    parts_of(str(tmp_path / 'nowhere'))
