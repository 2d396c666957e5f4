"""Weights of BiT in the naming of google-research/big_transfer and big_vision (.npz).

big_transfer (version 2 of our BiT) names a unit's norm and convolution `a`, `b`, `c`;
some of its files number the convolutions (`standardized_conv2d_17`). big_vision names
them `gn1`, `conv1`, ... in its models/bit_paper.py (version 2, norms of shape (1, 1, 1,
C)) and models/bit.py (version 1; so do the trunks of hybrid ViTs).
"""

import re
from collections.abc import Callable, Collection, Mapping
from typing import Any

import numpy as np

from big_vision_like.weights import resnet_names, tree

_PARTS = {'1': 'a', '2': 'b', '3': 'c'}
_LEAVES = {'scale': 'gamma', 'bias': 'beta'}


def big_transfer_name(name: str) -> str:
  """The name in a file of big_transfer of one of our arrays."""
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
  """The name of one of our arrays in big_vision's models/bit_paper.py."""
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
  """The name of an array or module of ours in big_vision's models/bit.py."""
  name = name.removeprefix('resnet/')
  return name.replace('stage', 'block').replace('norm', 'gn')


def our_v1_name(name: str) -> str | None:
  """The inverse, of what is in the trunk; None of anything else."""
  if not re.match(r'(conv_root|gn_root|block\d+)(/|$)', name):
    return None
  return 'resnet/' + name.replace('block', 'stage').replace('gn', 'norm')


def _unit(module: str) -> tuple[int, int, str]:
  stage, unit, part = re.fullmatch(
    r'resnet/stage(\d+)/unit(\d+)/(\w+)', module
  ).groups()
  return int(stage), int(unit), part


def from_big_transfer(
  flat: Mapping[str, np.ndarray], source: str = 'weights'
) -> tree.Tree:
  """A file of big_transfer by name, as the parameters of our BiT, float32."""
  modern = {_unnumbered(name): array for name, array in flat.items()}
  return _from(modern, big_transfer_name, 2, source)


def from_big_vision_v2(
  flat: Mapping[str, np.ndarray], source: str = 'weights'
) -> tree.Tree:
  """A file of big_vision's models/bit_paper.py as the parameters of our BiT."""
  return _from(_without_params(flat), big_vision_v2_name, 2, source)


def from_big_vision_v1(
  flat: Mapping[str, np.ndarray], source: str = 'weights'
) -> tree.Tree:
  """A file of big_vision's models/bit.py as the parameters of our BiTv1."""
  return _from(_without_params(flat), big_vision_v1_name, 1, source)


def to_big_transfer(params: Mapping[str, Any]) -> dict[str, np.ndarray]:
  """The parameters of our BiT as big_transfer names them."""
  flat = _to(params, big_transfer_name, 2)
  head = 'resnet/head/conv2d/kernel'
  if head in flat:
    flat[head] = flat[head][None, None]
  return flat


def to_big_vision_v2(params: Mapping[str, Any]) -> dict[str, np.ndarray]:
  """The parameters of our BiT as big_vision's models/bit_paper.py names them."""
  flat = _to(params, big_vision_v2_name, 2)
  return {
    name: array[None, None, None]
    if re.search(r'(gn\d|norm-pre-head)/', name)
    else array
    for name, array in flat.items()
  }


def to_big_vision_v1(params: Mapping[str, Any]) -> dict[str, np.ndarray]:
  """The parameters of our BiTv1 as big_vision's models/bit.py names them."""
  return _to(params, big_vision_v1_name, 1)


def big_transfer_differences(names: Collection[str]) -> tree.Differences:
  """Names that a file of big_transfer does not have, and those that it lacks."""
  return _differences({_unnumbered(name) for name in names}, big_transfer_name, 2)


def big_vision_v2_differences(names: Collection[str]) -> tree.Differences:
  """The same of big_vision's models/bit_paper.py."""
  return _differences(set(_without_params(names)), big_vision_v2_name, 2)


def big_vision_v1_differences(names: Collection[str]) -> tree.Differences:
  """The same of big_vision's models/bit.py."""
  return _differences(set(_without_params(names)), big_vision_v1_name, 1)


def squeezed(name: str, array: np.ndarray) -> np.ndarray:
  """Scales and biases without the axes of size 1 that old group norms gave them."""
  return array.reshape(-1) if name.endswith(('/scale', '/bias')) else array


def _unnumbered(name: str) -> str:
  return re.sub(r'(/standardized_conv2d)_\d+/', r'\1/', name)


def _without_params(names: Any) -> Any:
  """Names, or arrays by name, without the `params/` in front."""
  if isinstance(names, Mapping):
    return {name.removeprefix('params/'): array for name, array in names.items()}
  return {name.removeprefix('params/') for name in names}


def _table(
  names: Collection[str], published: Callable[[str], str], version: int
) -> dict[str, str]:
  """Our name of each array in a file that has these."""
  depths = resnet_names.depths(names, r'(?:resnet/)?block(\d+)/unit(\d+)/') or [1]
  has_head = any(name.startswith(published('head/')) for name in names)
  ours = resnet_names.bit(depths, version, num_classes=int(has_head))
  return {published(name): name for name in ours}


def _differences(
  names: set[str], published: Callable[[str], str], version: int
) -> tree.Differences:
  table = _table(names, published, version)
  return names - table.keys(), table.keys() - names


def _from(
  flat: Mapping[str, np.ndarray],
  published: Callable[[str], str],
  version: int,
  source: str,
) -> tree.Tree:
  tree.check_names(source, *_differences(set(flat), published, version))
  arrays = {}
  for theirs, ours in _table(flat, published, version).items():
    array = squeezed(ours, tree.as_float32(theirs, flat[theirs]))
    if ours == 'head/kernel':
      array = array.reshape(array.shape[-2:])  # big_transfer's is a convolution
    arrays[ours] = array
  return tree.unflatten(arrays)


def _to(
  params: Mapping[str, Any], published: Callable[[str], str], version: int
) -> dict[str, np.ndarray]:
  flat = tree.flatten(params)
  tree.check_names('parameters', *resnet_names.unfit(flat, version))
  return {published(name): np.asarray(array) for name, array in flat.items()}
