import gzip
import importlib.util
import json
import os
import pathlib
import shutil
import signal
import subprocess
import sys
import tarfile
import time
import zlib

import cv2
import numpy as np
import pictures
import pyarrow.parquet
import pytest
import simplejpeg
import tensorflow_datasets as tfds

from big_vision_like.data.sources import array_records
from big_vision_like.data.sources import tfds as sources
from big_vision_like.data.transforms import jpeg
from big_vision_like.errors import UserError

SCRIPT = pathlib.Path(__file__).parents[2] / 'tools' / 'prepare_data.py'


class NeedsTensorflow(tfds.core.GeneratorBasedBuilder):
  """A builder that passes arrays of pixels, like most of the TFDS catalogue."""

  VERSION = tfds.core.Version('1.0.0')

  def _info(self):
    image = tfds.features.Image(shape=(4, 4, 1))
    return tfds.core.DatasetInfo(
      builder=self, features=tfds.features.FeaturesDict({'image': image})
    )

  def _split_generators(self, dl_manager):
    return {'train': self._generate_examples()}

  def _generate_examples(self):
    yield 0, {'image': np.zeros((4, 4, 1), np.uint8)}


class Unreachable(NeedsTensorflow):
  """A builder that fails like a download without a network."""

  def _split_generators(self, dl_manager):
    raise ConnectionError('no route to host')


@pytest.fixture(scope='module')
def tool():
  found = importlib.util.spec_from_file_location('prepare_data', SCRIPT)
  module = importlib.util.module_from_spec(found)
  sys.modules['prepare_data'] = module  # dataclasses look their module up
  found.loader.exec_module(module)
  return module


def run(*arguments):
  return subprocess.run(
    [sys.executable, '-W', 'error', SCRIPT, *arguments], capture_output=True, text=True
  )


def test_prepares_then_says_it_is_there(tmp_path):
  first = run('digits', '--data-dir', tmp_path)
  assert (first.returncode, first.stderr) == (0, '')
  assert 'digits: preparing in' in first.stdout
  second = run('digits', '--data-dir', tmp_path)
  assert (second.returncode, second.stderr) == (0, '')
  lines = second.stdout.splitlines()
  place = tmp_path / 'digits' / '1.0.0'
  counts = 'train 1,347, test 450'
  assert lines[0] == f'digits: already prepared in {place} ({counts})'
  assert lines[1].split() == ['name', 'version', 'examples', 'MB', 'seconds', 'splits']
  assert lines[2].startswith('digits  1.0.0       1,797')
  assert lines[2].endswith(counts)


@pytest.mark.parametrize(
  'name, sentence',
  [
    ('digit', "There is no data set 'digit'; the nearest: digits"),
    ('zzzzzz', "There is no data set 'zzzzzz'; see https://"),
    ('glyphs/33', "'glyphs' has no variant 'glyphs/33'; the nearest: glyphs/32"),
    ('glyphs/32:9.9.9', 'cannot be loaded at version 9.9.9, only: 1.0.0'),
  ],
)
def test_wrong_names_end_with_a_sentence_before_any_work(
  tool, capsys, tmp_path, name, sentence
):
  with pytest.raises(SystemExit) as stop:
    tool.main(['digits', name, '--data-dir', str(tmp_path)])
  assert stop.value.code == 2
  captured = capsys.readouterr()
  assert sentence in captured.err
  assert len(captured.err.splitlines()) == 1
  assert captured.out == ''
  assert not (tmp_path / 'digits').exists()


def test_a_builder_that_needs_tensorflow_says_so(tool, monkeypatch, tmp_path):
  monkeypatch.setitem(sys.modules, 'tensorflow', None)
  with pytest.raises(UserError, match=r"pip install -e '\.\[tf\]'"):
    tool.prepare('needs_tensorflow', str(tmp_path))
  assert not list(tmp_path.glob('needs_tensorflow/*'))


def test_a_failed_download_is_one_sentence(tool, capsys, tmp_path):
  with pytest.raises(SystemExit) as stop:
    tool.main(['unreachable', '--data-dir', str(tmp_path)])
  assert stop.value.code == 1
  error = capsys.readouterr().err
  assert error == 'unreachable was not prepared: no route to host\n'


def test_an_interrupted_preparation_starts_again(tool, monkeypatch, tmp_path):
  from big_vision_like.data.procedural.digits import Digits

  original = Digits._generate_examples

  def interrupted(self, *arguments):
    for i, item in enumerate(original(self, *arguments)):
      if i == 20:
        raise KeyboardInterrupt
      yield item

  monkeypatch.setattr(Digits, '_generate_examples', interrupted)
  with pytest.raises(SystemExit) as stop:
    tool.main(['digits', '--data-dir', str(tmp_path)])
  assert stop.value.code == 130
  assert not list((tmp_path / 'digits').glob('*'))
  monkeypatch.undo()
  assert tool.prepare('digits', str(tmp_path)).splits == {'train': 1347, 'test': 450}


def test_leftovers_of_a_killed_run_are_not_taken_for_data(tool, capsys, tmp_path):
  stale = tmp_path / 'digits' / 'incomplete.ABCDEF_1.0.0'
  stale.mkdir(parents=True)
  (stale / 'dataset_info.json').write_text('{')
  assert tool.prepare('digits', str(tmp_path)).splits['train'] == 1347
  assert f'{stale} was left by a run that was killed' in capsys.readouterr().out


def test_data_in_another_format_is_refused(tool, monkeypatch, tmp_path):
  from big_vision_like.data.procedural.digits import Digits

  tool.prepare('digits', str(tmp_path))
  info = tmp_path / 'digits' / '1.0.0' / 'dataset_info.json'
  info.write_text(info.read_text().replace('array_record', 'riegeli'))
  with pytest.raises(UserError, match='stored as riegeli'):
    tool.prepare(Digits.name, str(tmp_path))


def test_help_does_not_load_tfds():
  program = (
    'import runpy, sys\n'
    f'sys.argv = ["prepare_data", "--help"]\n'
    'try:\n'
    f'  runpy.run_path({str(SCRIPT)!r}, run_name="__main__")\n'
    'except SystemExit:\n'
    '  pass\n'
    'assert not {"tensorflow_datasets", "jax", "numpy"} & set(sys.modules)\n'
  )
  subprocess.run([sys.executable, '-c', program], check=True, capture_output=True)


@pytest.fixture
def home(monkeypatch, tmp_path):
  monkeypatch.setenv('HOME', str(tmp_path / 'home'))


@pytest.fixture
def convert(tool, home, tmp_path):
  """Returns a function that converts in this process; it returns the new source."""

  def call(source, *words, name='tiny', split='train'):
    arguments = ['--from', source, '--name', name, '--split', split]
    arguments += ['--data-dir', str(tmp_path / 'data'), '--workers', '1', *words]
    tool.main(arguments)
    return sources.Tfds(name, split, data_dir=str(tmp_path / 'data'))

  return call


def written(kind, folder):
  """Writes the twenty pictures in a format; returns the argument of `--from`."""
  folder.mkdir()
  match kind:
    case 'folder':
      pictures.write_folders(folder)
      return f'folder:{folder}'
    case 'tar':
      pictures.write_tars(folder)
      return f'tar:{folder}/a-{{000..001}}.tar'
    case 'parquet':
      pictures.write_parquet(folder)
    case 'tfrecord':
      pictures.write_tfrecords(folder)
    case 'array_record':
      pictures.write_array_records(folder)
    case 'tfds':
      pictures.write_tfds(folder, 'tfrecord', 'other')
      return f'tfds:{folder}/other/1.0.0'
  return f'{kind}:{folder}/*'


def by_id(source):
  return sorted((source[i] for i in range(len(source))), key=lambda e: e['id'])


def names_and_inodes(folder):
  return {file.name: file.stat().st_ino for file in folder.glob('*array_record*')}


BMP = cv2.imencode('.bmp', np.zeros((4, 5, 3), np.uint8))[1].tobytes()
KINDS = ['folder', 'tar', 'parquet', 'tfrecord', 'array_record', 'tfds']


@pytest.mark.parametrize('kind', KINDS)
def test_converts_every_format(convert, capsys, tmp_path, kind):
  source = convert(written(kind, tmp_path / 'from'), '--shards', '3')
  examples = by_id(source)
  assert len(examples) == 20
  for example, want in zip(examples, pictures.EXAMPLES, strict=True):
    assert {k: example[k] for k in want} == want
  assert [source[i]['id'] for i in range(20)] != list(range(20))  # shuffled
  known = kind in ('folder', 'parquet', 'tfds')
  assert source.label_names == (pictures.NAMES if known else None)
  folder = tmp_path / 'data' / 'tiny' / '1.0.0'
  assert len(list(folder.glob('tiny-train.array_record-0000?-of-00003'))) == 3
  assert not list(folder.glob('*.part')) and not list(folder.glob('*unpacked'))
  assert source.problems() == []
  assert 'tensorflow' not in sys.modules
  capsys.readouterr()
  before = names_and_inodes(folder)
  convert(written(kind, tmp_path / 'from2').replace('from2', 'from'), '--shards', '3')
  assert 'tiny: already prepared' in capsys.readouterr().out
  assert names_and_inodes(folder) == before


def test_labels_and_keys_are_given_names(convert, tmp_path):
  (tmp_path / 'names').write_bytes(b'\xef\xbb\xbfx\r\ny\r\nz\r\n\r\n')
  words = [
    '--labels',
    str(tmp_path / 'names'),
    '--keys',
    'label=label',
    'picture=image',
  ]
  source = convert(written('tfrecord', tmp_path / 'from'), *words)
  assert source.label_names == ['x', 'y', 'z']
  assert source.features.keys() == {'label', 'picture'}
  assert [source[i]['picture'] for i in range(3)]


@pytest.mark.parametrize(
  'kind, compress',
  [('tar', gzip.compress), ('tfrecord', gzip.compress), ('tfrecord', zlib.compress)],
)
def test_compressed_files_are_converted(convert, tmp_path, kind, compress):
  source = written(kind, tmp_path / 'from')
  for file in (tmp_path / 'from').iterdir():
    data = file.read_bytes()
    file.write_bytes(compress(data[:1000]) + compress(data[1000:]))
  for _ in range(2):
    examples = by_id(convert(source))
    assert [e['image'] for e in examples] == [e['image'] for e in pictures.EXAMPLES]
  assert not list((tmp_path / 'data').rglob('*unpacked'))
  last = sorted((tmp_path / 'from').iterdir())[-1]
  last.write_bytes(last.read_bytes()[:-20])
  with pytest.raises(SystemExit):
    convert(source, name='cut')
  assert not list((tmp_path / 'data').rglob('cut-train.array_record*'))


def test_splits_share_features_and_classes(convert, tmp_path, capsys):
  convert(written('folder', tmp_path / 'from'))
  # One class, the first, is missing in this split.
  place = tmp_path / 'val' / 'cat'
  place.mkdir(parents=True)
  (place / '0.png').write_bytes(pictures.EXAMPLES[18]['image'])
  test = convert(f'folder:{tmp_path}/val', split='validation')
  assert test[0]['label'] == 2 and test.label_names == pictures.NAMES
  assert len(sources.Tfds('tiny', 'train', data_dir=test.data_dir)) == 20
  with pytest.raises(SystemExit):
    convert(written('tfrecord', tmp_path / 'other'), split='test')
  assert 'has other features or classes' in capsys.readouterr().err


def test_another_input_is_refused(convert, tmp_path, capsys):
  convert(written('array_record', tmp_path / 'from'))
  with pytest.raises(SystemExit):
    convert(written('tfrecord', tmp_path / 'other'))
  assert 'begun with other input, files' in capsys.readouterr().err
  with pytest.raises(SystemExit):
    convert(f'array_record:{tmp_path}/from/*', '--resize-small', '8')
  assert 'begun with other shrink' in capsys.readouterr().err


def test_bad_records_are_listed_and_never_dropped_silently(convert, tmp_path, capsys):
  source = written('parquet', tmp_path / 'from').replace('*', '*.parquet')
  file = sorted((tmp_path / 'from').iterdir())[0]
  table = pyarrow.parquet.read_table(file)
  rows = table.to_pylist()
  rows[2]['image'] = {'bytes': b'', 'path': None}
  rows[5]['label'] = 3
  rows[7]['id'] = None
  pyarrow.parquet.write_table(pyarrow.Table.from_pylist(rows, table.schema), file)
  with pytest.raises(SystemExit) as stop:
    convert(source, '--shards', '2')
  assert stop.value.code == 1
  error = capsys.readouterr().err
  assert '3 of 20 examples are bad, more than --bad-share 0;' in error
  share = error.split('--bad-share ')[-1].split()[0]
  folder = tmp_path / 'data' / 'tiny' / '1.0.0'
  listed = (folder / 'tiny-train.bad_records.txt').read_text().splitlines()
  assert [line.split('\t')[0] for line in listed] == ['2', '5', '7']
  assert 'Class label 3' in listed[1] and 'example 5' in listed[1]
  assert not (folder / 'dataset_info.json').exists()
  before = names_and_inodes(folder)
  source = convert(source, '--bad-share', share)
  assert 'bad examples left out: 3.' in capsys.readouterr().out
  after = names_and_inodes(folder)
  assert after.items() <= before.items() and len(after) == 2
  ids = sorted(source[i]['id'] for i in range(len(source)))
  assert ids == sorted({*range(20)} - {2, 5, 7})


def test_images_are_shrunk(convert, tmp_path):
  rng = np.random.default_rng(0)
  place = tmp_path / 'from' / 'a'
  place.mkdir(parents=True)
  small = simplejpeg.encode_jpeg(rng.integers(0, 256, (20, 40, 3)).astype(np.uint8))
  large = simplejpeg.encode_jpeg(np.full((60, 90, 3), (200, 100, 50), np.uint8))
  (place / '0.jpg').write_bytes(small)
  (place / '1.jpg').write_bytes(large)
  (place / '2.jpg').write_bytes(large[:30])
  words = ['--resize-small', '30', '--bad-share', '0.4', '--quality', '95']
  examples = by_id(convert(f'folder:{tmp_path}/from', *words))
  assert [e['id'] for e in examples] == [0, 1]
  assert examples[0]['image'] == small
  assert not jpeg.read_header(small).interval
  assert jpeg.read_header(examples[1]['image']).cuttable
  pixels = simplejpeg.decode_jpeg(examples[1]['image'])
  assert pixels.shape == (30, 45, 3)
  assert np.abs(pixels.astype(int) - (200, 100, 50)).max() <= 3


@pytest.mark.skipif(
  shutil.which('jpegtran') is None, reason='jpegtran (libjpeg-turbo) is not installed'
)
def test_restart_markers_are_inserted(convert, capsys, tmp_path):
  rng = np.random.default_rng(0)
  place = tmp_path / 'from' / 'a'
  place.mkdir(parents=True)
  pixels = rng.integers(0, 256, (60, 90, 3)).astype(np.uint8)
  encoded = simplejpeg.encode_jpeg(pixels)
  (place / '0.jpg').write_bytes(encoded)
  (place / '1.png').write_bytes(pictures.EXAMPLES[18]['image'])
  (place / '2.jpg').write_bytes(encoded[:-30])
  words = ['--restarts', '--bad-share', '0.4']
  first, second = by_id(convert(f'folder:{tmp_path}/from', *words))
  assert jpeg.read_header(first['image']).interval == 6  # a whole row
  np.testing.assert_array_equal(
    simplejpeg.decode_jpeg(first['image']), simplejpeg.decode_jpeg(encoded)
  )
  assert second['image'] == pictures.EXAMPLES[18]['image']
  capsys.readouterr()
  with pytest.raises(SystemExit):
    convert(f'folder:{tmp_path}/from', *words[1:])
  assert 'begun with other restarts' in capsys.readouterr().err


def test_restart_markers_need_a_program(tool, home, capsys, tmp_path, monkeypatch):
  monkeypatch.setenv('PATH', str(tmp_path))
  with pytest.raises(SystemExit) as stop:
    tool.main(['--from', f'folder:{tmp_path}', '--name', 'a', '--restarts'])
  assert stop.value.code == 1
  assert 'libjpeg-turbo-progs' in capsys.readouterr().err


@pytest.mark.parametrize(
  'words, sentence',
  [
    (
      ['--from', 'zip:a', '--name', 'a'],
      '--from zip:a: give KIND:FILES, with a kind of folder, tar',
    ),
    (['--from', 'folder:{}/nowhere', '--name', 'a'], 'there is no folder'),
    (['--from', 'tar:{}/*.tar', '--name', 'a'], 'no file matches'),
    (['--from', 'folder:{}', '--name', 'A b'], '--name A b: give a word'),
    (['--from', 'tfds:{}', '--name', 'a'], 'has no dataset_info.json'),
    (['--from', 'tfds:{}/damaged', '--name', 'a'], 'is not in the layout of TFDS'),
    (
      ['--from', 'folder:{}', '--name', 'a', '--dots', 'last'],
      '--dots cannot be used with fol',
    ),
    (
      ['--from', 'tar:{}/a', '--name', 'a', '--labels', '{}/none'],
      'none cannot be read',
    ),
    (
      ['--from', 'tar:{}/a', '--name', 'a', '--labels', '{}/twice'],
      "'x' again in line 3",
    ),
    (['--from', 'tar:{}/a', '--name', 'a', '--labels', '{}/gap'], 'no name in line 2'),
    (
      ['--from', 'tar:{}/a', '--name', 'a', '--labels', '/dev/zero'],
      '/dev/zero cannot be read: It is a device',
    ),
    (
      ['--from', 'folder:{}', '--name', 'a', '--version', '-1'],
      '--version -1: give three numbers, as 1.0.0',
    ),
    (
      ['--from', 'folder:{}', '--name', 'a', '--resize-small', '0'],
      '--resize-small 0: give 1 pixel or more',
    ),
  ],
)
def test_mistakes_end_with_a_sentence(tool, home, capsys, tmp_path, words, sentence):
  words = [word.format(tmp_path) for word in words]
  (tmp_path / 'damaged').mkdir()
  (tmp_path / 'damaged' / 'dataset_info.json').write_text('{"name": ')
  (tmp_path / 'twice').write_text('x\ny\nx\n')
  (tmp_path / 'gap').write_text('x\n\ny\n')
  with pytest.raises(SystemExit) as stop:
    tool.main([*words, '--data-dir', str(tmp_path / 'data')])
  assert stop.value.code == 1
  error = capsys.readouterr().err
  assert sentence in error and len(error.splitlines()) == 1


def test_a_place_that_cannot_be_written_is_one_sentence(tool, home, capsys, tmp_path):
  (tmp_path / 'file').touch()
  words = ['--from', written('folder', tmp_path / 'from'), '--name', 'a']
  with pytest.raises(SystemExit) as stop:
    tool.main([*words, '--data-dir', str(tmp_path / 'file')])
  assert stop.value.code == 1
  error = capsys.readouterr().err
  assert error == f'{tmp_path}/file/a/1.0.0: Not a directory\n'


def test_names_in_texts_become_classes_and_omissions_are_reported(
  convert, capsys, tmp_path
):
  with tarfile.open(tmp_path / 'a.tar', 'w') as tar:
    for i in range(4):
      for ending, data in (('bmp', BMP), ('cls', b'\xef\xbb\xbf' + b'ab'[i % 2 :][:1])):
        pictures.add(tar, f'v1.{i}.{ending}', data)
    pictures.add(tar, '__MACOSX/._x.bmp')
  source = convert(f'tar:{tmp_path}/a.tar', '--dots', 'last')
  assert source.label_names == ['a', 'b']
  found = sorted((e['__key__'], e['label'], e['image']) for e in source)
  assert found == [(f'v1.{i}'.encode(), i % 2, BMP) for i in range(4)]
  assert 'left out: hidden files (1)' in capsys.readouterr().out


def test_names_or_from_is_needed(tool, capsys):
  for words in ([], ['digits', '--from', 'tar:a', '--name', 'a']):
    with pytest.raises(SystemExit) as stop:
      tool.main(words)
    assert stop.value.code == 2
    assert 'give either names of data sets or --from' in capsys.readouterr().err


def test_a_killed_conversion_resumes(convert, capsys, tmp_path):
  place = tmp_path / 'from' / 'a'
  place.mkdir(parents=True)
  pixels = np.random.default_rng(0).integers(0, 256, (600, 500, 3)).astype(np.uint8)
  encoded = simplejpeg.encode_jpeg(pixels)
  for i in range(160):
    (place / f'{i:03d}.jpg').write_bytes(encoded)
  words = ['--shards', '40', '--resize-small', '200']
  command = [sys.executable, SCRIPT, '--from', f'folder:{place.parent}', '--name']
  command += ['tiny', '--data-dir', tmp_path / 'data', '--workers', '2', *words]
  folder = tmp_path / 'data' / 'tiny' / '1.0.0'
  shards = 'tiny-train.array_record-000??-of-00040'

  with subprocess.Popen(command, stdout=subprocess.DEVNULL) as process:
    while len(list(folder.glob(shards))) < 2:
      assert process.poll() is None
      time.sleep(0.005)
    os.kill(process.pid, signal.SIGKILL)
  assert not (folder / 'dataset_info.json').exists()
  time.sleep(1)  # its workers notice and end
  there = {file: file.stat().st_ino for file in folder.glob(shards)}
  assert 2 <= len(there) < 40
  source = convert(f'folder:{place.parent}', *words)
  todo = 160 - 4 * len(there)
  assert capsys.readouterr().out.startswith(f'tiny train: writing {todo} examples\n')
  assert all(file.stat().st_ino == inode for file, inode in there.items())
  assert not list(folder.glob('*.part'))
  assert sorted(source[i]['id'] for i in range(len(source))) == list(range(160))
  plan = json.loads((folder / 'tiny-train.plan.json').read_text())
  assert (plan['shards'], plan['examples']) == (40, 160)
  assert (
    array_records.count(str(folder / 'tiny-train.array_record-00039-of-00040')) == 4
  )
