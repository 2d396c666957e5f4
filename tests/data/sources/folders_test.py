import dataclasses
import os

import pictures
import pytest

from big_vision_like.data.sources import folders
from big_vision_like.errors import BadRecordError, UserError


def make(root, files):
  for file in files:
    path = root / file
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(pictures.EXAMPLES[0]['image'])


def test_the_order_is_that_of_torchvision(tmp_path):
  # What torchvision 0.28's ImageFolder gives for these files.
  files = ['b/2.png', 'b/10.JPG', 'b/sub/1.jpeg', 'b/a.webp', 'a/z/0.jpg', 'a/b.jpg']
  make(tmp_path, [*files, 'a/readme.txt', 'B/x.PNG', 'é/1.jpg', 'outside.jpg'])
  source = folders.Folder(str(tmp_path))
  assert source.label_names == ['B', 'a', 'b', 'é']
  got = [(source[i]['label'], source[i]['file'].decode()) for i in range(len(source))]
  assert got == [
    (0, 'B/x.PNG'),
    (1, 'a/b.jpg'),
    (1, 'a/z/0.jpg'),
    (2, 'b/10.JPG'),
    (2, 'b/2.png'),
    (2, 'b/a.webp'),
    (2, 'b/sub/1.jpeg'),
    (3, 'é/1.jpg'),
  ]
  assert source[7]['id'] == 7
  assert source.files[7] == f'{tmp_path}/é/1.jpg'


def test_classes_of_another_split_keep_their_labels(tmp_path):
  make(tmp_path, ['c/1.png'])
  source = folders.Folder(str(tmp_path), classes=['a', 'b', 'c'])
  assert (len(source), source[0]['label'], source.label_names[2]) == (1, 2, 'c')
  assert source.problems() == []
  with pytest.raises(UserError, match='that are no classes: c'):
    len(dataclasses.replace(source, classes=['a', 'b']))


def test_what_is_no_folder_of_classes_is_refused(tmp_path):
  make(tmp_path, ['flat.png'])
  flat = folders.Folder(str(tmp_path))
  with pytest.raises(UserError, match='holds no folders: it needs one for each class'):
    len(flat)
  assert len(flat.problems()) == 1
  make(tmp_path, ['a/1.png', 'b/notes.txt'])
  with pytest.raises(UserError, match=f'{tmp_path}/b holds no .jpg'):
    len(folders.Folder(str(tmp_path)))


def test_a_file_that_goes_away_is_a_bad_record(tmp_path):
  make(tmp_path, ['a/1.png', 'a/2.png'])
  source = folders.Folder(str(tmp_path))
  assert len(source) == 2
  os.remove(tmp_path / 'a' / '1.png')
  with pytest.raises(BadRecordError, match='a/1.png cannot be read: No such file'):
    source[0]
  assert source[1]['file'] == b'a/2.png'
