"""Flat names and shapes of the arrays of our BiTs and of hybrids' trunks.

Version 1 has norms after convolutions, and version 2 before them.
"""

import re
from collections.abc import Collection, Sequence

from big_vision_like.weights import tree

Shapes = dict[str, tuple[int, ...]]


def depths(
  names: Collection[str],
  unit: str = r'resnet/stage(\d+)/unit(\d+)/',
  first: int = 1,
) -> list[int]:
  """Returns the number of units per stage that names show, at least one each.

  `unit` matches the numbers of stage and unit, which start from `first`.
  """
  found: dict[int, int] = {}
  for name in names:
    if match := re.match(unit, name):
      stage, number = (int(text) - first for text in match.groups())
      # A file cannot have more units than arrays.
      if max(stage, number) < len(names):
        found[stage] = max(found.get(stage, 0), number + 1)
  return [found.get(stage, 1) for stage in range(max(found, default=-1) + 1)]


def trunk(
  depths: Sequence[int], version: int, root: int = 64, channels: int = 3
) -> Shapes:
  """Returns names and shapes of a trunk's arrays; `root` is the width of its root."""
  shapes: Shapes = {'resnet/conv_root/kernel': (7, 7, channels, root)}
  if version == 1:
    shapes |= _norm('resnet/norm_root', root)
  before = root
  for i, depth in enumerate(depths):
    inner = root * 2**i
    for j in range(depth):
      unit = f'resnet/stage{i + 1}/unit{j + 1}'
      shapes |= {
        f'{unit}/conv1/kernel': (1, 1, before, inner),
        f'{unit}/conv2/kernel': (3, 3, inner, inner),
        f'{unit}/conv3/kernel': (1, 1, inner, 4 * inner),
      }
      normed = (inner, inner, 4 * inner) if version == 1 else (before, inner, inner)
      for number, size in enumerate(normed, start=1):
        shapes |= _norm(f'{unit}/norm{number}', size)
      if j == 0:  # only the first unit changes shapes
        shapes[f'{unit}/conv_proj/kernel'] = (1, 1, before, 4 * inner)
        if version == 1:
          shapes |= _norm(f'{unit}/norm_proj', 4 * inner)
      before = 4 * inner
  if version == 2:
    shapes |= _norm('resnet/norm', before)
  return shapes


def bit(
  depths: Sequence[int],
  version: int,
  root: int = 64,
  channels: int = 3,
  num_classes: int = 1,
) -> Shapes:
  """Returns names and shapes of a BiT's arrays, without a head for 0 classes."""
  features = root * 2 ** (len(depths) + 1) if depths else root
  shapes = trunk(depths, version, root, channels)
  if num_classes:
    shapes |= {'head/kernel': (features, num_classes), 'head/bias': (num_classes,)}
  return shapes


def unfit(names: Collection[str], version: int) -> tuple[set[str], set[str]]:
  """Returns names that no BiT of this version has, and names missing from these."""
  has_head = any(name.startswith('head/') for name in names)
  want = bit(depths(names) or [1], version, num_classes=int(has_head))
  return set(names) - want.keys(), want.keys() - set(names)


def wrong_shapes(flat: tree.Arrays, want: Shapes) -> list[str]:
  """Returns a sentence for each array that does not have the shape it should."""
  return [
    f'{name} {flat[name].shape} is not {shape}'
    for name, shape in want.items()
    if name in flat and flat[name].shape != shape
  ]


def _norm(name: str, size: int) -> Shapes:
  return {f'{name}/scale': (size,), f'{name}/bias': (size,)}
