"""Tests of TensorFlow checkpoints; `tf.compat.v1.train.Saver` 2.21 wrote the files."""

import shutil
import struct

import ml_dtypes
import numpy as np
import pytest

from big_vision_like.errors import UserError
from big_vision_like.ops import crc32c
from big_vision_like.weights import files, published, tf_checkpoint

GOLDEN = 'tests/golden/tf_checkpoint'


@pytest.fixture
def index(tmp_path):
  for end in ('index', 'data-00000-of-00001'):
    shutil.copy(f'{GOLDEN}.{end}', tmp_path / f'model.ckpt.{end}')
  return tmp_path / 'model.ckpt.index'


def test_all_types():
  arrays, told = files.read_told(f'{GOLDEN}.index')
  rng = np.random.default_rng(0)
  kernel = 'efficientnet-b0/stem/conv2d/kernel'
  want = {
    kernel: rng.normal(size=(3, 3, 3, 4)).astype('f4'),
    f'{kernel}/ExponentialMovingAverage': rng.normal(size=(3, 3, 3, 4)).astype('f4'),
    'half': rng.normal(size=5).astype('f2'),
    'double': np.zeros((2, 0, 3)),
    'bfloat': rng.normal(size=4).astype('f4').astype(ml_dtypes.bfloat16),
    'global_step': np.int64(1234),
    'int32': np.arange(-3, 4, dtype='i4'),
    **{f'many/v{i:03d}': np.full(2, i, 'f4') for i in range(3)},
  }
  assert arrays.keys() == want.keys()
  for name, array in want.items():
    assert arrays[name].dtype == array.dtype, name
    np.testing.assert_array_equal(arrays[name], array, err_msg=name)
  assert told == ('left out text: text',)


def test_a_folder_or_the_name_of_a_checkpoint_finds_it(index):
  for path in (index, index.with_suffix(''), index.parent):
    with pytest.raises(UserError, match=r'model\.ckpt\.index has weights of an unkn'):
      published.read(path)
  shutil.copy(index, index.with_name('model.ckpt-7.index'))
  with pytest.raises(UserError, match='has no model.safetensors: name a file'):
    published.read(index.parent)


@pytest.mark.parametrize('end', ['index', 'data-00000-of-00001'])
def test_flipped_bytes_and_cuts(end, index):
  path = index.with_suffix(f'.{end}')
  content = path.read_bytes()
  want = files.read(index)
  for i in range(len(content)):
    path.write_bytes(content[:i] + bytes([content[i] ^ 0x15]) + content[i + 1 :])
    try:
      got = files.read(index)
    except UserError as error:
      assert 'model.ckpt' in str(error)
    else:  # unused bytes: in texts, and zeros at the end
      for name, array in want.items():
        np.testing.assert_array_equal(got[name], array, err_msg=f'{name}, byte {i}')
  path.write_bytes(content[:-20])
  with pytest.raises(UserError, match='model.ckpt.*copy'):
    files.read(index)


def test_data_that_are_missing(index):
  index.with_suffix('.data-00000-of-00001').unlink()
  with pytest.raises(UserError, match='data-00000-of-00001 is missing: copy it next'):
    files.read(index)


def varint(number):
  out = b''
  while number > 127:
    out, number = out + bytes([number & 127 | 128]), number >> 7
  return out + bytes([number])


def table(rows, packed=lambda block: (block, 0)):
  """Returns a LevelDB table of one block in which keys share no prefixes."""

  def block(rows):
    entries = [
      b'\0' + varint(len(key)) + varint(len(value)) + key + value for key, value in rows
    ]
    content, kind = packed(b''.join(entries) + struct.pack('<II', 0, 1))
    content += bytes([kind])
    return content + struct.pack('<I', crc32c.masked(content))

  first = block(rows)
  handle = varint(0) + varint(len(first) - 5)
  second = block([(b'z', handle)])
  place = varint(len(first)) + varint(len(second) - 5)
  footer = (varint(0) * 2 + place).ljust(40, b'\0')
  return first + second + footer + struct.pack('<Q', 0xDB4775248B80FB57)


def proto(**fields):
  """Returns a proto of numbers and bytes; names are f and the number of the field."""
  out = b''
  for name, value in fields.items():
    number = int(name[1:])
    if isinstance(value, bytes):
      out += varint(number << 3 | 2) + varint(len(value)) + value
    elif number == 6:
      out += varint(number << 3 | 5) + struct.pack('<I', value)
    else:
      out += varint(number << 3) + varint(value)
  return out


def checkpoint(folder, name=b'a', header=None, packed=lambda x: (x, 0), **changes):
  data = np.arange(6, dtype='<f4').tobytes()
  (folder / 'x.data-00000-of-00001').write_bytes(data)
  shape = proto(f2=proto(f1=2)) + proto(f2=proto(f1=3))
  entry = dict(f1=1, f2=shape, f4=0, f5=24, f6=crc32c.masked(data)) | changes
  header = dict(f1=1) if header is None else header
  rows = [(b'', proto(**header)), (name, proto(**entry))]
  (folder / 'x.index').write_bytes(table(rows, packed))
  return folder / 'x.index'


BAD = {
  'shape': (dict(f5=20), r"'a' is damaged \(20 bytes for shape \(2, 3\)\)"),
  'place': (dict(f4=4), r"'a' is damaged \(x.data-00000-of-00001 is cut off\)"),
  'checksum': (dict(f6=5), r"'a' is damaged \(its checksum is wrong\)"),
  'more': (dict(f5=10**15), r'declares more bytes than x.data-00000-of-00001 has'),
  'type': (dict(f1=8), r"'a' is damaged \(of type 8, which is not supported\)"),
  'file': (dict(f3=1), r"'a' is damaged \(it is in file 1 of 1\)"),
  'parts': (dict(f7=b''), "'a' is stored in parts"),
  'negative': (dict(f4=2**64 - 1), 'field 4 of an entry is not a number of'),
  'bytes': (dict(f5=b'24'), 'field 5 of an entry is not a number of'),
  'order': (dict(header=dict(f1=1, f2=1)), 'its numbers are big-endian'),
  'files': (dict(header=dict(f1=0)), 'it declares 0 files'),
  'name': (dict(name=b'a\n'), 'has a name of length 2 that no model has'),
  'no text': (dict(name=b'\xff'), 'is not a whole index of a TensorFlow checkpoint'),
  'packed': (dict(packed=lambda x: (x, 2)), 'a block is packed by method 2'),
}


@pytest.mark.parametrize('case', BAD)
def test_bad_input(case, tmp_path):
  changes, message = BAD[case]
  with pytest.raises(UserError, match=message):
    files.read(checkpoint(tmp_path, **changes))


def literal(content):
  """Returns up to 256 bytes packed by Snappy as a literal, without repetition."""
  return bytes([60 << 2, len(content) - 1]) + content


def test_blocks_of_snappy(tmp_path):
  got = files.read(
    checkpoint(tmp_path, packed=lambda x: (varint(len(x)) + literal(x), 1))
  )
  np.testing.assert_array_equal(got['a'], np.arange(6).reshape(2, 3))
  # Copies of each kind: one, two and four bytes of offset, and one that overlaps
  # itself.
  packed = b'\x17' + bytes([2 << 2]) + b'abc'
  packed += bytes([2 << 2 | 1, 3]) + bytes([8 << 2 | 2, 9, 0])
  packed += bytes([4 << 2 | 3, 1, 0, 0, 0])
  assert tf_checkpoint._unsnapped(packed) == b'abc' * 3 + b'abcabcabc' + b'c' * 5
  for broken in (packed[:-1], packed[:5], b'\x30' + packed[1:], b'\x05\x01\x03abc'):
    with pytest.raises((ValueError, IndexError)):
      tf_checkpoint._unsnapped(broken)
