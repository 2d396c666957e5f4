import gzip
import subprocess
import sys

import numpy as np
import pictures
import pytest
import tensorflow_datasets as tfds
from tensorflow_datasets.proto import tf_example_pb2

from big_vision_like.data.sources import multi_object
from big_vision_like.data.sources import tfds as sources
from big_vision_like.errors import BadRecordError, UserError

# Names, image sizes, entities and features as in the published readers.
NUMBERS = {
  'tetrominoes': ((35, 35, 3), 4, {'x': 1, 'y': 1, 'shape': 1, 'color': 3}, ()),
  'multi_dsprites_binarized': (
    (64, 64, 1),
    4,
    {'x': 1, 'y': 1, 'shape': 1, 'color': 1, 'orientation': 1, 'scale': 1},
    (),
  ),
  'multi_dsprites_colored_on_grayscale': (
    (64, 64, 3),
    6,
    {'x': 1, 'y': 1, 'shape': 1, 'color': 3, 'orientation': 1, 'scale': 1},
    (),
  ),
  'multi_dsprites_colored_on_colored': (
    (64, 64, 3),
    5,
    {'x': 1, 'y': 1, 'shape': 1, 'color': 3, 'orientation': 1, 'scale': 1},
    (),
  ),
  'clevr_with_masks': (
    (240, 320, 3),
    11,
    {'x': 1, 'y': 1, 'z': 1, 'pixel_coords': 3, 'rotation': 1},
    ('color', 'material', 'shape', 'size'),
  ),
}
FILES = {
  'tetrominoes': 'tetrominoes/tetrominoes_train.tfrecords',
  'multi_dsprites_binarized': 'multi_dsprites/multi_dsprites_binarized.tfrecords',
  'multi_dsprites_colored_on_grayscale': (
    'multi_dsprites/multi_dsprites_colored_on_grayscale.tfrecords'
  ),
  'multi_dsprites_colored_on_colored': (
    'multi_dsprites/multi_dsprites_colored_on_colored.tfrecords'
  ),
  'clevr_with_masks': 'clevr_with_masks/clevr_with_masks_train.tfrecords',
}
CONFIGS = {config.name: config for config in multi_object.MultiObject.BUILDER_CONFIGS}


def scene(name, index):
  """Returns a random scene as arrays; entities without an object are zeros."""
  (height, width, channels), entities, factors, codes = NUMBERS[name]
  rng = np.random.default_rng((index, entities))
  objects = int(rng.integers(1, entities))
  cells = rng.integers(0, objects + 1, (height // 5 + 1, width // 5 + 1))
  cells[:2, :objects] = np.arange(1, objects + 1)
  ids_HW = cells.repeat(5, 0).repeat(5, 1)[:height, :width]
  there_E1 = (np.arange(entities) <= objects)[:, None]
  arrays = {
    'image': rng.integers(0, 256, (height, width, channels)).astype(np.uint8),
    'mask': (255 * (ids_HW == np.arange(entities)[:, None, None])).astype(np.uint8),
    'visibility': there_E1[:, 0].astype(np.float32),
  }
  there_E1[0] = False
  for key, size in factors.items():
    arrays[key] = (there_E1 * rng.normal(size=(entities, size))).astype(np.float32)
  for key in codes:
    arrays[key] = (there_E1[:, 0] * rng.integers(1, 9, entities)).astype(np.uint8)
  return arrays, ids_HW


def proto(arrays, masks_last):
  """Returns the record as protobuf would write it."""
  example = tf_example_pb2.Example()
  for name, array in arrays.items():
    if name == 'mask':
      array = array.transpose(1, 2, 0) if masks_last else array
    feature = example.features.feature[name]
    if array.dtype == np.uint8:
      feature.bytes_list.value.extend(bytes([v]) for v in array.ravel().tolist())
    else:
      feature.float_list.value.extend(array.ravel().tolist())
  return example.SerializeToString()


def write(folder, name, count):
  """Writes the file of a config; returns its path and its records."""
  folder.mkdir(parents=True, exist_ok=True)
  path = folder / FILES[name].rpartition('/')[2]
  masks_last = name.startswith('multi_dsprites')
  records = [proto(scene(name, i)[0], masks_last) for i in range(count)]
  with gzip.open(path, 'wb', compresslevel=1) as file:
    file.writelines(pictures.tfrecord(record) for record in records)
  return path, records


def builder(folder, name, counts, **others):
  """Returns a builder of a small variant, with its file in TFDS's default folder."""
  tfds.disable_progress_bar()
  published = CONFIGS[name]
  fields = ('file', 'shape', 'entities', 'masks_last', 'factors', 'codes')
  known = {field: getattr(published, field) for field in fields}
  config = multi_object.MultiObjectConfig(
    name=f'tiny_{name}', counts=counts, **known, **others
  )
  return multi_object.MultiObject(data_dir=folder, config=config)


def prepared(folder, name, counts, records=None, **others):
  write(folder / 'downloads' / 'manual', name, records or sum(counts))
  made = builder(folder, name, counts, **others)
  made.download_and_prepare(file_format='array_record')
  return made


@pytest.mark.parametrize('name', list(NUMBERS))
def test_examples_match_the_file(tmp_path, name):
  few = name == 'clevr_with_masks'
  counts = (2, 1, 1) if few else (4, 3, 2)
  made = prepared(tmp_path, name, counts)
  _, _, factors, codes = NUMBERS[name]
  starts = np.cumsum([0, *counts])
  for i, split in enumerate(['train', 'test', 'validation']):
    examples = list(made.as_data_source(split))
    assert [e['id'] for e in examples] == list(range(*starts[i : i + 2]))
    for example in examples:
      arrays, ids_HW = scene(name, example['id'])
      np.testing.assert_array_equal(example['image'], arrays['image'])
      np.testing.assert_array_equal(example['segmentation'], ids_HW[..., None])
      assert example['segmentation'].dtype == np.uint8
      found = {key: np.array(v) for key, v in example['objects'].items()}
      there = slice(1, int(arrays['visibility'].sum()))
      want = {key: arrays[key][there] for key in (*factors, *codes)}
      if few:
        xyz = [want.pop(key) for key in ('x', 'y', 'z')]
        want['3d_coords'] = np.concatenate(xyz, axis=1)
      assert set(found) == set(want)
      for key, value in want.items():
        if value.ndim == 2 and value.shape[1] == 1:
          value = value[:, 0]
        np.testing.assert_array_equal(found[key].reshape(value.shape), value)


def test_clevr_has_the_names_of_tfds():
  features = builder('unused', 'clevr_with_masks', (1, 1, 1)).info.features['objects']
  assert set(features.feature) == {
    '3d_coords',
    'pixel_coords',
    'rotation',
    'color',
    'material',
    'shape',
    'size',
  }


def test_scenes_of_many_objects_are_left_out(tmp_path):
  # The first count includes all scenes that are examined.
  name = 'multi_dsprites_colored_on_grayscale'
  made = prepared(tmp_path, name, (12, 3, 2), records=40, max_objects=2)
  counts = [int(scene(name, i)[0]['visibility'].sum()) - 1 for i in range(40)]
  few = [i for i, count in enumerate(counts) if count <= 2]
  train = [i for i in few if i < 12]
  assert 0 < len(train) < 12
  later = [i for i in few if i >= 12]
  ids = {
    split: [e['id'] for e in made.as_data_source(split)]
    for split in ('train', 'test', 'validation')
  }
  assert ids == {'train': train, 'test': later[:3], 'validation': later[3:5]}


def test_entities_that_are_not_there_get_no_number():
  name = 'tetrominoes'
  arrays, _ = scene(name, 0)
  arrays['visibility'] = np.array([1, 0, 1, 1], np.float32)
  arrays['mask'] = np.zeros((4, 35, 35), np.uint8)
  ids_HW = np.zeros((35, 35), int)
  ids_HW[3:9, 4:20], ids_HW[20:, 30:] = 2, 3
  for e in range(4):
    arrays['mask'][e] = 255 * (ids_HW == e)
  example = multi_object.parsed(proto(arrays, False), CONFIGS[name], 'it')
  assert [o['x'] for o in example['objects']] == arrays['x'][2:, 0].tolist()
  found_HW = example['segmentation'][..., 0]
  np.testing.assert_array_equal(found_HW, np.maximum(ids_HW - 1, 0))


def test_published_configs():
  for name, (shape, entities, factors, codes) in NUMBERS.items():
    config = CONFIGS[name]
    assert (config.file, config.shape, config.entities) == (
      FILES[name],
      shape,
      entities,
    )
    assert (dict(config.factors), config.codes) == (factors, codes)
    clevr = name == 'clevr_with_masks'
    assert config.counts == (70_000 if clevr else 60_000, 320, 320)
    assert config.max_objects is None
  six = CONFIGS['clevr6_with_masks']
  assert (six.file, six.max_objects) == (FILES['clevr_with_masks'], 6)
  assert six.counts == (70_000, 320, 320)
  assert set(CONFIGS) == {*NUMBERS, 'clevr6_with_masks'}


@pytest.mark.parametrize('folder', [None, 'empty', 'other'])
def test_a_missing_file_is_reported_with_its_source(tmp_path, folder):
  manual = tmp_path / 'downloads' / 'manual'
  if folder:
    manual.mkdir(parents=True)
  if folder == 'other':
    (manual / 'photo.jpg').touch()
  made = builder(tmp_path, 'tetrominoes', (2, 1, 1))
  with pytest.raises(UserError) as caught:
    made.download_and_prepare(file_format='array_record')
  message = str(caught.value)
  assert str(manual) in message and '\n' not in message
  url = 'https://storage.googleapis.com/multi-object-datasets/tetrominoes/'
  assert f'{url}tetrominoes_train.tfrecords' in message
  assert not list(tmp_path.glob('multi_object/**/*.array_record*'))


def damaged(path, how):
  data = path.read_bytes()
  match how:
    case 'cut off':
      path.write_bytes(data[: len(data) * 2 // 3])
    case 'changed':
      plain = bytearray(gzip.decompress(data))
      plain[len(plain) * 2 // 3] ^= 1
      path.write_bytes(gzip.compress(plain))
    case 'not compressed':
      path.write_bytes(gzip.decompress(data))
    case 'cut within a record':
      path.write_bytes(gzip.compress(gzip.decompress(data)[:-9]))
    case 'cut within a header':
      plain = gzip.decompress(data)
      path.write_bytes(gzip.compress(plain + plain[:5]))


@pytest.mark.parametrize(
  'how',
  [
    'cut off',
    'changed',
    'not compressed',
    'cut within a record',
    'cut within a header',
  ],
)
def test_a_damaged_file_is_reported_and_nothing_is_written(tmp_path, how):
  path, _ = write(tmp_path / 'downloads' / 'manual', 'tetrominoes', 9)
  damaged(path, how)
  made = builder(tmp_path, 'tetrominoes', (7, 2, 1))
  with pytest.raises(UserError, match='download it again') as caught:
    made.download_and_prepare(file_format='array_record')
  assert str(caught.value).startswith(f'{path} is damaged or truncated at record ')
  assert not made.is_prepared()
  assert not [f for f in tmp_path.glob('multi_object/tiny_*/**/*') if f.is_file()]


def test_a_file_with_too_few_examples_is_reported(tmp_path):
  path, _ = write(tmp_path / 'downloads' / 'manual', 'tetrominoes', 9)
  made = builder(tmp_path, 'tetrominoes', (7, 2, 1))
  with pytest.raises(UserError, match=f'^{path} ends before validation has its 1 '):
    made.download_and_prepare(file_format='array_record')
  assert not [f for f in tmp_path.glob('multi_object/tiny_*/**/*') if f.is_file()]


def lost(arrays):
  del arrays['mask']


def shorter(arrays):
  arrays['image'] = arrays['image'][:-1]


@pytest.mark.parametrize('change', [lost, shorter])
def test_records_of_another_kind_are_reported(change):
  arrays, _ = scene('tetrominoes', 0)
  change(arrays)
  with pytest.raises(BadRecordError, match='^record 3 is not as published: '):
    multi_object.parsed(proto(arrays, False), CONFIGS['tetrominoes'], 'record 3')


@pytest.mark.parametrize(
  'record',
  [
    b'no proto',
    pictures.RECORDS[0],  # stores whole files as bytes
    b'\x0a\xff',
    b'\x0a\x80',
    b'\x08\x01',
  ],
)
def test_malformed_protos_are_reported(record):
  with pytest.raises(BadRecordError, match='is not as published'):
    multi_object.parsed(record, CONFIGS['tetrominoes'], 'it')


def test_values_match_protobuf():
  arrays, _ = scene('multi_dsprites_colored_on_colored', 3)
  record = proto(arrays, True)
  found = multi_object.values(record)
  example = tf_example_pb2.Example.FromString(record)
  assert set(found) == set(example.features.feature)
  for name, feature in example.features.feature.items():
    if found[name].dtype == np.uint8:
      assert b''.join(feature.bytes_list.value) == found[name].tobytes()
    else:
      assert found[name].dtype == np.float32
      assert list(feature.float_list.value) == found[name].tolist()


def test_the_tool_prepares_it_without_tensorflow(tmp_path):
  write(tmp_path / 'downloads' / 'manual', 'tetrominoes', 7)
  program = f"""
import runpy, sys
from big_vision_like.data.sources import multi_object
multi_object.TETROMINOES.counts = (4, 2, 1)
sys.argv = ['prepare_data', 'multi_object/tetrominoes', '--data-dir', {str(tmp_path)!r}]
runpy.run_path('tools/prepare_data.py', run_name='__main__')
assert 'tensorflow' not in sys.modules
"""
  done = subprocess.run(
    [sys.executable, '-W', 'error', '-c', program], capture_output=True, text=True
  )
  assert (done.returncode, done.stderr) == (0, '')
  assert 'train 4, test 2, validation 1' in done.stdout
  source = sources.Tfds('multi_object/tetrominoes', 'test', str(tmp_path))
  assert [source[i]['id'] for i in range(len(source))] == [4, 5]
