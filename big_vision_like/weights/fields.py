"""Kinds of the fields of JSON files stored with weights, checked when they are read.

A table lists the fields in use by name, with the kind of each. Bools are not numbers,
and NaN and infinities are rejected.
"""

import math
import re
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

from big_vision_like.errors import UserError

# The longest side of images, in pixels, that is accepted from a file.
LONGEST_SIDE = 4096


class Kind(NamedTuple):
  """A test for the values of a field, and words that describe them."""

  fits: Callable[[Any], bool]
  words: str


Table = Mapping[str, 'Kind | Table']


def check(content: Any, table: Table, source: str, null: bool = True) -> None:
  """Raises a `UserError` for fields that are not of their kind.

  Missing fields are ignored, and so are nulls if `null`. Fields outside of the table
  are ignored too.
  """
  if not isinstance(content, Mapping):
    raise UserError(f'{source} is {content!r:.99}, not fields by name')
  for name, kind in table.items():
    if name not in content or (null and content[name] is None):
      continue
    value = content[name]
    if isinstance(kind, Mapping):
      check(value, kind, f'{source}: {name}', null)
    elif not kind.fits(value):
      raise UserError(
        f'{source} lacks or misstates {name!r}: {value!r:.99} is not {kind.words}'
      )


def need(content: Mapping[str, Any], names: tuple[str, ...], source: str) -> None:
  """Raises a `UserError` for fields that are missing or null."""
  for name in names:
    if content.get(name) is None:
      raise UserError(f'{source} lacks or misstates {name!r}')


def list_of(kind: Kind, length: int | None = None) -> Kind:
  """Returns the kind of lists of one kind, of any or a fixed length."""
  count = 'a list' if length is None else f'a list of {length}'
  return Kind(
    lambda x: (
      isinstance(x, list | tuple)
      and length in (None, len(x))
      and all(map(kind.fits, x))
    ),
    f'{count}, each {kind.words}',
  )


def either(*kinds: Kind) -> Kind:
  """Returns the kind of values that are of any of several kinds."""
  words = ' or '.join(kind.words for kind in kinds)
  return Kind(lambda x: any(kind.fits(x) for kind in kinds), words)


def fields_of(names: tuple[str, ...], kind: Kind) -> Kind:
  """Returns the kind of objects that have all these fields, of one kind."""
  return Kind(
    lambda x: isinstance(x, Mapping) and all(kind.fits(x.get(n)) for n in names),
    f'{" and ".join(names)}, each {kind.words}',
  )


def whole(least: int, most: int = 2**31) -> Kind:
  """Returns the kind of whole numbers from `least` to `most`."""
  return Kind(
    lambda x: type(x) is int and least <= x <= most,
    f'a whole number from {least} to {most:,}',
  )


def one_of(*values: Any) -> Kind:
  """Returns the kind of exactly these values."""
  return Kind(
    lambda x: any(type(x) is type(v) and x == v for v in values),
    ' or '.join(map(repr, values)),
  )


def _is_number(value: Any) -> bool:
  return type(value) in (int, float) and math.isfinite(value)


def _is_labels(value: Any) -> bool:
  """Returns whether this maps the numbers from 0 on, each once, to names."""
  if not isinstance(value, Mapping) or not all(map(TEXT.fits, value.values())):
    return False
  if not all(re.fullmatch(r'[0-9]{1,9}', str(key)) for key in value):
    return False
  return sorted(map(int, value)) == [*range(len(value))]


COUNT = whole(1)._replace(words='a positive whole number')
SIDE = whole(1, LONGEST_SIDE)
FLAG = one_of(True, False)
NULL = one_of(None)
TEXT = Kind(lambda x: isinstance(x, str), 'text')
POSITIVE = Kind(lambda x: _is_number(x) and x > 0, 'a positive number')
# For pixel values in [0, 1].
MEAN = Kind(lambda x: _is_number(x) and 0 <= x <= 1, 'a number from 0 to 1')
STD = Kind(
  lambda x: _is_number(x) and 1e-6 <= x <= 1e3, 'a number from 0.000001 to 1,000'
)
# Added to variances.
EPSILON = Kind(lambda x: _is_number(x) and 0 < x < 1, 'a number between 0 and 1')
SHARE = Kind(lambda x: _is_number(x) and 0 <= x < 1, 'a number from 0 to below 1')
SIDES = either(SIDE, list_of(SIDE, 2))
LABELS = Kind(_is_labels, 'a name for each class, by numbers from 0 on')
