"""Records of a source after deterministic transforms, read many at a time.

The records of a small data set are kept in memory, so that each is read and decoded
only once.
"""

import itertools
import sys
import threading
from collections.abc import Mapping, Sequence
from typing import Any

import grain
import numpy as np

from big_vision_like.data.sources.base import Source
from big_vision_like.errors import BadRecordError

Example = dict[str, Any]
# Values that transforms cannot change in place.
IMMUTABLE = (bool, int, float, str, bytes, np.generic, type(None))
# Fields that are not decoded while they are bytes.
PICTURES = ('image', 'video')


def leading(transforms: Sequence[Any]) -> list[Any]:
  """Returns the transforms before the first random one."""
  return list(
    itertools.takewhile(
      lambda t: not isinstance(t, grain.transforms.RandomMap), transforms
    )
  )


class Prepared:
  """The records of a source, with the values `added`, after deterministic transforms.

  Decoded examples are kept in memory if all of them together take at most `keep_mib`
  MiB.
  """

  def __init__(
    self,
    source: Source,
    transforms: Sequence[Any],
    keep_mib: float,
    added: Mapping[str, Any] | None = None,
  ):
    self._source, self._added = source, dict(added or {})
    self._maps = [getattr(transform, 'map', transform) for transform in transforms]
    self._kept = Kept(len(source), int(keep_mib * 2**20) if transforms else 0)

  def take(self, indices: Sequence[int]) -> list[Example | BadRecordError]:
    """Returns these examples, or the errors of those that cannot be used."""
    examples = self._kept.take(indices)
    absent = [place for place, example in enumerate(examples) if example is None]
    records = self._read([indices[place] for place in absent]) if absent else ()
    for place, record in zip(absent, records, strict=True):
      examples[place] = self._made(record)
      if not isinstance(examples[place], BadRecordError):
        self._kept.put(indices[place], examples[place])
    return examples

  def _read(self, indices: Sequence[int]) -> list[Example | BadRecordError]:
    try:
      return self._source.__getitems__(indices)
    except BadRecordError:
      return [self._read_one(index) for index in indices]

  def _read_one(self, index: int) -> Example | BadRecordError:
    try:
      return self._source[index]
    except BadRecordError as error:
      return error

  def _made(self, record: Example | BadRecordError) -> Example | BadRecordError:
    if isinstance(record, BadRecordError):
      return record
    example = record | self._added
    try:
      for transform in self._maps:
        example = transform(example)
    except BadRecordError as error:
      return error
    return example


class Kept:
  """Examples with equal fields and shapes, in one array for each field.

  Nothing is kept if `count` examples take more than `limit` bytes, if they differ in
  shape, or if their images are still encoded. Copies for other processes are empty and
  stay so.
  """

  def __init__(self, count: int, limit: int):
    # Each example takes a byte of `_has` alone.
    self._full = limit == 0 or count > limit
    self._count, self._left = count, limit
    self._arrays: dict[str, np.ndarray] = {}
    self._has = np.zeros(0 if self._full else count, bool)
    self._lock = threading.Lock()

  @property
  def size(self) -> int:
    """The number of examples that are kept."""
    return int(self._has.sum())

  def take(self, indices: Sequence[int]) -> list[Example | None]:
    """Returns copies of these examples, None for those that are not kept."""
    with self._lock:
      arrays, has = self._arrays, self._has
    if not arrays:
      return [None] * len(indices)
    # Before the values are read, as other threads may be writing some.
    kept = has[indices].tolist()
    columns = [(name, array[indices]) for name, array in arrays.items()]
    return [
      {name: column[row] for name, column in columns} if there else None
      for row, there in enumerate(kept)
    ]

  def put(self, index: int, example: Example) -> None:
    """Keeps an example, unless it is not like the others or there are too many."""
    with self._lock:
      if self._full or self._has[index]:
        return
      if not self._arrays:
        each = sum(getattr(value, 'nbytes', 8) for value in example.values())
        self._left -= self._count * each
        if self._left >= 0:  # allocating more than there is would fail
          self._arrays = {n: self._column(value) for n, value in example.items()}
      self._left -= sum(
        sys.getsizeof(x) for x in example.values() if isinstance(x, (str, bytes))
      )
      if self._left < 0 or not self._fits(example):
        self._full, self._arrays = True, {}
        self._has = np.zeros(0, bool)
        return
      for name, value in example.items():
        self._arrays[name][index] = value
      self._has[index] = True

  def _column(self, value: Any) -> np.ndarray:
    if isinstance(value, np.ndarray):
      return np.empty((self._count, *value.shape), value.dtype)
    return np.empty(self._count, object)

  def _fits(self, example: Example) -> bool:
    if example.keys() != self._arrays.keys():
      return False
    for name, value in example.items():
      column = self._arrays[name]
      if isinstance(value, np.ndarray):
        same = (value.shape, value.dtype) == (column.shape[1:], column.dtype)
        if not same or value.dtype.hasobject or not value.shape:
          return False
      elif not isinstance(value, IMMUTABLE) or column.dtype != object:
        return False
      elif name in PICTURES:
        return False
    return True

  def __reduce__(self) -> tuple[Any, ...]:
    return Kept, (0, 0)
