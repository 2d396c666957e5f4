"""Weights of DeiT and DeiT III in the names of facebookresearch/deit and of timm.

The names are a ViT's (see `timm_vit`), plus `dist_token` and `head_dist` for a
distilled DeiT, or `blocks.i.ls1.gamma` and `ls2.gamma` for a DeiT III, which
facebookresearch calls `gamma_1` and `gamma_2`. Plain DeiTs are ViTs in files too.
"""

import re
from collections.abc import Collection, Mapping
from typing import Any

import numpy as np

from big_vision_like.errors import UserError
from big_vision_like.weights import deit_names, linear, timm_vit, tree, vit_names

_DISTILLED = {'head_dist': ['head_dist']}
# Functions of timm that make the models, by width.
_DISTILLED_MODELS = {
  192: 'deit_tiny_distilled_patch16_224',
  384: 'deit_small_distilled_patch16_224',
  768: 'deit_base_distilled_patch16_224',
}
_SCALED_MODELS = {
  384: 'deit3_small_patch16_224',
  512: 'deit3_medium_patch16_224',
  768: 'deit3_base_patch16_224',
  1024: 'deit3_large_patch16_224',
  1280: 'deit3_huge_patch14_224',
}


def as_timm(state: tree.Arrays) -> dict[str, np.ndarray]:
  """Returns the arrays with the layer scales under timm's names."""
  return {_timm_name(name): array for name, array in state.items()}


def differences_distilled(names: Collection[str]) -> tree.Differences:
  """Returns names unknown in a file of a distilled DeiT, and names missing from it."""
  return linear.differences(names, _distilled(names), deit_names.unfit_distilled)


def differences_scaled(names: Collection[str]) -> tree.Differences:
  """Returns names unknown in a file of a DeiT III, and names missing from it."""
  theirs = {_timm_name(name): name for name in names}
  found = linear.differences(theirs, _scaled(theirs), deit_names.unfit_scaled)
  unknown, missing = ({theirs.get(name, name) for name in part} for part in found)
  return unknown, missing


def from_distilled(
  state: tree.Arrays,
  num_heads: int,
  no_embed_class: bool = False,
  source: str = 'state dict',
) -> tree.Tree:
  """Returns a distilled DeiT's parameters, float32; `source` is named in errors.

  With `no_embed_class`, class and distillation token have no rows in the positions, and
  get rows of zeros.
  """
  tree.check_names(source, *differences_distilled(state))
  flat = linear.from_state(state, _distilled(state), num_heads)
  if no_embed_class:
    rows = ((0, 0), (2, 0), (0, 0))
    flat['pos_embedding'] = np.pad(flat['pos_embedding'], rows)
  return tree.unflatten(flat)


def from_scaled(
  state: tree.Arrays, num_heads: int, source: str = 'state dict'
) -> tree.Tree:
  """Returns a DeiT III's parameters, float32; its class token has no position."""
  tree.check_names(source, *differences_scaled(state))
  state = as_timm(state)
  return tree.unflatten(linear.from_state(state, _scaled(state), num_heads))


def to_timm(params: Mapping[str, Any]) -> dict[str, np.ndarray]:
  """Returns timm's arrays of a distilled DeiT or a DeiT III."""
  flat = tree.flatten(tree.unstack_blocks(params))
  if 'dist' in flat:
    unfit, known = deit_names.unfit_distilled, _distilled(flat, ours=True)
  else:
    unfit, known = deit_names.unfit_scaled, _scaled(flat, ours=True)
  for name, what in timm_vit.NO_PLACE.items():
    if name in flat:
      raise UserError(f'parameters: timm has no place for {what}: unknown {name}')
  tree.check_names('parameters', *unfit(flat))
  return linear.written(flat, known)


def distilled_config(
  architecture: Mapping[str, Any], *arguments: Any
) -> dict[str, Any]:
  """Returns the config.json of a distilled DeiT, like `timm_vit.config` for a ViT."""
  told, width = timm_vit.config(architecture, *arguments), architecture['width']
  told['architecture'] = _DISTILLED_MODELS.get(width, _DISTILLED_MODELS[768])
  told['pretrained_cfg']['classifier'] = ['head', 'head_dist']
  return told


def scaled_config(architecture: Mapping[str, Any], *arguments: Any) -> dict[str, Any]:
  """Returns the config.json of a DeiT III, like `timm_vit.config` for a ViT."""
  told, width = timm_vit.config(architecture, *arguments), architecture['width']
  told['architecture'] = _SCALED_MODELS.get(width, _SCALED_MODELS[768])
  told['model_args'] |= dict(no_embed_class=True, init_values=1e-4)
  return told


def _distilled(names: Collection[str], ours: bool = False) -> linear.Table:
  known = timm_vit.table(names, ours)
  return known | linear.table(_DISTILLED, {'dist_token': 'dist'})


def _scaled(names: Collection[str], ours: bool = False) -> linear.Table:
  block = r'encoder/block_(\d+)/' if ours else r'blocks\.(\d+)\.'
  scales = {
    f'blocks.{i}.ls{branch}.gamma': [f'encoder/block_{i}/layer_scale{branch}']
    for i in range(vit_names.depth(names, block) or 1)
    for branch in (1, 2)
  }
  return timm_vit.table(names, ours) | scales


def _timm_name(name: str) -> str:
  return re.sub(r'(blocks\.\d+)\.gamma_([12])', r'\1.ls\2.gamma', name)
