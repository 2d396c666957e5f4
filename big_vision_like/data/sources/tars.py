"""Tar files as WebDataset names what is in them, read at any place.

Members with the same path up to the first dot of its last part are one example:
`a/7.jpg`, `a/7.cls` and `a/7.json` are the example `a/7`. Names without a dot, or that
start with one, are of no example.
"""

import dataclasses
import functools
import json
import os
import re
import tarfile
from collections.abc import Iterator
from typing import Any

import numpy as np

from big_vision_like.data.sources import protos, shards
from big_vision_like.data.sources.base import Source, digest
from big_vision_like.errors import BadRecordError, UserError

IMAGES = ('jpg', 'jpeg', 'png', 'webp')
NAME = re.compile(rb'((?:.*/)?[^./]+)\.([^/]+)', re.DOTALL)
BLOCK = tarfile.BLOCKSIZE
# Zeros behind the last member that are looked at: archives are filled up to 10 kB.
TAIL = 1 << 20


@dataclasses.dataclass(frozen=True)
class Tars(Source):
  """Examples of tar files; `pattern` is as in `shards.found`.

  A member becomes, by what follows the first dot: `image` (.jpg, .jpeg, .png, .webp),
  `label` (.cls, a number), `text` (.txt), the fields of its object (.json: numbers,
  texts and lists of these; others as JSON), else bytes under that name. `__key__` is
  the example's name. `features` are what LOOKED_AT examples show; what not all of them
  have is left out, and an example without one of them is a bad record.

  A tar file that ends without the zeros that end an archive, or within a member, was
  cut off: nobody knows how much is lost. Its last example is a bad record, and
  `problems` names the file.
  """

  pattern: shards.Pattern

  @functools.cached_property
  def files(self) -> list[str]:
    """The paths in order."""
    return shards.found(self.pattern)

  @functools.cached_property
  def _index(self) -> dict[str, np.ndarray]:
    """Of each example `key` and `members` (how many), of these place and `suffix`."""
    index = shards.index('tar', self.files, _scan)
    return index | {'first': np.cumsum([0, *index['members']])}

  @functools.cached_property
  def _reader(self) -> shards.Files:
    return shards.Files()

  @functools.cached_property
  def features(self) -> Any:
    """TFDS's description of an example."""
    return protos.inferred(protos.some(len(self), self.raw))

  @property
  def title(self) -> str:
    """The format and the name of the files."""
    return shards.title(self, self.pattern)

  def fingerprint(self) -> str:
    """Returns a digest of names and sizes of the files and the number of examples."""
    return digest('Tars', shards.below(self.files), self.file_sizes, len(self))

  def __len__(self) -> int:
    return len(self._index['key'])

  def __getitem__(self, index: int) -> protos.Example:
    example = self.raw(index)
    if absent := [name for name in self.features if name not in example]:
      raise BadRecordError(f'{self._name(index)} has no {absent[0]!r}, as others have')
    return {
      name: protos.fitted(example[name], feature)
      for name, feature in self.features.items()
    }

  def raw(self, index: int) -> protos.Example:
    """All that the members say, JSON as it is."""
    file, place = shards.placed(self._index['key_starts'], index)
    name = self._name(index)
    if (
      not self._index['whole'][file]
      and index + 1 == self._index['key_starts'][file + 1]
    ):
      raise BadRecordError(f'{name} is the last of a file that is cut off')
    example = {'__key__': bytes(self._index['key'][index])}
    for i in range(*self._index['first'][index : index + 2].tolist()):
      start, size = (int(self._index[n][i]) for n in ('start', 'size'))
      data = self._reader.read(self.files[file], start, start + size)
      if len(data) < size:
        raise BadRecordError(f'{name} is not all there: the file has become shorter')
      for field, value in _fields(bytes(self._index['suffix'][i]).decode(), data, name):
        if field in example:
          raise BadRecordError(f'{name} has {field!r} twice')
        example[field] = value
    return example

  def problems(self) -> list[str]:
    """What keeps it from being read, and the files that are cut off."""
    try:
      self.features  # noqa: B018 - reads some
      whole = self._index['whole']
    except UserError as error:
      return [str(error)]
    return [
      f'{file} is cut off: it has no end of a tar file'
      for file, well in zip(self.files, whole, strict=True)
      if not well
    ]

  def _name(self, index: int) -> str:
    file, place = shards.placed(self._index['key_starts'], index)
    key = os.fsdecode(bytes(self._index['key'][index]))
    return f'{key} in {self.files[file]} (example {index}, {place} there)'

  def __getstate__(self) -> dict[str, Any]:
    # Workers open their own files; the index is read again where it is kept.
    return {k: v for k, v in self.__dict__.items() if k not in ('_index', '_reader')}


def _fields(suffix: str, data: bytes, name: str) -> Iterator[tuple[str, Any]]:
  """What a member says."""
  if suffix in IMAGES:
    yield 'image', data
  elif suffix == 'txt':
    yield 'text', data
  elif suffix == 'cls':
    try:
      yield 'label', int(data)
    except ValueError as error:
      raise BadRecordError(f'{name} has the class {data[:20]!r}, no number') from error
  elif suffix == 'json':
    try:
      value = json.loads(data)
    except ValueError as error:
      raise BadRecordError(f'{name} has damaged JSON: {error}') from error
    yield from value.items() if isinstance(value, dict) else [('json', value)]
  else:
    yield suffix, data


def _scan(path: str) -> dict[str, np.ndarray]:
  """Members in the order of their examples; an example is where its first one is."""
  examples: dict[bytes, list[tuple[bytes, int, int]]] = {}
  with open(path, 'rb', buffering=0) as file:
    if shards.is_gzip(file.read(shards.START)):
      raise UserError(
        f'{path} is compressed, so that examples cannot be read in any order; convert'
        ' it with: python tools/prepare_data.py --from tar:FILES --name NAME'
      )
    files, stop = members(file.fileno())
    for name, start, length in files:
      if parts := NAME.fullmatch(name):
        key, suffix = parts.groups()
        examples.setdefault(key, []).append((suffix.lower(), start, length))
    tail = os.pread(file.fileno(), TAIL, stop)
  whole = len(tail) >= BLOCK and not any(tail)
  found = [member for group in examples.values() for member in group]
  return {
    'key': np.array(list(examples), np.bytes_),
    'members': np.array([len(group) for group in examples.values()], np.int64),
    'suffix': np.array([suffix for suffix, _, _ in found], np.bytes_),
    'start': np.array([start for _, start, _ in found], np.int64),
    'size': np.array([length for _, _, length in found], np.int64),
    'whole': np.array([whole]),
  }


def members(descriptor: int) -> tuple[list[tuple[bytes, int, int]], int]:
  """Name, start and size of the files in a tar file, and where its headers end.

  They end at what is none: zeros, damage, or nothing. Names of ustar, GNU and pax.
  """
  found, position, name, size = [], 0, None, None
  while len(header := os.pread(descriptor, BLOCK, position)) == BLOCK:
    if _number(header[148:156]) != sum(header[:148]) + sum(header[156:]) + 8 * 32:
      break
    kind, start = header[156:157], position + BLOCK
    length = _number(header[124:136]) if size is None else size
    position = start + -(-length // BLOCK) * BLOCK
    if kind == b'L':
      name = os.pread(descriptor, length, start).rstrip(b'\0')
    elif kind == b'x':
      fields = dict(_pax(os.pread(descriptor, length, start)))
      name = fields.get(b'path', name)
      size = int(fields[b'size']) if b'size' in fields else None
    elif kind != b'g':
      if kind in b'0\0':
        found.append((name or _name(header), start, length))
      name, size = None, None
  return found, position


def _name(header: bytes) -> bytes:
  name, prefix = (header[a:b].split(b'\0')[0] for a, b in ((0, 100), (345, 500)))
  ustar = header[257:263] == b'ustar\0'  # GNU keeps other things there
  return prefix + b'/' + name if ustar and prefix else name


def _number(field: bytes) -> int:
  """Octal digits, or bytes where the first bit is set; -1 for neither."""
  if field[0] & 0x80:
    return int.from_bytes(field[1:], 'big')
  try:
    return int(field.strip(b' \0') or b'0', 8)
  except ValueError:
    return -1


def _pax(data: bytes) -> Iterator[tuple[bytes, bytes]]:
  """Keyword and value of records of 'LENGTH KEYWORD=VALUE'."""
  while data:
    digits, _, _ = data.partition(b' ')
    if not digits.isdigit() or not int(digits):
      return
    keyword, _, value = data[len(digits) + 1 : int(digits) - 1].partition(b'=')
    yield keyword, value
    data = data[int(digits) :]
