"""Random access to array_record files; messages name damaged files and records."""

import dataclasses
import functools
import os
import threading
from collections.abc import Sequence
from typing import Any

import numpy as np

from big_vision_like.data.sources import protos, shards
from big_vision_like.errors import BadRecordError, UserError


class Reader:
  """Records, as bytes, of parts of files given as TFDS's `file_instructions`.

  All records of a truncated file are bad, because the table of records is at its end.
  """

  def __init__(self, parts: Sequence[Any]):
    self.parts = list(parts)
    self.starts = np.cumsum([0, *(part.take for part in self.parts)])
    self._open: dict[int, Any] = {}
    self._lock = threading.Lock()

  def __len__(self) -> int:
    return int(self.starts[-1])

  def __getitem__(self, position: int) -> bytes:
    number, place = shards.placed(self.starts, position)
    place += self.parts[number].skip
    try:
      return self._file(number).read([place])[0]
    except (RuntimeError, IndexError, UserError) as error:
      raise BadRecordError(
        f'record {place} of {self.parts[number].filename} (example {position}) is'
        f' unusable: {error}'
      ) from error

  def __getitems__(self, positions: Sequence[int]) -> list[bytes]:
    by_file: dict[int, list[tuple[int, int]]] = {}
    for row, position in enumerate(positions):
      number, place = shards.placed(self.starts, position)
      by_file.setdefault(number, []).append((row, place + self.parts[number].skip))
    records = [b''] * len(positions)
    try:
      for number, wanted in by_file.items():
        rows, places = zip(*wanted, strict=True)
        for row, record in zip(rows, self._file(number).read(places), strict=True):
          records[row] = record
    except (RuntimeError, IndexError, UserError):
      return [self[position] for position in positions]  # names the one that fails
    return records

  def _file(self, number: int) -> Any:
    """Returns the reader of a file; all threads may use it."""
    with self._lock:
      if number not in self._open:
        path = self.parts[number].filename
        reader = opened(path)
        if not reader.ok():  # it would return empty records
          raise UserError(unreadable(path))
        if len(self._open) >= shards.MAX_OPEN:  # closed once no thread reads it
          del self._open[next(iter(self._open))]
        self._open[number] = reader
      return self._open[number]

  def problems(self) -> list[str]:
    """Returns a sentence for each file that is unreadable or has a wrong length."""
    counts = shards.on_threads(count, [part.filename for part in self.parts])
    found = []
    for part, number in zip(self.parts, counts, strict=True):
      if number is None:
        found.append(unreadable(part.filename))
      elif number != part.examples_in_shard:
        found.append(
          f'{part.filename} holds {number:,} records, not {part.examples_in_shard:,}'
        )
    return found


def opened(path: str) -> Any:
  """Returns a reader for random access; `ok()` is False for an incomplete file."""
  from array_record.python import array_record_module

  return array_record_module.ArrayRecordReader(
    path, 'readahead_buffer_size:0', file_reader_buffer_size=32768
  )


def count(path: str) -> int | None:
  """Returns the number of records of a file; None if it cannot be read."""
  reader = opened(path)
  return reader.num_records() if reader.ok() else None


def unreadable(path: str) -> str:
  """Returns a sentence about a file that is missing or cannot be read."""
  if not os.path.isfile(path):
    return f'{path} is missing'
  return f'{path} is not a complete array_record file: truncated, or another format'


@dataclasses.dataclass(frozen=True)
class ArrayRecord(protos.ExampleFiles):
  """tf.train.Example protos in array_record files, which must be complete."""

  @functools.cached_property
  def records(self) -> Reader:
    counts = shards.on_threads(count, self.files)
    broken = [f for f, number in zip(self.files, counts, strict=True) if number is None]
    if broken:
      more = f' (and {len(broken) - 1:,} more)' if len(broken) > 1 else ''
      raise UserError(
        f'{unreadable(broken[0])}{more}. The number of lost records is unknown: copy'
        ' the file again, or list only the other files.'
      )
    return Reader(self.parts(counts))
