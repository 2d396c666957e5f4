"""What is slow to find out about data, kept in ~/.cache/big_vision_like."""

import contextlib
import fcntl
import hashlib
import json
import pathlib
import sys
import zipfile
from collections.abc import Callable, Iterable, Iterator
from typing import Any, TypeVar

import numpy as np

from big_vision_like import files

T = TypeVar('T')


def file(kind: str, known: Any) -> pathlib.Path:
  """Where arrays of a kind are kept that depend on what is `known`, plain data."""
  name = hashlib.sha256(json.dumps(known).encode()).hexdigest()[:32]
  return pathlib.Path.home() / '.cache' / 'big_vision_like' / kind / f'{name}.npz'


def arrays(
  file: pathlib.Path, make: Callable[[], dict[str, np.ndarray]]
) -> dict[str, np.ndarray]:
  """The arrays of a file, which the first process of a host makes at first use.

  They are made again where the file is damaged, and each time where none can be kept.
  """
  with _locked(file) as writable:
    found = _read(file)
    if found is None:
      found = make()
      if writable:
        with contextlib.suppress(OSError):  # of a disk that is full
          files.write_npz(file, found)
    return found


def _read(file: pathlib.Path) -> dict[str, np.ndarray] | None:
  try:
    with open(file, 'rb') as content, np.load(content) as saved:
      return dict(saved)
  except (OSError, ValueError, EOFError, zipfile.BadZipFile):
    return None


def progress(steps: Iterable[T], title: str, total: int) -> Iterator[T]:
  """The steps, with a bar on a terminal that goes away at the end."""
  if not sys.stderr.isatty():
    return iter(steps)
  import rich.console
  import rich.progress

  console = rich.console.Console(stderr=True)
  bar = rich.progress.track(steps, title, total=total, console=console, transient=True)
  return iter(bar)


@contextlib.contextmanager
def _locked(file: pathlib.Path) -> Iterator[bool]:
  """Lets one process at a time in; yields whether files can be kept there."""
  try:
    file.parent.mkdir(parents=True, exist_ok=True)
    lock = open(file.with_suffix('.lock'), 'w')
  except OSError:
    yield False
    return
  with lock:
    fcntl.flock(lock, fcntl.LOCK_EX)
    for part in file.parent.glob(f'{file.name}.*.part'):
      part.unlink()  # of a process that was killed
    yield True
