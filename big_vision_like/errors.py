"""The one exception that is for the person at the terminal."""

import functools
import sys
from collections.abc import Callable


class UserError(ValueError):
  """Wrong input that one sentence explains; `main` prints it without a traceback."""


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
