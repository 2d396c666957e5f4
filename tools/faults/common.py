"""Damages files in many ways, and classifies the outcomes of reading them.

Modules of this package declare `KINDS`: how files are made, damaged and read.
"""

import collections
import dataclasses
import json
import os
import pathlib
import queue
import resource
import shutil
import subprocess
import sys
import tempfile
import threading
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np

from big_vision_like.data.sources.base import digest
from big_vision_like.errors import UserError

# Outcomes of a fault; 'no checksum' means other values that the format cannot detect.
OUTCOMES = (
  'same values',
  'one sentence',
  'no checksum',
  'silent',
  'traceback',
  'noise',
  'hang',
  'crash',
  'memory',
)
GOOD = OUTCOMES[:3]
SECONDS, MEGABYTES = 20, 2000
# The program of a process that reads: its words are a kind, a folder and names.
READER = """
import pathlib, sys
from big_vision_like import cli
from tools.faults import common
cli.set_up_jax()
common.serve(common.kinds()[sys.argv[1]], pathlib.Path(sys.argv[2]), sys.argv[3:])
"""


@dataclasses.dataclass(frozen=True)
class Kind:
  """A kind of file: functions that make an intact one, damage it and read it.

  `make(folder)` writes intact files. `damage(folder, rng)` changes a copy of them and
  returns a description. `read(folder)` returns plain data and arrays, or raises a
  `UserError`. `checked` formats can detect other values, so they must not return any.
  """

  name: str
  make: Callable[[pathlib.Path], None]
  damage: Callable[[pathlib.Path, np.random.Generator], str]
  read: Callable[[pathlib.Path], Any]
  checked: bool = False


def flip(path: pathlib.Path, rng: np.random.Generator) -> str:
  """Flips one to four bits of a file."""
  content = bytearray(path.read_bytes())
  places = rng.integers(0, max(8 * len(content), 1), rng.choice([1, 1, 1, 4]))
  for place in places if content else ():
    content[place // 8] ^= 1 << place % 8
  path.write_bytes(content)
  return f'{len(places)} bits of {path.name} flipped'


def cut(path: pathlib.Path, rng: np.random.Generator) -> str:
  """Truncates a file."""
  size = path.stat().st_size
  kept = int(rng.integers(0, max(size, 1)))
  os.truncate(path, kept)
  return f'{path.name} cut from {size} to {kept} bytes'


def overwrite(path: pathlib.Path, rng: np.random.Generator) -> str:
  """Overwrites some bytes with zeros or noise, as broken disks do."""
  content = bytearray(path.read_bytes())
  start, size = int(rng.integers(0, max(len(content), 1))), int(rng.integers(1, 512))
  size = min(size, len(content) - start)
  noise = rng.bytes(size) if rng.random() < 0.5 else bytes(size)
  content[start : start + size] = noise
  path.write_bytes(content)
  return f'{size} bytes of {path.name} overwritten'


def number(path: pathlib.Path, rng: np.random.Generator) -> str:
  """Writes an extreme number near the start, where headers have sizes."""
  content = bytearray(path.read_bytes())
  place = int(rng.integers(0, max(min(len(content), 200) - 4, 1)))
  value = int(rng.choice([0, 1, 255, 65535, 40000, 2**20, 2**31 - 1, 2**31, 2**32 - 1]))
  order = str(rng.choice(['little', 'big']))
  content[place : place + 4] = value.to_bytes(4, order)
  path.write_bytes(content)
  return f'{value} written at {place} of {path.name}'


def delete(path: pathlib.Path, rng: np.random.Generator) -> str:
  """Deletes a file."""
  del rng
  path.unlink()
  return f'{path.name} deleted'


BYTES = (flip, flip, cut, overwrite, number)


def any_file(*ways: Callable, pattern: str = '*') -> Callable:
  """Returns a `damage` function that does one of these to one file of a folder."""

  def damage(folder: pathlib.Path, rng: np.random.Generator) -> str:
    found = sorted(path for path in folder.rglob(pattern) if path.is_file())
    path = found[rng.integers(len(found))]
    return ways[rng.integers(len(ways))](path, rng)

  return damage


@dataclasses.dataclass(frozen=True)
class Result:
  """The outcome of one fault."""

  kind: str
  how: str
  outcome: str
  told: str


def campaign(kind: Kind, count: int, seed: int) -> Iterator[Result]:
  """Tries faults of a kind, which separate processes read."""
  rng = np.random.default_rng([seed, *kind.name.encode()])
  with tempfile.TemporaryDirectory() as folder:
    top, hows = pathlib.Path(folder), {}
    (top / 'sound').mkdir()
    kind.make(top / 'sound')
    for i in range(count):
      shutil.copytree(top / 'sound', top / f'{i:05}', symlinks=True)
      hows[f'{i:05}'] = kind.damage(top / f'{i:05}', rng)
    names = ['sound', *hows]
    wanted, done = '', 0
    while done < len(names):
      for name, said in _read_all(kind, top, names[done:]):
        done += 1
        if name == 'sound':
          if said.get('outcome') != 'values':
            raise UserError(f'{kind.name}: the intact files cannot be read: {said}')
          wanted = said['values']
          continue
        yield Result(kind.name, hows[name], _judged(kind, said, wanted), said['told'])


def _judged(kind: Kind, said: dict[str, Any], wanted: str) -> str:
  if said['outcome'] != 'values':
    return said['outcome']
  if said['values'] == wanted:
    return 'same values'
  return 'silent' if kind.checked else 'no checksum'


def _read_all(
  kind: Kind, top: pathlib.Path, names: list[str]
) -> Iterator[tuple[str, dict[str, Any]]]:
  """Has a process read folders until it is done, hangs or crashes."""
  command = [sys.executable, '-c', READER, kind.name, str(top), *names]
  environment = os.environ | {'HOME': str(top)}  # where indexes of shards are stored
  with tempfile.TemporaryFile('w+') as errors:
    process = subprocess.Popen(
      command,
      stdout=subprocess.PIPE,
      stderr=errors,
      text=True,
      start_new_session=True,
      env=environment,
    )
    lines: queue.Queue[str] = queue.Queue()

    def listen() -> None:
      for line in process.stdout:
        lines.put(line)
      lines.put('')

    listener = threading.Thread(target=listen, daemon=True)
    listener.start()
    left = collections.deque(names)
    limit: float = 120  # time for the first imports
    while left:
      try:
        line = lines.get(timeout=limit)
      except queue.Empty:
        process.kill()
        yield left.popleft(), {'outcome': 'hang', 'told': f'{limit} s'}
        break
      if not line:
        process.wait()
        errors.seek(0)
        told = ' '.join(errors.read().split())[-300:]
        yield (
          left.popleft(),
          {'outcome': 'crash', 'told': f'{process.returncode} {told}'},
        )
        break
      if line.startswith('{'):
        limit = SECONDS
        yield left.popleft(), json.loads(line)
    process.kill()
    process.wait()
    listener.join()
    process.stdout.close()


def serve(kind: Kind, top: pathlib.Path, names: list[str]) -> None:
  """Reads folders one after the other, and prints a line of JSON for each."""
  for name in names:
    sys.stderr.flush()
    noise = os.lseek(2, 0, os.SEEK_END)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    try:
      values = kind.read(top / name)
      said = {'outcome': 'values', 'values': digest(values), 'told': ''}
    except UserError as error:
      lines = str(error).strip().splitlines()
      good = len(lines) <= 15 or name == 'sound'
      said = {'outcome': 'one sentence' if good else 'noise', 'told': str(error)[:600]}
    except Exception as error:  # such errors are what this program looks for
      told = f'{type(error).__name__}: {error}'[:600]
      said = {'outcome': 'traceback', 'told': told}
    after = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    if name != 'sound' and after - before > MEGABYTES * 1024:
      said = {'outcome': 'memory', 'told': f'{(after - before) >> 10} MB'}
    sys.stderr.flush()
    size = os.lseek(2, 0, os.SEEK_END) - noise
    printed = os.pread(2, min(size, 4000), noise).decode(errors='replace')
    if 'Traceback' in printed or 'never awaited' in printed:
      said = {'outcome': 'noise', 'told': ' '.join(printed.split())[-600:]}
    print(json.dumps(said), flush=True)


def kinds() -> dict[str, Kind]:
  """Returns the kinds that the modules of this package declare, by name."""
  import importlib
  import pkgutil

  from tools import faults

  names = sorted(m.name for m in pkgutil.iter_modules(faults.__path__))
  modules = [importlib.import_module(f'tools.faults.{name}') for name in names]
  found = [kind for module in modules for kind in getattr(module, 'KINDS', ())]
  return {kind.name: kind for kind in found}
