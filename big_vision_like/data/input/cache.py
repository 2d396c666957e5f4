"""What is slow to find out about data, kept in ~/.cache/big_vision_like."""

import contextlib
import fcntl
import hashlib
import json
import pathlib
import sys
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
  """The arrays of a file, which the first process of a host makes at first use."""
  file.parent.mkdir(parents=True, exist_ok=True)
  with _locked(file.with_suffix('.lock')):
    if not file.exists():
      files.write_npz(file, make())
    with np.load(file) as saved:
      return dict(saved)


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
def _locked(file: pathlib.Path) -> Iterator[None]:
  with open(file, 'w') as lock:
    fcntl.flock(lock, fcntl.LOCK_EX)
    yield
