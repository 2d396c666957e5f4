"""A cache in ~/.cache/big_vision_like for facts about data that are slow to compute.

If that folder is not writable, they are stored with temporary files, or not at all.
"""

import contextlib
import fcntl
import functools
import multiprocessing
import os
import pathlib
import sys
import tempfile
from collections.abc import Callable, Iterable, Iterator
from typing import Any, TypeVar

import numpy as np

from big_vision_like import files

T = TypeVar('T')


def file(kind: str, known: Any) -> pathlib.Path:
  """Returns the cache file for arrays of a kind that depend on plain data, `known`."""
  name = files.sha256(known)[:32]
  own = pathlib.Path(tempfile.gettempdir()) / f'big_vision_like-{os.getuid()}'
  try:
    folder = pathlib.Path.home() / '.cache' / 'big_vision_like'
    kept = folder / kind / f'{name}.npz'
    problem = None if os.path.exists(kept) else _not_writable(kept.parent)
  except RuntimeError as error:  # the home folder cannot be determined
    folder, kept, problem = 'the home', own / kind / f'{name}.npz', str(error)
  if problem and _not_writable(own) is None and own.stat().st_uid == os.getuid():
    _tell_once(f'{folder} cannot be written ({problem}): using {own}')
    return own / kind / kept.name
  return kept


def arrays(
  file: pathlib.Path, make: Callable[[], dict[str, np.ndarray]]
) -> dict[str, np.ndarray]:
  """Returns the arrays of a file; the first process of a host makes them.

  Replaces a damaged file. Warns once if the file cannot be written.
  """
  if (kept := read(file)) is not None:
    return kept
  with contextlib.ExitStack() as stack:
    with contextlib.suppress(OSError):  # if so, the file is not writable either
      file.parent.mkdir(parents=True, exist_ok=True)
      stack.enter_context(_locked(file.with_suffix('.lock')))
      if (kept := read(file)) is not None:  # made by the process that had the lock
        return kept
    made = make()
    try:
      files.write_npz(file, made)
    except OSError as error:
      _tell_once(
        f'{file.parent.parent} cannot be written ({error.strerror}): each process'
        ' computes facts about the data again, which is slow'
      )
  return made


def read(file: pathlib.Path) -> dict[str, np.ndarray] | None:
  """Returns the arrays of a file; None if the file is missing or damaged."""
  try:
    with open(file, 'rb') as opened, np.load(opened) as saved:
      return dict(saved)
  except Exception:  # damaged files make zipfile and NumPy raise a dozen error types
    return None


def _not_writable(folder: pathlib.Path) -> str | None:
  """Returns why a folder is not writable, or None; creates a missing folder."""
  try:
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
  except OSError as error:
    return error.strerror
  return None if os.access(folder, os.W_OK) else 'Permission denied'


@functools.cache
def _tell_once(text: str) -> None:
  if multiprocessing.parent_process() is None:  # workers find the same
    print(f'warning: {text}', file=sys.stderr, flush=True)


def progress(steps: Iterable[T], title: str, total: int) -> Iterator[T]:
  """Returns the steps; a terminal shows a progress bar that disappears at the end."""
  if not sys.stderr.isatty():
    return iter(steps)
  import rich.console
  import rich.progress

  console = rich.console.Console(stderr=True)
  bar = rich.progress.track(steps, title, total=total, console=console, transient=True)
  return iter(bar)


@contextlib.contextmanager
def _locked(file: pathlib.Path) -> Iterator[None]:
  with open(file, 'w') as lock:
    fcntl.flock(lock, fcntl.LOCK_EX)
    yield
