"""Weights of EfficientNets in the names of TensorFlow, timm and transformers.

TensorFlow's files are checkpoints of tensorflow/tpu and Noisy Student, or their arrays
as .npz. Arrays may have a running average under their name and `AVERAGE`.

TensorFlow and transformers number units across the whole network, and timm within each
stage. Units of the first stage have no expansion and different names: the second
convolution or norm of other units is the first one there.
"""

import re
from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from big_vision_like.errors import plural
from big_vision_like.weights import resnet_names, tree

Convert = Callable[[str, np.ndarray], np.ndarray]
AVERAGE = '/ExponentialMovingAverage'
# Suffixes for the state that TensorFlow's optimizers keep for an array.
_SLOT = re.compile(r'/(RMSProp|Momentum|Adam)(_\d+)?$')
_TF_STEM = 'stem/conv2d/kernel'
_OUR_UNIT = r'(?:params|batch_stats)/stage(\d+)/unit(\d+)/'


class Names(NamedTuple):
  """A library's names for our modules and their leaves.

  `unit` is the path of a unit with its `number` in the network, or its `stage` and
  `unit`. `parts` are its modules, and `plain` the modules of a unit without expansion.
  `norm` has the leaves of norms by our collection and name, `kernel` is the leaf of
  other modules, and `depthwise` the kernel of the depthwise convolution.
  """

  unit: str
  outer: Mapping[str, str]
  parts: Mapping[str, str]
  plain: Mapping[str, str]
  norm: Mapping[str, str]
  kernel: str
  depthwise: str
  dot: str


def _norms(scale: str, bias: str, mean: str, var: str) -> dict[str, str]:
  leaves = ('params/scale', 'params/bias', 'batch_stats/mean', 'batch_stats/var')
  return dict(zip(leaves, (scale, bias, mean, var), strict=True))


_TF_GATES = {'squeeze_excite/fc1': 'se/conv2d', 'squeeze_excite/fc2': 'se/conv2d_1'}
TENSORFLOW = Names(
  unit='blocks_{number}/',
  outer={
    'stem/conv': 'stem/conv2d',
    'stem/norm': 'stem/tpu_batch_normalization',
    'top/conv': 'head/conv2d',
    'top/norm': 'head/tpu_batch_normalization',
    'head': 'head/dense',
  },
  parts={
    'expand/conv': 'conv2d',
    'expand/norm': 'tpu_batch_normalization',
    'depthwise/conv': 'depthwise_conv2d',
    'depthwise/norm': 'tpu_batch_normalization_1',
    **_TF_GATES,
    'project/conv': 'conv2d_1',
    'project/norm': 'tpu_batch_normalization_2',
  },
  plain={
    'depthwise/conv': 'depthwise_conv2d',
    'depthwise/norm': 'tpu_batch_normalization',
    **_TF_GATES,
    'project/conv': 'conv2d',
    'project/norm': 'tpu_batch_normalization_1',
  },
  norm=_norms('gamma', 'beta', 'moving_mean', 'moving_variance'),
  kernel='kernel',
  depthwise='depthwise_kernel',
  dot='/',
)
_TORCH = dict(
  norm=_norms('weight', 'bias', 'running_mean', 'running_var'),
  kernel='weight',
  depthwise='weight',
  dot='.',
)
_TIMM_GATES = {
  'squeeze_excite/fc1': 'se.conv_reduce',
  'squeeze_excite/fc2': 'se.conv_expand',
}
TIMM = Names(
  unit='blocks.{stage}.{unit}.',
  outer={
    'stem/conv': 'conv_stem',
    'stem/norm': 'bn1',
    'top/conv': 'conv_head',
    'top/norm': 'bn2',
    'head': 'classifier',
  },
  parts={
    'expand/conv': 'conv_pw',
    'expand/norm': 'bn1',
    'depthwise/conv': 'conv_dw',
    'depthwise/norm': 'bn2',
    **_TIMM_GATES,
    'project/conv': 'conv_pwl',
    'project/norm': 'bn3',
  },
  plain={
    'depthwise/conv': 'conv_dw',
    'depthwise/norm': 'bn1',
    **_TIMM_GATES,
    'project/conv': 'conv_pw',
    'project/norm': 'bn2',
  },
  **_TORCH,
)
_HF_PLAIN = {
  'depthwise/conv': 'depthwise_conv.depthwise_conv',
  'depthwise/norm': 'depthwise_conv.depthwise_norm',
  'squeeze_excite/fc1': 'squeeze_excite.reduce',
  'squeeze_excite/fc2': 'squeeze_excite.expand',
  'project/conv': 'projection.project_conv',
  'project/norm': 'projection.project_bn',
}
TRANSFORMERS = Names(
  unit='encoder.blocks.{number}.',
  outer={
    'stem/conv': 'embeddings.convolution',
    'stem/norm': 'embeddings.batchnorm',
    'top/conv': 'encoder.top_conv',
    'top/norm': 'encoder.top_bn',
    'head': 'classifier',
  },
  parts={
    'expand/conv': 'expansion.expand_conv',
    'expand/norm': 'expansion.expand_bn',
    **_HF_PLAIN,
  },
  plain=_HF_PLAIN,
  **_TORCH,
)


def table(
  of: Names, depths: Sequence[int], head: bool, prefix: str = ''
) -> dict[str, str]:
  """Returns our flat name for each of theirs; `prefix` precedes all except the head."""
  known = {}

  def add(theirs: str, ours: str) -> None:
    if ours.endswith('norm'):
      for place, leaf in of.norm.items():
        collection, name = place.split('/')
        known[f'{theirs}{of.dot}{leaf}'] = f'{collection}/{ours}/{name}'
      return
    kernel = of.depthwise if ours.endswith('depthwise/conv') else of.kernel
    known[f'{theirs}{of.dot}{kernel}'] = f'params/{ours}/kernel'
    if not ours.endswith('conv'):
      known[f'{theirs}{of.dot}bias'] = f'params/{ours}/bias'

  for ours, theirs in of.outer.items():
    if ours != 'head':
      add(prefix + theirs, ours)
    elif head:
      # The head of transformers is outside the module with the prefix.
      add(theirs if of is TRANSFORMERS else prefix + theirs, ours)
  number = 0
  for stage, depth in enumerate(depths):
    for unit in range(depth):
      path = of.unit.format(number=number, stage=stage, unit=unit)
      for ours, theirs in (of.parts if stage else of.plain).items():
        add(f'{prefix}{path}{theirs}', f'stage{stage + 1}/unit{unit + 1}/{ours}')
      number += 1
  return known


def from_tensorflow(
  arrays: tree.Arrays, source: str = 'checkpoint'
) -> tuple[tree.Tree, tuple[str, ...]]:
  """Returns the variables of our model, and sentences about assumptions.

  Running averages are preferred over trained values, as in published accuracies.
  """
  prefix, names = _tensorflow_names(arrays)
  known = _tensorflow(prefix, names)
  tree.check_names(source, *tree.differences(names, known))
  averaged = [name for name in known if name + AVERAGE in arrays]
  assumed: tuple[str, ...] = ()
  if averaged:
    assumed = (
      f'running averages ({AVERAGE[1:]}) of {plural(len(averaged), "array")}, as for'
      ' published accuracies',
    )
  if averaged and len(averaged) < len(known):
    rest = plural(len(known) - len(averaged), 'array')
    assumed += (f'{rest} as trained: the file has no running average of them',)
  chosen = {n: arrays.get(n + AVERAGE, arrays.get(n)) for n in known}
  return tree.unflatten(_in_stages(_flat(chosen, known, _of_tensorflow))), assumed


def to_tensorflow(
  variables: Mapping[str, Any], root: str = 'efficientnet/'
) -> dict[str, np.ndarray]:
  """Inverts `from_tensorflow`, without averages; missing arrays are left out."""
  return _named(variables, TENSORFLOW, root, _to_tensorflow)


def tensorflow_differences(names: Collection[str]) -> tree.Differences:
  """Returns names unknown in a file of TensorFlow, and names missing from it."""
  prefix, names = _tensorflow_names(names)
  return tree.differences(names, _tensorflow(prefix, names))


def from_timm(state: tree.Arrays, source: str = 'state dict') -> tree.Tree:
  """Converts a state dict of timm to variables of our model, float32."""
  known = _timm(state)
  tree.check_names(source, *tree.differences(state, known))
  return tree.unflatten(_flat(state, known, _of_torch))


def to_timm(variables: Mapping[str, Any]) -> dict[str, np.ndarray]:
  """Inverts `from_timm`."""
  return _named(variables, TIMM, '', to_torch)


def timm_differences(names: Collection[str]) -> tree.Differences:
  """Returns names unknown in a file of timm, and names missing from it."""
  return tree.differences(names, _timm(names))


def from_transformers(state: tree.Arrays, source: str = 'state dict') -> tree.Tree:
  """Converts a state dict of transformers to variables of our model, float32."""
  known = _transformers(state)
  tree.check_names(source, *tree.differences(state, known))
  return tree.unflatten(_in_stages(_flat(state, known, _of_torch)))


def transformers_differences(names: Collection[str]) -> tree.Differences:
  """Returns names unknown in a file of transformers, and names missing from it."""
  return tree.differences(names, _transformers(names))


def depths(flat: Collection[str]) -> list[int]:
  """Returns the number of units per stage, from our flat names with collections."""
  return resnet_names.depths(flat, _OUR_UNIT)


def _timm(names: Collection[str]) -> dict[str, str]:
  found = resnet_names.depths(names, r'blocks\.(\d+)\.(\d+)\.', first=0)
  return table(TIMM, found or [1], 'classifier.weight' in names)


def _transformers(names: Collection[str]) -> dict[str, str]:
  head = 'classifier.weight' in names
  prefix = 'efficientnet.' if head else ''
  unit = re.escape(prefix) + r'encoder\.blocks\.(\d+)\.(expansion\.)?'
  return table(TRANSFORMERS, _numbered(names, unit), head, prefix)


def _tensorflow(prefix: str, names: Collection[str]) -> dict[str, str]:
  unit = re.escape(prefix) + r'blocks_(\d+)/(conv2d_1/)?'
  head = f'{prefix}head/dense/kernel' in names
  return table(TENSORFLOW, _numbered(names, unit), head, prefix)


def _tensorflow_names(names: Collection[str]) -> tuple[str, set[str]]:
  """Returns the prefix of all names, and the names of the variables.

  Averages and optimizer state are not variables of their own.
  """
  plain = {name.removesuffix(AVERAGE) for name in names}
  plain = {n for n in plain if not _SLOT.search(n)}
  stems = [name for name in plain if name.endswith(_TF_STEM)]
  return min(stems, default='').removesuffix(_TF_STEM), plain


def _numbered(names: Collection[str], unit: str) -> list[int]:
  """Returns the numbers of units without and with expansion.

  `unit` matches the number of a unit, followed by a module that only expansion has.
  """
  found: dict[int, bool] = {}
  for name in names:
    match = re.match(unit, name)
    # A file cannot have more units than arrays.
    if match and int(match[1]) < len(names):
      number = int(match[1])
      found[number] = found.get(number, False) or bool(match[2])
  count = max(found, default=0) + 1
  plain = next((i for i in range(1, count) if found.get(i)), count)
  return [plain, count - plain]


def _flat(
  arrays: tree.Arrays, known: Mapping[str, str], convert: Convert
) -> dict[str, np.ndarray]:
  """Converts arrays to our names and axes."""
  return {
    ours: convert(ours, tree.as_float32(theirs, arrays[theirs]))
    for theirs, ours in known.items()
  }


def _in_stages(flat: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
  """Splits all units with expansion into stages, which follow the first stage.

  Neighbouring stages differ in kernel size or channels.
  """
  places, before, count = {}, None, 0
  for stage, depth in enumerate(depths(flat), start=1):
    for unit in range(1, depth + 1):
      path = f'stage{stage}/unit{unit}/'
      size = flat[f'params/{path}depthwise/conv/kernel'].shape[0]
      kind = stage == 1, size, flat[f'params/{path}project/conv/kernel'].shape[-1]
      number = places[before][1] + 1 if before and kind == places[before][2] else 1
      count += number == 1
      places[path], before = (count, number, kind), path
  renamed = {}
  for name, array in flat.items():
    match = re.search(r'stage\d+/unit\d+/', name)
    if match:
      stage, unit, _ = places[match[0]]
      name = name.replace(match[0], f'stage{stage}/unit{unit}/')
    renamed[name] = array
  return renamed


def _named(
  variables: Mapping[str, Any], of: Names, prefix: str, convert: Convert
) -> dict[str, np.ndarray]:
  """Returns the existing ones of our variables under their names."""
  flat = tree.flatten(variables)
  known = table(of, depths(flat), 'params/head/kernel' in flat, prefix)
  tree.check_names('variables', unknown=flat.keys() - known.values())
  return {
    theirs: np.ascontiguousarray(convert(ours, np.asarray(flat[ours])))
    for theirs, ours in known.items()
    if ours in flat
  }


def _of_tensorflow(name: str, array: np.ndarray) -> np.ndarray:
  if name.endswith('depthwise/conv/kernel'):
    return array.transpose(0, 1, 3, 2)
  return array.reshape(array.shape[-2:]) if _is_gate(name) else array


def _to_tensorflow(name: str, array: np.ndarray) -> np.ndarray:
  if name.endswith('depthwise/conv/kernel'):
    return array.transpose(0, 1, 3, 2)
  return array[None, None] if _is_gate(name) else array


def _of_torch(name: str, array: np.ndarray) -> np.ndarray:
  if _is_gate(name):
    return array.reshape(array.shape[:2]).T
  if array.ndim == 4:
    return array.transpose(2, 3, 1, 0)
  return array.T


def to_torch(name: str, array: np.ndarray) -> np.ndarray:
  """Returns one of our arrays in PyTorch's axes."""
  if _is_gate(name):
    return array.T[:, :, None, None]
  if array.ndim == 4:
    return array.transpose(3, 2, 0, 1)
  return array.T


def _is_gate(name: str) -> bool:
  """Returns whether an array is a 1x1 squeeze-excite convolution, dense in ours."""
  return bool(re.search(r'squeeze_excite/fc\d/kernel$', name))
