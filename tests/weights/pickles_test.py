import collections
import io
import os
import pickle
import struct

import numpy as np
import pytest

from big_vision_like.errors import UserError
from big_vision_like.weights import archives, pickles

CONTENT = {
  'text': 'schön',
  'numbers': [1, -5, 2**40, 0.25, True, None],
  'pair': (1, 2),
  'array': np.arange(6, dtype=np.float32).reshape(2, 3),
  'columns': np.asfortranarray(np.arange(6.0).reshape(2, 3)),
  'empty': np.zeros((0, 7)),
  'big-endian': np.arange(4, dtype='>i4'),
  'scalar': np.float64(0.5),
  'bools': np.array([True, False]),
}


def assert_same(got, want):
  assert got.keys() == want.keys()
  for name, value in want.items():
    if isinstance(value, np.ndarray):
      np.testing.assert_array_equal(got[name], value)
      assert got[name].shape == value.shape
    else:
      assert got[name] == value


@pytest.mark.parametrize('protocol', range(5))
def test_plain_data_of_every_protocol(protocol):
  if protocol < 2:  # arrays need calls that no published file of this age has
    content = {k: v for k, v in CONTENT.items() if isinstance(v, str | list | tuple)}
  else:
    content = CONTENT
  read = pickles.load_plain(io.BytesIO(pickle.dumps(content, protocol)))
  assert_same(read, content)


def old_text(data: bytes) -> bytes:
  """Returns a string as Python 2 pickles it."""
  return b'T' + struct.pack('<i', len(data)) + data


def old_array(array: np.ndarray) -> bytes:
  """Returns an array as NumPy pickled it in Python 2, protocol 2."""
  shape = b'(' + b''.join(b'J' + struct.pack('<i', n) for n in array.shape) + b't'
  dtype = array.dtype
  kind = b'cnumpy\ndtype\n' + old_text(dtype.str[1:].encode()) + b'K\0K\1\x87R'
  state = b'(K\3' + old_text(b'<') + b'NNNJ\xff\xff\xff\xffJ\xff\xff\xff\xffK\0tb'
  return (
    b'cnumpy.core.multiarray\n_reconstruct\ncnumpy\nndarray\nK\0\x85'
    + old_text(b'b')
    + b'\x87R(K\1'
    + shape
    + kind
    + state
    + b'\x89'
    + old_text(array.tobytes())
    + b'tb'
  )


def test_arrays_of_python_2():
  array = np.linspace(-1, 1, 6).reshape(3, 2)
  data = b'\x80\2}(' + old_text(b'box\xe9') + old_array(array) + b'u.'
  want = pickle.loads(data, encoding='latin-1')
  got = pickles.load_plain(io.BytesIO(data))
  assert [*got] == [*want] == ['boxé']
  np.testing.assert_array_equal(got['boxé'], array)
  text = b"(lp0\nS'a\\x00\\xe9'\np1\na."
  assert pickles.load_plain(io.BytesIO(text)) == ['a\0é']


def test_what_occurs_twice_is_read_once():
  """Checks the limit without which a small file could fill the memory."""
  nest = ['x']
  for _ in range(200):
    nest = [nest, nest]
  got = pickles.load_plain(io.BytesIO(pickle.dumps(nest, 2)))
  assert got[0] is got[1] and got[0][1][0] is got[1][0][1]


class Call:
  def __reduce__(self):
    return os.system, ('echo no',)


class Counter(collections.Counter):
  pass


@pytest.mark.parametrize(
  'value, words',
  [
    (Call(), r'posix\.system, which is not read'),
    ([np.array([{}])], "an array of 'O8', and only numbers are read"),
    (np.array(['text']), "an array of 'U4', and only numbers are read"),
    (np.float64, 'numpy.float64, which is not read'),
    (np.ndarray, 'it holds the function numpy.ndarray'),
    (Counter('a'), 'Counter, which is not read since it may run code'),
  ],
)
def test_anything_else_is_named(value, words):
  with pytest.raises(UserError, match=words):
    pickles.load_plain(io.BytesIO(pickle.dumps(value, 2)))


def test_damaged_pickles():
  data = pickle.dumps(CONTENT, 2)
  for length in range(0, len(data), 7):
    with pytest.raises((UserError, *archives.DAMAGE)):
      pickles.load_plain(io.BytesIO(data[:length]))
  short = old_array(np.zeros(4)).replace(b'J\4\0\0\0', b'J\5\0\0\0')
  with pytest.raises(ValueError, match='cannot reshape'):
    pickles.load_plain(io.BytesIO(b'\x80\2' + short + b'.'))
  with pytest.raises(UserError, match='over 10 instructions'):
    pickles.load_plain(io.BytesIO(data), most=10)
