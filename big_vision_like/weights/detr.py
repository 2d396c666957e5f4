"""Weights of DETR in the names of facebookresearch/detr, and of transformers.

Files of transformers are for DetrForObjectDetection and DetrForSegmentation; their
backbone is either timm's or transformers' own. Backbones have frozen norms. Our
variables are trees by collection, `params` and `constants`.
"""

from collections.abc import Collection, Mapping
from typing import Any, NamedTuple

import numpy as np

from big_vision_like.errors import check_one_of
from big_vision_like.weights import (
  linear,
  torch_transformer,
  torchvision_resnet,
  tree,
)

_OURS = torchvision_resnet.OURS
_BACKBONE = 'model.backbone.conv_encoder.model.'
_BACKBONES = {
  'timm': torchvision_resnet.TORCHVISION,
  'transformers': torchvision_resnet.TRANSFORMERS,
}
# Modules of box heads and, for models with masks, of mask heads, in both libraries.
_MASKS = {
  'bbox_attention.q_linear.': 'mask_attention/query',
  'bbox_attention.k_linear.': 'mask_attention/key',
  'mask_head.out_lay.': 'mask_head/out',
  **{f'mask_head.lay{i}.': f'mask_head/conv{i}' for i in range(1, 6)},
  **{f'mask_head.gn{i}.': f'mask_head/norm{i}' for i in range(1, 6)},
  **{f'mask_head.adapter{i}.': f'mask_head/adapter{i}' for i in range(1, 4)},
}


class _Parts(NamedTuple):
  """The parts of an architecture: blocks per stack, units, and which others exist."""

  depths: Mapping[str, int]
  resnet: torchvision_resnet.Sizes
  masks: bool
  encoder_norm: bool
  learned: bool


def from_facebook(
  state: tree.Arrays, num_heads: int = 8, source: str = 'state dict'
) -> tree.Tree:
  """Converts a state dict (`model` of a published file) to variables of our `DETR`.

  They are float32. Raises a `UserError` that lists unknown and missing names.
  """
  return torchvision_resnet.read(state, _of_facebook(state), num_heads, source)


def facebook_differences(names: Collection[str]) -> tree.Differences:
  """Returns names unknown in a file of facebookresearch/detr, and names missing."""
  return tree.differences(names, _of_facebook(names))


def to_facebook(variables: Mapping[str, Any]) -> dict[str, np.ndarray]:
  """Converts our variables (unrolled or scanned), or gradients, to those names."""
  flat, parts = _ours(variables)
  return linear.written(flat, _facebook(parts))


def masks_from_facebook(
  state: tree.Arrays, num_heads: int = 8, source: str = 'state dict'
) -> tree.Tree:
  """Reads, like `from_facebook`, only the parameters that models with masks add."""
  known = _parameters({theirs: [ours] for theirs, ours in _MASKS.items()})
  return torchvision_resnet.read(state, known, num_heads, source)['params']


def from_transformers(
  state: tree.Arrays, num_heads: int = 8, source: str = 'state dict'
) -> tree.Tree:
  """Converts the arrays of a .safetensors file to variables of our `DETR`, float32.

  Raises a `UserError` that lists unknown and missing names.
  """
  return torchvision_resnet.read(state, _of_transformers(state), num_heads, source)


def transformers_differences(names: Collection[str]) -> tree.Differences:
  """Returns names unknown in a file of transformers' DETR, and names missing."""
  return tree.differences(names, _of_transformers(names))


def to_transformers(
  variables: Mapping[str, Any], backbone: str = 'timm'
) -> dict[str, np.ndarray]:
  """Converts our variables for a `backbone` of 'timm' or 'transformers'.

  They may be unrolled or scanned. Raises a `UserError` for pre-norm and learned
  positions, which transformers does not support.
  """
  check_one_of(_BACKBONES, backbone=backbone)
  flat, parts = _ours(variables)
  return linear.written(flat, _transformers(parts, backbone))


def config(
  told: Mapping[str, Any], num_classes: int, channels: int = 3
) -> dict[str, Any]:
  """Returns the config.json for a file with transformers' own backbone."""
  backbone = torchvision_resnet.config(told['backbone'], 0, channels)
  stages = [f'stage{i + 1}' for i in range(len(backbone['depths']))]
  kind = 'DetrForSegmentation' if told['masks'] else 'DetrForObjectDetection'
  return {
    'architectures': [kind],
    'model_type': 'detr',
    'backbone_config': backbone | {'out_features': stages},
    'use_timm_backbone': False,
    'use_pretrained_backbone': False,
    'backbone': None,
    'num_channels': channels,
    'num_queries': told['num_queries'],
    'd_model': told['width'],
    'encoder_layers': told['encoder_depth'],
    'decoder_layers': told['decoder_depth'],
    'encoder_attention_heads': told['num_heads'],
    'decoder_attention_heads': told['num_heads'],
    'encoder_ffn_dim': told['mlp_dim'],
    'decoder_ffn_dim': told['mlp_dim'],
    'activation_function': 'relu',
    'position_embedding_type': 'sine',
    'dilation': False,
    'num_labels': num_classes,
  }


def _ours(variables: Mapping[str, Any]) -> tuple[dict[str, np.ndarray], _Parts]:
  flat = tree.flatten(tree.unstack_blocks(variables))
  parts = _Parts(
    linear.depths(flat, r'params/(encoder|decoder)/block_(\d+)/'),
    torchvision_resnet.sizes(flat, _OURS, 'params/backbone/'),
    any(name.startswith('params/mask_head/') for name in flat),
    'params/encoder/norm/scale' in flat,
    'params/pos_rows' in flat,
  )
  return flat, parts


def _of_facebook(names: Collection[str]) -> linear.Table:
  """Returns the table of a facebookresearch/detr file, from its names."""
  masks = any(name.startswith('mask_head.') for name in names)
  prefix = 'detr.' if masks else ''
  block = rf'{prefix}transformer\.(encoder|decoder)\.layers\.(\d+)\.'
  parts = _Parts(
    linear.depths(names, block),
    torchvision_resnet.sizes(
      names, torchvision_resnet.TORCHVISION, f'{prefix}backbone.0.body.'
    ),
    masks,
    f'{prefix}transformer.encoder.norm.weight' in names,
    f'{prefix}backbone.1.row_embed.weight' in names,
  )
  return _facebook(parts)


def _of_transformers(names: Collection[str]) -> linear.Table:
  """Returns the table of a transformers file, for a backbone of either library."""
  masks = any(name.startswith('mask_head.') for name in names)
  prefix = 'detr.' if masks else ''
  found = {
    library: torchvision_resnet.sizes(names, of, prefix + _BACKBONE)
    for library, of in _BACKBONES.items()
  }
  library = max(found, key=lambda library: len(found[library].depths))
  block = rf'{prefix}model\.(encoder|decoder)\.layers\.(\d+)\.'
  depths = linear.depths(names, block)
  return _transformers(_Parts(depths, found[library], masks, False, False), library)


def _facebook(parts: _Parts) -> linear.Table:
  modules = {
    'input_proj.': ['input_proj'],
    'class_embed.': ['class_head'],
    **{f'bbox_embed.layers.{i}.': [f'box_head/fc{i + 1}'] for i in range(3)},
  }
  for theirs, ours in torch_transformer.modules(parts.depths).items():
    last = theirs.split('.')[-2:]
    # Encoders lack cross-attention, and have a last norm only with pre-norm.
    if theirs.startswith('encoder.layers.') and (
      'norm3' in last or 'multihead_attn' in theirs
    ):
      continue
    if theirs == 'encoder.norm.' and not parts.encoder_norm:
      continue
    modules[f'transformer.{theirs}'] = ours
  plain = {'query_embed.weight': 'queries'}
  if parts.learned:
    plain |= {
      'backbone.1.row_embed.weight': 'pos_rows',
      'backbone.1.col_embed.weight': 'pos_columns',
    }
  backbone = torchvision_resnet.TORCHVISION, 'backbone.0.body.'
  return _table(modules, plain, parts, *backbone)


def _transformers(parts: _Parts, library: str) -> linear.Table:
  modules = {
    'model.input_projection.': ['input_proj'],
    'model.decoder.layernorm.': ['decoder/norm'],
    'class_labels_classifier.': ['class_head'],
    **{f'bbox_predictor.layers.{i}.': [f'box_head/fc{i + 1}'] for i in range(3)},
  }
  attentions = {'self_attn': 'attention'}
  norms = {
    'encoder': ('self_attn_layer_norm', 'final_layer_norm'),
    'decoder': ('self_attn_layer_norm', 'encoder_attn_layer_norm', 'final_layer_norm'),
  }
  for stack, depth in parts.depths.items():
    if stack == 'decoder':
      attentions = attentions | {'encoder_attn': 'cross_attention'}
    for i in range(depth):
      theirs, ours = f'model.{stack}.layers.{i}.', f'{stack}/block_{i}/'
      modules |= {f'{theirs}fc{n}.': [f'{ours}mlp/fc{n}'] for n in (1, 2)}
      for n, name in enumerate(norms[stack], start=1):
        modules[f'{theirs}{name}.'] = [f'{ours}norm{n}']
      for name, attention in attentions.items():
        for part in ('query', 'key', 'value', 'out'):
          short = part if part == 'out' else part[0]
          modules[f'{theirs}{name}.{short}_proj.'] = [f'{ours}{attention}/{part}']
  plain = {'model.query_position_embeddings.weight': 'queries'}
  return _table(modules, plain, parts, _BACKBONES[library], _BACKBONE)


def _table(
  modules: Mapping[str, list[str]],
  plain: Mapping[str, str],
  parts: _Parts,
  resnet_names: torchvision_resnet.Names,
  backbone: str,
) -> linear.Table:
  """Returns our arrays for each of theirs: modules, other parameters and backbone."""
  prefix = 'detr.' if parts.masks else ''
  modules = {prefix + theirs: ours for theirs, ours in modules.items()}
  if parts.masks:
    modules |= {theirs: [ours] for theirs, ours in _MASKS.items()}
  known = {prefix + theirs: [f'params/{ours}'] for theirs, ours in plain.items()}
  return (
    known
    | _parameters(modules)
    | torchvision_resnet.table(
      parts.resnet, resnet_names, 'frozen', prefix + backbone, 'backbone/'
    )
  )


def _parameters(modules: Mapping[str, list[str]]) -> linear.Table:
  ours = {theirs: [f'params/{x}' for x in both] for theirs, both in modules.items()}
  return linear.table(ours, {}, dot='')
