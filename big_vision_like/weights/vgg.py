"""Weights of VGGs in torchvision's names, in which layers without arrays count too."""

import re
from collections.abc import Collection, Sequence

import numpy as np

from big_vision_like.errors import UserError, listed
from big_vision_like.weights import linear, resnet_names, tree

# Layers of torchvision's classifier and ours.
_HEAD = {'0': 'fc1', '3': 'fc2', '6': 'head'}
SIDE = 7


def depths(names: Collection[str]) -> tuple[int, ...]:
  """Returns the convolutions per stage that torchvision's names show.

  A convolution is followed by a ReLU, the last of a stage by a pooling too.
  """
  places = sorted(
    int(match[1])
    for name in names
    if (match := re.fullmatch(r'features\.(\d{1,3})\.weight', name))
  )
  found: list[int] = []
  for before, place in zip([-3, *places], places, strict=False):
    if place - before == 2 and found:
      found[-1] += 1
    else:
      found.append(1)
  return tuple(found)


def table(sizes: Sequence[int], head: bool) -> linear.Table:
  """Returns our array for each of theirs."""
  modules, place = {}, 0
  for stage, depth in enumerate(sizes, start=1):
    for number in range(1, depth + 1):
      modules[f'features.{place}'] = f'stage{stage}_conv{number}'
      place += 2
    place += 1
  if head:
    modules |= {f'classifier.{theirs}': ours for theirs, ours in _HEAD.items()}
  return {
    f'{theirs}.{leaf}': [f'{ours}/{own}']
    for theirs, ours in modules.items()
    for leaf, own in (('weight', 'kernel'), ('bias', 'bias'))
  }


def of_names(names: Collection[str]) -> linear.Table:
  """Returns the table for a file with these names."""
  return table(depths(names), any(name.startswith('classifier.') for name in names))


def differences(names: Collection[str]) -> tree.Differences:
  """Returns names unknown in a file of torchvision, and names missing from it."""
  unknown, missing = tree.differences(names, of_names(names))
  return (unknown, missing) if depths(names) else (unknown, {'features.0.weight'})


def from_torchvision(state: tree.Arrays, source: str = 'state dict') -> tree.Tree:
  """Converts a state dict of torchvision to parameters of our `VGG`."""
  known = of_names(state)
  tree.check_names(source, *tree.differences(state, known))
  flat = linear.from_state(state, known, num_heads=1)
  if 'fc1/kernel' in flat:  # rows of the map, channels first in theirs
    kernel = flat['fc1/kernel']
    if len(kernel) % SIDE**2:
      raise UserError(f'{source}: classifier.0.weight does not read a map of 7x7')
    parts = kernel.reshape(-1, SIDE, SIDE, kernel.shape[1])
    flat['fc1/kernel'] = parts.transpose(1, 2, 0, 3).reshape(kernel.shape)
  return tree.unflatten(flat)


def to_torchvision(params: tree.Tree) -> dict[str, np.ndarray]:
  """Inverts `from_torchvision`."""
  flat = tree.flatten(params)
  if 'fc1/kernel' in flat:
    kernel = np.asarray(flat['fc1/kernel'])
    parts = kernel.reshape(SIDE, SIDE, -1, kernel.shape[1])
    flat['fc1/kernel'] = parts.transpose(2, 0, 1, 3).reshape(kernel.shape)
  return linear.written(flat, table(our_depths(flat), 'head/kernel' in flat))


def our_depths(flat: tree.Arrays) -> tuple[int, ...]:
  """Returns the convolutions per stage in our parameters."""
  found: dict[int, int] = {}
  for name in flat:
    if match := re.fullmatch(r'stage(\d)_conv(\d+)/kernel', name):
      found[int(match[1])] = max(found.get(int(match[1]), 0), int(match[2]))
  return tuple(found[stage] for stage in sorted(found))


def architecture(flat: tree.Arrays, source: str) -> dict[str, object]:
  """Returns the arguments of our `VGG`; raises for shapes that do not fit."""
  sizes = our_depths(flat)
  channels = tuple(
    np.shape(flat[f'stage{stage}_conv1/kernel'])[-1]
    for stage in range(1, len(sizes) + 1)
  )
  want: resnet_names.Shapes = {}
  before = np.shape(flat['stage1_conv1/kernel'])[-2]
  for stage, (depth, after) in enumerate(zip(sizes, channels, strict=True), start=1):
    for number in range(1, depth + 1):
      want[f'stage{stage}_conv{number}/kernel'] = 3, 3, before, after
      want[f'stage{stage}_conv{number}/bias'] = (after,)
      before = after
  told = dict(depths=sizes, channels=channels, num_classes=0)
  if 'head/kernel' in flat:
    hidden, told['num_classes'] = np.shape(flat['head/kernel'])
    told['hidden'] = hidden
    rows = {'fc1': SIDE**2 * before, 'fc2': hidden, 'head': hidden}
    for name, inputs in rows.items():
      outputs = told['num_classes'] if name == 'head' else hidden
      want[f'{name}/kernel'], want[f'{name}/bias'] = (inputs, outputs), (outputs,)
  wrong = resnet_names.wrong_shapes(flat, want)
  if wrong:
    raise UserError(f'{source}: shapes that do not fit: {listed(wrong)}')
  return told
