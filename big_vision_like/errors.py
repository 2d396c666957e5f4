"""What programs say at the terminal: errors, how their sentences list things, help."""

import argparse
import contextlib
import difflib
import errno
import functools
import os
import signal
import sys
from collections.abc import Callable, Iterable, Iterator
from typing import Any

# Errors of disks, which do not name the file: no space, quota, size of a file, broken.
FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EIO, errno.EROFS)

# How help calls this program where it was started by another name than its file's.
program: str | None = None


class UserError(ValueError):
  """Wrong input that one sentence explains; `main` prints it without a traceback."""


class BadRecordError(UserError):
  """One example of a data set that cannot be used, for the reason that it gives.

  Training counts it and takes another, see `data.input.pipeline`; anything else stops.
  """


@contextlib.contextmanager
def prefixed(place: str) -> Iterator[None]:
  """Puts a place of the config in front of a `UserError` raised inside."""
  try:
    yield
  except UserError as error:
    raise UserError(f'{place}: {error}') from error


class Checked:
  """Something that can say before a run starts what would keep it from working."""

  def problems(self) -> list[str]:
    """Returns a sentence for each problem; empty where there is none."""
    return []


def check_one_of(known: Iterable[str], **values: Any) -> None:
  """Raises a `UserError` for a value that is not known, with its name."""
  known = list(known)
  for name, value in values.items():
    if value not in known:
      raise UserError(f'{name}={value!r} is not one of {", ".join(known)}')


def listed(items: Iterable[Any], most: int = 10) -> str:
  """Returns the first items, separated by commas, and how many more there are."""
  items = [*map(str, items)]
  more = f' and {len(items) - most:,} more' if len(items) > most else ''
  return ', '.join(items[:most]) + more


def nearest(name: str, known: Iterable[str], most: int = 1) -> list[str]:
  """Returns the known names that a misspelt one may stand for, the likeliest first."""
  return difflib.get_close_matches(name, [*known], n=most, cutoff=0.5)


def plural(count: int, name: str) -> str:
  """Returns '1 file' or '1,234 files'."""
  return f'{count:,} {name}' if count == 1 else f'{count:,} {name}s'


def type_text(kind: type) -> str:
  """Returns the name of a type with its article: 'an int', 'a list'."""
  name = kind.__name__
  return f'{"an" if name[0] in "aeiou" else "a"} {name}'


def shape_text(shape: Iterable[int]) -> str:
  """Returns '32x32x3', or 'scalar' for an empty shape."""
  return 'x'.join(map(str, shape)) or 'scalar'


def told_plainly(main: Callable[..., int | None]) -> Callable[..., int]:
  """Wraps a `main`: a `UserError` is printed and becomes exit status 1.

  So do errors of the system that name a file: disks that are full or read-only. Ctrl-C
  ends a program with one line.
  """

  @functools.wraps(main)
  def wrapped(*args, **kwargs) -> int:
    try:
      return main(*args, **kwargs) or 0
    except UserError as error:
      print(f'error: {error}', file=sys.stderr)
      return 1
    except BrokenPipeError:  # what reads the output, such as `head`, has ended
      os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
      return 128 + signal.SIGPIPE
    except OSError as error:
      if error.filename is None and error.errno not in FULL:
        raise
      where = error.filename or 'a file cannot be written'
      print(f'error: {where}: {error.strerror}', file=sys.stderr)
      return 1
    except KeyboardInterrupt:
      print('stopped by Ctrl-C', file=sys.stderr)
      return 128 + signal.SIGINT

  return wrapped


class _Parser(argparse.ArgumentParser):
  """Expands the ~ of `--flag=~/file`, which shells leave as it is."""

  def parse_known_args(self, args: Any = None, namespace: Any = None) -> Any:
    args = [_expanded(word) for word in (sys.argv[1:] if args is None else args)]
    return super().parse_known_args(args, namespace)


def _expanded(word: str) -> str:
  flag, sign, value = word.partition('=') if word.startswith('--') else ('', '', word)
  return flag + sign + os.path.expanduser(value) if value.startswith('~') else word


def parser(description: str, **options: Any) -> argparse.ArgumentParser:
  """Returns a parser whose help shows the docstring of a program as it is."""
  form = argparse.RawDescriptionHelpFormatter
  if program is not None:
    options['prog'] = program
  return _Parser(description=description, formatter_class=form, **options)
