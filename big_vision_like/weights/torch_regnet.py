"""Weights of RegNets in the names of timm and transformers.

DeiT's teacher by facebookresearch uses timm's names too. Files of transformers are for
RegNetForImageClassification and RegNetModel. Our variables are trees by collection,
`params` and `batch_stats`.
"""

from collections.abc import Collection, Mapping
from typing import Any, NamedTuple

import numpy as np

from big_vision_like.errors import UserError, listed
from big_vision_like.weights import files, linear, resnet_names, tree

# Our array for each array of a norm.
_NORM = {
  'weight': 'params/{}/norm/scale',
  'bias': 'params/{}/norm/bias',
  'running_mean': 'batch_stats/{}/norm/mean',
  'running_var': 'batch_stats/{}/norm/var',
}
_OUR_UNIT = r'params/stage(\d+)/unit(\d+)/'


class Names(NamedTuple):
  """The names of one library.

  `found` matches the numbers of stage and unit, which start from `first`; `unit` is
  filled with them. `convs` stand for our conv1, conv2, conv3 and shortcut, each with a
  `conv` and a `norm` inside. The third is filled with the number of preceding layers,
  including squeeze-excite (`se`). If there is a head, `prefix` precedes all names
  except the head's.
  """

  found: str
  first: int
  root: str
  unit: str
  convs: tuple[str, str, str, str]
  se: tuple[str, str]
  conv: str
  norm: str
  head: str
  prefix: str = ''


TIMM = Names(
  found=r's(\d+)\.b(\d+)\.',
  first=1,
  root='stem',
  unit='s{}.b{}.',
  convs=('conv1', 'conv2', 'conv3', 'downsample'),
  se=('se.fc1', 'se.fc2'),
  conv='conv',
  norm='bn',
  head='head.fc',
)
TRANSFORMERS = Names(
  found=r'encoder\.stages\.(\d+)\.layers\.(\d+)\.',
  first=0,
  root='embedder.embedder',
  unit='encoder.stages.{}.layers.{}.',
  convs=('layer.0', 'layer.1', 'layer.{}', 'shortcut'),
  se=('layer.2.attention.0', 'layer.2.attention.2'),
  conv='convolution',
  norm='normalization',
  head='classifier.1',
  prefix='regnet.',
)


def read(state: tree.Arrays, of: Names = TIMM, source: str = 'state dict') -> tree.Tree:
  """Converts a state dict to variables of our `RegNet`, float32.

  Raises a `UserError` that lists unknown and missing names.
  """
  state = files.without_counts(state)
  tree.check_names(source, *differences(state, of))
  table = _table_of(state, of)
  for name, ours in table.items():
    if '/se/' in ours[0] and np.ndim(state[name]) == 4:  # 1x1 convolutions
      if np.shape(state[name])[2:] != (1, 1):
        raise UserError(f'{source}: {name!r} {np.shape(state[name])} is not 1x1')
      state[name] = state[name][:, :, 0, 0]
  return tree.unflatten(linear.from_state(state, table, num_heads=1))


def write(variables: Mapping[str, Any], of: Names = TIMM) -> dict[str, np.ndarray]:
  """Converts our variables to a state dict, without the counts of steps."""
  flat = tree.flatten(variables)
  depths = resnet_names.depths(flat, _OUR_UNIT)
  squeezed = any('/se/' in name for name in flat)
  table = _table(depths, squeezed, 'params/head/kernel' in flat, of)
  state = linear.to_state(flat, table)
  for name, ours in table.items():
    if '/se/' in ours[0] and state[name].ndim == 2:
      state[name] = state[name][:, :, None, None]
  return state


def differences(names: Collection[str], of: Names = TIMM) -> tree.Differences:
  """Returns names unknown in such a file, and names missing from it."""
  return tree.differences(names, _table_of(names, of))


def architecture(flat: tree.Arrays, source: str = 'variables') -> dict[str, Any]:
  """Returns the arguments of our `RegNet`, from its flat variables.

  Raises a `UserError` that names shapes which do not match each other.
  """
  depths = resnet_names.depths(flat, _OUR_UNIT)
  if not depths:
    raise UserError(f'{source}: there is no stage of a RegNet')
  stages = [f'params/stage{i + 1}' for i in range(len(depths))]
  root = _shape(flat, 'params/root/conv/kernel', 4)
  told = dict(
    depths=tuple(depths),
    widths=tuple(_shape(flat, f'{x}/unit1/conv1/conv/kernel', 4)[3] for x in stages),
    group_width=max(_shape(flat, f'{x}/unit1/conv2/conv/kernel', 4)[2] for x in stages),
    num_classes=_shape(flat, 'params/head/bias', 1)[0],
    squeeze=_squeeze(flat),
    root=root[3],
  )
  want = _shapes(told, root[2])
  tree.check_names(source, *tree.differences(flat, want))
  wrong = resnet_names.wrong_shapes(flat, want)
  if wrong:
    raise UserError(f'{source}: shapes that do not fit: {listed(wrong)}')
  return told


def config(
  told: Mapping[str, Any], num_classes: int, channels: int = 3
) -> dict[str, Any]:
  """Returns the config.json of transformers for such a file."""
  if told['squeeze'] not in (0, 0.25):
    raise UserError(
      f"squeeze={told['squeeze']}: transformers' RegNets squeeze to a quarter; write a"
      ' .safetensors file without config.json'
    )
  classifier = 'RegNetForImageClassification' if num_classes else 'RegNetModel'
  return {
    'architectures': [classifier],
    'model_type': 'regnet',
    'num_channels': channels,
    'embedding_size': told['root'],
    'hidden_sizes': list(told['widths']),
    'depths': list(told['depths']),
    'groups_width': told['group_width'],
    'layer_type': 'y' if told['squeeze'] else 'x',
    'hidden_act': 'relu',
    'downsample_in_first_stage': True,
    **({'num_labels': num_classes} if num_classes else {}),
  }


def _table_of(names: Collection[str], of: Names) -> linear.Table:
  """Returns our array for each array of a state dict with these names."""
  has_head = f'{of.head}.weight' in names
  found = (of.prefix if has_head else '') + of.found
  depths = resnet_names.depths(names, found, of.first)
  squeezed = any(f'.{of.se[0]}.' in name for name in names)
  return _table(depths or [1], squeezed, has_head, of)


def _table(
  depths: Collection[int], squeezed: bool, has_head: bool, of: Names
) -> linear.Table:
  known: linear.Table = {}
  prefix = of.prefix if has_head else ''

  def add(theirs: str, ours: str) -> None:
    known[f'{prefix}{theirs}.{of.conv}.weight'] = [f'params/{ours}/conv/kernel']
    for leaf, name in _NORM.items():
      known[f'{prefix}{theirs}.{of.norm}.{leaf}'] = [name.format(ours)]

  add(of.root, 'root')
  for i, depth in enumerate(depths):
    for j in range(depth):
      theirs, ours = of.unit.format(i + of.first, j + of.first), _unit(i, j)
      for their_conv, our_conv in zip(of.convs, _convs(j), strict=False):
        add(theirs + their_conv.format(3 if squeezed else 2), ours + our_conv)
      for their_layer, our_layer in zip(of.se, ('fc1', 'fc2'), strict=True):
        if squeezed:
          layer = f'{prefix}{theirs}{their_layer}'
          known[f'{layer}.weight'] = [f'params/{ours}se/{our_layer}/kernel']
          known[f'{layer}.bias'] = [f'params/{ours}se/{our_layer}/bias']
  if has_head:
    known[f'{of.head}.weight'] = ['params/head/kernel']
    known[f'{of.head}.bias'] = ['params/head/bias']
  return known


def _unit(stage: int, unit: int) -> str:
  return f'stage{stage + 1}/unit{unit + 1}/'


def _convs(unit: int) -> tuple[str, ...]:
  """Returns our convolutions of a unit; the first unit of a stage changes shapes."""
  return 'conv1', 'conv2', 'conv3', *(('shortcut',) if unit == 0 else ())


def _shapes(told: Mapping[str, Any], channels: int) -> resnet_names.Shapes:
  """Returns names and shapes of all arrays; `channels` is the number in images."""
  shapes: resnet_names.Shapes = {}

  def add(place: str, size: int, before: int, after: int) -> None:
    shapes[f'params/{place}/conv/kernel'] = (size, size, before, after)
    shapes.update({name.format(place): (after,) for name in _NORM.values()})

  def dense(place: str, before: int, after: int) -> None:
    shapes[f'params/{place}/kernel'] = (before, after)
    shapes[f'params/{place}/bias'] = (after,)

  before = told['root']
  add('root', 3, channels, before)
  for i, (depth, width) in enumerate(zip(told['depths'], told['widths'], strict=True)):
    for j in range(depth):
      unit = _unit(i, j)
      sides = {
        'conv1': (1, before),
        'conv2': (3, min(told['group_width'], width)),
        'conv3': (1, width),
        'shortcut': (1, before),
      }
      for conv in _convs(j):
        add(unit + conv, *sides[conv], width)
      if told['squeeze']:
        hidden = round(told['squeeze'] * before)
        dense(f'{unit}se/fc1', width, hidden)
        dense(f'{unit}se/fc2', hidden, width)
      before = width
  if told['num_classes']:
    dense('head', before, told['num_classes'])
  return shapes


def _squeeze(flat: tree.Arrays) -> float:
  """Returns the share of a unit's input channels that squeeze-excite keeps."""
  pairs = [
    (
      _shape(flat, name, 2)[1],
      _shape(flat, name.replace('se/fc1', 'conv1/conv'), 4)[2],
    )
    for name in flat
    if name.endswith('/se/fc1/kernel')
  ]
  if not pairs:
    return 0.0
  hidden, channels = max(pairs, key=lambda pair: pair[1])
  shares = (0.25, hidden / max(channels, 1))
  fits = (share for share in shares if all(round(share * c) == h for h, c in pairs))
  return next(fits, 0.25)


def _shape(flat: tree.Arrays, name: str, axes: int) -> tuple[int, ...]:
  """Returns the shape of an array; zeros if it is missing or has other axes."""
  shape = np.shape(flat.get(name, ()))
  return shape if len(shape) == axes else (0,) * axes
