"""Names of the arrays of UPerNets with a Swin, in mmsegmentation and in transformers.

Our variables are trees by collection, `params` and `batch_stats`.
"""

import dataclasses
import re
from collections.abc import Collection, Mapping, Sequence
from typing import Any

import numpy as np

from big_vision_like.errors import UserError, listed
from big_vision_like.weights import linear, resnet_names, swin_names, tree

BACKBONE = 'backbone.'
_LEAVES = {
  'weight': 'params/{}/scale',
  'bias': 'params/{}/bias',
  'running_mean': 'batch_stats/{}/mean',
  'running_var': 'batch_stats/{}/var',
}
_CLASSIFIERS = {
  'decode_head': 'classifier/conv',
  'auxiliary_head': 'auxiliary_classifier/conv',
}


@dataclasses.dataclass(frozen=True)
class Layout:
  """A library's names of norms and of classifiers; all other names are shared."""

  norm: str
  classifier: str

  def table(self, pools: int, levels: int, auxiliary: bool) -> linear.Table:
    """Returns our arrays for each of theirs, without the backbone.

    `pools` is the number of pooled grids, and `levels` the number of maps.
    """
    modules = {
      'decode_head.bottleneck': 'decoder/bottleneck',
      'decode_head.fpn_bottleneck': 'decoder/fusion',
    }
    for i in range(pools):
      modules[f'decode_head.psp_modules.{i}.1'] = f'decoder/pool{i + 1}'
    for i in range(levels - 1):
      modules[f'decode_head.lateral_convs.{i}'] = f'decoder/lateral{i + 1}'
      modules[f'decode_head.fpn_convs.{i}'] = f'decoder/output{i + 1}'
    heads = dict(_CLASSIFIERS)
    if auxiliary:
      modules['auxiliary_head.convs.0'] = 'auxiliary_conv'
    else:
      heads.pop('auxiliary_head')
    found: linear.Table = {}
    for theirs, ours in modules.items():
      found[f'{theirs}.conv.weight'] = [f'params/{ours}/conv/kernel']
      for leaf, name in _LEAVES.items():
        found[f'{theirs}.{self.norm}.{leaf}'] = [name.format(f'{ours}/norm')]
    for theirs, ours in heads.items():
      for leaf, our_leaf in ('weight', 'kernel'), ('bias', 'bias'):
        found[f'{theirs}.{self.classifier}.{leaf}'] = [f'params/{ours}/{our_leaf}']
    return found

  def heads(self, names: Collection[str]) -> linear.Table:
    """Returns the table for a file with these names."""
    return self.table(
      _count(names, r'decode_head\.psp_modules\.(\d+)\.'),
      _count(names, r'decode_head\.lateral_convs\.(\d+)\.') + 1,
      any(name.startswith('auxiliary_head.') for name in names),
    )

  def differences(
    self, names: Collection[str], backbone: swin_names.Layout
  ) -> tree.Differences:
    """Returns names unknown in a file of such a UPerNet, and names missing from it."""
    own = {name for name in names if not name.startswith(BACKBONE)}
    unknown, missing = tree.differences(own, self.heads(own))
    more, lacking = backbone.differences(without_prefix(names))
    return (
      unknown | {BACKBONE + name for name in more},
      missing | {BACKBONE + name for name in lacking},
    )

  def read(self, state: tree.Arrays) -> dict[str, np.ndarray]:
    """Returns our flat arrays without the backbone's; `state` may have all arrays."""
    return linear.from_state(state, self.heads(state), num_heads=1)

  def written(self, flat: tree.Arrays) -> dict[str, np.ndarray]:
    """Returns their arrays without the backbone's, for all of our flat arrays."""
    own = {k: v for k, v in flat.items() if not k.startswith('params/backbone/')}
    found = _parts(own)
    return linear.written(own, self.table(*found))


MMSEG = Layout(norm='bn', classifier='conv_seg')
TRANSFORMERS = Layout(norm='batch_norm', classifier='classifier')


def without_prefix(names: Collection[str]) -> list[str]:
  """Returns the names of the backbone's arrays, without their prefix."""
  return [name.removeprefix(BACKBONE) for name in names if name.startswith(BACKBONE)]


def backbone_of(state: tree.Arrays) -> dict[str, np.ndarray]:
  """Returns the backbone's arrays by their names without prefix."""
  return {name: state[BACKBONE + name] for name in without_prefix(state)}


def architecture(
  flat: tree.Arrays, backbone: Mapping[str, Any], source: str
) -> dict[str, Any]:
  """Returns arguments of our `UPerNet` from its flat variables and its backbone's.

  Raises a `UserError` that names shapes which do not match each other.
  """
  pools, levels, auxiliary = _parts(flat)
  maps = tuple(backbone['maps'])
  if len(maps) != levels or levels < 2:
    raise UserError(
      f'{source}: the backbone has norms of the stages {maps}, but the decoder reads'
      f' {levels} maps'
    )
  channels = _side(flat, 'params/decoder/bottleneck/norm/scale')
  told = dict(
    num_classes=_side(flat, 'params/classifier/conv/bias'),
    channels=channels,
    auxiliary_channels=_side(flat, 'params/auxiliary_conv/norm/scale'),
  )
  widths = [backbone['width'] * 2 ** (stage - 1) for stage in maps]
  sides: dict[str, tuple[int, int, int]] = {
    'decoder/bottleneck': (3, widths[-1] + pools * channels, channels),
    'decoder/fusion': (3, levels * channels, channels),
  }
  for i in range(1, pools + 1):
    sides[f'decoder/pool{i}'] = 1, widths[-1], channels
  for i in range(1, levels):
    sides[f'decoder/lateral{i}'] = 1, widths[i - 1], channels
    sides[f'decoder/output{i}'] = 3, channels, channels
  if auxiliary:
    sides['auxiliary_conv'] = 3, widths[-2], told['auxiliary_channels']
  want: resnet_names.Shapes = {}
  for name, (size, before, after) in sides.items():
    want[f'params/{name}/conv/kernel'] = size, size, before, after
    for leaf in _LEAVES.values():
      want[leaf.format(f'{name}/norm')] = (after,)
  inputs = {'classifier': channels, 'auxiliary_classifier': told['auxiliary_channels']}
  for name in ('classifier', 'auxiliary_classifier')[: 1 + auxiliary]:
    want[f'params/{name}/conv/kernel'] = 1, 1, inputs[name], told['num_classes']
    want[f'params/{name}/conv/bias'] = (told['num_classes'],)
  own = {name for name in flat if not name.startswith('params/backbone/')}
  tree.check_names(source, *tree.differences(own, want))
  wrong = resnet_names.wrong_shapes(flat, want)
  if wrong:
    raise UserError(f'{source}: shapes that do not fit: {listed(wrong)}')
  return told


def _parts(names: Collection[str]) -> tuple[int, int, bool]:
  """Returns the numbers of pooled grids and of maps, and if there is a second head."""
  return (
    _count(names, r'params/decoder/pool(\d+)/', first=1),
    _count(names, r'params/decoder/lateral(\d+)/', first=1) + 1,
    any(name.startswith('params/auxiliary_conv/') for name in names),
  )


def _count(names: Collection[str], pattern: str, first: int = 0) -> int:
  """Returns how many parts are numbered in these names; all of them must exist."""
  numbers: Sequence[int] = [
    int(match[1]) - first for name in names if (match := re.match(pattern, name))
  ]
  # A file cannot have more parts than arrays.
  return max((n + 1 for n in numbers if n < len(names)), default=0)


def _side(flat: tree.Arrays, name: str) -> int:
  """Returns the last side of an array; 0 if it does not exist."""
  return (0, *np.shape(flat.get(name)))[-1]
