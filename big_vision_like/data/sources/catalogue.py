"""The data sets that this package writes, and their registration with TFDS.

The builder of `some_set` is the class `SomeSet` of some_set.py in one of `FOLDERS`.
"""

import importlib
import pathlib
import re
from types import ModuleType

DATA = pathlib.Path(__file__).parents[1]
FOLDERS = ('procedural', 'sources')


def ours() -> list[str]:
  """Returns the names of all data sets that this package writes."""
  found = []
  for file in (file for folder in FOLDERS for file in (DATA / folder).glob('*.py')):
    builder = ''.join(map(str.title, file.stem.split('_')))
    if re.search(
      rf'^class {builder}\((drawing|tfds)\.', file.read_text(), re.MULTILINE
    ):
      found.append(file.stem)
  return sorted(found)


def module(family: str) -> ModuleType | None:
  """Imports the module named after a data set; returns None if there is none."""
  for folder in FOLDERS:
    if (DATA / folder / f'{family}.py').exists():
      return importlib.import_module(f'big_vision_like.data.{folder}.{family}')
  return None


def announce(name: str) -> None:
  """Registers a data set with TFDS that it would not find by itself."""
  family = name.partition('/')[0].partition(':')[0]
  if module(family) is None and family.endswith('_translate'):
    # Without TensorFlow, TFDS stops importing its catalogue at the first module that
    # needs it. That is long before tensorflow_datasets.translate, which does not.
    importlib.import_module('tensorflow_datasets.translate')
