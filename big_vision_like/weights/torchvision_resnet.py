"""Weights of ResNets with batch norm as torchvision and timm name them.

Our variables are trees by collection: affine and statistics of norms are `constants`
where `norm='frozen'`, else `params` and `batch_stats`.
"""

import re
from collections.abc import Collection, Mapping
from typing import Any, NamedTuple

import numpy as np

from big_vision_like.weights import linear, tree

# Our collection and name of a norm's arrays.
_NORMS = {
  'frozen': {
    'weight': 'constants/{}/scale',
    'bias': 'constants/{}/bias',
    'running_mean': 'constants/{}/mean',
    'running_var': 'constants/{}/var',
  },
  'batch': {
    'weight': 'params/{}/scale',
    'bias': 'params/{}/bias',
    'running_mean': 'batch_stats/{}/mean',
    'running_var': 'batch_stats/{}/var',
  },
}
# The count of steps, which nothing reads.
_UNREAD = '.num_batches_tracked'


class Names(NamedTuple):
  """What stands for the convolution and the norm of each place.

  `found` finds stage, unit, and which convolution, or that of the shortcut; the first
  of each has the number in `first`, and `unit` and `inner` are filled with them.
  """

  found: str
  first: tuple[int, int, int]
  root: tuple[str, str]
  unit: str
  inner: tuple[str, str]
  shortcut: tuple[str, str]


TORCHVISION = Names(
  found=r'layer(\d+)\.(\d+)\.(?:conv(\d)|(downsample))',
  first=(1, 0, 1),
  root=('conv1', 'bn1'),
  unit='layer{}.{}.',
  inner=('conv{}', 'bn{}'),
  shortcut=('downsample.0', 'downsample.1'),
)
TRANSFORMERS = Names(
  found=r'encoder\.stages\.(\d+)\.layers\.(\d+)\.(?:layer\.(\d)\.|(shortcut))',
  first=(0, 0, 0),
  root=('embedder.embedder.convolution', 'embedder.embedder.normalization'),
  unit='encoder.stages.{}.layers.{}.',
  inner=('layer.{}.convolution', 'layer.{}.normalization'),
  shortcut=('shortcut.convolution', 'shortcut.normalization'),
)
OURS = Names(
  found=r'stage(\d+)/unit(\d+)/(?:conv(\d)|(conv_proj))',
  first=(1, 1, 1),
  root=('conv_root', 'norm_root'),
  unit='stage{}/unit{}/',
  inner=('conv{}', 'norm{}'),
  shortcut=('conv_proj', 'norm_proj'),
)


class Sizes(NamedTuple):
  """Units in each stage, convolutions in each unit, and stages with a shortcut's."""

  depths: tuple[int, ...]
  convs: int
  shortcuts: frozenset[int]


def sizes(names: Collection[str], of: Names, prefix: str = '') -> Sizes:
  """What the names of arrays tell, as far as they begin with a prefix."""
  depths: dict[int, int] = {}
  convs, shortcuts = 1, set()
  for name in names:
    match = re.match(re.escape(prefix) + of.found, name)
    if match is None:
      continue
    stage, unit = (int(match[i + 1]) - of.first[i] for i in range(2))
    if max(stage, unit) >= len(names):  # no file has more units than arrays
      continue
    depths[stage] = max(depths.get(stage, 0), unit + 1)
    if match[3]:
      convs = max(convs, min(int(match[3]) - of.first[2] + 1, 3))
    else:
      shortcuts.add(stage)
  count = max(depths, default=-1) + 1
  # All stages but the first change shapes.
  return Sizes(
    tuple(depths.get(stage, 1) for stage in range(count)),
    convs,
    frozenset(shortcuts | set(range(1, count))),
  )


def table(
  found: Sizes, of: Names, norm: str, prefix: str = '', ours: str = ''
) -> linear.Table:
  """Our array behind each of theirs; prefixes are those of their and our names."""
  known = {}
  for theirs, mine in zip(_places(found, of), _places(found, OURS), strict=True):
    if 'conv' in mine.split('/')[-1]:
      known[f'{prefix}{theirs}.weight'] = [f'params/{ours}{mine}/kernel']
    else:
      for leaf, name in _NORMS[norm].items():
        known[f'{prefix}{theirs}.{leaf}'] = [name.format(ours + mine)]
  return known


def _places(found: Sizes, of: Names) -> list[str]:
  """All convolutions and norms, by name."""
  places = list(of.root)
  for stage, depth in enumerate(found.depths):
    for unit in range(depth):
      stem = of.unit.format(stage + of.first[0], unit + of.first[1])
      for i in range(found.convs):
        places += [stem + name.format(i + of.first[2]) for name in of.inner]
      if unit == 0 and stage in found.shortcuts:
        places += [stem + name for name in of.shortcut]
  return places


def without_counts(state: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
  """The arrays that are read."""
  return {name: x for name, x in state.items() if not name.endswith(_UNREAD)}


def from_torchvision(
  state: Mapping[str, np.ndarray], norm: str = 'batch', source: str = 'state dict'
) -> tree.Tree:
  """A state dict of torchvision or timm as the variables of our `ResNet`, float32.

  Raises a `UserError` that lists unknown and missing names.
  """
  state = without_counts(state)
  known = _table(sizes(state, TORCHVISION), norm, 'fc.weight' in state)
  tree.check_names(source, state.keys() - known, known.keys() - state)
  return tree.unflatten(linear.from_state(state, known, 1))


def to_torchvision(
  variables: Mapping[str, Any], norm: str = 'batch'
) -> dict[str, np.ndarray]:
  """The inverse, but for the counts of steps."""
  flat = tree.flatten(variables)
  found = sizes(flat, OURS, 'params/')
  return linear.to_state(flat, _table(found, norm, 'params/head/kernel' in flat))


def _table(found: Sizes, norm: str, head: bool) -> linear.Table:
  known = table(found, TORCHVISION, norm)
  if head:
    known |= {'fc.weight': ['params/head/kernel'], 'fc.bias': ['params/head/bias']}
  return known
