"""The exceptions that are for the person at the terminal."""

import contextlib
import functools
import sys
from collections.abc import Callable, Iterator


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


def told_plainly(main: Callable[..., int | None]) -> Callable[..., int]:
  """Wraps a `main`: a `UserError` is printed and becomes exit status 1."""

  @functools.wraps(main)
  def wrapped(*args, **kwargs) -> int:
    try:
      return main(*args, **kwargs) or 0
    except UserError as error:
      print(f'error: {error}', file=sys.stderr)
      return 1

  return wrapped
