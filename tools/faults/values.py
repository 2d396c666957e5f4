"""Damage to JSON: other types, extreme numbers, missing and doubled entries."""

import copy
import json
import pathlib
from collections.abc import Iterator
from typing import Any

import numpy as np

from tools.faults import common

# JSON texts, as some of them are not values in Python.
TEXTS = (
  *('null', 'true', 'false', '0', '1', '-1', '1.5', '-0.5', '1e8', '1e30', '-1e30'),
  *('1e400', 'NaN', 'Infinity', '2147483648', '9223372036854775808', '1' + '0' * 30),
  *('1' + '0' * 4999, '""', '"5"', '"x"', '"../../x"', '"/dev/zero"', '"\\ud800"'),
  *('"a\\u0000b"', '"' + 'x' * 10000 + '"', '[]', '[1]', '[[]]', '[null]', '{}'),
  *('{"a": 1}', '[0, 0, 0, 0]', '[-5, -5, 1, 1]', '[1e30, 1e30, 1e30, 1e30]'),
  *('[[0, 0, 1e8, 0, 5, 5]]', '[[0, 0, 1e30, 0, 5, 5]]', '[[1, 2, 3, 4]]'),
  '{"size": [48, 64], "counts": [-1, 3073]}',
  '{"size": [1000000000, 1000000000], "counts": [1000000000000000000]}',
  '{"size": [48, 64], "counts": "ooooooooooooooooooooooooo"}',
  '[' * 5000 + ']' * 5000,
  '{"a":' * 5000 + '1' + '}' * 5000,
)
MARK = '@here@'


def damage(folder: pathlib.Path, rng: np.random.Generator) -> str:
  """Changes values of one JSON file of a folder, or sometimes its bytes."""
  paths = sorted(folder.rglob('*.json'))
  path = paths[rng.integers(len(paths))]
  if rng.random() < 0.1:
    return common.BYTES[rng.integers(len(common.BYTES))](path, rng)
  value = json.loads(path.read_text())
  places = list(nodes(value))
  depths = sorted({len(place) for place in places})
  depth = depths[rng.integers(len(depths))]
  same = [place for place in places if len(place) == depth]
  *outer, key = same[rng.integers(len(same))]
  parent = value
  for step in outer:
    parent = parent[step]
  how, text = '/'.join(map(str, [*outer, key])), ''
  match rng.choice(['set', 'set', 'set', 'set', 'delete', 'double', 'rename']):
    case 'delete':
      del parent[key]
      how += ' deleted'
    case 'double' if isinstance(parent, list):
      parent.insert(key, copy.deepcopy(parent[key]))
      how += ' doubled'
    case 'rename' if isinstance(parent, dict):
      parent[f'{key}x'] = parent.pop(key)
      how += ' renamed'
    case _:
      parent[key], text = MARK, str(TEXTS[rng.integers(len(TEXTS))])
      how += f' = {text[:40]}'
  path.write_text(json.dumps(value).replace(f'"{MARK}"', text))
  return f'{path.name}: {how}'


def nodes(value: Any, place: tuple = ()) -> Iterator[tuple]:
  """Yields the path of every value below one."""
  pairs = value.items() if isinstance(value, dict) else enumerate(value)
  for key, inner in pairs:
    yield (*place, key)
    if isinstance(inner, (dict, list)):
      yield from nodes(inner, (*place, key))
