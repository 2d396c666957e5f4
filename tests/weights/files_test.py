import json
import pathlib
import pickle
import warnings
import zipfile

import ml_dtypes
import numpy as np
import pytest
import safetensors.numpy
import torch_archives

from big_vision_like.errors import UserError
from big_vision_like.weights import files

ARRAYS = {
  'a/b': np.arange(6, dtype=np.float32).reshape(2, 3),
  'c': np.ones(4, ml_dtypes.bfloat16),
}


class Bomb:
  """An object that creates a file if it is unpickled."""

  def __init__(self, path):
    self.path = path

  def __reduce__(self):
    return pathlib.Path.touch, (pathlib.Path(self.path),)


@pytest.mark.parametrize('suffix', ['.npz', '.safetensors'])
def test_written_and_read(suffix, tmp_path):
  path = tmp_path / f'weights{suffix}'
  transposed = ARRAYS | {'a/b': ARRAYS['a/b'].T}  # safetensors writes the memory layout
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


def npy(shape, dtype="'<f4'", numbers=b''):
  """Returns a NumPy file with this header."""
  header = f"{{'descr': {dtype}, 'fortran_order': False, 'shape': {shape}, }}".encode()
  return b'\x93NUMPY\1\0' + len(header).to_bytes(2, 'little') + header + numbers


def archive(path, *members, method=zipfile.ZIP_DEFLATED):
  with zipfile.ZipFile(path, 'w', method) as file, warnings.catch_warnings():
    warnings.simplefilter('ignore')  # about repeated names
    for name, content in members:
      file.writestr(name, content)
  return path


@pytest.mark.parametrize(
  'header, words',
  [
    (npy('(10,)', numbers=bytes(44)), "'a' declares 40 bytes, but has 44"),
    (npy('(3,)', numbers=bytes(8)), "'a' declares 12 bytes, but has 8"),
    (npy('(' * 9000), "'a' has a header that does not describe an array of num"),
    (npy(' ' * 9000), "'a' has a header that does not describe an array of num"),
    (npy('(' + '1,' * 9000 + ')'), "'a' has a header of .*, which is too long"),
    (npy('(True,)', numbers=bytes(4)), "'a' has a header that does not describe an"),
    (npy('(-1,)', numbers=bytes(4)), "'a' has a header that does not describe an"),
    (npy('(1.0,)', numbers=bytes(4)), "'a' has a header that does not describe an"),
    (npy('(1,)', "[('x', '<f4')]", bytes(4)), "'a' has a header that does not desc"),
    (npy('(1,)', "'V99999999999999'"), "'a' is damaged"),
    (npy('(' + '9' * 5000 + ',)'), "'a' is damaged"),
    (npy('(0, 99999999999999999999)'), "'a' is damaged"),
    (npy('(' + '1,' * 70 + ')', numbers=bytes(4)), "'a' is damaged"),
    (npy('(1,)', "'|O'", bytes(8)), "'a' is a pickled Python object"),
    (b'', "'a' is not an array"),
  ],
)
def test_headers_that_contradict_their_content(tmp_path, header, words):
  path = archive(tmp_path / 'weights.npz', ('a.npy', header))
  with pytest.raises(UserError, match=words):
    files.read(path)


def test_headers_of_other_writers(tmp_path):
  header = b'{"shape": (2L,),"fortran_order":True , "descr":"<f4"}   \n'
  array = b'\x93NUMPY\2\0' + len(header).to_bytes(4, 'little') + header + bytes(8)
  path = archive(tmp_path / 'weights.npz', ('a.npy', array))
  with warnings.catch_warnings():
    warnings.simplefilter('ignore')  # NumPy warns about the L
    assert files.read(path)['a'].tolist() == [0, 0]


def test_archives_that_declare_more_than_their_file_can_hold(tmp_path):
  path, much = tmp_path / 'weights.npz', 2**28 + 2**20
  with (
    zipfile.ZipFile(path, 'w', zipfile.ZIP_DEFLATED, compresslevel=1) as file,
    file.open('a.npy', 'w') as member,
  ):
    member.write(npy(f'({much},)', "'|i1'"))
    for _ in range(much // 2**20):
      member.write(bytes(2**20))
  for name in ('weights.npz', 'weights.pth'):
    path = path.rename(path.with_name(name))
    with pytest.raises(UserError, match='bytes, but declares 269,'):
      files.read(path)


def test_members_of_archives(tmp_path):
  path, good = tmp_path / 'weights.npz', npy('(1,)', numbers=bytes(4))
  for names, words in (
    (('a.npy', 'a.npy'), "'a.npy' twice"),
    (('a.npy', 'a'), "'a' twice"),
    (('a' * 1001,), 'a name of length 1,001 that no model has'),
    (('\x1b[2J',), 'that no model has: .*x1b'),
    ((str(i) for i in range(10_001)), '10,001 arrays: no model has'),
  ):
    archive(path, *((name, good) for name in names), method=zipfile.ZIP_STORED)
    with pytest.raises(UserError, match=words):
      files.read(path)
  archive(path, ('a', good), method=zipfile.ZIP_LZMA)
  with pytest.raises(UserError, match="'a' is damaged .compressed by method 14"):
    files.read(path)


def entry(dtype='F32', shape=(1,), place=(0, 4)):
  return {'dtype': dtype, 'shape': shape, 'data_offsets': place}


@pytest.mark.parametrize(
  'header, words',
  [
    ({'a': entry(shape=[-1, -1])}, 'no shape or place of whole numbers'),
    ({'a': entry(shape=[True])}, 'no shape or place of whole numbers'),
    ({'a': entry(place=[0, 4, 8])}, 'no shape or place of whole numbers'),
    ({'a': None}, 'no shape or place of whole numbers'),
    ({'a': entry('F33')}, "holds 'F33', which is not sup"),
    ({'a': entry(['F32'])}, r"holds \['F32'\], which is not sup"),
    ({'a': entry(shape=[2])}, "'a' declares 8 bytes, but has 4"),
    ({'a': entry(place=[4, 0])}, "'a' declares 4 bytes, but has -4"),
    ({'a': entry(), 'b': entry()}, r'not a whole .*overlap .*copy it again'),
    ({'a': entry(place=[4, 8])}, r'not a whole .*gaps at byte 4'),
    ({'a': entry(shape=[2], place=[0, 8])}, 'not a whole .*its arrays take 8 of 4'),
    ({}, 'not a whole .*its arrays take 0 of 4'),
    ([], 'not a whole .*no names'),
    ({'a': entry(shape=[0, 2**62], place=[0, 0]), 'b': entry()}, 'not a whole'),
    ({'a': entry(shape=[1] * 100)}, 'not a whole'),
    (b'{"a": 1, "a": 1}', "the name 'a' appears twice"),
    (b'[' * 100_000, 'the header of .* is nested too deep'),
    ({'\ud800': entry()}, 'a name of length 1 that no model has'),
  ],
)
def test_headers_of_safetensors(tmp_path, header, words):
  path = tmp_path / 'weights.safetensors'
  header = header if isinstance(header, bytes) else json.dumps(header).encode()
  path.write_bytes(len(header).to_bytes(8, 'little') + header + bytes(4))
  with pytest.raises(UserError, match=words):
    files.read(path)


def test_long_headers_of_safetensors(tmp_path):
  path = tmp_path / 'weights.safetensors'
  path.write_bytes((2**63).to_bytes(8, 'little') + b'{}')
  with pytest.raises(UserError, match='its header of 9,223,.* bytes is cut off'):
    files.read(path)
  path.write_bytes((2**24 + 1).to_bytes(8, 'little') + bytes(2**24 + 1))
  with pytest.raises(UserError, match='a header of 16,777,217 bytes, which is too'):
    files.read(path)


def test_a_full_disk_is_an_error_of_the_system(tmp_path, monkeypatch):
  def full(*_, **options):
    raise safetensors.SafetensorError('I/O error: No space left (os error 28)')

  monkeypatch.setattr(safetensors.numpy, 'save_file', full)
  with pytest.raises(OSError, match='No space left on device.*a.safetensors'):
    files.write(tmp_path / 'a.safetensors', ARRAYS)
  assert not list(tmp_path.iterdir())
