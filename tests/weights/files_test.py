import pathlib
import pickle
import zipfile

import ml_dtypes
import numpy as np
import pytest
import torch_archives

from big_vision_like.errors import UserError
from big_vision_like.weights import files

ARRAYS = {
  'a/b': np.arange(6, dtype=np.float32).reshape(2, 3),
  'c': np.ones(4, ml_dtypes.bfloat16),
}


class Bomb:
  """Leaves a trace where it is unpickled."""

  def __init__(self, path):
    self.path = path

  def __reduce__(self):
    return pathlib.Path.touch, (pathlib.Path(self.path),)


@pytest.mark.parametrize('suffix', ['.npz', '.safetensors'])
def test_written_and_read(suffix, tmp_path):
  path = tmp_path / f'weights{suffix}'
  transposed = ARRAYS | {'a/b': ARRAYS['a/b'].T}  # safetensors writes memory as it lies
  files.write(path, transposed)
  got = files.read(path)
  assert got.keys() == ARRAYS.keys()
  np.testing.assert_array_equal(got['a/b'], transposed['a/b'])
  np.testing.assert_array_equal(got['c'].view(ml_dtypes.bfloat16), ARRAYS['c'])
  assert [p.name for p in tmp_path.iterdir()] == [path.name]


@pytest.mark.parametrize('suffix', ['.npz', '.safetensors'])
@pytest.mark.parametrize('keep', [0, 10, 0.5, -5])
def test_cut_off(suffix, keep, tmp_path):
  path = tmp_path / f'weights{suffix}'
  files.write(path, ARRAYS)
  content = path.read_bytes()
  path.write_bytes(content[: int(keep * len(content)) if 0 < keep < 1 else keep])
  with pytest.raises(
    UserError, match=f'weights{suffix} is not a whole .*copy it again'
  ):
    files.read(path)


@pytest.mark.parametrize('suffix', files.TORCH)
def test_files_of_torch(suffix, tmp_path):
  path = tmp_path / f'weights{suffix}'
  torch_archives.save(path, {'model': {'a': ARRAYS['a/b']}, 'epoch': 3})
  got = files.read(path)
  assert list(got) == ['a']
  np.testing.assert_array_equal(got['a'], ARRAYS['a/b'])


def test_a_flipped_byte(tmp_path):
  path = tmp_path / 'weights.npz'
  files.write(path, ARRAYS)
  content = bytearray(path.read_bytes())
  where = content.index(ARRAYS['a/b'].tobytes())
  content[where + 2] ^= 1
  path.write_bytes(content)
  with pytest.raises(UserError, match=r"'a/b' is damaged \(Bad CRC.*copy it again"):
    files.read(path)


def test_pickles_are_not_executed(tmp_path):
  trace = tmp_path / 'trace'
  np.savez(tmp_path / 'bad.npz', good=np.ones(2), bad=np.array([Bomb(str(trace))]))
  with pytest.raises(UserError, match="'bad' is a pickled Python object"):
    files.read(tmp_path / 'bad.npz')
  for name in ('bad.npz', 'bad.safetensors', 'bad.pt', 'bad.pth', 'bad.bin', 'bad.pkl'):
    (tmp_path / name).write_bytes(pickle.dumps(Bomb(str(trace))))
    words = r'not a whole|it holds a pathlib.*, which is not read|is a pickle.*as \.saf'
    with pytest.raises(UserError, match=words):
      files.read(tmp_path / name)
  assert not trace.exists()


@pytest.mark.parametrize(
  'name, words',
  [('x.npz', 'not a file'), ('x.h5', 'in none of .npz, .safet')],
)
def test_no_such_file(name, words, tmp_path):
  if name == 'x.h5':
    (tmp_path / name).touch()
  with pytest.raises(UserError, match=words):
    files.read(tmp_path / name)


def test_archives_that_are_damaged_inside(tmp_path):
  path = tmp_path / 'weights.npz'
  np.savez(path, one=np.ones(2))
  whole = path.read_bytes()
  for mark, byte in ((b'PK\1\2', 0), (b'PK\1\2', 10)):  # its list, its compression
    bad = bytearray(whole)
    bad[whole.index(mark) + byte] = 99
    path.write_bytes(bad)
    with pytest.raises(UserError, match=r'weights.npz.* is damaged .*copy it again'):
      files.read(path)
  with zipfile.ZipFile(path, 'w') as archive:
    archive.writestr('one', 'text')
  with pytest.raises(UserError, match="'one' is not an array"):
    files.read(path)


def test_nan_and_infinities_are_named():
  bad = ARRAYS | {
    'half': np.array([1, np.nan], ml_dtypes.bfloat16).view('V2'),
    'whole': np.array([1, -np.inf]),
    'number': np.array(3),
    'bytes': np.zeros(2, 'V4'),
  }
  with pytest.raises(UserError, match='my.npz: NaN or infinities in half, whole$'):
    files.check_finite(bad, 'my.npz')
  files.check_finite(ARRAYS, 'my.npz')
