"""Weights of ResNets with batch norm in names of torchvision, timm and transformers.

Files of transformers are for ResNetForImageClassification and ResNetModel. Our
variables are trees by collection. With `norm='frozen'`, all arrays of norms are
`constants`; otherwise scale and bias are `params`, and statistics `batch_stats`.
"""

import re
from collections.abc import Collection, Mapping
from typing import Any, NamedTuple

import numpy as np

from big_vision_like.errors import UserError, listed
from big_vision_like.weights import files, linear, resnet_names, tree

# Our collection and name for a norm's arrays.
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
# The classifiers of torchvision and of transformers.
_HEADS = ('fc', 'classifier.1')


class Names(NamedTuple):
  """A library's names for the convolution and the norm at each place.

  `found` matches stage, unit, and a convolution's number or the shortcut. Numbers start
  from those in `first`; `unit` and `inner` are filled with them.
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
  """Units per stage, convolutions per unit, and the stages that have a shortcut."""

  depths: tuple[int, ...]
  convs: int
  shortcuts: frozenset[int]


def sizes(names: Collection[str], of: Names, prefix: str = '') -> Sizes:
  """Returns the sizes that names of arrays with this prefix show."""
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
  # All stages except the first change shapes.
  return Sizes(
    tuple(depths.get(stage, 1) for stage in range(count)),
    convs,
    frozenset(shortcuts | set(range(1, count))),
  )


def table(
  found: Sizes, of: Names, norm: str, prefix: str = '', ours: str = ''
) -> linear.Table:
  """Returns our array for each of theirs; prefixes are for their and our names."""
  known = {}
  for theirs, mine in zip(_places(found, of), _places(found, OURS), strict=True):
    if 'conv' in mine.split('/')[-1]:
      known[f'{prefix}{theirs}.weight'] = [f'params/{ours}{mine}/kernel']
    else:
      for leaf, name in _NORMS[norm].items():
        known[f'{prefix}{theirs}.{leaf}'] = [name.format(ours + mine)]
  return known


def _places(found: Sizes, of: Names) -> list[str]:
  """Returns the names of all convolutions and norms."""
  places = list(of.root)
  for stage, depth in enumerate(found.depths):
    for unit in range(depth):
      stem = of.unit.format(stage + of.first[0], unit + of.first[1])
      for i in range(found.convs):
        places += [stem + name.format(i + of.first[2]) for name in of.inner]
      if unit == 0 and stage in found.shortcuts:
        places += [stem + name for name in of.shortcut]
  return places


def from_torchvision(
  state: tree.Arrays, norm: str = 'batch', source: str = 'state dict'
) -> tree.Tree:
  """Converts a state dict of torchvision or timm to variables of our `ResNet`.

  They are float32. Raises a `UserError` that lists unknown and missing names.
  """
  return read(state, _torchvision(state, norm), 1, source)


def read(
  state: tree.Arrays, known: linear.Table, num_heads: int, source: str
) -> tree.Tree:
  """Converts a state dict by a table, which lacks only step counts, to our tree."""
  state = files.without_counts(state)
  tree.check_names(source, *tree.differences(state, known))
  return tree.unflatten(linear.from_state(state, known, num_heads))


def to_torchvision(
  variables: Mapping[str, Any], norm: str = 'batch'
) -> dict[str, np.ndarray]:
  """Inverts `from_torchvision`, without the counts of steps."""
  flat = tree.flatten(variables)
  known = table(sizes(flat, OURS, 'params/'), TORCHVISION, norm)
  return linear.to_state(flat, known | _head(_HEADS[0]))


def differences(names: Collection[str]) -> tree.Differences:
  """Returns names unknown in a file of torchvision or timm, and names missing."""
  return tree.differences(names, _torchvision(names, 'frozen'))


def from_transformers(
  state: tree.Arrays, norm: str = 'batch', source: str = 'state dict'
) -> tree.Tree:
  """Converts a state dict of transformers, like `from_torchvision`."""
  return read(state, _transformers(state, norm), 1, source)


def to_transformers(
  variables: Mapping[str, Any], norm: str = 'batch'
) -> dict[str, np.ndarray]:
  """Inverts `from_transformers`, without step counts; no head gives a ResNetModel."""
  flat = tree.flatten(variables)
  prefix = 'resnet.' if 'params/head/kernel' in flat else ''
  known = table(sizes(flat, OURS, 'params/'), TRANSFORMERS, norm, prefix)
  return linear.to_state(flat, known | _head(_HEADS[1]))


def transformers_differences(names: Collection[str]) -> tree.Differences:
  """Returns names unknown in a file of transformers, and names missing from it."""
  return tree.differences(names, _transformers(names, 'frozen'))


def config(
  told: Mapping[str, Any], num_classes: int, channels: int = 3
) -> dict[str, Any]:
  """Returns the config.json of transformers for such a file."""
  if told['dilated']:
    raise UserError(
      "dilated=True: transformers' own ResNet has no such stage; write a .safetensors"
      ' file without config.json'
    )
  classifier = 'ResNetForImageClassification' if num_classes else 'ResNetModel'
  return {
    'architectures': [classifier],
    'model_type': 'resnet',
    'num_channels': channels,
    'embedding_size': told['root'],
    'hidden_sizes': widths(told),
    'depths': list(told['depths']),
    'layer_type': 'bottleneck' if told['bottleneck'] else 'basic',
    'hidden_act': 'relu',
    'downsample_in_first_stage': False,
    'downsample_in_bottleneck': False,
    **({'num_labels': num_classes} if num_classes else {}),
  }


def architecture(
  flat: tree.Arrays, source: str = 'variables', at: str = ''
) -> dict[str, Any]:
  """Returns the arguments of our `ResNet` with frozen norms, from flat variables.

  `at` is the path before its names, as in 'backbone/'. Raises a `UserError` that names
  shapes which do not match each other.
  """
  found = sizes(flat, OURS, f'params/{at}')
  if not found.depths:
    raise UserError(f'{source}: there is no stage of a ResNet')
  root = f'params/{at}conv_root/kernel'
  told = dict(
    depths=found.depths,
    bottleneck=found.convs == 3,
    root=_last(flat, root),
    channels=tuple(
      _last(flat, f'params/{at}stage{i + 1}/unit1/conv1/kernel')
      for i in range(len(found.depths))
    ),
    norm='frozen',
    dilated=False,
  )
  shape = np.shape(flat[root])
  want = _shapes(told, shape[2] if len(shape) == 4 else 3)
  want = {name.format(at): shape for name, shape in want.items()}
  if not at and 'params/head/bias' in flat:
    classes = _last(flat, 'params/head/bias')
    want['params/head/kernel'] = widths(told)[-1], classes
    want['params/head/bias'] = (classes,)
  ours = {n for n in flat if n.startswith((f'params/{at}', f'constants/{at}'))}
  tree.check_names(source, *tree.differences(ours, want))
  wrong = resnet_names.wrong_shapes(flat, want)
  if wrong:
    raise UserError(f'{source}: shapes that do not fit: {listed(wrong)}')
  return told


def widths(told: Mapping[str, Any]) -> list[int]:
  """Returns the channels of each stage's map, from the arguments of a `ResNet`."""
  factor = 4 if told['bottleneck'] else 1
  return [factor * inner for inner in told['channels'][: len(told['depths'])]]


def _shapes(told: Mapping[str, Any], channels: int) -> resnet_names.Shapes:
  """Returns names, with a placeholder for the prefix, and shapes of all arrays.

  `channels` is the number of image channels.
  """
  shapes: resnet_names.Shapes = {}

  def add(conv: str, size: int, before: int, after: int) -> None:
    shapes[f'params/{{}}{conv}/kernel'] = (size, size, before, after)
    norm = conv.replace('conv', 'norm')
    for leaf in ('scale', 'bias', 'mean', 'var'):
      shapes[f'constants/{{}}{norm}/{leaf}'] = (after,)

  before = told['root']
  add('conv_root', 7, channels, before)
  kernels = (1, 3, 1) if told['bottleneck'] else (3, 3)
  for i, wide in enumerate(widths(told)):
    inner = told['channels'][i]
    for j in range(told['depths'][i]):
      unit = f'stage{i + 1}/unit{j + 1}/'
      sides = [before, *(inner for _ in kernels[1:]), wide]
      for n, size in enumerate(kernels):
        add(f'{unit}conv{n + 1}', size, *sides[n : n + 2])
      # Only the first unit changes shapes; in the first stage it need not.
      if j == 0 and (i or before != wide):
        add(f'{unit}conv_proj', 1, before, wide)
      before = wide
  return shapes


def _last(flat: tree.Arrays, name: str) -> int:
  """Returns the last side of an array; 0 if it does not exist."""
  return (0, *np.shape(flat.get(name)))[-1]


def _torchvision(names: Collection[str], norm: str) -> linear.Table:
  known = table(sizes(names, TORCHVISION), TORCHVISION, norm)
  return known | _head(_HEADS[0]) if 'fc.weight' in names else known


def _transformers(names: Collection[str], norm: str) -> linear.Table:
  head = 'classifier.1.weight' in names
  prefix = 'resnet.' if head else ''
  known = table(sizes(names, TRANSFORMERS, prefix), TRANSFORMERS, norm, prefix)
  return known | _head(_HEADS[1]) if head else known


def _head(theirs: str) -> linear.Table:
  return {
    f'{theirs}.weight': ['params/head/kernel'],
    f'{theirs}.bias': ['params/head/bias'],
  }
