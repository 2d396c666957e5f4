"""Weights of transformers' ViTForImageClassification and ViTModel (.safetensors).

A classifier reads the class token; a ViTModel may have a pooler, which is our
`pre_logits`. transformers has no class with both, or with another pooling. The GELU is
exact unless `hidden_act='gelu_pytorch_tanh'`, and the epsilon of norms is 1e-12 unless
`layer_norm_eps` differs.
"""

from collections.abc import Collection, Mapping, Sequence
from typing import Any

import numpy as np

from big_vision_like.errors import UserError
from big_vision_like.weights import linear, tree, vit_names

_PLAIN = {
  'embeddings.cls_token': 'cls',
  'embeddings.position_embeddings': 'pos_embedding',
}
_TOP = {
  'embeddings.patch_embeddings.projection': 'embed',
  'layernorm': 'encoder/norm',
  'pooler.dense': 'pre_logits',
}
# transformers' activation for ours.
_ACTIVATIONS = {
  'gelu': 'gelu_pytorch_tanh',
  'gelu_exact': 'gelu',
  'relu': 'relu',
  'silu': 'silu',
}
_BLOCK = {
  'layernorm_before': 'norm1',
  'attention.attention.query': 'attention/query',
  'attention.attention.key': 'attention/key',
  'attention.attention.value': 'attention/value',
  'attention.output.dense': 'attention/out',
  'layernorm_after': 'norm2',
  'intermediate.dense': 'mlp/fc1',
  'output.dense': 'mlp/fc2',
}


def from_transformers(
  state: tree.Arrays, num_heads: int, source: str = 'state dict'
) -> tree.Tree:
  """Converts a state dict to the parameters of our ViT, float32."""
  tree.check_names(source, *differences(state))
  flat = linear.from_state(state, _table(state), num_heads)
  _check(flat, source)
  return tree.unflatten(flat)


def to_transformers(params: Mapping[str, Any]) -> dict[str, np.ndarray]:
  """Converts our parameters to a ViTForImageClassification, or a ViTModel.

  They may be unrolled or scanned. Raises a `UserError` if transformers has no class for
  them.
  """
  flat = tree.flatten(tree.unstack_blocks(params))
  _check(flat, 'parameters')
  prefix = 'vit.' if 'head/kernel' in flat else ''
  known_names = known(vit_names.depth(flat) or 1, prefix)
  named = {name for names in known_names.values() for name in names}
  unknown, missing = vit_names.unfit(flat)
  tree.check_names('parameters', unknown | (flat.keys() - named), missing)
  return linear.to_state(flat, known_names)


def differences(names: Collection[str]) -> tree.Differences:
  """Returns names unknown in a file of such a ViT, and names missing from it."""
  return linear.differences(names, _table(names), vit_names.unfit)


def config(
  architecture: Mapping[str, Any],
  num_classes: int,
  image_size: Sequence[int],
  channels: int = 3,
) -> dict[str, Any]:
  """Returns the config.json for such a file."""
  return {
    'architectures': ['ViTForImageClassification' if num_classes else 'ViTModel'],
    'model_type': 'vit',
    'hidden_size': architecture['width'],
    'num_hidden_layers': architecture['depth'],
    'num_attention_heads': architecture['num_heads'],
    'intermediate_size': architecture['mlp_dim'],
    'hidden_act': _ACTIVATIONS[architecture['activation']],
    'layer_norm_eps': architecture['epsilon'],
    'image_size': list(image_size),
    'patch_size': architecture['patch'],
    'num_channels': channels,
    'qkv_bias': True,
    'pooler_output_size': architecture['rep_size'] or architecture['width'],
    'pooler_act': 'tanh',
    **({'num_labels': num_classes} if num_classes else {}),
  }


def _check(flat: Mapping[str, Any], source: str) -> None:
  if 'cls' not in flat or len(flat.get('pos_embedding', ())) != 1:
    raise UserError(
      f'{source}: a ViT of transformers has a class token and learned positions, one'
      ' for each token'
    )
  if 'pre_logits/kernel' in flat and 'head/kernel' in flat:
    raise UserError(
      f'{source}: a ViT of transformers has a pooler (our pre_logits) or a classifier'
      ' (our head), not one after the other'
    )


def _table(names: Collection[str]) -> linear.Table:
  prefix = 'vit.' if any(name.startswith('vit.') for name in names) else ''
  block = rf'{prefix}encoder\.layer\.(\d+)\.'
  return known(vit_names.depth(names, block) or 1, prefix)


def known(
  depth: int, prefix: str, heads: Mapping[str, Sequence[str]] | None = None
) -> linear.Table:
  """Returns our arrays for theirs, which begin with `prefix` except for heads."""
  modules = {f'{prefix}{theirs}': [ours] for theirs, ours in _TOP.items()}
  for i in range(depth):
    for theirs, ours in _BLOCK.items():
      modules[f'{prefix}encoder.layer.{i}.{theirs}'] = [f'encoder/block_{i}/{ours}']
  if prefix:
    modules |= heads or {'classifier': ['head']}
  plain = {f'{prefix}{theirs}': ours for theirs, ours in _PLAIN.items()}
  return linear.table(modules, plain)
