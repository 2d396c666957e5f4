"""Tests that fingerprints follow the content of sources, not the storage location."""

import dataclasses
import functools
import io
import json
import os
import pathlib
import shutil
import tarfile

import numpy as np
import pictures
import pytest

from big_vision_like.data.input import mixture, packing
from big_vision_like.data.procedural import drawing, sequences
from big_vision_like.data.sources import (
  array_records,
  coco,
  fake,
  fewshot,
  folders,
  memory,
  parquet,
  planned,
  tars,
  tfds,
  tfrecords,
)
from big_vision_like.data.sources.base import InMemory, Source, as_source, digest
from big_vision_like.data.transforms import image
from big_vision_like.errors import BadRecordError, UserError


def write_coco(folder):
  entry = {'id': 1, 'file_name': 'a.png', 'height': 8, 'width': 9}
  box = {'id': 3, 'image_id': 1, 'category_id': 7, 'bbox': [1, 1, 4, 5]}
  entries = dict(
    images=[entry], annotations=[box], categories=[{'id': 7, 'name': 'cat'}]
  )
  (folder / 'a.json').write_text(json.dumps(entries))
  (folder / 'a.png').write_bytes(drawing.png(np.zeros((8, 9, 3), np.uint8)))


WRITERS = {
  'tfrecord': pictures.write_tfrecords,
  'array_record': pictures.write_array_records,
  'folder': pictures.write_folders,
  'tar': pictures.write_tars,
  'parquet': pictures.write_parquet,
  'tfds tfrecord': functools.partial(pictures.write_tfds, file_format='tfrecord'),
  'tfds array_record': functools.partial(
    pictures.write_tfds, file_format='array_record'
  ),
  'coco': write_coco,
}


def read(kind, folder):
  match kind:
    case 'tfrecord':
      return tfrecords.TFRecord(f'{folder}/*')
    case 'array_record':
      return array_records.ArrayRecord(f'{folder}/*')
    case 'folder':
      return folders.Folder(str(folder))
    case 'tar':
      return tars.Tars(f'{folder}/*.tar')
    case 'parquet':
      return parquet.Parquet(f'{folder}/*.parquet')
    case 'coco':
      return coco.Coco(f'{folder}/a.json', str(folder))
  return tfds.Tfds('tiny', data_dir=str(folder))


@pytest.fixture(params=WRITERS)
def stored(request, tmp_path):
  """Returns the kind of a source, and the folder that holds its data."""
  folder = tmp_path / 'here'
  folder.mkdir()
  WRITERS[request.param](folder)
  return request.param, folder


def test_another_place_is_the_same_content(stored, tmp_path):
  kind, folder = stored
  source = read(kind, folder)
  before = source.fingerprint()
  assert before == read(kind, folder).fingerprint() and len(before) == 32
  elsewhere = tmp_path / 'some' / 'where'
  shutil.copytree(folder, elsewhere)  # with other modification times
  shutil.rmtree(folder)
  assert read(kind, elsewhere).fingerprint() == before


def change(kind, folder, what):
  """Changes stored data in one way; returns False if the kind has no such change."""
  tfds_kind = kind.startswith('tfds')
  data = [file for file in folder.rglob('*') if file.is_file()]
  shards = sorted(f for f in data if f.suffix not in ('.json', '.txt'))
  first, last = shards[0], shards[-1]
  beside = last.with_name(f'z{last.name}')
  match what:
    case 'added':
      shutil.copy(last, beside)
      return not tfds_kind and kind != 'coco'  # these know their files
    case 'removed':
      last.unlink()
      return kind != 'coco'
    case 'renamed':
      last.rename(beside)
      return kind != 'coco'
    case 'swapped':  # swaps two files of different sizes
      content = first.read_bytes(), last.read_bytes()
      first.write_bytes(content[1])
      last.write_bytes(content[0])
      # Files of array_record are padded to one size; `problems` compares counts.
      return kind not in ('coco', 'tfds array_record')
    case 'class renamed':
      if kind == 'folder':
        (folder / pictures.NAMES[1]).rename(folder / 'bat')
      elif kind == 'parquet':
        pictures.write_parquet(folder, names=['ape', 'bat', 'cat'])
      elif kind == 'coco':
        file = folder / 'a.json'
        file.write_text(file.read_text().replace('"cat"', '"car"'))
      elif tfds_kind:
        names = next(folder.rglob('label.labels.txt'))
        names.write_text(names.read_text().replace('bee', 'bat'))
      else:
        return False
  return True


@pytest.mark.parametrize(
  'what', ['added', 'removed', 'renamed', 'swapped', 'class renamed']
)
def test_every_change_of_the_files_is_different_content(stored, what):
  kind, folder = stored
  before = read(kind, folder).identity()
  if not change(kind, folder, what):
    pytest.skip('it has no such change')
  try:
    after = read(kind, folder).identity()
  except UserError:
    return  # the change is refused
  assert after['fingerprint'] != before['fingerprint']


def test_times_and_the_order_of_listings_do_not_count(stored, monkeypatch):
  kind, folder = stored
  before = read(kind, folder).identity()
  for number, file in enumerate(folder.rglob('*')):
    os.utime(file, (number, number))
  listdir, scandir = os.listdir, os.scandir
  monkeypatch.setattr(os, 'listdir', lambda *at: sorted(listdir(*at), reverse=True))
  monkeypatch.setattr(os, 'scandir', lambda *at: Backwards(scandir(*at)))
  assert read(kind, folder).identity() == before


class Backwards:
  """The entries of a folder, from the last name to the first."""

  def __init__(self, entries):
    with entries:
      self._entries = iter(sorted(entries, key=lambda e: e.name, reverse=True))

  def __enter__(self):
    return self._entries

  def __exit__(self, *error):
    pass

  def __iter__(self):
    return self._entries

  def __next__(self):
    return next(self._entries)

  def close(self):
    pass


def test_an_identity_is_plain_and_counts(stored):
  kind, folder = stored
  source = read(kind, folder)
  identity = source.identity()
  assert json.loads(json.dumps(identity)) == identity
  assert identity['examples'] == len(source)
  assert identity['fingerprint'] == source.fingerprint()
  assert identity['split'] == source.split and identity['title'] == source.title
  assert identity['files'] == len(set(source.files))
  assert identity['bytes'] == sum(map(os.path.getsize, set(source.files)))
  unnamed = kind in ('tfrecord', 'array_record', 'tar')
  assert identity['classes'] == {'coco': 1}.get(kind, None if unnamed else 3)


def test_an_identity_counts_each_inner_file_once(tmp_path):
  folder = folders.Folder(str(pictures.write_folders(tmp_path)))
  part = mixture.Part(source=folder)
  both = mixture.Mixture(parts={'a': part, 'b': part}).identity()
  alone = folder.identity()
  assert both['inner'] == {'a': alone, 'b': alone}
  assert (both['examples'], both['files'], both['bytes']) == (40, 20, alone['bytes'])
  assert memory.Cached(folder).identity()['classes'] == 3
  assert 'inner' not in alone and InMemory(LABELLED).identity()['files'] == 0


def test_a_file_that_grows_is_different_content(stored):
  kind, folder = stored
  before = read(kind, folder).fingerprint()
  grown = max(path for path in folder.rglob('*') if path.suffix not in ('.json', ''))
  if kind == 'parquet':  # reading parquet starts at its end
    pictures.write_parquet(folder, rows=2)
  elif kind == 'array_record':
    shutil.copy(min(folder.iterdir()), grown)
  else:
    with grown.open('ab') as file:
      file.write(b'\0' * 512)
  assert read(kind, folder).fingerprint() != before


def test_one_more_file_is_different_content(stored):
  kind, folder = stored
  before = read(kind, folder).fingerprint()
  match kind:
    case 'folder':
      (folder / pictures.NAMES[0] / '99.png').write_bytes(b'x')
    case 'tfrecord' | 'array_record' | 'parquet':
      last = max(folder.iterdir())
      shutil.copy(last, last.with_name(f'z{last.name}'))
    case 'tar':
      with tarfile.open(folder / 'b.tar', 'w') as tar:
        tar.addfile(tarfile.TarInfo('a.cls'), io.BytesIO())
    case 'coco':
      entries = json.loads((folder / 'a.json').read_text())
      entries['annotations'][0]['bbox'][0] += 1  # a change that keeps the file's size
      (folder / 'a.json').write_text(json.dumps(entries))
    case _:
      pytest.skip('TFDS knows its files')
  assert read(kind, folder).fingerprint() != before


def test_splits_of_tfds_have_their_own(tmp_path):
  pictures.write_tfds(tmp_path, 'array_record')
  pictures.write_tfds(tmp_path, 'array_record', name='other')
  tiny = tfds.Tfds('tiny', data_dir=str(tmp_path))
  splits = ['train', 'train[:10]', 'train[10:]', 'train[:11]']
  found = {dataclasses.replace(tiny, split=s).fingerprint() for s in splits}
  found.add(dataclasses.replace(tiny, name='other').fingerprint())
  assert len(found) == 5
  whole = dataclasses.replace(tiny, split='train[:20]', examples=20)
  assert whole.fingerprint() == tiny.fingerprint()


@dataclasses.dataclass(frozen=True)
class Squares(Source):
  """A source as users write it: only a length and examples."""

  count: int
  factor: int = 1

  def __len__(self):
    return self.count

  def __getitem__(self, index):
    if index == 2:
      raise BadRecordError('lost')
    return {'id': index, 'x': np.float32([index, self.factor * index**2])}


class Plain(Source):
  """The same source, but not a dataclass, so that its arguments are unknown."""

  def __init__(self, count, factor=1):
    self._squares = Squares(count, factor)

  def __len__(self):
    return len(self._squares)

  def __getitem__(self, index):
    return self._squares[index]


PAIRS = [{'source': np.int32([5, 2]), 'target': np.int32([6, 2])}] * 3
LABELLED = [{'label': i % 2, 'x': i} for i in range(8)]


@pytest.mark.parametrize(
  'made',
  [
    [Squares(9), Squares(10), Squares(9, factor=2), Squares(0)],
    [Plain(9), Plain(10), Plain(9, factor=2), Plain(0)],
    [InMemory(PAIRS), InMemory(PAIRS[:2]), InMemory([*PAIRS[:2], PAIRS[0] | {'a': 1}])],
    [
      memory.Cached(Squares(9)),
      memory.Cached(Squares(10)),
      memory.Cached(Squares(9), [image.Resize(4)]),
      memory.Cached(Squares(9), [image.Resize(5)]),
    ],
    [
      fewshot.PerClass(LABELLED, 2),
      fewshot.PerClass(LABELLED, 3),
      fewshot.PerClass(LABELLED, 2, seed=1),
      fewshot.PerClass(LABELLED[:6], 2),
    ],
    [
      packing.Packed(source=PAIRS, source_length=8, target_length=8),
      packing.Packed(source=PAIRS, source_length=9, target_length=8),
      packing.Packed(source=PAIRS[:2], source_length=8, target_length=8),
      packing.Packed(source=PAIRS, source_length=8, target_length=8, seed=1),
    ],
    [
      mixture.Mixture(parts={'a': mixture.Part(source=Squares(9), weight=weight)})
      if weight == 1
      else mixture.Mixture(
        parts={
          'a': mixture.Part(source=Squares(9), weight=weight),
          'b': mixture.Part(source=Squares(count), weight=1),
        }
      )
      for weight, count in ((1, 9), (2, 9), (3, 9), (2, 10))
    ],
    [
      fake.Fake('nothing'),
      fake.Fake('nothing', 'test'),
      fake.Fake('nothing', examples=21),
      fake.Fake('nothing', classes=7),
    ],
    [
      planned.Pictures('nothing', 9),
      planned.Pictures('nothing', 10),
      planned.Pictures('other', 9),
    ],
    [planned.Rows(9, 8, 8), planned.Rows(9, 8, 9)],
    [
      sequences.Reverse(examples=9, split='train'),
      sequences.Reverse(examples=9, split='test'),
      sequences.Reverse(examples=9, split='train', seed=1),
    ],
  ],
  ids=lambda made: type(made[0]).__name__,
)
def test_other_arguments_are_different_content(made):
  found = [source.fingerprint() for source in made]
  assert len(set(found)) == len(made)
  assert [source.fingerprint() for source in made] == found


def test_a_digest_tells_values_and_types_apart():
  values = [
    *(1, 1.5, '1', b'1', None, True, [1, [2]], [[1], 2], {'a': 1}, {'b': 1}),
    *(np.int32([1]), np.int64([1]), np.int32([[1]]), np.array(['a'], object)),
    *(Squares(3), image.Resize(4), image.Resize(5)),
  ]
  assert len({digest(value) for value in values}) == len(values)
  assert digest({'a': 1, 'b': 2}) == digest({'b': 2, 'a': 1})
  assert digest(np.int64(3)) == digest(3)


def test_defaults_of_a_source():
  source = Squares(9)
  assert source.features == {} and source.label_names is None
  assert source.category_names == () and source.files == ()
  assert source.image_sizes is None and source.groups is None
  assert (source.title, source.split, source.inner) == ('Squares', '', {})
  assert source.record(0) is None and source.problems() == []
  assert source.planned() is source
  assert source.__getitems__([0, 3])[1]['id'] == 3


def test_an_object_that_is_not_a_source_is_reported():
  assert len(as_source(LABELLED)) == 8 and as_source(LABELLED)[3] == LABELLED[3]
  source = Squares(3)
  assert as_source(source) is source
  with pytest.raises(UserError, match='Path is not a data source: derive the class'):
    as_source(pathlib.PosixPath('a'))
