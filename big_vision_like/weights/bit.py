"""Weights of BiT in the naming of google-research/big_transfer and big_vision (.npz).

big_transfer (version 2 of our BiT) names a unit's norms and convolutions `a`, `b`, `c`;
some of its files number the convolutions (`standardized_conv2d_17`). big_vision names
them `gn1`, `conv1`, ... in its models/bit_paper.py (version 2, norms of shape (1, 1, 1,
C)) and in models/bit.py (version 1, also used for the trunks of hybrid ViTs).
"""

import dataclasses
import re
from collections.abc import Callable, Collection, Mapping
from typing import Any

import numpy as np

from big_vision_like.weights import resnet_names, tree

_PARTS = {'1': 'a', '2': 'b', '3': 'c'}
_LEAVES = {'scale': 'gamma', 'bias': 'beta'}


def big_transfer_name(name: str) -> str:
  """Returns the name in a big_transfer file of one of our arrays."""
  module, _, leaf = name.rpartition('/')
  if module == 'head':
    return f'resnet/head/conv2d/{leaf}'
  if module == 'resnet/conv_root':
    return 'resnet/root_block/standardized_conv2d/kernel'
  if module == 'resnet/norm':
    return f'resnet/group_norm/{_LEAVES[leaf]}'
  stage, unit, part = _unit(module)
  block = f'resnet/block{stage}/unit{unit:02d}'
  if part == 'conv_proj':
    return f'{block}/a/proj/standardized_conv2d/kernel'
  if part.startswith('norm'):
    return f'{block}/{_PARTS[part[-1]]}/group_norm/{_LEAVES[leaf]}'
  return f'{block}/{_PARTS[part[-1]]}/standardized_conv2d/kernel'


def big_vision_v2_name(name: str) -> str:
  """Returns the name of one of our arrays in big_vision's models/bit_paper.py."""
  module, _, leaf = name.rpartition('/')
  if module == 'head':
    return name
  if module == 'resnet/conv_root':
    return f'root_block/conv_root/{leaf}'
  if module == 'resnet/norm':
    return f'norm-pre-head/{leaf}'
  stage, unit, part = _unit(module)
  return f'block{stage}/unit{unit:02d}/{part.replace("norm", "gn")}/{leaf}'


def big_vision_v1_name(name: str) -> str:
  """Returns the name of one of our arrays or modules in big_vision's models/bit.py."""
  name = name.removeprefix('resnet/')
  return name.replace('stage', 'block').replace('norm', 'gn')


def our_v1_name(name: str) -> str | None:
  """Inverts `big_vision_v1_name` for the trunk; returns None for other names."""
  if not re.match(r'(conv_root|gn_root|block\d+)(/|$)', name):
    return None
  return 'resnet/' + name.replace('block', 'stage').replace('gn', 'norm')


def _unit(module: str) -> tuple[int, int, str]:
  stage, unit, part = re.fullmatch(
    r'resnet/stage(\d+)/unit(\d+)/(\w+)', module
  ).groups()
  return int(stage), int(unit), part


def squeezed(name: str, array: np.ndarray) -> np.ndarray:
  """Removes the axes of size 1 from scales and biases of old group norms."""
  return array.reshape(-1) if name.endswith(('/scale', '/bias')) else array


def _unnumbered(name: str) -> str:
  return re.sub(r'(/standardized_conv2d)_\d+/', r'\1/', name)


@dataclasses.dataclass(frozen=True)
class Format:
  """The files of one code base for one version of our BiT.

  `published` returns its name for one of our arrays. `modern` converts names in a file
  to its current names. `shaped` gives an array, by name, the axes used in files.
  """

  version: int
  published: Callable[[str], str]
  modern: Callable[[str], str] = lambda name: name.removeprefix('params/')
  shaped: Callable[[str, np.ndarray], np.ndarray] = lambda name, array: array

  def read(self, flat: tree.Arrays, source: str = 'weights') -> tree.Tree:
    """Converts the arrays of a file to the parameters of our BiT, float32."""
    flat = {self.modern(name): array for name, array in flat.items()}
    tree.check_names(source, *self.differences(flat))
    arrays = {}
    for theirs, ours in self._table(flat).items():
      array = squeezed(ours, tree.as_float32(theirs, flat[theirs]))
      if ours == 'head/kernel':
        array = array.reshape(array.shape[-2:])  # a convolution in big_transfer
      arrays[ours] = array
    return tree.unflatten(arrays)

  def write(self, params: Mapping[str, Any]) -> dict[str, np.ndarray]:
    """Converts the parameters of our BiT to the arrays of a file."""
    flat = tree.flatten(params)
    tree.check_names('parameters', *resnet_names.unfit(flat, self.version))
    named = {self.published(name): np.asarray(array) for name, array in flat.items()}
    return {name: self.shaped(name, array) for name, array in named.items()}

  def differences(self, names: Collection[str]) -> tree.Differences:
    """Returns names that are unknown in such a file, and names missing from it."""
    names = {self.modern(name) for name in names}
    return tree.differences(names, self._table(names))

  def _table(self, names: Collection[str]) -> dict[str, str]:
    """Returns our name for each array in a file with these names."""
    depths = resnet_names.depths(names, r'(?:resnet/)?block(\d+)/unit(\d+)/') or [1]
    has_head = any(name.startswith(self.published('head/')) for name in names)
    ours = resnet_names.bit(depths, self.version, num_classes=int(has_head))
    return {self.published(name): name for name in ours}


def _convolution(name: str, array: np.ndarray) -> np.ndarray:
  """Reshapes the head for big_transfer, where it is a 1x1 convolution."""
  return array[None, None] if name == 'resnet/head/conv2d/kernel' else array


def _norm_axes(name: str, array: np.ndarray) -> np.ndarray:
  is_norm = re.search(r'(gn\d|norm-pre-head)/', name)
  return array[None, None, None] if is_norm else array


BIG_TRANSFER = Format(2, big_transfer_name, _unnumbered, _convolution)
# For big_vision's models/bit_paper.py, and for its models/bit.py.
BIG_VISION_V2 = Format(2, big_vision_v2_name, shaped=_norm_axes)
BIG_VISION_V1 = Format(1, big_vision_v1_name)
