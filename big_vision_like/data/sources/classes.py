"""Class labels stored as text: numbers and names of classes."""

import codecs
import os
import re
from collections.abc import Sequence

from big_vision_like import files
from big_vision_like.errors import BadRecordError, UserError

# Maximum length of a class name; longer content is another kind of file.
LONGEST = 200
MARKS = {codecs.BOM_UTF16_LE: 'utf-16', codecs.BOM_UTF16_BE: 'utf-16'}


def text(data: bytes) -> str:
  """Decodes a text and removes its byte order mark."""
  return data.decode(MARKS.get(data[:2], 'utf-8-sig'))


def label(data: bytes, name: str) -> int | str:
  """Returns the number or the name of a class; `name` names the example in errors.

  Raises `BadRecordError` for data that are neither.
  """
  try:
    stored = text(data[: LONGEST * 2]).strip(' \t\r\n\0')
  except UnicodeDecodeError:
    stored = ''
  if not stored or len(data) > LONGEST or not stored.isprintable():
    raise BadRecordError(f'{name} has the class {data[:20]!r}, not a number or a name')
  if re.fullmatch(r'[-+]?\d+', stored):
    return int(stored)
  if re.fullmatch(r'[-+]?(\d+\.\d*|\.\d+|nan|inf)(e[-+]?\d+)?', stored.lower()):
    return whole(float(stored), name)
  return stored


def whole(number: float, name: str) -> int:
  """Returns a whole number as int; raises BadRecordError for other numbers."""
  if not float(number).is_integer():  # also covers numbers that are not finite
    raise BadRecordError(f'{name} has the label {number}, not a whole number')
  return int(number)


def position(stored: int | str, names: Sequence[str], name: str) -> int:
  """Returns the index of a class among the names of all classes."""
  try:
    return names.index(stored)
  except ValueError as error:
    raise BadRecordError(
      f'{name} has the class {stored!r}, which is not a known class name'
    ) from error


def names_in(path: str | os.PathLike) -> list[str]:
  """Returns the class names in a file, one per line; raises `UserError` if invalid."""
  try:
    content = text(files.read_bytes(path))
    lines = content.replace('\r\n', '\n').rstrip('\n').split('\n')
  except OSError as error:
    raise UserError(f'{path} cannot be read: {error.strerror}') from error
  except UnicodeDecodeError as error:
    raise UserError(f'{path} is not UTF-8: save it as UTF-8') from error
  names = [line.strip() for line in lines]
  for number, name in enumerate(names):
    if not name or name in names[:number]:
      what = f'{name!r} again' if name else 'no name'
      raise UserError(f'{path} has {what} in line {number + 1}: name each class once')
  return names
