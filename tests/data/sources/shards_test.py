"""Tests of missing and empty files, in every format of several files."""

import json

import pictures
import pytest

from big_vision_like.data.sources import array_records, parquet, shards, tars, tfrecords
from big_vision_like.errors import BadRecordError, UserError

FORMATS = {
  'tfrecord': (pictures.write_tfrecords, tfrecords.TFRecord, 'a.tfrecord-*'),
  'array_record': (
    pictures.write_array_records,
    array_records.ArrayRecord,
    'a.array_record-*',
  ),
  'parquet': (pictures.write_parquet, parquet.Parquet, 'train-*.parquet'),
  'tar': (pictures.write_tars, tars.Tars, 'a-*.tar'),
}


@pytest.fixture(params=FORMATS)
def stored(request, tmp_path):
  """Returns a function that makes a source of files, the files, and their pattern."""
  write, make, pattern = FORMATS[request.param]
  files = write(tmp_path)
  if request.param == 'tar':  # their names do not contain the number of files
    files[1] = files[1].rename(tmp_path / 'a-002.tar')
    (tmp_path / 'a-001.tar').write_bytes(files[0].read_bytes())
    files.insert(1, tmp_path / 'a-001.tar')
  return lambda names=pattern: make(names), files, tmp_path / pattern


def test_a_missing_file_of_a_set_is_reported(stored):
  make, files, pattern = stored
  assert make(str(pattern)).problems() == []
  source = make(str(pattern))
  assert len(source) and f'({len(files)} files)' in source.title
  files[1].unlink()
  (problem,) = make(str(pattern)).problems()
  assert 'lacks 1 of' in problem and 'the first of them number 1: copy' in problem
  # A user who lists the other files knows that one is missing; the count is reported.
  rest = make([str(file) for file in files if file.exists()])
  assert rest.problems() == []
  assert list(rest.left_out.values()) == [1] and 'missing' in [*rest.left_out][0]


def test_an_empty_file_is_reported(stored):
  make, files, pattern = stored
  files[0].write_bytes(b'')
  (problem,) = make(str(pattern)).problems()
  assert str(files[0]) in problem


@pytest.mark.parametrize(
  'names, lacking',
  [
    (['a-00000-of-00003', 'a-00002-of-00003'], [(3, 1, 1)]),
    (['a-00001-of-00003', 'a-00002-of-00003', 'a-00003-of-00003'], []),
    (['a-0-of-2-x1.parquet', 'a-1-of-2-y7.parquet'], []),
    (['a-0-of-2.parquet', 'a-1-of-2.parquet.part'], [(2, 1, 1)]),
    (['a-0-of-999999999999'], [(999999999999, 999999999998, 1)]),
    (['b-000.tar', 'b-001.tar', 'b-003.tar'], [(4, 1, 2)]),
    (['b-01.tar', 'b-02.tar', 'b-04.tar'], [(4, 1, 3)]),
    (['b-2019.tar', 'b-2021.tar', 'b-2022.tar'], []),
    (['b-00.tar', 'b-50.tar', 'b-99.tar'], []),
    (['b-00.tar', 'b-99999999.tar'], []),
    (['b-9.tar', 'b-11.tar'], []),
    (['part-00000-1a2b-c000.parquet', 'part-00002-3c4d-c000.parquet'], []),
  ],
)
def test_sets_are_known_by_their_numbers(tmp_path, names, lacking):
  for name in names:
    (tmp_path / name).touch()
  found = shards.numbered([str(tmp_path / names[0])])
  assert [(s.count, s.absent, s.first) for s in found] == lacking


def test_counts_in_the_metadata_of_tfds_are_compared(tmp_path):
  files = pictures.write_tfds(tmp_path, 'tfrecord')
  source = tfrecords.TFRecord(f'{files[0].parent}/*.tfrecord-*')
  assert source.problems() == []
  files[1].write_bytes(files[2].read_bytes())  # a complete file, but the wrong one
  source = tfrecords.TFRecord(f'{files[0].parent}/*.tfrecord-*')
  assert source.problems() == [f'{files[1]} holds 6 records, not 7']
  info = files[0].parent / 'dataset_info.json'
  changed = json.loads(info.read_text())
  changed['splits'][0]['shardLengths'] = ['0', '6', '6']
  info.write_text(json.dumps(changed))
  files[0].write_bytes(b'')
  assert tfrecords.TFRecord(f'{files[0].parent}/*.tfrecord-*').problems() == []
  info.write_text('{')
  with pytest.raises(UserError, match='dataset_info.json is not JSON'):
    len(tfrecords.TFRecord(f'{files[0].parent}/*.tfrecord-*'))


def test_folders_that_describe_other_classes_are_refused(tmp_path):
  one, two = (pictures.write_tfds(tmp_path, 'tfrecord', name) for name in 'ab')
  names = two[0].parent / 'label.labels.txt'
  names.write_text('bee\nape\ncat\n')
  source = tfrecords.TFRecord([str(file) for file in one + two])
  with pytest.raises(UserError, match='other features or classes than'):
    source.features  # noqa: B018
  (one[0].parent / 'features.json').write_text('[]')
  with pytest.raises(UserError, match='features.json cannot be used'):
    tfrecords.TFRecord(str(one[0])).features  # noqa: B018


def test_reading_stops_at_the_last_record(tmp_path):
  file = tmp_path / 'a'
  file.write_bytes(b'0123456789')
  reader = shards.Files()
  assert reader.read(str(file), 8, 2**62) == b'89'
  assert reader.read(str(file), 2**40, 2**41) == b''
  with pytest.raises(BadRecordError, match='cannot be read: No such file'):
    reader.read(str(tmp_path / 'b'), 0, 1)
