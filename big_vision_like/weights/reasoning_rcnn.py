"""Weights of Reasoning-RCNN in the names of chanyn/Reasoning-RCNN (old mmdetection).

The backbone is a ResNet in torchvision's names. Both heads share the dense layers
`branch_fcs`. Background is the first class there and the last one here, in classifiers
and in the graph, `adj_gt`.

Axes: C channels or classes, P Q bins of a region, F features.
"""

from collections.abc import Collection, Mapping
from typing import Any

import numpy as np

from big_vision_like.errors import UserError
from big_vision_like.weights import linear, torchvision_resnet, tree

BACKBONE = 'backbone.'
HEADS = (0, 1)
FCS = (0, 1)
LEVELS = range(4)
GRAPH, OUR_GRAPH = 'adj_gt', 'constants/enhance/graph'
# Their names of modules of the heads, and ours.
REASONING = {
  'cmp_attention.0.conv': 'enhance/reduce',
  'cmp_attention.1': 'enhance/describe',
  'graph_weight_fc': 'enhance/propagate',
}
BOX_HEADS = {
  f'bbox_head.{i}.{theirs}': f'box_heads_{i}/{ours}'
  for i in HEADS
  for theirs, ours in (('fc_cls', 'classify'), ('fc_reg', 'move'))
}
FIRST = 'params/features_0/fc1/kernel'


def heads() -> linear.Table:
  """Returns our parameters for each of theirs, of the heads without dense layers."""
  return _parameters(REASONING | BOX_HEADS)


def from_published(state: tree.Arrays, source: str = 'state dict') -> tree.Tree:
  """Converts a state dict to variables of our `RCNN` with `Reasoning`, float32.

  Raises a `UserError` that lists unknown and missing names.
  """
  flat = tree.flatten(torchvision_resnet.read(state, table(state), 1, source))
  for head in HEADS:
    for leaf in ('kernel', 'bias'):
      name = f'params/box_heads_{head}/classify/{leaf}'
      flat[name] = np.roll(flat[name], -1, axis=-1)
  edges_CC = flat[OUR_GRAPH]
  classes = flat['params/box_heads_0/classify/bias'].size
  if edges_CC.shape != (classes, classes):
    raise UserError(
      f'{source}: {GRAPH} has shape {edges_CC.shape}, but there are {classes} classes'
      ' with background'
    )
  flat[OUR_GRAPH] = np.roll(edges_CC, (-1, -1), axis=(0, 1))
  channels = flat['params/pyramid/output1/bias'].size
  inputs = flat[FIRST].shape[0]
  side = round((inputs / channels) ** 0.5)
  if channels * side**2 != inputs:
    raise UserError(
      f'{source}: branch_fcs.0 has {inputs} inputs, which are not square regions of'
      f' {channels} channels'
    )
  # Regions are flattened by channel, row and column there.
  kernel_CPQF = flat[FIRST].reshape(channels, side, side, -1)
  flat[FIRST] = kernel_CPQF.transpose(1, 2, 0, 3).reshape(inputs, -1)
  return tree.unflatten(flat)


def to_published(variables: Mapping[str, Any], side: int = 7) -> dict[str, np.ndarray]:
  """Inverts `from_published`, for regions of `side` by `side` bins."""
  flat = {name: np.asarray(x) for name, x in tree.flatten(variables).items()}
  for head in HEADS:
    for leaf in ('kernel', 'bias'):
      name = f'params/box_heads_{head}/classify/{leaf}'
      flat[name] = np.roll(flat[name], 1, axis=-1)
  flat[OUR_GRAPH] = np.roll(flat[OUR_GRAPH], (1, 1), axis=(0, 1))
  kernel_PQCF = flat[FIRST].reshape(side, side, -1, flat[FIRST].shape[-1])
  flat[FIRST] = kernel_PQCF.transpose(2, 0, 1, 3).reshape(flat[FIRST].shape)
  sizes = torchvision_resnet.sizes(flat, torchvision_resnet.OURS, 'params/backbone/')
  return linear.written(flat, _table(sizes))


def differences(names: Collection[str]) -> tree.Differences:
  """Returns names unknown in a file of Reasoning-RCNN, and names missing from it."""
  return tree.differences(names, table(names))


def table(names: Collection[str]) -> linear.Table:
  """Returns our arrays for each of theirs, for the backbone that names show."""
  return _table(
    torchvision_resnet.sizes(names, torchvision_resnet.TORCHVISION, BACKBONE)
  )


def _table(sizes: torchvision_resnet.Sizes) -> linear.Table:
  modules = {
    **{f'neck.lateral_convs.{i}.conv': f'pyramid/lateral{i + 1}' for i in LEVELS},
    **{f'neck.fpn_convs.{i}.conv': f'pyramid/output{i + 1}' for i in LEVELS},
    'rpn_head.rpn_conv': 'rpn/conv',
    'rpn_head.rpn_cls': 'rpn/score',
    'rpn_head.rpn_reg': 'rpn/move',
    **{f'branch_fcs.{i}': f'features_0/fc{i + 1}' for i in FCS},
  }
  backbone = torchvision_resnet.table(
    sizes, torchvision_resnet.TORCHVISION, 'frozen', BACKBONE, 'backbone/'
  )
  return _parameters(modules) | heads() | backbone | {GRAPH: [OUR_GRAPH]}


def _parameters(modules: Mapping[str, str]) -> linear.Table:
  return linear.table({theirs: [f'params/{x}'] for theirs, x in modules.items()}, {})
