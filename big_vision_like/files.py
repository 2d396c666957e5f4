"""Files that appear when they are complete, and JSON whose errors name the file."""

import contextlib
import json
import os
import pathlib
import shutil
import uuid
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np

from big_vision_like.errors import UserError, kind_text


@contextlib.contextmanager
def atomic(path: str | os.PathLike) -> Iterator[pathlib.Path]:
  """Yields a path to write a file or a new folder at, which then becomes `path`.

  Where the block raises, what it wrote is removed and `path` stays as it was.
  """
  path = pathlib.Path(path)
  if path.exists() and not (path.is_file() or path.is_dir()):  # a device or a pipe
    yield path
    return
  path = path.resolve()  # links stay
  path.parent.mkdir(parents=True, exist_ok=True)
  part = path.with_name(f'{path.name}.{uuid.uuid4().hex[:8]}.part')
  try:
    yield part
    os.replace(part, path)
  finally:
    if part.is_dir():
      shutil.rmtree(part)
    part.unlink(missing_ok=True)


def write(path: str | os.PathLike, content: str | bytes) -> None:
  """Writes a whole file, or leaves the one that is there."""
  with atomic(path) as part:
    part.write_bytes(content.encode() if isinstance(content, str) else content)


def write_json(path: str | os.PathLike, value: Any, indent: int | None = 2) -> None:
  """Writes a whole JSON file, or leaves the one that is there."""
  write(path, json.dumps(value, indent=indent) + '\n')


def write_npz(path: str | os.PathLike, arrays: Mapping[str, np.ndarray]) -> None:
  """Writes a whole .npz file, or leaves the one that is there."""
  with atomic(path) as part, part.open('wb') as file:
    np.savez(file, **arrays)


def read_json(path: str | os.PathLike) -> Any:
  """Returns the value of a JSON file; raises a `UserError` that names a bad one."""
  try:
    return json.loads(pathlib.Path(path).read_text(encoding='utf-8'))
  except OSError as error:
    raise UserError(f'{path} cannot be read: {error.strerror}') from error
  except ValueError as error:
    raise UserError(f'{path} is not JSON: {error}') from error


def read_fields(path: str | os.PathLike) -> dict[str, Any]:
  """Returns the object of a JSON file; raises a `UserError` where it holds another."""
  content = read_json(path)
  if not isinstance(content, dict):
    raise UserError(f'{path} holds {kind_text(content)}, not fields by name')
  return content
