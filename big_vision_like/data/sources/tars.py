"""Random access to tar files with WebDataset's naming of members.

Members with the same path up to the first dot of its last part form one example:
`a/7.jpg`, `a/7.cls` and `a/7.json` are the example `a/7`. Members whose names have no
dot, or start with one, do not belong to an example.
"""

import codecs
import collections
import contextlib
import dataclasses
import functools
import json
import os
import posixpath
import re
import tarfile
from collections.abc import Iterator
from typing import Any

import numpy as np

from big_vision_like.data.sources import classes, folders, protos, shards
from big_vision_like.data.sources.base import Source, counted, digest
from big_vision_like.data.transforms import decoding
from big_vision_like.errors import BadRecordError, UserError, check_one_of

IMAGES = tuple(suffix.removeprefix('.') for suffix in decoding.SUFFIXES)
KNOWN = (*IMAGES, 'cls', 'txt', 'json')
# Patterns that split the path of a member into example and suffix, by the dot to use.
NAMES = {
  'first': re.compile(rb'((?:.*/)?[^./]+)\.([^/]+)', re.DOTALL),
  'last': re.compile(rb'(.*[^/]+)\.([^./]+)', re.DOTALL),
}
BLOCK = tarfile.BLOCKSIZE
# Bytes after the last member that must be zeros; archives are padded to 10 kB.
TAIL = 1 << 20
# Maximum size in bytes of the name and other metadata of a member.
MOST_NAMES = 1 << 20


@dataclasses.dataclass(frozen=True)
class Tars(Source):
  """Examples of tar files; `pattern` is as in `shards.found`.

  The suffix of a member, after the first dot or with `dots='last'` after the last one,
  decides its field: `image` (.jpg, .png and all other formats that `decoding` reads),
  `label` (.cls, a number or the name of a class), `text` (.txt), or the fields of its
  object (.json: numbers, texts and lists of these; other values as JSON). Any other
  member becomes a field of bytes named by its suffix. `__key__` is the name of the
  example. If labels are names, the classes are all distinct names, sorted.

  `features` are inferred from LOOKED_AT examples. Fields that some of them lack are
  left out, except images and labels: an example without one is a bad record.

  A tar file that ends within a member, or without the zeros that end an archive, is
  truncated; the number of lost examples is unknown. Its last example is a bad record,
  and `problems` names the file.
  """

  pattern: shards.Pattern
  dots: str | None = None

  def __post_init__(self) -> None:
    if self.dots is not None:
      check_one_of(NAMES, dots=self.dots)

  @functools.cached_property
  def files(self) -> list[str]:
    """The paths of the files, in order."""
    return shards.found(self.pattern)

  @functools.cached_property
  def _index(self) -> dict[str, np.ndarray]:
    """The `key` and number of `members` of examples; suffix and place of members."""
    dots = self.dots or 'first'
    scan = functools.partial(_scan, dots=dots)
    index = shards.index(f'tar {dots}', self.files, scan)
    return index | {'first': np.cumsum([0, *index['members']])}

  @functools.cached_property
  def _unread(self) -> dict[str, int]:
    """The number of members that belong to no example, by kind."""
    members = collections.Counter(map(bytes, self._index['left_out']))
    return {what.decode(): count for what, count in members.items()}

  @functools.cached_property
  def _reader(self) -> shards.Files:
    return shards.Files()

  @functools.cached_property
  def _some(self) -> list[protos.Example]:
    """Some examples, spread over all, as they are stored."""
    if not len(self):
      why = self._damage() or [f'{self.files[0]} holds no examples']
      more = f'; left out: {counted(self._unread)}' if self._unread else ''
      raise UserError(f'{why[0]}{more}')
    self._check_dots()
    return protos.some(len(self), self.raw)

  def _check_dots(self) -> None:
    """Raises `UserError` if dots in names hide all images and labels."""
    index = self._index
    if self.dots is not None or np.isin(index['suffix'], np.bytes_(KNOWN)).any():
      return
    for suffix in map(bytes, index['suffix'][:1000]):
      if re.fullmatch(rb'\d.*\.([^.]+)', suffix) and _ending(suffix) in KNOWN:
        raise UserError(
          f'names in {self.files[0]} have a dot before the dot of their ending: in'
          f' {bytes(index["key"][0]).decode(errors="replace")} the field'
          f' {suffix.decode(errors="replace")!r} is not an image or label; set'
          " dots='last' if endings start after the last dot, otherwise dots='first'"
        )

  @functools.cached_property
  def features(self) -> Any:
    """TFDS features of an example."""
    import tensorflow_datasets as tfds

    features = dict(protos.inferred(self._some))
    if 'image' in features and all(
      isinstance(example.get('image', b''), bytes) for example in self._some
    ):
      features['image'] = tfds.features.Image()  # some may be damaged
    if self._classes:
      features['label'] = tfds.features.ClassLabel(names=self._classes)
    return tfds.features.FeaturesDict(features)

  @functools.cached_property
  def _classes(self) -> list[str]:
    """The names of all classes, sorted; empty if most labels are numbers."""
    labels = [e['label'] for e in self._some if 'label' in e]
    if sum(isinstance(label, str) for label in labels) <= len(labels) / 2:
      return []
    words = shards.index('tar classes', self.files, _scan_classes)['name']
    return sorted({bytes(word).decode() for word in words})

  @functools.cached_property
  def left_out(self) -> dict[str, int]:
    """The number of unused files, members and fields, by kind."""
    counts = np.diff(self._index['key_starts'])
    whole = self._index['whole']
    found = shards.left_out(self.pattern, self.files, counts[whole])
    return found | self._unread | protos.partial(self._some, self.features)

  @property
  def title(self) -> str:
    """The format and the name of the files."""
    return shards.title(self, self.pattern)

  def fingerprint(self) -> str:
    """Returns a digest of the names of files and classes, and of all members."""
    members = [self._index[name] for name in ('key', 'suffix', 'size', 'key_starts')]
    dots, files = self.dots or 'first', shards.below(self.files)
    return digest('Tars', files, self.file_sizes, dots, members, self.label_names)

  def __len__(self) -> int:
    return len(self._index['key'])

  def __getitem__(self, index: int) -> protos.Example:
    example = self.raw(index)
    if absent := [name for name in self.features if name not in example]:
      dotted = [n for n in example if '.' in n and _ending(n.encode()) in KNOWN]
      hint = f'; it has {dotted[0]!r}, since its name has a dot' if dotted else ''
      raise BadRecordError(
        f'{self._name(index)} has no {absent[0]!r}, unlike other examples{hint}'
      )
    label = example.get('label')
    if self._classes:
      example['label'] = classes.position(label, self._classes, self._name(index))
    elif isinstance(label, str) and 'label' in self.features:
      name = self._name(index)
      raise BadRecordError(f'{name} has the class {label.encode()!r}, not a number')
    return {
      name: protos.fitted(example[name], feature)
      for name, feature in self.features.items()
    }

  def raw(self, index: int) -> protos.Example:
    """Returns all fields of an example, with JSON values unconverted."""
    file, place = shards.placed(self._index['key_starts'], index)
    name = self._name(index)
    if (
      not self._index['whole'][file]
      and index + 1 == self._index['key_starts'][file + 1]
    ):
      raise BadRecordError(f'{name} is the last of a truncated file')
    example = {'__key__': bytes(self._index['key'][index])}
    for i in range(*self._index['first'][index : index + 2].tolist()):
      start, size = (int(self._index[n][i]) for n in ('start', 'size'))
      data = self._reader.read(self.files[file], start, start + size)
      if len(data) < size:
        raise BadRecordError(f'{name} is incomplete: the file is shorter')
      suffix = os.fsdecode(bytes(self._index['suffix'][i]))
      for field, value in _fields(suffix, data, name):
        if field in example:
          raise BadRecordError(f'{name} has {field!r} twice')
        example[field] = value
    return example

  def problems(self) -> list[str]:
    """Returns why the source cannot be read, or its truncated and missing files."""
    try:
      self.features  # noqa: B018 - reads some
    except UserError as error:
      return [str(error)]
    return shards.problems(self.pattern, self.files) + self._damage()

  def _damage(self) -> list[str]:
    """Returns a sentence for each empty, damaged or truncated file."""
    found, index = [], self._index
    for file, size, whole, stop in zip(
      self.files, self.file_sizes, index['whole'], index['stop'], strict=True
    ):
      if not size:
        found.append(f'{file} is empty')
      elif not whole and stop + BLOCK <= size:
        found.append(f'{file} is damaged, or not a tar file, from byte {stop:,} on')
      elif not whole:
        found.append(f'{file} is truncated: it lacks the end of a tar file')
    return found

  def _name(self, index: int) -> str:
    file, place = shards.placed(self._index['key_starts'], index)
    key = os.fsdecode(bytes(self._index['key'][index]))
    return f'{key} in {self.files[file]} (example {index}, {place} there)'

  def __getstate__(self) -> dict[str, Any]:
    # Workers open their own files, and read the index from its cache.
    return {k: v for k, v in self.__dict__.items() if k not in ('_index', '_reader')}


def _ending(suffix: bytes) -> str:
  """Returns the part of a suffix after its last dot."""
  return suffix.rpartition(b'.')[2].decode(errors='replace')


def _fields(suffix: str, data: bytes, name: str) -> Iterator[tuple[str, Any]]:
  """Yields the fields of a member; a label is a number or the name of a class."""
  if suffix in IMAGES:
    yield 'image', data
  elif suffix == 'txt':
    yield 'text', data.removeprefix(codecs.BOM_UTF8)
  elif suffix == 'cls':
    yield 'label', classes.label(data, name)
  elif suffix == 'json':
    try:
      value = json.loads(data)
    except (ValueError, RecursionError) as error:
      raise BadRecordError(f'{name} has damaged JSON: {error}') from error
    yield from value.items() if isinstance(value, dict) else [('json', value)]
  else:
    yield suffix, data


def _scan_classes(path: str) -> dict[str, np.ndarray]:
  """Returns the distinct class names in a file."""
  found = set()
  with open(path, 'rb', buffering=0) as file:
    for name, start, length in members(file.fileno())[0]:
      suffix = _ending(name).lower()
      if suffix in ('cls', 'json') and not hidden(name):
        with contextlib.suppress(BadRecordError):
          data = shards.part(file.fileno(), start, start + length)
          label = dict(_fields(suffix, data, path)).get('label')
          found |= {label.encode()} if isinstance(label, str) else set()
  return {'name': np.array(sorted(found), np.bytes_)}


def _scan(path: str, dots: str) -> dict[str, np.ndarray]:
  """Indexes members by example; examples are ordered by their first member."""
  examples: dict[bytes, list[tuple[bytes, int, int]]] = {}
  with open(path, 'rb', buffering=0) as file:
    if shards.is_gzip(file.read(shards.START)):
      raise UserError(
        f'{path} is compressed, so examples cannot be read in any order; convert'
        ' it with: python tools/prepare_data.py --from tar:FILES --name NAME'
      )
    files, left_out, stop = members(file.fileno())
    for name, start, length in files:
      if hidden(name):
        left_out.append('hidden files')
      elif parts := NAMES[dots].fullmatch(name):
        key, suffix = parts.groups()
        examples.setdefault(key, []).append((suffix.lower(), start, length))
      else:
        left_out.append('files without an ending')
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
    'stop': np.array([stop]),
    'left_out': np.array(left_out, np.bytes_),
  }


def hidden(name: bytes) -> bool:
  """Returns whether a member was added by a program, such as __MACOSX/ and ._x.jpg."""
  parts = os.fsdecode(name).split('/')
  return any(
    (part.startswith('.') and part not in ('', '.', '..')) or part in folders.JUNK
    for part in parts
  )


def members(descriptor: int) -> tuple[list[tuple[bytes, int, int]], list[str], int]:
  """Reads the headers of a tar file in ustar, GNU or pax format.

  Returns the name, start and size of each file, the kinds of the members left out, and
  the position at which headers end: at zeros, damage, or the end of the file. Links
  resolve to the files that they point to.
  """
  found: list[tuple[bytes, int, int]] = []
  links, left_out = [], []
  position, name, target, size, sparse = 0, None, None, None, False
  end = os.fstat(descriptor).st_size
  while position < end:
    header = os.pread(descriptor, BLOCK, position)
    if len(header) < BLOCK:
      break
    if _number(header[148:156]) != sum(header[:148]) + sum(header[156:]) + 8 * 32:
      break
    kind, start = header[156:157], position + BLOCK
    length = _number(header[124:136]) if size is None else size
    if length is None:
      break
    following = start + -(-length // BLOCK) * BLOCK
    if kind in b'LKxg':
      if length > min(end - start, MOST_NAMES):
        break
      data = os.pread(descriptor, length, start)
      if kind == b'L':
        name = data.rstrip(b'\0')
      elif kind == b'K':
        target = data.rstrip(b'\0')
      elif kind == b'x':
        fields = dict(_pax(data))
        name, target = fields.get(b'path', name), fields.get(b'linkpath', target)
        sparse = any(field.startswith(b'GNU.sparse.') for field in fields)
        if b'size' in fields:
          size = _digits(fields[b'size'], 10)
          if size is None:
            break
    else:
      own = name or _name(header)
      if kind in b'12':  # links have no data, whatever their size field says
        following = start
        links.append((own, target or header[157:257].split(b'\0')[0], kind == b'2'))
      elif kind == b'S' or sparse:
        left_out.append('sparse files')
        more = kind == b'S' and header[482]  # blocks before the data
        while more:
          extension = os.pread(descriptor, BLOCK, start)
          more, start = extension[504:505] > b'\0', start + BLOCK
          following += BLOCK
      elif kind in b'0\x007' and not own.endswith(b'/'):
        found.append((own, start, min(length, end)))
      name, target, size, sparse = None, None, None, False
    position = following
  places = {name: (start, length) for name, start, length in found}
  for name, target, symbolic in links:
    if symbolic:
      target = posixpath.normpath(posixpath.join(posixpath.dirname(name), target))
    if target in places:
      found.append((name, *places[target]))
    else:
      left_out.append('links to no file in the same tar file')
  return found, left_out, min(position, end)


def _name(header: bytes) -> bytes:
  name, prefix = (header[a:b].split(b'\0')[0] for a, b in ((0, 100), (345, 500)))
  ustar = header[257:263] == b'ustar\0'  # GNU stores other fields there
  return prefix + b'/' + name if ustar and prefix else name


def _number(field: bytes) -> int | None:
  """Parses octal digits, or binary bytes after 0x80; returns None for anything else."""
  if field[0] == 0x80:
    return int.from_bytes(field[1:], 'big')
  return _digits(field.strip(b' \0') or b'0', 8)


def _digits(text: bytes, base: int) -> int | None:
  """Parses an unsigned number; returns None for anything else."""
  text = text.split(b'\0')[0].strip()
  short = text.isdigit() and len(text) <= 20
  try:
    return int(text, base) if short else None
  except ValueError:  # 8 or 9 among octal digits
    return None


def _pax(data: bytes) -> Iterator[tuple[bytes, bytes]]:
  """Yields keyword and value of records 'LENGTH KEYWORD=VALUE'."""
  while data:
    digits, _, _ = data.partition(b' ')
    length = _digits(digits, 10)
    if not length:
      return
    keyword, _, value = data[len(digits) + 1 : length - 1].partition(b'=')
    yield keyword, value
    data = data[length:]
