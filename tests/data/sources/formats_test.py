"""Tests that images stored in any of the formats are read as the same images."""

import pickle

import numpy as np
import pictures
import pytest
import tensorflow_datasets as tfds

from big_vision_like.data.input import pipeline
from big_vision_like.data.sources import (
  array_records,
  folders,
  parquet,
  tars,
  tfrecords,
)
from big_vision_like.data.sources import tfds as sources
from big_vision_like.data.transforms import image, labels
from big_vision_like.errors import UserError


def stored(kind, folder):
  match kind:
    case 'tfrecord':
      return tfrecords.TFRecord([str(f) for f in pictures.write_tfrecords(folder)])
    case 'array_record':
      pictures.write_array_records(folder)
      return array_records.ArrayRecord(f'{folder}/*')
    case 'folder':
      return folders.Folder(str(pictures.write_folders(folder)))
    case 'tar':
      pictures.write_tars(folder)
      return tars.Tars(f'{folder}/a-{{000..001}}.tar')
    case 'parquet':
      pictures.write_parquet(folder)
      return parquet.Parquet(f'{folder}/*.parquet')
  pictures.write_tfds(folder, kind.removeprefix('tfds '))
  return sources.Tfds('tiny', data_dir=str(folder))


KINDS = ['tfrecord', 'array_record', 'folder', 'tar', 'parquet']
KINDS += ['tfds tfrecord', 'tfds array_record']


@pytest.fixture(params=KINDS)
def source(request, tmp_path):
  return stored(request.param, tmp_path)


def test_examples_match_the_stored_ones(source):
  assert len(source) == 20
  for i, want in enumerate(pictures.EXAMPLES):
    example = source[i]
    assert example['image'] == want['image']
    assert (example['label'], example['id']) == (want['label'], i)
    assert example.keys() == source.features.keys()
  for outside in (-1, 20):
    with pytest.raises(IndexError):
      source[outside]
  assert source.problems() == []


def test_features_have_the_same_types(source):
  features = source.features
  assert isinstance(features, tfds.features.FeaturesDict)
  assert isinstance(features['image'], tfds.features.Image)
  for name in ('id', 'label'):
    assert (features[name].shape, features[name].np_dtype) == ((), np.int64)
  # Plain records and .cls members of tar files have numbers but no names.
  known = isinstance(features['label'], tfds.features.ClassLabel)
  assert source.label_names == (pictures.NAMES if known else None)
  plain = tfrecords.TFRecord, array_records.ArrayRecord, tars.Tars
  assert known != isinstance(source, plain)


def test_a_copy_for_workers_reads_the_same(source):
  before = [source[i] for i in range(20)]
  copy = pickle.loads(pickle.dumps(source))
  assert copy == source and [copy[i] for i in range(20)] == before
  assert copy.label_names == source.label_names
  if hasattr(source, '__getitems__'):
    assert copy.__getitems__([7, 3, 3, 19]) == [before[i] for i in (7, 3, 3, 19)]


def batches(source, workers=0):
  steps = [image.Decode(), image.Resize(8), labels.Keep()]
  data = pipeline.EvalInput(
    source=source, batch_size=8, transforms=steps, workers=workers
  )
  return list(data.epoch())


def test_batches_are_read(source):
  rows = 0
  for batch in batches(source):
    for row in np.flatnonzero(batch['mask']):
      assert batch['id'][row] == rows and batch['label'][row] == rows * 3 // 20
      rows += 1
  assert rows == 20


def test_workers_read_the_same(tmp_path):
  source = stored('parquet', tmp_path)
  for one, other in zip(batches(source), batches(source, workers=1), strict=True):
    for name in one:
      np.testing.assert_array_equal(one[name], other[name])


@pytest.mark.parametrize('kind', [k for k in KINDS if 'tfds' not in k])
def test_absent_files_are_named(kind, tmp_path):
  nowhere = f'{tmp_path}/absent'
  make = {
    'tfrecord': tfrecords.TFRecord,
    'array_record': array_records.ArrayRecord,
    'folder': folders.Folder,
    'tar': tars.Tars,
    'parquet': parquet.Parquet,
  }[kind]
  source = make(nowhere)
  with pytest.raises(UserError, match=f'there is no f.* {nowhere}'):
    len(source)
  assert source.problems() and nowhere in source.problems()[0]
