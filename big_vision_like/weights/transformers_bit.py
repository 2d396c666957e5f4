"""Weights of transformers' BitForImageClassification and BitModel (.safetensors).

Version 2 of our BiT is `layer_type='preactivation'`; version 1 is 'bottleneck' with
`global_padding='SAME'` and `embedding_dynamic_padding=True`.
"""

import functools
from collections.abc import Collection, Mapping, Sequence
from typing import Any

import numpy as np

from big_vision_like.weights import linear, resnet_names, torch_resnet, tree


def from_transformers(
  state: tree.Arrays, version: int, source: str = 'state dict'
) -> tree.Tree:
  """Converts a state dict to parameters of our BiT (version 2) or BiTv1, float32."""
  tree.check_names(source, *differences(state, version))
  return tree.unflatten(linear.from_state(state, _table(state, version), num_heads=1))


def to_transformers(params: Mapping[str, Any], version: int) -> dict[str, np.ndarray]:
  """Converts our BiT or BiTv1 to BitForImageClassification, or BitModel if headless."""
  flat = tree.flatten(params)
  tree.check_names('parameters', *resnet_names.unfit(flat, version))
  prefix = 'bit.' if 'head/kernel' in flat else ''
  known = _known(resnet_names.depths(flat), version, prefix)
  return linear.to_state(flat, known)


def differences(names: Collection[str], version: int) -> tree.Differences:
  """Returns names unknown in a file of such a BiT, and names missing from it."""
  unfit = functools.partial(resnet_names.unfit, version=version)
  return linear.differences(names, _table(names, version), unfit)


def config(
  depths: Sequence[int],
  width: float,
  version: int,
  num_classes: int,
  channels: int = 3,
) -> dict[str, Any]:
  """Returns the config.json for such a file."""
  v1 = version == 1
  return {
    'architectures': ['BitForImageClassification' if num_classes else 'BitModel'],
    'model_type': 'bit',
    'num_channels': channels,
    'embedding_size': int(64 * width),
    # transformers multiplies stages by `width_factor`, but not root and head.
    'hidden_sizes': [int(256 * width) * 2**i for i in range(len(depths))],
    'width_factor': 1,
    'depths': list(depths),
    'layer_type': 'bottleneck' if v1 else 'preactivation',
    'global_padding': 'SAME' if v1 else None,
    'embedding_dynamic_padding': v1,
    'hidden_act': 'relu',
    'num_groups': 32,
    **({'num_labels': num_classes} if num_classes else {}),
  }


def _table(names: Collection[str], version: int) -> linear.Table:
  prefix = 'bit.' if any(name.startswith('bit.') for name in names) else ''
  unit = rf'{prefix}encoder\.stages\.(\d+)\.layers\.(\d+)\.'
  depths = resnet_names.depths(names, unit, first=0)
  return _known(depths or [1], version, prefix)


def _known(depths: Sequence[int], version: int, prefix: str) -> linear.Table:
  root = f'{prefix}embedder.'
  unit = f'{prefix}encoder.stages.{{stage}}.layers.{{unit}}.'
  modules = torch_resnet.modules(depths, version, root, unit)
  modules[f'{root}convolution'] = modules.pop(f'{root}conv')
  if version == 2:
    modules[f'{prefix}norm'] = ['resnet/norm']
  if prefix:
    modules['classifier.1'] = ['head']
  return linear.table(modules, {})
