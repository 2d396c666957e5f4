"""Weights of timm's ResNetV2 (.safetensors): BiT (`resnetv2_50x1_bit` and others).

timm publishes version 2 of our BiT; version 1 is `ResNetV2(preact=False,
stem_type='same')` with `StdConv2dSame`. Convolutions are OIHW, including the head.
"""

import functools
from collections.abc import Collection, Mapping, Sequence
from typing import Any

import numpy as np

from big_vision_like.errors import UserError
from big_vision_like.weights import linear, resnet_names, torch_resnet, tree

# Functions that make the model, by the number of units per stage and the width.
_MODELS = {
  ((3, 4, 6, 3), 1): 'resnetv2_50x1_bit',
  ((3, 4, 6, 3), 3): 'resnetv2_50x3_bit',
  ((3, 4, 23, 3), 1): 'resnetv2_101x1_bit',
  ((3, 4, 23, 3), 3): 'resnetv2_101x3_bit',
  ((3, 8, 36, 3), 2): 'resnetv2_152x2_bit',
  ((3, 8, 36, 3), 4): 'resnetv2_152x4_bit',
}


def from_timm(
  state: tree.Arrays, version: int, source: str = 'state dict'
) -> tree.Tree:
  """Converts a state dict to parameters of our BiT (version 2) or BiTv1, float32."""
  tree.check_names(source, *differences(state, version))
  return tree.unflatten(linear.from_state(state, _table(state, version), num_heads=1))


def to_timm(params: Mapping[str, Any], version: int) -> dict[str, np.ndarray]:
  """Converts parameters of our BiT (version 2) or BiTv1 to timm's state dict."""
  flat = tree.flatten(params)
  tree.check_names('parameters', *resnet_names.unfit(flat, version))
  state = linear.to_state(flat, _table(flat, version, ours=True))
  head = 'head.fc.weight'
  if head in state:
    state[head] = state[head][:, :, None, None]
  return state


def config(
  depths: Sequence[int],
  width: float,
  num_classes: int,
  channels: int = 3,
) -> dict[str, Any]:
  """Returns the config.json for a file of version 2, for timm.create_model."""
  if (tuple(depths), width) not in _MODELS:
    known = ', '.join(_MODELS.values())
    raise UserError(
      f'timm has no BiT with stages of {tuple(depths)} units and width {width}, only'
      f' {known}: write a .safetensors file without config.json'
    )
  return {
    'architecture': _MODELS[tuple(depths), width],
    'num_classes': num_classes,
    'num_features': int(64 * width) * 2 ** (len(depths) + 1),
    'model_args': {'in_chans': channels},
    'pretrained_cfg': dict(
      num_classes=num_classes,
      pool_size=[7, 7],
      first_conv='stem.conv',
      classifier='head.fc',
    ),
  }


def differences(names: Collection[str], version: int) -> tree.Differences:
  """Returns names unknown in a file of such a BiT, and names missing from it."""
  unfit = functools.partial(resnet_names.unfit, version=version)
  return linear.differences(names, _table(names, version), unfit)


def _table(names: Collection[str], version: int, ours: bool = False) -> linear.Table:
  if ours:
    depths = resnet_names.depths(names)
  else:
    unit = r'stages\.(\d+)\.blocks\.(\d+)\.'
    depths = resnet_names.depths(names, unit, first=0)
  modules = torch_resnet.modules(
    depths or [1], version, root='stem.', unit='stages.{stage}.blocks.{unit}.'
  )
  modules['head.fc'] = ['head']
  if version == 2:
    modules['norm'] = ['resnet/norm']
  return linear.table(modules, {})
