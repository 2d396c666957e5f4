"""Weights of transformers' DeiTs (.safetensors), which all have a distillation token.

A DeiTForImageClassificationWithTeacher has both heads. A DeiTForImageClassification
only reads its class token: it is a ViT with the distillation token as a register. Plain
DeiTs are published as ViTForImageClassification. GELU and epsilon are as in
`transformers_vit`.
"""

from collections.abc import Collection, Mapping, Sequence
from typing import Any

import numpy as np

from big_vision_like.weights import (
  deit_names,
  linear,
  transformers_vit,
  tree,
  vit_names,
)

_PREFIX = 'deit.'
_TOKEN = f'{_PREFIX}embeddings.distillation_token'
_HEADS = {'cls_classifier': ['head'], 'distillation_classifier': ['head_dist']}


def differences(names: Collection[str]) -> tree.Differences:
  """Returns names unknown in a file of a DeiT with both heads, and names missing."""
  return linear.differences(names, _table(names), deit_names.unfit_distilled)


def from_transformers(
  state: tree.Arrays, num_heads: int, source: str = 'state dict'
) -> tree.Tree:
  """Converts a DeiT with both heads to parameters of our `DeiT`, float32."""
  tree.check_names(source, *differences(state))
  return tree.unflatten(linear.from_state(state, _table(state), num_heads))


def to_transformers(params: Mapping[str, Any]) -> dict[str, np.ndarray]:
  """Converts our parameters (unrolled or scanned) to a DeiT with both heads."""
  flat = tree.flatten(tree.unstack_blocks(params))
  tree.check_names('parameters', *deit_names.unfit_distilled(flat))
  return linear.written(flat, _known(vit_names.depth(flat) or 1))


def config(
  architecture: Mapping[str, Any],
  num_classes: int,
  image_size: Sequence[int],
  channels: int = 3,
) -> dict[str, Any]:
  """Returns the config.json for such a file."""
  told = transformers_vit.config(architecture, num_classes, image_size, channels)
  model = 'DeiTForImageClassificationWithTeacher'
  return told | {'architectures': [model], 'model_type': 'deit'}


def classifier_differences(names: Collection[str]) -> tree.Differences:
  """Returns names unknown in a DeiTForImageClassification file, and names missing."""
  theirs = {_as_vit(name): name for name in names if name != _TOKEN}
  unknown, missing = transformers_vit.differences(theirs)
  missing = {name.replace('vit.', _PREFIX, 1) for name in missing}
  found = {theirs[name] for name in unknown}
  # Only the prefix distinguishes it from a ViT.
  others = {name for name in names if name.startswith('vit.')}
  return found | others, missing | {_TOKEN, 'classifier.weight'} - set(names)


def classifier_as_vit(
  state: tree.Arrays,
) -> tuple[dict[str, np.ndarray], np.ndarray]:
  """Returns the arrays of a ViT, and its additional register, (1, 1, D)."""
  arrays = {_as_vit(name): array for name, array in state.items() if name != _TOKEN}
  name = 'vit.embeddings.position_embeddings'
  pos_1ND = tree.as_float32(name, arrays[name])
  register_11D = tree.as_float32(_TOKEN, state[_TOKEN]) + pos_1ND[:, 1:2]
  return arrays | {name: np.delete(pos_1ND, 1, axis=1)}, register_11D


def _as_vit(name: str) -> str:
  return f'vit.{name.removeprefix(_PREFIX)}' if name.startswith(_PREFIX) else name


def _table(names: Collection[str]) -> linear.Table:
  block = r'deit\.encoder\.layer\.(\d+)\.'
  return _known(vit_names.depth(names, block) or 1)


def _known(depth: int) -> linear.Table:
  known = transformers_vit.known(depth, _PREFIX, _HEADS)
  return known | linear.table({}, {_TOKEN: 'dist'})
