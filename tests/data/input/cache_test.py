import os
import pathlib
import tempfile

import numpy as np
import pytest

from big_vision_like import files
from big_vision_like.data.input import cache

ARRAYS = {'a': np.arange(5), 'b': np.array([b'x', b'yz'])}


@pytest.fixture(autouse=True)
def temporary(monkeypatch, tmp_path):
  """Sets a separate folder for temporary files and forgets earlier warnings."""
  monkeypatch.setattr(tempfile, 'tempdir', str(tmp_path))
  cache._tell_once.cache_clear()
  return tmp_path


def made(calls):
  calls.append(1)
  return ARRAYS


def got(known=1):
  """Returns the arrays, and how often they were computed."""
  calls = []
  arrays = cache.arrays(cache.file('index', known), lambda: made(calls))
  assert arrays.keys() == ARRAYS.keys()
  for name, array in ARRAYS.items():
    np.testing.assert_array_equal(arrays[name], array)
  return len(calls)


def test_arrays_are_made_once(home, capfd):
  assert [got(), got(), got(2)] == [1, 0, 1]
  assert cache.file('index', 1).parent == home / '.cache/big_vision_like/index'
  assert capfd.readouterr().err == ''


@pytest.mark.parametrize('damage', ['cut', 'empty', 'flipped', 'text', 'npy', 'locked'])
def test_damaged_files_are_made_again(damage):
  got()
  file = cache.file('index', 1)
  data = bytearray(file.read_bytes())
  match damage:
    case 'cut':
      del data[len(data) // 2 :]
    case 'empty':
      del data[:]
    case 'flipped':
      data[data.index(b'NUMPY') + 140] ^= 1
    case 'text':
      data = b'not an archive'
    case 'npy':
      np.save(file.with_suffix('.npy'), np.arange(3))
      data = file.with_suffix('.npy').read_bytes()
    case 'locked':
      data[6] |= 1  # as if the file had a password
      data[data.index(b'PK\1\2') + 8] |= 1
  file.write_bytes(data)
  assert [got(), got()] == [1, 0]


def test_every_flipped_bit_of_a_file_is_noticed_or_without_effect():
  got()
  file = cache.file('index', 1)
  data = file.read_bytes()
  for position in range(0, len(data), 7):
    changed = bytearray(data)
    changed[position] ^= 1 << position % 8
    file.write_bytes(changed)
    assert got() in (0, 1)


@pytest.mark.parametrize('where', ['/proc/nowhere', 'file', 'unknown'])
def test_without_a_home_temporary_files_are_used_with_one_warning(
  where, monkeypatch, tmp_path, capfd
):
  (tmp_path / 'file').touch()
  monkeypatch.setenv('HOME', str(tmp_path / where))
  if where == 'unknown':
    monkeypatch.setattr(pathlib.Path, 'home', unknown)
  assert [got(), got(), got(2)] == [1, 0, 1]
  told = capfd.readouterr().err
  assert told.count('\n') == 1 and 'cannot be written' in told
  assert str(tmp_path / f'big_vision_like-{os.getuid()}') in told


def unknown():
  raise RuntimeError('Could not determine home directory.')


def test_on_a_full_disk_nothing_is_kept_with_one_warning(monkeypatch, capfd):
  def full(path, arrays):
    raise OSError(28, 'No space left on device')

  monkeypatch.setattr(files, 'write_npz', full)
  assert [got(), got()] == [1, 1]
  told = capfd.readouterr().err
  assert told.count('\n') == 1 and 'No space left on device' in told


def test_a_cache_is_read_from_a_read_only_disk(monkeypatch, capfd):
  got()
  monkeypatch.setattr(cache, '_not_writable', lambda folder: 'Read-only file system')
  assert got() == 0 and capfd.readouterr().err == ''
  assert got(2) == 1
