"""Checkpoints of TensorFlow: NAME.index, and NAME.data-00000-of-00001 next to it.

The index is a LevelDB table that maps names to protos with the location of an array in
the other files (tensorflow/core/protobuf/tensor_bundle.proto). Everything in it is
validated before use, and checksums are compared.
"""

import math
import os
import pathlib
import struct
from collections.abc import Iterator
from typing import Any, NamedTuple

import ml_dtypes
import numpy as np

from big_vision_like.errors import UserError, listed
from big_vision_like.ops import crc32c
from big_vision_like.weights import archives

SUFFIX = '.index'
# Numbers of TensorFlow's DataType, without text.
_DTYPES = {
  1: np.dtype('<f4'),
  2: np.dtype('<f8'),
  3: np.dtype('<i4'),
  4: np.dtype('u1'),
  5: np.dtype('<i2'),
  6: np.dtype('i1'),
  9: np.dtype('<i8'),
  10: np.dtype('bool'),
  14: np.dtype(ml_dtypes.bfloat16),
  19: np.dtype('<f2'),
}
_TEXT = 7
_MAGIC = 0xDB4775248B80FB57
_FOOTER, _TRAILER = 48, 5  # bytes at the end of a table, and of each block
_LARGEST = 2**26  # bytes of an index, far more than any model needs
# Errors from parsing damaged bytes.
_DAMAGE = (ValueError, IndexError, OverflowError, struct.error)


class Entry(NamedTuple):
  """An array's type and shape, its file and place in it, and its checksum."""

  dtype: int
  shape: tuple[int, ...]
  file: int
  offset: int
  size: int
  checksum: int
  in_parts: bool


def read(path: str | os.PathLike) -> tuple[dict[str, np.ndarray], tuple[str, ...]]:
  """Reads the arrays of a checkpoint; also returns sentences about skipped entries.

  `path` is the path of the index. Raises a `UserError` for an incomplete checkpoint.
  """
  path = pathlib.Path(path)
  size = path.stat().st_size
  if size > _LARGEST:
    raise UserError(f'{path} has {size:,} bytes: no index of a checkpoint is so large')
  try:
    count, entries = _entries(path.read_bytes())
  except _DAMAGE as error:
    raise UserError(
      f'{path} is not a whole index of a TensorFlow checkpoint ({error}): copy it again'
    ) from error
  archives.check_names(entries, path)
  data = [path.with_suffix(f'.data-{i:05d}-of-{count:05d}') for i in range(count)]
  for file in data:
    if not file.is_file():
      raise UserError(f'{file} is missing: copy it next to {path.name}')
  sizes = [file.stat().st_size for file in data]
  if sum(entry.size for entry in entries.values()) > sum(sizes):
    raise UserError(
      f'{path} declares more bytes than {data[0].name} has: copy both again'
    )
  texts = [name for name, entry in entries.items() if entry.dtype == _TEXT]
  arrays = {}
  for name, entry in entries.items():
    if entry.dtype == _TEXT:
      continue
    if entry.in_parts:
      raise UserError(
        f'{path}: {name!r} is stored in parts (a partitioned variable), which is not'
        ' supported'
      )
    try:
      if entry.file >= count:
        raise ValueError(f'it is in file {entry.file} of {count}')
      arrays[name] = _array(data[entry.file], sizes[entry.file], entry)
    except _DAMAGE as error:
      raise UserError(
        f'{path}: {name!r} is damaged ({error}): copy the checkpoint again'
      ) from error
  return arrays, (f'left out text: {listed(texts)}',) if texts else ()


def _array(file: pathlib.Path, there: int, entry: Entry) -> np.ndarray:
  """Reads one array, if its size matches its shape and the file contains it."""
  if entry.dtype not in _DTYPES:
    raise ValueError(f'of type {entry.dtype}, which is not supported')
  dtype = _DTYPES[entry.dtype]
  if math.prod(entry.shape) * dtype.itemsize != entry.size:
    raise ValueError(f'{entry.size:,} bytes for shape {entry.shape}')
  if entry.offset + entry.size > there:
    raise ValueError(f'{file.name} is cut off')
  with file.open('rb') as opened:
    opened.seek(entry.offset)
    content = opened.read(entry.size)
  if crc32c.masked(content) != entry.checksum:
    raise ValueError('its checksum is wrong')
  return np.frombuffer(content, dtype).reshape(entry.shape)


def _entries(index: bytes) -> tuple[int, dict[str, Entry]]:
  """Returns the number of data files, and their entries by name."""
  if len(index) < _FOOTER:
    raise ValueError('it is cut off')
  footer = index[-_FOOTER:]
  if int.from_bytes(footer[-8:], 'little') != _MAGIC:
    raise ValueError('it does not have the ending of an index')
  _, place = _handle(footer, 0)  # summaries of other tables
  (offset, size), _ = _handle(footer, place)
  count, found = None, {}
  for _, value in _rows(_block(index, offset, size)):
    (offset, size), _ = _handle(value, 0)
    for key, proto in _rows(_block(index, offset, size)):
      fields = _fields(proto)
      if not key:  # the first entry
        count = _number(fields, 1)
        if _number(fields, 2):
          raise ValueError('its numbers are big-endian')
      elif key[0]:  # names of partial arrays begin with a zero
        found[key.decode()] = _entry(fields)
  if count is None or not 1 <= count <= archives.MOST:
    raise ValueError(f'it declares {count} files')
  return count, found


def _entry(fields: dict[int, list[Any]]) -> Entry:
  """Reads a BundleEntryProto."""
  dims = [_fields(dim) for dim in _fields(fields.get(2, [b''])[-1]).get(2, [])]
  return Entry(
    dtype=_number(fields, 1),
    shape=tuple(_number(dim, 1) for dim in dims),
    file=_number(fields, 3),
    offset=_number(fields, 4),
    size=_number(fields, 5),
    checksum=_number(fields, 6),
    in_parts=7 in fields,
  )


def _number(fields: dict[int, list[Any]], field: int) -> int:
  """Returns a number of a proto, 0 if absent."""
  value = fields.get(field, [0])[-1]
  if not isinstance(value, int) or value >= 2**63:  # negative ones have 64 bits
    raise ValueError(f'field {field} of an entry is not a number of at least 0')
  return value


def _fields(proto: bytes) -> dict[int, list[Any]]:
  """Returns the values of a proto, ints or bytes, by field number."""
  found: dict[int, list[Any]] = {}
  place = 0
  while place < len(proto):
    tag, place = _varint(proto, place)
    kind = tag & 7
    if kind == 0:
      value, place = _varint(proto, place)
    else:
      if kind == 2:
        size, place = _varint(proto, place)
      else:
        size = {1: 8, 5: 4}.get(kind)
      if size is None or place + size > len(proto):
        raise ValueError('an entry is not a proto')
      value = proto[place : place + size]
      value = value if kind == 2 else int.from_bytes(value, 'little')
      place += size
    found.setdefault(tag >> 3, []).append(value)
  return found


def _block(index: bytes, offset: int, size: int) -> bytes:
  """Returns a block of the table, unpacked."""
  whole = index[offset : offset + size + _TRAILER]
  if len(whole) != size + _TRAILER:
    raise ValueError('a block is cut off')
  if crc32c.masked(whole[:-4]) != int.from_bytes(whole[-4:], 'little'):
    raise ValueError('the checksum of a block is wrong')
  content, kind = whole[:size], whole[size]
  if kind > 1:
    raise ValueError(f'a block is packed by method {kind}')
  return _unsnapped(content) if kind else content


def _rows(block: bytes) -> Iterator[tuple[bytes, bytes]]:
  """Yields the keys and values of a block; keys share prefixes with previous keys."""
  (restarts,) = struct.unpack('<I', block[-4:])
  end, place, key = len(block) - 4 - 4 * restarts, 0, b''
  while place < end:
    shared, place = _varint(block, place)
    rest, place = _varint(block, place)
    size, place = _varint(block, place)
    if shared > len(key) or place + rest + size > end:
      raise ValueError('a block is damaged')
    key = key[:shared] + block[place : place + rest]
    place += rest + size
    yield key, block[place - size : place]


def _handle(content: bytes, place: int) -> tuple[tuple[int, int], int]:
  """Reads the offset and size of a block, and returns where they end."""
  offset, place = _varint(content, place)
  size, place = _varint(content, place)
  return (offset, size), place


def _varint(content: bytes, place: int) -> tuple[int, int]:
  """Reads a number of seven bits per byte, lowest first, and returns where it ends."""
  value = 0
  for shift in range(0, 70, 7):
    byte = content[place]
    place += 1
    value |= (byte & 127) << shift
    if byte < 128:
      return value, place
  raise ValueError('a number does not end')


def _unsnapped(packed: bytes) -> bytes:
  """Unpacks data compressed by Snappy (google/snappy, format_description.txt)."""
  size, place = _varint(packed, 0)
  if size > _LARGEST:
    raise ValueError(f'a block unpacks to {size:,} bytes')
  content = bytearray()
  while place < len(packed) and len(content) <= size:
    tag = packed[place]
    place += 1
    if tag & 3 == 0:
      length = (tag >> 2) + 1
      if length > 60:
        more = length - 60
        length = int.from_bytes(packed[place : place + more], 'little') + 1
        place += more
      content += packed[place : place + length]
      place += length
      continue
    if tag & 3 == 1:
      length, back = (tag >> 2 & 7) + 4, (tag >> 5) << 8 | packed[place]
      place += 1
    else:
      length, width = (tag >> 2) + 1, 2 if tag & 3 == 2 else 4
      back = int.from_bytes(packed[place : place + width], 'little')
      place += width
    if not 0 < back <= len(content):
      raise ValueError('a block refers to bytes before its start')
    start = len(content) - back
    for i in range(length):  # a copy may read bytes that it has written
      content.append(content[start + i])
  if place > len(packed) or len(content) != size:
    raise ValueError(f'a block unpacks to {len(content):,} bytes, not {size:,}')
  return bytes(content)
