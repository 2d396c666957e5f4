import dataclasses
import os

import cv2
import numpy as np
import pictures
import pytest

from big_vision_like.data.sources import base, folders
from big_vision_like.data.transforms import decoding, image
from big_vision_like.errors import BadRecordError, UserError


def make(root, files):
  for file in files:
    path = root / file
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(pictures.EXAMPLES[0]['image'])


def test_the_order_matches_torchvision(tmp_path):
  # Paths in the order of torchvision 0.28's ImageFolder.
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


def test_every_format_that_is_decoded_is_taken(tmp_path):
  (tmp_path / 'a').mkdir()
  white = np.full((40, 48, 3), 255, np.uint8)
  others = {'.jfif': '.jpg', '.apng': '.png', '.j2k': '.jp2'}
  for suffix in decoding.SUFFIXES:
    grey = suffix in ('.pbm', '.pgm')
    pixels = white[:, :, 0] if grey else white
    encoded = cv2.imencode(others.get(suffix, suffix), pixels)[1].tobytes()
    (tmp_path / 'a' / f'x{suffix.upper()}').write_bytes(encoded)
    assert decoding.is_image(encoded), suffix
  source = folders.Folder(str(tmp_path))
  assert len(source) == len(decoding.SUFFIXES) and source.left_out == {}
  for example in source:
    pixels = image.Decode().map(example)['image']
    assert pixels.shape == (40, 48, 3) and pixels.min() > 250, example['file']


def test_omitted_files_are_counted(tmp_path):
  images = ['a/1.png', 'b/deep/2.png']
  make(
    tmp_path, [*images, 'a/x.svg', 'a/y.SVG', 'a/README', 'outside.png', '.git/z.png']
  )
  make(tmp_path, ['a/._1.png', 'b/.ipynb_checkpoints/2.png', '__MACOSX/a/3.png'])
  make(tmp_path, ['b/Thumbs.db', 'b/x.ini', 'b/@eaDir/2.png'])
  os.mkfifo(tmp_path / 'a' / 'pipe.png')
  (tmp_path / 'a' / 'gone.png').symlink_to('/nowhere/x.png')
  (tmp_path / 'a' / 'self.png').symlink_to('self.png')
  source = folders.Folder(str(tmp_path))
  assert [e['file'].decode() for e in source] == images
  assert source.label_names == ['a', 'b']
  assert source.left_out == {
    '.svg files': 2,
    'broken links': 2,
    'hidden files': 2,
    **dict.fromkeys(['files without an ending', '.ini files'], 1),
    **dict.fromkeys(['folders .git', 'folders __MACOSX', 'folders @eaDir'], 1),
    **dict.fromkeys(['folders .ipynb_checkpoints', 'devices and pipes'], 1),
    'files outside of the folders of classes': 1,
  }
  assert base.counted(source.left_out).startswith(
    '.svg files (2), broken links (2), hidden'
  )


@pytest.mark.parametrize(
  'link, target',
  [('a/again', '.'), ('a/up', '..'), ('a/top', '/'), ('again', '.'), ('a/z', 'sub')],
)
def test_no_file_is_counted_twice_through_links(tmp_path, link, target):
  make(tmp_path, ['a/1.png', 'a/sub/2.png', 'b/3.png'])
  (tmp_path / link).symlink_to(target)
  source = folders.Folder(str(tmp_path))
  files = [e['file'].decode() for e in source]
  assert files == ['a/1.png', 'a/sub/2.png', 'b/3.png']
  (reason,) = source.left_out
  kind = 'is read already' if target == 'sub' else 'contains them'
  assert reason == f'links to a folder that {kind}' and source.label_names == ['a', 'b']


def test_links_to_elsewhere_are_followed(tmp_path):
  make(tmp_path, ['there/x/1.png', 'here/b/2.png'])
  (tmp_path / 'here' / 'a').symlink_to(tmp_path / 'there')
  (tmp_path / 'here' / 'b' / '3.png').symlink_to(tmp_path / 'there' / 'x' / '1.png')
  (tmp_path / 'there' / 'x' / 'back').symlink_to(tmp_path / 'here')
  source = folders.Folder(str(tmp_path / 'here'))
  assert [e['file'] for e in source] == [b'a/x/1.png', b'b/2.png', b'b/3.png']
  assert source.left_out == {'links to a folder that contains them': 1}


def test_links_among_many_folders_take_no_time(tmp_path):
  names = [str(i) for i in range(12)]
  make(tmp_path, [f'a/{name}/x.png' for name in names])
  for name in names:
    for other in names:
      (tmp_path / 'a' / name / f'to{other}').symlink_to(f'../{other}')
  assert len(folders.Folder(str(tmp_path))) == 12


def test_classes_of_another_split_keep_their_labels(tmp_path):
  make(tmp_path, ['c/1.png'])
  source = folders.Folder(str(tmp_path), classes=['a', 'b', 'c'])
  assert (len(source), source[0]['label'], source.label_names[2]) == (1, 2, 'c')
  assert source.problems() == []
  with pytest.raises(UserError, match='that are not classes: c'):
    len(dataclasses.replace(source, classes=['a', 'b']))


def test_an_unusable_folder_is_refused(tmp_path):
  make(tmp_path, ['flat.png'])
  flat = folders.Folder(str(tmp_path))
  with pytest.raises(UserError, match='holds no folders: it needs one for each class'):
    len(flat)
  assert len(flat.problems()) == 1
  make(tmp_path, ['a/1.png', 'b/notes.txt'])
  with pytest.raises(UserError, match=f'{tmp_path}/b holds no .jpg'):
    len(folders.Folder(str(tmp_path)))


def test_splits_are_not_classes(tmp_path):
  make(tmp_path, ['train/a/1.png', 'train/b/2.png', 'Val/a/3.png', 'more/a/4.png'])
  with pytest.raises(UserError, match='holds Val, train, which are splits, not class'):
    folders.Folder(str(tmp_path)).label_names  # noqa: B018
  named = folders.Folder(str(tmp_path), classes=['Val', 'more', 'train'])
  assert len(named) == 4
  make(tmp_path / 'vehicles', ['bus/1.png', 'train/2.png'])
  assert folders.Folder(str(tmp_path / 'vehicles')).label_names == ['bus', 'train']


def test_a_file_that_goes_away_is_a_bad_record(tmp_path):
  make(tmp_path, ['a/1.png', 'a/2.png'])
  source = folders.Folder(str(tmp_path))
  assert len(source) == 2
  os.remove(tmp_path / 'a' / '1.png')
  with pytest.raises(BadRecordError, match='a/1.png cannot be read: No such file'):
    source[0]
  assert source[1]['file'] == b'a/2.png'
