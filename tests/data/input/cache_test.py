import numpy as np
import pytest

from big_vision_like.data.input import cache


@pytest.fixture
def made(tmp_path):
  """Returns a file and a function that makes its arrays, with the number of calls."""

  def make():
    make.calls += 1
    return {'sizes': np.arange(600, dtype=np.int32)}

  make.calls = 0
  return tmp_path / 'kept' / 'sizes.npz', make


def assert_made(file, make, calls):
  found = cache.arrays(file, make)
  assert make.calls == calls and found.keys() == {'sizes'}
  np.testing.assert_array_equal(found['sizes'], np.arange(600, dtype=np.int32))


def test_arrays_are_made_once(made):
  file, make = made
  assert_made(file, make, 1)
  assert_made(file, make, 1)


@pytest.mark.parametrize('damage', ['cut', 'flipped', 'empty', 'other'])
def test_a_damaged_file_is_made_again(made, damage):
  file, make = made
  assert_made(file, make, 1)
  content = bytearray(file.read_bytes())
  content[len(content) // 2] ^= 1
  bad = {'cut': content[:900], 'flipped': content, 'empty': b'', 'other': b'x' * 99}
  file.write_bytes(bad[damage])
  assert_made(file, make, 2)
  assert_made(file, make, 2)


def test_what_a_killed_process_left_is_removed(made):
  file, make = made
  file.parent.mkdir()
  part = file.with_name(f'{file.name}.0123abcd.part')
  other = file.with_name('other.npz.0123abcd.part')
  for path in (part, other):
    path.write_text('half')
  assert_made(file, make, 1)
  assert not part.exists() and other.exists()


def test_a_place_where_nothing_can_be_kept(made, tmp_path):
  file, make = made
  (tmp_path / 'kept').write_text('a file where a folder should be')
  assert_made(file, make, 1)
  assert_made(file, make, 2)
