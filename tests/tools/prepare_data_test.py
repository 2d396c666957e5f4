import importlib.util
import pathlib
import subprocess
import sys

import numpy as np
import pytest
import tensorflow_datasets as tfds

from big_vision_like.errors import UserError

SCRIPT = pathlib.Path(__file__).parents[2] / 'tools' / 'prepare_data.py'


class NeedsTensorflow(tfds.core.GeneratorBasedBuilder):
  """Hands over pixels, as most of the TFDS catalogue does."""

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
  """Fails as a download without network does."""

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


def test_an_interrupted_preparation_is_begun_again(tool, monkeypatch, tmp_path):
  from big_vision_like.data.digits import Digits

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
  from big_vision_like.data.digits import Digits

  tool.prepare('digits', str(tmp_path))
  info = tmp_path / 'digits' / '1.0.0' / 'dataset_info.json'
  info.write_text(info.read_text().replace('array_record', 'tfrecord'))
  with pytest.raises(UserError, match='stored as tfrecord'):
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
