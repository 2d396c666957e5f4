"""Data sets in many files: finding, indexing and partially reading the files."""

import glob
import itertools
import os
import re
import threading
import weakref
from collections.abc import Callable, Iterable, Sequence
from concurrent import futures
from typing import Any, NamedTuple

import numpy as np

from big_vision_like.data.input import cache
from big_vision_like.errors import BadRecordError, UserError, listed, plural

# Increased whenever an index of earlier versions would be wrong.
INDEX_VERSION = 2
# Number of files scanned at once, for storage with high latency.
SCANS = 32
# Number of files whose sizes one thread requests, one after the other.
CHUNK = 500
MAX_OPEN = 256
# Number of bytes that identify a compressed file.
START = 12

Pattern = str | Sequence[str]
Scan = Callable[[str], dict[str, np.ndarray]]


def found(pattern: Pattern) -> list[str]:
  """Returns the files of one or several patterns: `{000..127}`, `{a,b}`, `*`, `?`.

  The files are in order. Raises `UserError` if a name without `*` or `?` does not
  exist, or if no file matches.
  """
  patterns = [pattern] if isinstance(pattern, str) else pattern
  names = [os.path.expanduser(name) for p in patterns for name in braces(p)]
  files, missing = [], []
  for name in names:
    if glob.has_magic(name):
      files += sorted(glob.glob(name, recursive=True))
    else:
      (files if os.path.isfile(name) else missing).append(name)
  if missing:
    raise UserError(f'there is no file {listed(missing, most=1)}')
  if not files:
    raise UserError(f'no file matches {pattern!r}')
  return files


def braces(pattern: str) -> list[str]:
  """Expands braces: `a{00..02}` to a00, a01, a02, and `{a,b}c` to ac, bc."""
  parts = re.split(r'\{([^{}]*(?:,|\.\.)[^{}]*)\}', pattern)
  choices = [_choices(part) if i % 2 else [part] for i, part in enumerate(parts)]
  return [''.join(choice) for choice in itertools.product(*choices)]


def _choices(inside: str) -> list[str]:
  if limits := re.fullmatch(r'(\d+)\.\.(\d+)', inside):
    first, last = limits.groups()
    return [f'{i:0{len(first)}d}' for i in range(int(first), int(last) + 1)]
  return inside.split(',')


def kind(name: str) -> str:
  """Returns a description of files with the suffix of this name: '.txt files'."""
  ending = os.path.splitext(name)[1].lower()
  return f'{ending} files' if ending else 'files without an ending'


def is_gzip(start: bytes) -> bool:
  """Returns whether a file with these first bytes is compressed by gzip."""
  return start[:2] == b'\x1f\x8b'


def stamps(paths: Iterable[str]) -> list[list[Any]]:
  """Returns [path, size, mtime in ns] of each file; [path, -1, 0] for missing files."""

  def stamp(path: str) -> list[Any]:
    try:
      status = os.stat(path)
    except OSError:
      return [path, -1, 0]
    return [path, status.st_size, status.st_mtime_ns]

  return on_threads(stamp, paths)


def file_sizes(paths: Sequence[str]) -> list[int]:
  """Returns the size of each of many files in bytes; -1 for missing files."""

  def several(start: int) -> list[int]:
    return [_size(path) for path in paths[start : start + CHUNK]]

  return [
    size for part in on_threads(several, range(0, len(paths), CHUNK)) for size in part
  ]


def _size(path: str) -> int:
  try:
    return os.stat(path).st_size
  except OSError:
    return -1


def below(paths: Sequence[str]) -> list[str]:
  """Returns the paths of files relative to their common folder."""
  paths = [os.path.abspath(path) for path in paths]
  root = os.path.commonpath([os.path.dirname(path) for path in paths] or ['/'])
  return [os.path.relpath(path, root) for path in paths]


class Set(NamedTuple):
  """An incomplete set of numbered files.

  `count` is the size of the complete set, `absent` the number of missing files, and
  `first` the first missing number.
  """

  name: str
  count: int
  absent: int
  first: int


def numbered(paths: Sequence[str]) -> list[Set]:
  """Returns the incomplete sets of numbered files that these paths belong to.

  A name like `a-00003-of-00010` gives the size of the set. Numbers with leading zeros,
  such as 000 to 009, form a set if they begin with 0 or 1; the last number is then
  unknown.
  """
  sets, paths = [], [os.path.abspath(path) for path in paths]
  for folder in sorted({os.path.dirname(path) for path in paths}):
    there: dict[tuple[str, str], set[str]] = {}
    for name in os.listdir(folder):
      if parts := _number(name):
        there.setdefault(parts[::2], set()).add(parts[1])
    ours = [os.path.basename(p) for p in paths if os.path.dirname(p) == folder]
    for head, tail in dict.fromkeys(p[::2] for p in map(_number, ours) if p):
      texts = there.get((head, tail), set())
      numbers = set(map(int, texts))
      total = re.match(r'-of-(\d+)', tail)
      count = int(total[1]) if total else max(numbers) - min(numbers) + 1
      first = int(count in numbers) if total else min(numbers)
      absent = count - len(numbers)
      # Other numbered files, such as years or a few of many files, may have gaps.
      same = first <= 1 and len(set(map(len, texts))) == 1 and absent < len(numbers)
      if absent > 0 and (total or same):
        gap = next(i for i in range(first, first + count) if i not in numbers)
        sets.append(Set(os.path.join(folder, f'{head}*{tail}'), count, absent, gap))
  return sets


def _number(name: str) -> tuple[str, str, str] | None:
  """Splits the name of a file into the part before its number, the number, the rest."""
  if parts := re.fullmatch(r'(.*?)(\d+)(-of-\d+)(?:\D.*)?', name):
    # Some writers put a digest, different for each file, between this and the suffix.
    head, number, total = parts.groups()
    return head, number, total + os.path.splitext(name[parts.end(3) :])[1]
  parts = re.fullmatch(r'(.*?)(\d{2,})(\D*)', name)
  return parts and parts.groups()


def problems(pattern: Pattern, paths: Sequence[str]) -> list[str]:
  """Returns a sentence for each incomplete set that a pattern with * or ? matches."""
  patterns = [pattern] if isinstance(pattern, str) else pattern
  if not any(map(glob.has_magic, patterns)):
    return []
  return [
    f'{name} lacks {absent:,} of {count:,} files, the first of them number {first}:'
    ' copy the data again, or list the existing files without * and ?'
    for name, count, absent, first in numbered(paths)
  ]


def left_out(
  pattern: Pattern, paths: Sequence[str], examples: Iterable[int]
) -> dict[str, int]:
  """Counts the files without examples, by reason.

  `examples` is the number of examples of each file.
  """
  found = {'files without examples': sum(not count for count in examples)}
  if not problems(pattern, paths):
    for name, _, absent, _ in numbered(paths):
      found[f'missing files {os.path.basename(name)}'] = absent
  return {what: count for what, count in found.items() if count}


def title(source: Any, pattern: Pattern) -> str:
  """Returns the kind of a source and its first pattern, for display.

  Adds the number of files if they have been found already.
  """
  first = pattern if isinstance(pattern, str) else next(iter(pattern), '')
  files = vars(source).get('files', ())
  # Only the user may know the expected number of files.
  several = bool(files) and [first] != [files[0]]
  count = f'({plural(len(files), "file")})' if several else ''
  return f'{type(source).__name__} {os.path.basename(first)} {count}'.strip()


def on_threads(function: Callable[[Any], Any], paths: Iterable[Any]) -> list[Any]:
  """Applies a function to each path on threads; returns the results in order."""
  with futures.ThreadPoolExecutor(SCANS) as pool:
    return list(pool.map(function, paths))


def index(kind: str, paths: Sequence[str], scan: Scan) -> dict[str, np.ndarray]:
  """Returns the concatenated arrays that `scan` returns for each file, cached on disk.

  For each `name` there is also `name_starts`, int64 (files + 1,): file i has
  `index[name][starts[i] : starts[i + 1]]`. The index is rebuilt when a file changes.
  """
  paths = [os.path.abspath(path) for path in paths]

  def make() -> dict[str, np.ndarray]:
    with futures.ThreadPoolExecutor(SCANS) as pool:
      scans = pool.map(scan, paths)
      found = list(cache.progress(scans, f'indexing {kind} files', len(paths)))
    arrays = {}
    for name in found[0]:
      parts = [scanned[name] for scanned in found]
      arrays[name] = np.concatenate(parts)
      arrays[f'{name}_starts'] = np.cumsum([0, *map(len, parts)])
    return arrays

  return cache.arrays(cache.file('index', [INDEX_VERSION, kind, stamps(paths)]), make)


def placed(starts: np.ndarray, position: int) -> tuple[int, int]:
  """Returns the file or part that holds an item, and the item's position in it."""
  if not 0 <= position < starts[-1]:
    raise IndexError(f'example {position} of {starts[-1]}')
  number = int(np.searchsorted(starts, position, side='right')) - 1
  return number, position - int(starts[number])


def part(descriptor: int, start: int, stop: int) -> bytes:
  """Reads the bytes from start to stop of an open file, or fewer if it ends earlier.

  Limiting the length to the file's size avoids huge allocations for damaged lengths.
  """
  stop = min(stop, os.fstat(descriptor).st_size)
  return os.pread(descriptor, max(stop - start, 0), start)


class Files:
  """A reader of parts of any number of files, usable from any thread."""

  def __init__(self) -> None:
    self._open: dict[str, int] = {}
    self._lock = threading.Lock()
    weakref.finalize(self, _close, self._open)

  def read(self, path: str, start: int, stop: int) -> bytes:
    """Reads the bytes from start to stop, or fewer if the file ends earlier."""
    try:
      descriptor = self._open.get(path)
      if descriptor is not None:
        return part(descriptor, start, stop)
      descriptor = _opened(path)
      try:
        return part(descriptor, start, stop)
      finally:
        self._keep(path, descriptor)
    except OSError as error:
      raise BadRecordError(f'{path} cannot be read: {error.strerror}') from error

  def _keep(self, path: str, descriptor: int) -> None:
    with self._lock:
      if path not in self._open and len(self._open) < MAX_OPEN:
        self._open[path] = descriptor
        return
    os.close(descriptor)

  def __reduce__(self) -> Any:
    return Files, ()  # each process opens its own files


def _opened(path: str) -> int:
  descriptor = os.open(path, os.O_RDONLY)
  if hasattr(os, 'posix_fadvise'):  # disables readahead
    os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_RANDOM)
  return descriptor


def _close(descriptors: dict[str, int]) -> None:
  for descriptor in descriptors.values():
    os.close(descriptor)
