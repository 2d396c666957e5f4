"""Labels as people store them: numbers and names of classes in texts."""

import codecs
import os
import re
from collections.abc import Sequence

from big_vision_like import files
from big_vision_like.errors import BadRecordError, UserError

# No name of a class is longer; what is longer is another file.
LONGEST = 200
MARKS = {codecs.BOM_UTF16_LE: 'utf-16', codecs.BOM_UTF16_BE: 'utf-16'}


def text(data: bytes) -> str:
  """Returns a text without the mark that says how it is encoded."""
  return data.decode(MARKS.get(data[:2], 'utf-8-sig'))


def label(data: bytes, name: str) -> int | str:
  """Returns the number of a class, or its name; `name` is of the example, for errors.

  Raises `BadRecordError` for what is neither.
  """
  try:
    stored = text(data[: LONGEST * 2]).strip(' \t\r\n\0')
  except UnicodeDecodeError:
    stored = ''
  if not stored or len(data) > LONGEST or not stored.isprintable():
    raise BadRecordError(f'{name} has the class {data[:20]!r}, no number and no name')
  if re.fullmatch(r'[-+]?\d+', stored):
    return int(stored)
  if re.fullmatch(r'[-+]?(\d+\.\d*|\.\d+|nan|inf)(e[-+]?\d+)?', stored.lower()):
    return whole(float(stored), name)
  return stored


def whole(number: float, name: str) -> int:
  """Returns a whole number as int; BadRecordError for another one, as a label."""
  if not float(number).is_integer():  # also what is not finite
    raise BadRecordError(f'{name} has the label {number}, no whole number')
  return int(number)


def position(stored: int | str, names: Sequence[str], name: str) -> int:
  """Returns the place of a class among the names of all."""
  try:
    return names.index(stored)
  except ValueError as error:
    raise BadRecordError(
      f'{name} has the class {stored!r}, no name as others have'
    ) from error


def names_in(path: str | os.PathLike) -> list[str]:
  """Returns the names of classes in a file, one a line; `UserError` if it has none."""
  try:
    content = text(files.read_bytes(path))
    lines = content.replace('\r\n', '\n').rstrip('\n').split('\n')
  except OSError as error:
    raise UserError(f'{path} cannot be read: {error.strerror}') from error
  except UnicodeDecodeError as error:
    raise UserError(f'{path} is not UTF-8: save it as that') from error
  names = [line.strip() for line in lines]
  for number, name in enumerate(names):
    if not name or name in names[:number]:
      what = f'{name!r} again' if name else 'no name'
      raise UserError(f'{path} has {what} in line {number + 1}: name each class once')
  return names
