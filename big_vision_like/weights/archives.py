"""Zip archives of arrays, whose sizes are checked before anything is unpacked.

A small archive may promise, or unfold to, any number of bytes. Here a member yields
exactly the bytes that the list of members promises for it, and all of them together
must be in proportion to the file.
"""

import contextlib
import os
import pathlib
import struct
import zipfile
import zlib
from collections.abc import Collection, Iterator
from typing import IO

from big_vision_like.errors import UserError

# What zipfile raises of damaged archives.
DAMAGE = (
  OSError,
  EOFError,
  ValueError,
  TypeError,
  KeyError,
  IndexError,
  AttributeError,
  OverflowError,
  MemoryError,
  RuntimeError,
  struct.error,
  zipfile.BadZipFile,
  zlib.error,
)
# Files of weights hardly shrink when they are compressed: whatever is small enough, and
# whatever is at most `RATIO` times as large as its file, is read.
SMALL, RATIO = 2**28, 8
# No model that is read has more arrays, or longer names.
MOST, LONGEST = 10_000, 1_000


def check_names(names: Collection[str], path: str | os.PathLike) -> None:
  """Raises a `UserError` for more, longer or stranger names than any model has."""
  if len(names) > MOST:
    raise UserError(f'{path} has {len(names):,} arrays: no model has over {MOST:,}')
  for name in names:
    if len(name) > LONGEST or not name.isprintable():
      raise UserError(
        f'{path} has a name of length {len(name):,} that no model has: {name[:40]!r}'
      )


def check_size(size: int, path: str | os.PathLike) -> None:
  """Raises a `UserError` if arrays are far larger than their file."""
  there = pathlib.Path(path).stat().st_size
  if size > max(SMALL, RATIO * there):
    raise UserError(
      f'{path} has {there:,} bytes, but what it promises would fill {size:,}: it is not'
      ' read'
    )


@contextlib.contextmanager
def opened(path: str | os.PathLike) -> Iterator[dict[str, 'Member']]:
  """Yields the members of an archive by name.

  Raises a `UserError` for names that are there twice, for sizes out of proportion, and
  for methods of compression that cannot be unpacked piece by piece.
  """
  with zipfile.ZipFile(path) as archive:
    members: dict[str, Member] = {}
    for info in archive.infolist():
      if info.filename in members:
        raise UserError(f'{path} has {info.filename!r} twice: write it again')
      members[info.filename] = Member(archive, info)
    check_size(sum(member.size for member in members.values()), path)
    yield members


class Member:
  """One file of an archive; `size` is that of its content."""

  def __init__(self, archive: zipfile.ZipFile, info: zipfile.ZipInfo) -> None:
    self._archive, self._info = archive, info
    self.size = info.file_size

  def open(self) -> IO[bytes]:
    """Opens it for reading; its checksum is compared where it ends."""
    if self._info.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
      raise NotImplementedError(
        f'compressed by method {self._info.compress_type}, read is deflate (8)'
      )
    return self._archive.open(self._info)

  def read(self) -> bytes:
    """Returns its content, after comparing length and checksum."""
    with self.open() as file:
      content = file.read(self.size)  # without a size it unpacks ahead, without bounds
    if len(content) != self.size:
      raise EOFError(f'{self._info.filename!r} ends after {len(content):,} bytes')
    return content
