"""Files written atomically, and JSON with errors that name the file."""

import collections
import contextlib
import errno
import hashlib
import json
import math
import os
import pathlib
import re
import shutil
import stat
import sys
import uuid
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import numpy as np

from big_vision_like.errors import FULL, UserError, type_text

# Maximum nesting of values in files of fields; no config needs half of it.
_DEEPEST = 50


@contextlib.contextmanager
def atomic(path: str | os.PathLike) -> Iterator[pathlib.Path]:
  """Yields a temporary path; the file or folder written there then becomes `path`.

  If the block raises, the temporary file is removed and `path` is unchanged. Operating
  system errors name `path`.
  """
  path = part = pathlib.Path(path)
  device = path.exists() and not (path.is_file() or path.is_dir())  # or a pipe
  if not device:
    path = path.resolve()  # symbolic links are kept
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(f'{path.name}.{uuid.uuid4().hex[:8]}.part')
  try:
    yield part
    if not device:
      os.replace(part, path)
  except OSError as error:
    nameless = error.filename is None and error.errno in FULL
    if nameless or str(error.filename).startswith(str(part)):
      raise OSError(error.errno, error.strerror, str(path)) from error
    raise
  finally:
    with contextlib.suppress(OSError):  # usually it does not exist any more
      if part.is_dir():
        shutil.rmtree(part)
      elif not device:
        part.unlink()


def write(path: str | os.PathLike, content: str | bytes) -> None:
  """Writes a file completely; on failure the existing file is unchanged."""
  with atomic(path) as part:
    part.write_bytes(content.encode() if isinstance(content, str) else content)


def write_json(path: str | os.PathLike, value: Any, indent: int | None = 2) -> None:
  """Writes a JSON file completely; on failure the existing file is unchanged."""
  write(path, json.dumps(value, indent=indent) + '\n')


def write_npz(path: str | os.PathLike, arrays: Mapping[str, np.ndarray]) -> None:
  """Writes an .npz file completely; on failure the existing file is unchanged."""
  with atomic(path) as part, part.open('wb') as file:
    np.savez(file, **arrays)


def sha256(plain: Any) -> str:
  """Returns the SHA-256 of plain data in JSON form, 64 hexadecimal digits."""
  return hashlib.sha256(json.dumps(plain, sort_keys=True).encode()).hexdigest()


def read_bytes(path: str | os.PathLike) -> bytes:
  """Returns the content of a file; raises an `OSError` if it is a device.

  Devices such as /dev/zero never end.
  """
  with open(path, 'rb') as file:
    if stat.S_ISCHR(os.fstat(file.fileno()).st_mode):
      raise OSError(errno.EINVAL, 'It is a device, not a file', str(path))
    return file.read()


def read_json(path: str | os.PathLike) -> Any:
  """Returns the value of a JSON file; a `UserError` names a file that is unreadable."""
  try:
    content = read_bytes(path)
  except OSError as error:
    raise UserError(f'{path} cannot be read: {error.strerror}') from error
  return parse_json(content, str(path))


def parse_json(content: bytes, source: str) -> Any:
  """Returns the value of JSON text; a `UserError` names the source of invalid JSON.

  A byte-order mark is ignored. Objects with a repeated name are rejected, because only
  one of its values would be used. NaN and infinities are accepted, as in Python.
  """
  try:
    return json.loads(content.decode('utf-8-sig'), object_pairs_hook=_unique)
  except RecursionError as error:
    raise UserError(f'{source} is not readable as JSON: it is nested too deeply') from (
      error
    )
  except ValueError as error:
    why = 'an integer has too many digits' if 'digits' in str(error) else error
    raise UserError(f'{source} is not JSON: {why}') from error


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
  found = dict(pairs)
  if len(found) < len(pairs):
    names = [name for name, _ in pairs]
    twice = next(name for name, n in collections.Counter(names).items() if n > 1)
    raise ValueError(f'the name {twice!r} appears twice in one object')
  return found


def read_fields(path: str | os.PathLike, plain: bool = False) -> dict[str, Any]:
  """Returns the object in a JSON file; raises a `UserError` for any other value.

  With `plain`, NaN, infinities, integers of more than 64 bits and deep nesting are
  rejected too; the error names their place in the file.
  """
  content = read_json(path)
  if not isinstance(content, dict):
    raise UserError(f'{path} holds {type_text(type(content))}, not fields by name')
  if plain:
    _check_plain(content, str(path))
  return content


def read_lines(
  path: str | os.PathLike, is_sound: Callable[[Any], bool]
) -> list[dict[str, Any]]:
  """Returns the objects of a JSON Lines file; an empty list if the file is missing.

  Lines that are truncated, or whose object is not sound, are skipped and reported.
  """
  path, found, bad = pathlib.Path(path), [], []
  for line in path.read_bytes().splitlines() if path.exists() else []:
    try:
      value = parse_json(line, str(path))
    except UserError:
      value = None
    if isinstance(value, dict) and is_sound(value):
      found.append(value)
    else:
      bad.append(line[:60].decode(errors='replace'))
  if bad:
    count = 'an unreadable line' if len(bad) == 1 else f'{len(bad):,} unreadable lines'
    print(f'{path}: left out {count}: {bad[0]!r}', file=sys.stderr)
  return found


def _check_plain(content: Any, source: str) -> None:
  """Raises for values that no computation can use, see `read_fields`."""
  todo = [('', content, 0)]
  while todo:  # not recursive, because the nesting may be too deep for recursion
    place, value, depth = todo.pop()
    if depth > _DEEPEST:
      raise UserError(f'{source} is nested deeper than {_DEEPEST} levels: {place:.60}')
    if isinstance(value, dict):
      todo += [(f'{place}.{name:.99}', x, depth + 1) for name, x in value.items()]
      value = ''.join(value)
    if isinstance(value, str) and has_half_character(value):
      raise UserError(f'{source}: {place[1:]!r} has half a character (\\ud800-\\udfff)')
    if isinstance(value, list):
      todo += [(f'{place}[{i}]', x, depth + 1) for i, x in enumerate(value)]
    elif isinstance(value, float) and not math.isfinite(value):
      raise UserError(f'{source}: {place[1:]} is {value}, not a finite number')
    elif isinstance(value, int) and abs(value) >= 2**63:
      raise UserError(f'{source}: {place[1:]} is an integer of more than 64 bits')


def has_half_character(text: str) -> bool:
  """Returns whether a text has a lone surrogate, which cannot be encoded as UTF-8."""
  return not text.isascii() and re.search('[\ud800-\udfff]', text) is not None
