"""Random access to TFRecord files, without TensorFlow.

A record consists of its length (uint64), the masked CRC-32C of the length, the data,
and the masked CRC-32C of the data (tensorflow.org/tutorials/load_data/tfrecord,
"TFRecords format details"). Files do not store where records start, so the first use of
a file reads all lengths, and `shards.index` caches the positions.
"""

import dataclasses
import functools
import os
import struct
from collections.abc import Sequence
from typing import Any

import numpy as np

from big_vision_like.data.sources import protos, shards
from big_vision_like.errors import BadRecordError, UserError
from big_vision_like.ops import crc32c

HEADER, FOOTER = 12, 4


class Reader:
  """Records, as bytes, of parts of files given as TFDS's `file_instructions`.

  A record with damaged data is bad. After a damaged length, all records of the file are
  bad.
  """

  def __init__(self, parts: Sequence[Any]):
    self.parts = list(parts)
    self.starts = np.cumsum([0, *(part.take for part in self.parts)])
    self._files = shards.Files()
    self._index = index([part.filename for part in self.parts])

  def __len__(self) -> int:
    return int(self.starts[-1])

  def __getitem__(self, position: int) -> bytes:
    number, place = shards.placed(self.starts, position)
    part = self.parts[number]
    place += part.skip
    first, last = self._index['ends_starts'][number : number + 2]
    ends = self._index['ends'][first:last]
    name = f'record {place} of {part.filename} (example {position})'
    if place + 1 >= len(ends):
      raise BadRecordError(f'{name} is missing: the file ends after {len(ends) - 1}')
    start, stop = int(ends[place]), int(ends[place + 1])
    try:
      return payload(self._files.read(part.filename, start, stop))
    except ValueError as error:
      raise BadRecordError(f'{name} is unusable: {error}') from error

  def __getitems__(self, positions: Sequence[int]) -> list[bytes]:
    return [self[position] for position in positions]

  def problems(self) -> list[str]:
    """Returns a sentence for each file that is missing, damaged or of wrong length."""
    counts = np.diff(self._index['ends_starts']) - 1
    return [
      problem
      for part, count, whole in zip(
        self.parts, counts.tolist(), self._index['whole'], strict=True
      )
      if (problem := _problem(part, count, whole))
    ]


def _problem(part: Any, count: int, whole: bool) -> str | None:
  if not os.path.exists(part.filename):
    return f'{part.filename} is missing'
  if not whole:
    return f'{part.filename} is truncated or damaged at record {count - 1}'
  if count != part.examples_in_shard:
    return f'{part.filename} holds {count:,} records, not {part.examples_in_shard:,}'
  return None


def index(paths: Sequence[str]) -> dict[str, np.ndarray]:
  """Returns the `ends` of records (int64, first 0) and whether each file is `whole`."""
  return shards.index('TFRecord', paths, _scan)


def _scan(path: str) -> dict[str, np.ndarray]:
  ends, whole = [0], True
  try:
    size = os.path.getsize(path)
  except FileNotFoundError:
    size = 0  # all its records are missing; reading them raises errors
  else:
    with open(path, 'rb', buffering=0) as file:
      while (start := ends[-1]) < size:
        header = os.pread(file.fileno(), HEADER, start)
        length = _length(header)
        if start == 0 and is_compressed(header):
          raise UserError(
            f'{path} is compressed, so examples cannot be read in any order;'
            ' convert it with: python tools/prepare_data.py --from tfrecord:FILES'
            ' --name NAME'
          )
        stop = size + 1 if length is None else start + HEADER + length + FOOTER
        whole = stop <= size
        ends.append(min(stop, size))
  return {'ends': np.array(ends), 'whole': np.array([whole])}


def payload(record: bytes) -> bytes:
  """Returns the data of a record; raises `ValueError` if it is damaged."""
  length = _length(record[:HEADER])
  if length is None:
    raise ValueError('its length is damaged')
  if len(record) != HEADER + length + FOOTER:
    raise ValueError('it is truncated')
  data = record[HEADER:-FOOTER]
  if crc32c.masked(data) != int.from_bytes(record[-FOOTER:], 'little'):
    raise ValueError('its checksum is wrong')
  return data


def _length(header: bytes) -> int | None:
  """Returns the length in a record's header; None if the header's checksum is wrong."""
  if len(header) < HEADER:
    return None
  length, checksum = struct.unpack('<QI', header)
  return length if crc32c.masked(header[:8]) == checksum else None


def is_compressed(start: bytes) -> bool:
  """Returns whether a file with these first bytes is compressed by gzip or zlib."""
  zlib = start[:1] == b'\x78' and int.from_bytes(start[:2], 'big') % 31 == 0
  return _length(start) is None and (zlib or shards.is_gzip(start))


@dataclasses.dataclass(frozen=True)
class TFRecord(protos.ExampleFiles):
  """tf.train.Example protos in TFRecord files.

  The number of records in truncated or damaged files is unknown. The incomplete first
  lost record is a bad record, and `problems` names the file.
  """

  @functools.cached_property
  def records(self) -> Reader:
    counts = np.diff(index(self.files)['ends_starts']) - 1
    return Reader(self.parts(counts.tolist()))
