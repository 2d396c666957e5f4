"""Zip archives of arrays, with sizes checked before anything is unpacked.

A small archive may declare, or unpack to, any number of bytes. In this module, a member
yields exactly the bytes that the list of members declares for it, and the total must be
in proportion to the file.
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

# Errors that zipfile raises for damaged archives.
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
# Files of weights hardly shrink under compression. Content is read if it is at most
# `SMALL` bytes, or at most `RATIO` times as large as its file.
SMALL, RATIO = 2**28, 8
# Supported models do not have more arrays or longer names.
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
      f'{path} has {there:,} bytes, but declares {size:,} bytes of arrays: it is not'
      ' read'
    )


@contextlib.contextmanager
def opened(path: str | os.PathLike) -> Iterator[dict[str, 'Member']]:
  """Yields the members of an archive by name.

  Raises a `UserError` for duplicate names, for sizes out of proportion, and for
  compression methods that cannot be unpacked piece by piece.
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
  """One file of an archive; `size` is the size of its content in bytes."""

  def __init__(self, archive: zipfile.ZipFile, info: zipfile.ZipInfo) -> None:
    self._archive, self._info = archive, info
    self.size = info.file_size

  def open(self) -> IO[bytes]:
    """Opens the file for reading; its checksum is compared at its end."""
    if self._info.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
      raise NotImplementedError(
        f'compressed by method {self._info.compress_type}, not deflate (8)'
      )
    return self._archive.open(self._info)

  def read(self) -> bytes:
    """Returns the content, after comparing its length and checksum."""
    with self.open() as file:
      content = file.read(self.size)  # without a size, it would unpack without bounds
    if len(content) != self.size:
      raise EOFError(f'{self._info.filename!r} ends after {len(content):,} bytes')
    return content
