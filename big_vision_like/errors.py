"""User-facing errors, text helpers for their messages, and argument parsers."""

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

# Disk errors that do not name a file: no space, quota, file size, I/O, read-only.
FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EIO, errno.EROFS)

# How help calls this program where it was started by another name than its file's.
program: str | None = None


class UserError(ValueError):
  """Wrong input that one sentence explains; `main` prints it without a traceback."""


class BadRecordError(UserError):
  """An example of a data set that cannot be used, with the reason.

  Training counts the example and takes another, see `data.input.pipeline`; all other
  programs stop.
  """


@contextlib.contextmanager
def prefixed(place: str) -> Iterator[None]:
  """Prefixes a `UserError` raised inside with a place in the config."""
  try:
    yield
  except UserError as error:
    raise UserError(f'{place}: {error}') from error


class Checked:
  """An object that can report, before a run starts, problems that would stop it."""

  def problems(self) -> list[str]:
    """Returns a sentence for each problem; the list is empty if there is none."""
    return []


def check_one_of(known: Iterable[str], **values: Any) -> None:
  """Raises a `UserError` that names the first value which is not a known one."""
  known = list(known)
  for name, value in values.items():
    if value not in known:
      raise UserError(f'{name}={value!r} is not one of {", ".join(known)}')


def listed(items: Iterable[Any], most: int = 10) -> str:
  """Returns the first `most` items, separated by commas, and the number of others."""
  items = [*map(str, items)]
  more = f' and {len(items) - most:,} more' if len(items) > most else ''
  return ', '.join(items[:most]) + more


def nearest(name: str, known: Iterable[str], most: int = 1) -> list[str]:
  """Returns the known names closest to a misspelt one, the most likely first."""
  return difflib.get_close_matches(name, [*known], n=most, cutoff=0.5)


def plural(count: int, name: str) -> str:
  """Returns a count with its noun: '1 file' or '1,234 files'."""
  return f'{count:,} {name}' if count == 1 else f'{count:,} {name}s'


def type_text(kind: type) -> str:
  """Returns the name of a type with its article: 'an int', 'a list'."""
  name = kind.__name__
  return f'{"an" if name[0] in "aeiou" else "a"} {name}'


def shape_text(shape: Iterable[int]) -> str:
  """Returns a shape as text: '32x32x3', or 'scalar' if it is empty."""
  return 'x'.join(map(str, shape)) or 'scalar'


def told_plainly(main: Callable[..., int | None]) -> Callable[..., int]:
  """Wraps a `main` so that a `UserError` is printed and becomes exit status 1.

  Operating system errors that name a file, and full or read-only disks, are treated the
  same way. Ctrl-C ends the program with one line.
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
  """A parser that expands the ~ of `--flag=~/file`, which shells do not expand."""

  def parse_known_args(self, args: Any = None, namespace: Any = None) -> Any:
    args = [_expanded(word) for word in (sys.argv[1:] if args is None else args)]
    return super().parse_known_args(args, namespace)


def _expanded(word: str) -> str:
  flag, sign, value = word.partition('=') if word.startswith('--') else ('', '', word)
  return flag + sign + os.path.expanduser(value) if value.startswith('~') else word


def parser(description: str, **options: Any) -> argparse.ArgumentParser:
  """Returns a parser whose help shows a program's docstring without reformatting."""
  form = argparse.RawDescriptionHelpFormatter
  if program is not None:
    options['prog'] = program
  return _Parser(description=description, formatter_class=form, **options)
