import os
import pickle

import cv2
import numpy as np
import pictures
import pytest

from big_vision_like.data.sources import own_images
from big_vision_like.data.sources.own_images import OwnImages, parts_of
from big_vision_like.data.transforms import image
from big_vision_like.errors import UserError

PNG = pictures.EXAMPLES[0]['image']


def make(root, *files, content=PNG):
  for file in files:
    path = root / file
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)
  return root


def many(classes='ab', count=10):
  return [f'{name}/{i}.png' for name in classes for i in range(count)]


def names(source):
  return [os.path.relpath(file, source.path) for file in source.files]


def test_both_parts_have_each_class_and_no_image_twice(tmp_path):
  make(tmp_path, *many(count=10), 'c/0.png', 'c/1.png')
  train, val = (
    OwnImages(str(tmp_path), part, held_out=0.3) for part in ('train', 'val')
  )
  assert len(train) == 7 + 7 + 1 and len(val) == 3 + 3 + 1
  assert not {*names(train)} & {*names(val)}
  every = OwnImages(str(tmp_path))
  assert sorted([*names(train), *names(val)]) == sorted(names(every))
  assert {x['label'] for x in val} == {0, 1, 2}
  assert [x['id'] for x in val] == list(range(7))
  example = val[6]
  assert {*example} == {'image', 'label', 'id'} == {*val.features}
  assert image.Decode().map(example)['image'].ndim == 3
  with pytest.raises(IndexError):
    val[7]


def test_the_split_depends_on_names_and_seed_alone(tmp_path):
  make(tmp_path, *many(count=30))
  val = OwnImages(str(tmp_path), 'val')
  before = names(val)
  assert names(OwnImages(str(tmp_path), 'val', seed=1)) != before
  make(tmp_path, *many('c', 30))
  after = OwnImages(str(tmp_path), 'val')
  assert [x for x in names(after) if x[0] in 'ab'] == before
  assert after.fingerprint() != val.fingerprint()
  again = OwnImages(str(tmp_path), 'val')
  assert again.fingerprint() == after.fingerprint()
  sent = pickle.loads(pickle.dumps(after))
  assert sent[3]['image'] == after[3]['image'] and len(sent) == len(after)


def test_damaged_images_are_left_out_and_named(tmp_path):
  make(tmp_path, *many())
  make(tmp_path, 'a/cut.png', content=PNG[: len(PNG) // 2])
  make(tmp_path, 'b/empty.jpg', content=b'')
  make(tmp_path, 'b/readme.txt')
  os.symlink('nowhere.png', tmp_path / 'b' / 'link.png')
  source = OwnImages(str(tmp_path))
  assert len(source) == 20 and source.problems() == []
  assert source.left_out == {
    '.txt files': 1,
    'broken links': 1,
    'images that cannot be decoded': 2,
  }
  [told] = source.remarks()
  assert told.startswith('2 damaged images left out: a/cut.png (')
  assert 'b/empty.jpg (the file is empty)' in told
  assert source.image_sizes.shape == (20, 2)


def test_tiny_images_single_ones_and_deep_folders_are_counted(tmp_path):
  make(tmp_path, *many(), 'c/d/e/0.png')
  pixel = cv2.imencode('.png', np.zeros((1, 1, 3), np.uint8))[1].tobytes()
  make(tmp_path, 'a/pixel.png', content=pixel)
  assert OwnImages(str(tmp_path), 'train', seed=3).remarks() == [
    '1 image with a side below 8 pixels: a/pixel.png',
    '1 image in subfolders of class folders, which are not classes themselves:'
    ' c/d/e/0.png',
    '1 class has 1 image: c',
  ]
  val = OwnImages(str(tmp_path), 'val', seed=3)
  assert '1 class has no image in this part: c' in val.remarks()


def test_a_class_without_a_readable_image_is_a_problem(tmp_path):
  make(tmp_path, *many())
  make(tmp_path, 'c/0.png', 'c/1.png', content=b'x')
  told = f'{tmp_path} has no readable image of c: add some, or delete the folder'
  assert OwnImages(str(tmp_path)).problems() == [told]
  fixed = OwnImages(str(tmp_path), classes=['a', 'b', 'c'])
  assert fixed.problems() == []
  assert '1 class has no image in this part: c' in fixed.remarks()


def test_folders_without_a_readable_image(tmp_path):
  make(tmp_path, 'a/0.png', 'b/0.png', content=b'x')
  source = OwnImages(str(tmp_path))
  told = f"{tmp_path} has no image for 'all' that can be decoded; for example, a/0.png"
  assert source.problems()[0].startswith(told)
  with pytest.raises(UserError, match='has no image for'):
    len(source)


@pytest.mark.parametrize(
  'name', ['猫', 'кошка', 'قطّ', 'می‌خواهم', '🐈 cat', "d'or", 'a,b']
)
def test_classes_in_any_script(tmp_path, name):
  make(tmp_path, *(f'{x}/{i}.png' for x in (name, 'a') for i in range(3)))
  parts = parts_of(str(tmp_path))
  assert name in parts['train']['classes']
  train = OwnImages(**parts['train'])
  assert name in train.label_names and len(train) == 4
  assert name in train.features['label'].names


def test_layouts(tmp_path):
  make(tmp_path / 'one', *many())
  one = parts_of(str(tmp_path / 'one'), seed=5)
  assert {part: own['part'] for part, own in one.items()} == dict(
    train='train', val='val'
  )
  assert all(own['classes'] == ['a', 'b'] for own in one.values())
  assert one['val']['seed'] == 5

  split = tmp_path / 'split'
  for part in ('Train', 'valid', 'test'):
    make(split / part, *many())
  found = parts_of(str(split))
  assert {k: os.path.basename(own['path']) for k, own in found.items()} == dict(
    train='Train', val='valid', test='test'
  )
  for part in ('training', 'testing'):
    make(tmp_path / 'tested' / part, *many())
  found = parts_of(str(tmp_path / 'tested'))
  assert os.path.basename(found['val']['path']) == 'testing' and len(found) == 2

  make(tmp_path / 'alone' / 'train', *many())
  (tmp_path / 'alone' / '.cache').mkdir()
  found = parts_of(str(tmp_path / 'alone'))
  assert found['val'] == found['train'] | {'part': 'val'}
  # A class may be named 'train'.
  make(tmp_path / 'traffic', *(f'{x}/{i}.png' for x in ('train', 'bus') for i in '12'))
  assert parts_of(str(tmp_path / 'traffic'))['val']['classes'] == ['bus', 'train']


@pytest.mark.parametrize(
  ('files', 'told'),
  [
    (['a.png', 'b.png'], 'has 2 images and no folders: put the images of each class'),
    (['a/0.png'], "has a single class, 'a', but a classifier needs two: add a folder"),
    (['x/a/0.png', 'x/b/0.png'], 'if a, b are the classes, name .*/x'),
    (['a/0.png', 'b/0.png'], 'no class of .* has two images, so none can be held out'),
    (['a/0.png', 'b/c.txt'], r'/b holds no \.jpg'),
    (['a\nb/0.png', 'b/0.png'], r"a folder named 'a\\nb', which is not printable"),
    (
      [*(f'train/{x}' for x in many()), 'val/x/0.png'],
      'folders that are not classes: x',
    ),
  ],
)
def test_folders_that_cannot_be_used(tmp_path, files, told):
  make(tmp_path, *files)
  with pytest.raises(UserError, match=told):
    for own in parts_of(str(tmp_path)).values():
      len(OwnImages(**own))


def test_a_name_that_is_not_utf8(tmp_path):
  for name in (b'caf\xe9', b'a'):
    folder = os.path.join(os.fsencode(tmp_path), name)
    os.mkdir(folder)
    with open(os.path.join(folder, b'0.png'), 'wb') as file:
      file.write(PNG)
  with pytest.raises(UserError, match=r"a folder named 'caf\\udce9', which is not"):
    parts_of(str(tmp_path))
  assert own_images.shown('caf\udce9') == 'caf\ufffd'


def test_folders_that_do_not_exist(tmp_path):
  make(tmp_path / 'birds', *many())
  with pytest.raises(UserError, match=r"brids does not exist; did you mean '.*birds'"):
    parts_of(str(tmp_path / 'brids'))
  with pytest.raises(UserError, match='0.png is a file: name the folder'):
    parts_of(str(tmp_path / 'birds' / 'a' / '0.png'))
  empty = tmp_path / 'empty'
  empty.mkdir()
  with pytest.raises(UserError, match='empty holds no folders: it needs one for each'):
    parts_of(str(empty))
  [told] = OwnImages(str(tmp_path / 'brids')).problems()
  assert 'does not exist' in told
  planned = OwnImages(str(tmp_path / 'brids'), examples=30).planned()
  assert len(planned) == 30
  assert OwnImages(str(tmp_path / 'birds')).planned().label_names == ['a', 'b']
  for wrong in (dict(part='test'), dict(held_out=1.0)):
    with pytest.raises(UserError, match='is not'):
      OwnImages(str(tmp_path), **wrong)
