"""Weights of two-stage detectors in the names of torchvision and of mmdetection.

torchvision's files are Faster and Mask R-CNN with a ResNet, mmdetection's Mask and
Cascade Mask R-CNN with a Swin (SwinTransformer/Swin-Transformer-Object-Detection). Our
variables are trees by collection, with the constants of a ResNet's frozen norms, or the
statistics of a cascade's batch norms.

Axes: C channels, P Q bins of a region, F features, O outputs.
"""

import dataclasses
import re
from collections.abc import Collection, Mapping
from typing import Any

import numpy as np

from big_vision_like.errors import UserError
from big_vision_like.weights import linear, swin_names, torchvision_resnet, tree

# Names of torchvision before 0.13, which its published files have, and later names.
_RENAMED = (
  (r'(backbone\.fpn\.(?:inner|layer)_blocks\.\d+)\.(weight|bias)', r'\1.0.\2'),
  (r'(rpn\.head\.conv)\.(weight|bias)', r'\1.0.0.\2'),
)
_OLD_MASKS = re.compile(r'roi_heads\.mask_head\.mask_fcn(\d)\.(weight|bias)')
_TORCHVISION_BACKBONE = 'backbone.body.'
_HEADS = re.compile(r'roi_head\.bbox_head\.(\d+)\.')
_CONVS = re.compile(r'roi_head\.bbox_head\.(?:\d+\.)?shared_convs\.(\d+)\.')
_FCS = re.compile(r'roi_head\.bbox_head\.(?:\d+\.)?shared_fcs\.(\d+)\.')
_LEVELS = range(4)
_BINS = 7
_OURS = re.compile(r'(features|box_heads|mask_heads)_(\d+)/')


@dataclasses.dataclass(frozen=True)
class Heads:
  """The number of heads of a cascade, their layers, and whether there are masks."""

  count: int
  convs: int
  fcs: int
  masks: bool


def from_torchvision(state: tree.Arrays, source: str = 'state dict') -> tree.Tree:
  """Converts a state dict of torchvision to variables of our `RCNN`, float32.

  Its first class, the background, becomes the last. Deltas and masks of the background,
  which nothing uses, are left out. Raises a `UserError` that lists unknown and missing
  names.
  """
  state = _renamed(state)
  known = _torchvision(state)
  flat = _of_regions(
    tree.flatten(torchvision_resnet.read(state, known, 1, source)), source
  )
  for name, array in flat.items():
    if name.startswith('params/box_heads_0/classify/'):
      flat[name] = np.roll(array, -1, axis=-1)
    elif name.startswith('params/box_heads_0/move/'):
      flat[name] = array[..., 4:]
    elif name.startswith('params/mask_heads_0/predict/'):
      flat[name] = array[..., 1:]
  return tree.unflatten(flat)


def torchvision_differences(names: Collection[str]) -> tree.Differences:
  """Returns names unknown in a file of torchvision's detectors, and names missing."""
  names = _renamed(dict.fromkeys(names))
  return tree.differences(names, _torchvision(names))


def from_mmdetection(state: tree.Arrays, source: str = 'state dict') -> tree.Tree:
  """Converts a state dict of mmdetection with a Swin, like `from_torchvision`."""
  rest, own = _parted(state)
  known = _mmdetection(rest)
  flat = _of_regions(
    tree.flatten(torchvision_resnet.read(rest, known, 1, source)), source
  )
  backbone, _ = swin_names.flat_positions(swin_names.MICROSOFT.read(own))
  flat |= {f'params/backbone/{name}': array for name, array in backbone.items()}
  return tree.unflatten(flat)


def mmdetection_differences(names: Collection[str]) -> tree.Differences:
  """Returns names unknown in a file of mmdetection with a Swin, and names missing."""
  rest, own = _parted(dict.fromkeys(names))
  unknown, missing = tree.differences(rest, _mmdetection(rest))
  strange, lacking = swin_names.MICROSOFT.differences(own)
  return (
    unknown | {f'backbone.{name}' for name in strange},
    missing | {f'backbone.{name}' for name in lacking},
  )


def to_mmdetection(variables: Mapping[str, Any]) -> dict[str, np.ndarray]:
  """Inverts `from_mmdetection`; the backbone may be scanned."""
  flat = tree.flatten(tree.unstack_blocks(variables))
  ours = 'params/backbone/'
  backbone = {n.removeprefix(ours): x for n, x in flat.items() if n.startswith(ours)}
  rest = {name: x for name, x in flat.items() if not name.startswith(ours)}
  found = swin_names.MICROSOFT.written(backbone)
  return {f'backbone.{name}': x for name, x in found.items()} | linear.written(
    {name: _to_theirs(name, np.asarray(x)) for name, x in rest.items()},
    _table_of_mmdetection(heads_of(flat)),
  )


def heads_of(flat: Collection[str]) -> Heads:
  """Returns the heads that our flat names show."""
  names = [name.partition('/')[2] for name in flat]
  found = [m for name in names if (m := _OURS.match(name))]

  def most(pattern: str) -> int:
    return sum(
      re.fullmatch(rf'features_0/{pattern}\d+(/conv)?/kernel', name) is not None
      for name in names
    )

  count = 1 + max((int(m[2]) for m in found if m[1] == 'box_heads'), default=0)
  masks = any(m[1] == 'mask_heads' for m in found)
  return Heads(count, most('conv'), most('fc'), masks)


def _renamed(state: Mapping[str, Any]) -> dict[str, Any]:
  """Returns arrays by torchvision's later names."""
  found = {}
  for name, array in state.items():
    for old, new in _RENAMED:
      name = re.sub(rf'^{old}$', new, name)
    if match := _OLD_MASKS.fullmatch(name):
      name = f'roi_heads.mask_head.{int(match[1]) - 1}.0.{match[2]}'
    found[name] = array
  return found


def _torchvision(names: Collection[str]) -> linear.Table:
  resnet = torchvision_resnet.sizes(
    names, torchvision_resnet.TORCHVISION, _TORCHVISION_BACKBONE
  )
  modules = {
    **{f'backbone.fpn.inner_blocks.{i}.0': f'pyramid/lateral{i + 1}' for i in _LEVELS},
    **{f'backbone.fpn.layer_blocks.{i}.0': f'pyramid/output{i + 1}' for i in _LEVELS},
    'rpn.head.conv.0.0': 'rpn/conv',
    'rpn.head.cls_logits': 'rpn/score',
    'rpn.head.bbox_pred': 'rpn/move',
    'roi_heads.box_head.fc6': 'features_0/fc1',
    'roi_heads.box_head.fc7': 'features_0/fc2',
    'roi_heads.box_predictor.cls_score': 'box_heads_0/classify',
    'roi_heads.box_predictor.bbox_pred': 'box_heads_0/move',
  }
  if any(name.startswith('roi_heads.mask_') for name in names):
    modules |= {
      **{f'roi_heads.mask_head.{i}.0': f'mask_heads_0/conv{i + 1}' for i in range(4)},
      'roi_heads.mask_predictor.conv5_mask': 'mask_heads_0/double',
      'roi_heads.mask_predictor.mask_fcn_logits': 'mask_heads_0/predict',
    }
  return _parameters(modules) | torchvision_resnet.table(
    resnet,
    torchvision_resnet.TORCHVISION,
    'frozen',
    _TORCHVISION_BACKBONE,
    'backbone/',
  )


def _parted(
  state: Mapping[str, Any],
) -> tuple[dict[str, Any], dict[str, Any]]:
  """Returns the arrays outside of the backbone, and those of the backbone."""
  prefix = 'backbone.'
  own = {n.removeprefix(prefix): x for n, x in state.items() if n.startswith(prefix)}
  rest = {n: x for n, x in state.items() if not n.startswith(prefix)}
  return rest, own


def _mmdetection(names: Collection[str]) -> linear.Table:
  """Returns the table for the heads that these names show, without the backbone."""

  def count(pattern: re.Pattern) -> int:
    found = [int(m[1]) for name in names if (m := pattern.match(name))]
    # A file cannot have more layers than arrays.
    return 1 + max((n for n in found if n < len(names)), default=-1)

  masks = any(name.startswith('roi_head.mask_head.') for name in names)
  return _table_of_mmdetection(
    Heads(max(count(_HEADS), 1), count(_CONVS), max(count(_FCS), 1), masks)
  )


def _table_of_mmdetection(heads: Heads) -> linear.Table:
  modules = {
    **{f'neck.lateral_convs.{i}.conv': f'pyramid/lateral{i + 1}' for i in _LEVELS},
    **{f'neck.fpn_convs.{i}.conv': f'pyramid/output{i + 1}' for i in _LEVELS},
    'rpn_head.rpn_conv': 'rpn/conv',
    'rpn_head.rpn_cls': 'rpn/score',
    'rpn_head.rpn_reg': 'rpn/move',
  }
  norms: linear.Table = {}
  for head in range(heads.count):
    number = f'.{head}' if heads.count > 1 else ''
    theirs, ours = f'roi_head.bbox_head{number}', f'features_{head}'
    for i in range(heads.convs):
      conv, mine = f'{theirs}.shared_convs.{i}', f'{ours}/conv{i + 1}'
      norms[f'{conv}.conv.weight'] = [f'params/{mine}/conv/kernel']
      for leaf, collection, name in (
        ('weight', 'params', 'scale'),
        ('bias', 'params', 'bias'),
        ('running_mean', 'batch_stats', 'mean'),
        ('running_var', 'batch_stats', 'var'),
      ):
        norms[f'{conv}.bn.{leaf}'] = [f'{collection}/{mine}/norm/{name}']
    for i in range(heads.fcs):
      modules[f'{theirs}.shared_fcs.{i}'] = f'{ours}/fc{i + 1}'
    modules[f'{theirs}.fc_cls'] = f'box_heads_{head}/classify'
    modules[f'{theirs}.fc_reg'] = f'box_heads_{head}/move'
    if heads.masks:
      theirs, ours = f'roi_head.mask_head{number}', f'mask_heads_{head}'
      for i in range(4):
        modules[f'{theirs}.convs.{i}.conv'] = f'{ours}/conv{i + 1}'
      modules[f'{theirs}.upsample'] = f'{ours}/double'
      modules[f'{theirs}.conv_logits'] = f'{ours}/predict'
  return _parameters(modules) | norms


def _parameters(modules: Mapping[str, str]) -> linear.Table:
  return linear.table({theirs: [f'params/{x}'] for theirs, x in modules.items()}, {})


def _of_regions(flat: tree.Arrays, source: str) -> dict[str, np.ndarray]:
  """Reorders arrays whose axes differ from those of other layers.

  Features of regions are flattened by row, column and channel here, and by channel, row
  and column there. A transposed convolution has its inputs first there.
  """
  result = dict(flat)
  for name, array in flat.items():
    if re.fullmatch(r'params/features_\d+/fc1/kernel', name):
      channels = flat['params/pyramid/output1/bias'].size
      side = round((array.shape[0] / channels) ** 0.5)
      if channels * side**2 != array.shape[0]:
        raise UserError(
          f'{source}: {name} has {array.shape[0]} inputs, which are not square regions'
          f' of {channels} channels'
        )
      kernel_CPQF = array.reshape(channels, side, side, -1)
      result[name] = kernel_CPQF.transpose(1, 2, 0, 3).reshape(array.shape)
    elif name.endswith('/double/kernel'):
      # `linear` has made (r, s, O, C) of PyTorch's (C, O, r, s).
      result[name] = array.transpose(3, 0, 1, 2)
  return result


def _to_theirs(name: str, array: np.ndarray) -> np.ndarray:
  """Inverts `_of_regions` for one of our arrays."""
  if re.fullmatch(r'params/features_\d+/fc1/kernel', name):
    if array.shape[0] % _BINS**2:
      raise UserError(f'{name} has {array.shape[0]} inputs, not regions of 7x7 bins')
    kernel_PQCF = array.reshape(_BINS, _BINS, -1, array.shape[-1])
    return kernel_PQCF.transpose(2, 0, 1, 3).reshape(array.shape)
  if name.endswith('/double/kernel'):
    return array.transpose(1, 2, 3, 0)
  return array
