"""A check, made while code runs, that array names end in their axes.

    with shapes.checked('big_vision_like/models') as seen:
      jax.eval_shape(model.init, key, image)

A suffix has one letter or digit per axis and contains a capital: `x_BND`, `x_hwD`,
`y_B11`. Within one call a letter stands for one size, and a digit is the size. All
sizes in such a test should differ, or a wrong name goes unnoticed.
"""

import collections
import contextlib
import pathlib
import re
import sys
from collections.abc import Iterator
from typing import Any

ROOT = pathlib.Path(__file__).resolve().parent.parent
SUFFIX = re.compile(r'_([a-zA-Z0-9]*[A-Z][a-zA-Z0-9]*)$')


@contextlib.contextmanager
def checked(*folders: str) -> Iterator[collections.Counter[str]]:
  """Checks local variables of code under `folders`; counts the names that it checks.

  Raises `AssertionError` with file, line, name and shape.
  """
  roots = tuple(str(ROOT / folder) for folder in folders)
  seen: collections.Counter[str] = collections.Counter()

  def check(frame: Any, event: str, _: Any) -> Any:
    sizes: dict[str, tuple[int, str]] = {}
    for name, value in frame.f_locals.items():
      suffix, shape = SUFFIX.search(name), getattr(value, 'shape', None)
      if suffix is None or not isinstance(shape, tuple):
        continue
      seen[name] += 1
      where = f'{frame.f_code.co_filename}:{frame.f_lineno}: {name} has shape {shape}'
      if len(suffix[1]) != len(shape):
        raise AssertionError(where)
      for axis, size in zip(suffix[1], shape, strict=True):
        if axis.isdigit() and size != int(axis):
          raise AssertionError(where)
        known, other = sizes.setdefault(axis, (size, name))
        if size != known:
          raise AssertionError(f'{where}, but {axis} is {known} in {other}')
    return check

  def enter(frame: Any, event: str, _: Any) -> Any:
    return check if frame.f_code.co_filename.startswith(roots) else None

  before = sys.gettrace()
  sys.settrace(enter)
  try:
    yield seen
  finally:
    sys.settrace(before)
