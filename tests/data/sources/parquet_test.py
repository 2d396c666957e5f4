import concurrent.futures
import json
import pickle
import sys

import numpy as np
import pictures
import pyarrow
import pyarrow.parquet
import pytest
import tensorflow_datasets as tfds

from big_vision_like.data.sources import parquet
from big_vision_like.errors import BadRecordError, UserError


def test_groups_match_the_files(tmp_path):
  pictures.write_parquet(tmp_path)
  source = parquet.Parquet(f'{tmp_path}/*')
  assert source.groups.tolist() == [0, 4, 8, 10, 14, 18, 20]


def test_groups_used_last_stay_in_memory(tmp_path, monkeypatch):
  pictures.write_parquet(tmp_path)
  read, seen = parquet._read, []
  monkeypatch.setattr(
    parquet, '_read', lambda *words: seen.append(words[:2]) or read(*words)
  )
  source = parquet.Parquet(f'{tmp_path}/*', groups_kept=2)
  for i in (0, 1, 5, 2, 6, 10, 6, 0):
    source[i]
  names = [(path.split('-')[-3], group) for path, group in seen]
  assert names == [('00000', 0), ('00000', 1), ('00001', 0), ('00000', 0)]


def test_threads_read_a_group_once(tmp_path, monkeypatch):
  pictures.write_parquet(tmp_path)
  read, seen = parquet._read, []
  monkeypatch.setattr(parquet, '_read', lambda *w: seen.append(w[1]) or read(*w))
  source = parquet.Parquet(f'{tmp_path}/*')
  with concurrent.futures.ThreadPoolExecutor(8) as pool:
    got = list(pool.map(source.__getitem__, [*range(20)] * 5))
  assert [e['id'] for e in got] == [*range(20)] * 5
  assert len(seen) == 6


def test_columns_are_chosen_and_renamed(tmp_path):
  image = pyarrow.struct({'bytes': pyarrow.binary(), 'path': pyarrow.string()})
  described = {'coarse': {'names': ['x', 'y', 'z'], '_type': 'ClassLabel'}}
  schema = pyarrow.schema(
    {'img': image, 'coarse': pyarrow.int64(), 'when': pyarrow.date32()},
    metadata={'huggingface': json.dumps({'info': {'features': described}})},
  )
  rows = [
    {'img': {'bytes': e['image'], 'path': 'a.jpg'}, 'coarse': e['label'], 'when': None}
    for e in pictures.EXAMPLES
  ]
  pyarrow.parquet.write_table(
    pyarrow.Table.from_pylist(rows, schema), str(tmp_path / 'a.parquet')
  )
  every = parquet.Parquet(f'{tmp_path}/*')
  with pytest.raises(UserError, match='column when is of type date32'):
    every.features  # noqa: B018
  assert len(every.problems()) == 1
  source = parquet.Parquet(f'{tmp_path}/*', keys={'image': 'img', 'label': 'coarse'})
  assert source[13] == {k: pictures.EXAMPLES[13][k] for k in ('image', 'label')}
  assert source.label_names == ['x', 'y', 'z']
  with pytest.raises(UserError, match="no column 'fine'; it has img, coarse, when"):
    parquet.Parquet(f'{tmp_path}/*', keys={'label': 'fine'})[0]


IMAGE = [e['image'] for e in pictures.EXAMPLES]


def table(tmp_path, name='a', **columns):
  path = tmp_path / f'{name}.parquet'
  pyarrow.parquet.write_table(pyarrow.table(columns), str(path))
  return parquet.Parquet(str(path))


@pytest.mark.parametrize(
  'images',
  [
    IMAGE[:3],
    pyarrow.array(IMAGE[:3], pyarrow.large_binary()),
    [{'path': 'x', 'bytes': image} for image in IMAGE[:3]],
    [{'bytes': image} for image in IMAGE[:3]],
  ],
)
def test_images_are_bytes_however_they_are_stored(tmp_path, images):
  source = table(tmp_path, image=images)
  assert isinstance(source.features['image'], tfds.features.Image)
  assert [example['image'] for example in source] == IMAGE[:3]


@pytest.mark.parametrize(
  'images, reason',
  [
    (['a.png', 'b.png'], "column 'image' of .* is of type string, not one image"),
    ([{'path': 'a.png'}] * 2, "column 'image' of .* is of type struct"),
    ([IMAGE[:2]] * 2, "column 'image' of .* is of type list"),
    ([[{'bytes': IMAGE[0], 'path': None}]] * 2, "column 'image' of .* is of type list"),
    ([{'bytes': None, 'path': 'a.png'}] * 2, "the path of its image, 'a.png', but not"),
  ],
)
def test_values_that_are_not_images_are_reported(tmp_path, images, reason):
  source = table(tmp_path, image=images)
  with pytest.raises(UserError, match=reason):
    source.features['image'] and source[0]


@pytest.mark.parametrize(
  'labels, names, want',
  [
    (['pear', 'fig', None], ['fig', 'pear'], [1, 0, None]),
    (pyarrow.array(['b', 'a', 'b']).dictionary_encode(), ['a', 'b'], [1, 0, 1]),
    ([b'pear', b'fig', b'pear'], ['fig', 'pear'], [1, 0, 1]),
    (pyarrow.array([3, 1, 3]).dictionary_encode(), None, [3, 1, 3]),
    ([2.0, 0.0, float('nan')], None, [2, 0, None]),
    ([2, None, 1], None, [2, None, 1]),
    ([True, False, True], None, [1, 0, 1]),
    (pyarrow.array([1, 2, 3], pyarrow.int8()), None, [1, 2, 3]),
    ([0.5, 1.0, 2.0], None, [0.5, 1.0, 2.0]),  # a feature that is not a label
  ],
)
def test_labels_are_numbers_or_names(tmp_path, labels, names, want):
  source = table(tmp_path, label=labels)
  assert source.label_names == names and source.problems() == []
  for i, label in enumerate(want):
    if label is None:
      with pytest.raises(BadRecordError, match='no value|not a known|label nan'):
        source[i]
    else:
      assert source[i] == {'label': label} and type(source[i]['label']) is type(label)


def test_names_cover_all_files(tmp_path):
  table(tmp_path, 'a', label=['pear', 'fig'])
  table(tmp_path, 'b', label=['apple', 'fig'])
  source = parquet.Parquet(f'{tmp_path}/*')
  assert [example['label'] for example in source] == [2, 1, 0, 1]


def test_files_that_contradict_each_other_are_reported(tmp_path):
  table(tmp_path, 'a', label=[0, 1])
  table(tmp_path, 'b', label=['fig', 'pear'])
  source = parquet.Parquet(f'{tmp_path}/*')
  with pytest.raises(BadRecordError, match="'label' of type string, not int64"):
    source[2]
  pictures.write_parquet(tmp_path)
  (tmp_path / 'other').mkdir()
  pictures.write_parquet(tmp_path / 'other', names=['bee', 'ape', 'cat'])
  both = [f'{tmp_path}/train-*', f'{tmp_path}/other/*']
  with pytest.raises(UserError, match='has other class names than'):
    parquet.Parquet(both).features  # noqa: B018


def test_nested_columns_are_as_tfds_gives_them(tmp_path):
  box = pyarrow.list_(pyarrow.float32(), 4)
  thing = pyarrow.struct({'bbox': box, 'category': pyarrow.int64()})
  schema = pyarrow.schema(
    {
      'image': pyarrow.binary(),
      'objects': pyarrow.list_(thing),
      'ids': pyarrow.list_(pyarrow.int32()),
      'caption': pyarrow.string(),
      'score': pyarrow.float64(),
    }
  )
  thing = {'bbox': [1.0, 2.0, 3.0, 4.0], 'category': 5}
  row = {'image': pictures.EXAMPLES[0]['image'], 'objects': [thing, thing], 'ids': [1]}
  rows = [row | {'caption': 'é', 'score': 0.5}, row | {'caption': None, 'score': None}]
  pyarrow.parquet.write_table(
    pyarrow.Table.from_pylist(rows, schema), str(tmp_path / 'a.parquet')
  )
  source = parquet.Parquet(f'{tmp_path}/*')
  example = source[0]
  assert example['image'] == row['image'] and example['caption'] == 'é'.encode()
  assert example['objects']['category'] == [5, 5]
  stored = source.features.serialize_example(example)
  decoders = {'image': tfds.decode.SkipDecoding()}
  back = source.features.deserialize_example_np(stored, decoders=decoders)
  assert np.asarray(back['objects']['bbox']).tolist() == [thing['bbox']] * 2
  assert back['ids'].tolist() == [1] and back['ids'].dtype == np.int32
  with pytest.raises(
    BadRecordError, match="example 1.*'score', has no value of type double"
  ):
    source[1]


def test_damage_costs_a_group_and_is_named(tmp_path):
  file = pictures.write_parquet(tmp_path)[0]
  data = bytearray(file.read_bytes())
  metadata = pyarrow.parquet.ParquetFile(str(file)).metadata
  start = metadata.row_group(1).column(0).data_page_offset
  data[start : start + 40] = bytes(40)
  file.write_bytes(data)
  source = parquet.Parquet(f'{tmp_path}/*')
  for i in range(4, 8):
    name = rf'row {i - 4} of group 1 of {file} \(example {i}\)'
    with pytest.raises(BadRecordError, match=name):
      source[i]
  assert source[3]['id'] == 3 and source[8]['id'] == 8


def test_a_cut_file_is_refused(tmp_path):
  file = pictures.write_parquet(tmp_path)[1]
  file.write_bytes(file.read_bytes()[:-10])
  source = parquet.Parquet(f'{tmp_path}/*')
  with pytest.raises(UserError, match=f'{file} is not a complete Parquet file'):
    len(source)
  assert len(source.problems()) == 1


def test_a_missing_pyarrow_is_reported_with_the_command(tmp_path, monkeypatch):
  pictures.write_parquet(tmp_path)
  monkeypatch.setitem(sys.modules, 'pyarrow.parquet', None)
  with pytest.raises(UserError, match=r"pip install -e '\.\[parquet\]'"):
    len(parquet.Parquet(f'{tmp_path}/*'))


def test_pickles_do_not_contain_cached_groups(tmp_path):
  pictures.write_parquet(tmp_path)
  source = parquet.Parquet(f'{tmp_path}/*')
  size = len(pickle.dumps(source))
  for i in range(20):
    source[i]
  assert len(pickle.dumps(source)) < size + 2000
