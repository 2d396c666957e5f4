"""Weights of timm's VisionTransformer (.safetensors, or a state dict of arrays).

Supported are ViTs that pool by class token, by the average of normed tokens
(`global_pool='avg', fc_norm=False`) or by attention (`global_pool='map'`, no class
token), ViTs with registers (`reg_tokens`), and hybrids with timm's ResNetV2
(`vit_*_r50_*`). timm stores matrices as (out, in), convolutions as OIHW, and query, key
and value in one matrix. Its GELU is exact unless `act_layer='gelu_tanh'`.
"""

import os
from collections.abc import Collection, Mapping, Sequence
from typing import Any

import numpy as np

from big_vision_like.errors import UserError
from big_vision_like.weights import (
  files,
  linear,
  resnet_names,
  torch_resnet,
  tree,
  vit_names,
)

_TOP = {'patch_embed.proj': ['embed'], 'norm': ['encoder/norm'], 'head': ['head']}
_BLOCK = {
  'norm1': ['norm1'],
  'attn.qkv': ['attention/query', 'attention/key', 'attention/value'],
  'attn.proj': ['attention/out'],
  'norm2': ['norm2'],
  'mlp.fc1': ['mlp/fc1'],
  'mlp.fc2': ['mlp/fc2'],
}
_POOL = {
  'q': ['attention/query'],
  'kv': ['attention/key', 'attention/value'],
  'proj': ['attention/out'],
  'norm': ['norm'],
  'mlp.fc1': ['mlp/fc1'],
  'mlp.fc2': ['mlp/fc2'],
}
_PLAIN = {
  'cls_token': 'cls',
  'reg_token': 'registers',
  'pos_embed': 'pos_embedding',
  'attn_pool.latent': 'map_head/probe',
}
_BACKBONE = 'patch_embed.backbone.'
# Functions that make the model, by width, and by the stages of the trunk. All functions
# of plain ViTs accept all arguments of a plain ViT.
_PLAIN_MODELS = {
  192: 'vit_tiny_patch16_224',
  384: 'vit_small_patch16_224',
  768: 'vit_base_patch16_224',
  1024: 'vit_large_patch16_224',
  1280: 'vit_huge_patch14_224',
  1408: 'vit_giant_patch14_224',
  1664: 'vit_gigantic_patch14_224',
}
# timm's activation for ours.
_ACTIVATIONS = {
  'gelu': 'gelu_tanh',
  'gelu_exact': 'gelu',
  'relu': 'relu',
  'silu': 'silu',
}
_HYBRID_MODELS = {
  (): 'vit_tiny_r_s16_p8_224',
  (2, 2, 2, 2): 'vit_small_r26_s32_224',
  (3, 4, 9): 'vit_base_r50_s16_224',
  (3, 4, 6, 3): 'vit_large_r50_s32_224',
}
_POOLS = {'token': 'token', 'gap': 'avg', 'map': 'map'}
# Our parameters that timm does not have.
NO_PLACE = {
  'pre_logits/kernel': 'a layer before the head (pre_logits)',
  'pos_rows': 'positions by row and column',
  'relative_keys': 'relative positions',
}


def read_safetensors(
  path: str | os.PathLike, num_heads: int, no_embed_class: bool = False
) -> tree.Tree:
  """Reads a timm ViT file as a nested dict in the names of our ViT, float32."""
  state = files.read_safetensors(path)
  return from_timm(state, num_heads, no_embed_class, source=str(path))


def from_timm(
  state: tree.Arrays,
  num_heads: int,
  no_embed_class: bool = False,
  source: str = 'state dict',
) -> tree.Tree:
  """Converts arrays by name, like `read_safetensors`; `source` is named in errors.

  As in timm, `no_embed_class` means that class token and registers have no rows in the
  positions. The class token's row is then zero in our tree. Registers never have rows
  in our tree; theirs are added to the registers. Raises a `UserError` that lists
  unknown or missing names.
  """
  tree.check_names(source, *differences(state))
  flat = linear.from_state(state, table(state), num_heads)
  if 'cls' in flat and 'map_head/probe' in flat:
    raise UserError(f'{source}: has a class token as well as attention pooling')
  if 'pos_embedding' in flat:
    prefix, count = _prefix(flat)
    pos_1ND = flat['pos_embedding']
    if no_embed_class:
      pos_1ND = np.pad(pos_1ND, ((0, 0), (prefix, 0), (0, 0)))
    has_cls = prefix - count
    if count:
      flat['registers'] = flat['registers'] + pos_1ND[:, has_cls:prefix]
    flat['pos_embedding'] = np.delete(pos_1ND, np.s_[has_cls:prefix], axis=1)
  return tree.unflatten(flat)


def to_timm(params: Mapping[str, Any]) -> dict[str, np.ndarray]:
  """Converts our parameters (unrolled or scanned) to timm's state dict of arrays.

  Positions have rows for the class token and the registers; register rows are zero.
  """
  flat = tree.flatten(tree.unstack_blocks(params))
  for name, what in NO_PLACE.items():
    if name in flat:
      raise UserError(f'parameters: timm has no place for {what}: unknown {name}')
  known = table(flat, ours=True)
  named = {name for names in known.values() for name in names}
  unfit, missing = vit_names.unfit(flat)
  tree.check_names('parameters', unfit | (flat.keys() - named), missing)
  if 'pos_embedding' in flat and len(flat['pos_embedding']) > 1:
    raise UserError('parameters: timm has no place for positions of every block')
  if 'pos_embedding' in flat and 'registers' in flat:
    prefix, count = _prefix(flat)
    zeros_1RD = np.zeros_like(flat['registers'])
    flat['pos_embedding'] = np.insert(
      np.asarray(flat['pos_embedding']), [prefix - count] * count, zeros_1RD, axis=1
    )
  return linear.to_state(flat, known)


def config(
  architecture: Mapping[str, Any],
  num_classes: int,
  image_size: Sequence[int],
  channels: int = 3,
) -> dict[str, Any]:
  """Returns the config.json for a model.safetensors, for timm.create_model."""
  width, trunk = architecture['width'], architecture['resnet']
  if architecture['epsilon'] != 1e-6:
    raise UserError(
      f"a config.json of timm cannot record that the norms' epsilon is"
      f' {architecture["epsilon"]}, not 1e-6: write a .safetensors file'
    )
  if trunk is not None and tuple(trunk) not in _HYBRID_MODELS:
    known = ', '.join(map(str, _HYBRID_MODELS))
    raise UserError(
      f'timm has no hybrid whose ResNet has stages of {tuple(trunk)} units, only'
      f' {known}: write a .safetensors file without config.json'
    )
  pool = architecture['pool']
  arguments = dict(
    img_size=list(image_size),
    in_chans=channels,
    patch_size=architecture['patch'],
    embed_dim=width,
    depth=architecture['depth'],
    num_heads=architecture['num_heads'],
    mlp_ratio=_ratio(width, architecture['mlp_dim']),
    class_token=pool == 'token',
    reg_tokens=architecture['registers'],
    no_embed_class=False,
    pos_embed='none' if architecture['posemb'] == 'none' else 'learn',
    global_pool=_POOLS[pool],
    fc_norm=False,
    act_layer=_ACTIVATIONS[architecture['activation']],
  )
  name = _PLAIN_MODELS.get(width, 'vit_base_patch16_224')
  first = 'patch_embed.proj'
  if trunk is not None:
    name = _HYBRID_MODELS[tuple(trunk)]
    first = f'{_BACKBONE}stem.conv' if trunk else f'{_BACKBONE}conv'
  return {
    'architecture': name,
    'num_classes': num_classes,
    'num_features': width,
    'global_pool': _POOLS[pool],
    'model_args': arguments,
    'pretrained_cfg': dict(
      num_classes=num_classes,
      fixed_input_size=True,
      first_conv=first,
      classifier='head',
    ),
  }


def _ratio(width: int, mlp_dim: int) -> float:
  """Returns the ratio for which int(width * ratio) is exactly the hidden units."""
  ratio = mlp_dim / width
  return ratio if int(width * ratio) == mlp_dim else (mlp_dim + 0.5) / width


def differences(names: Collection[str]) -> tree.Differences:
  """Returns names unknown in a file of such a ViT, and names missing from it."""
  return linear.differences(names, table(names), vit_names.unfit)


def positions_without_class(
  state: tree.Arrays, sizes: Sequence[tuple[int, int]] = ()
) -> bool | None:
  """Returns whether a file was made with `no_embed_class`, None if unknown.

  Image sizes in its config decide, if their number of patches matches the positions.
  Otherwise the positions decide, if only one choice makes their grid square.
  """
  if 'pos_embed' not in state:
    return False
  prefix = sum(
    state[name].shape[1]
    for name in ('cls_token', 'dist_token', 'reg_token')
    if name in state
  )
  rows = state['pos_embed'].shape[1]
  if not prefix:
    return False
  if sizes and not any(name.startswith(_BACKBONE) for name in state):
    patch = state['patch_embed.proj.weight'].shape[2:]
    for height, width in sizes:
      patches = (height // patch[0]) * (width // patch[1])
      if patches in (rows, rows - prefix):
        return patches == rows
  without, within = _square(rows), _square(rows - prefix)
  return without if without != within else None


def _square(count: int) -> bool:
  return count > 0 and round(count**0.5) ** 2 == count


def _prefix(flat: tree.Arrays) -> tuple[int, int]:
  """Returns the number of tokens before the patches, and how many are registers."""
  count = flat['registers'].shape[1] if 'registers' in flat else 0
  return count + int('cls' in flat), count


def table(names: Collection[str], ours: bool = False) -> linear.Table:
  """Returns our arrays for timm's, for the number of blocks and units in names."""
  block = r'encoder/block_(\d+)/' if ours else r'blocks\.(\d+)\.'
  modules = dict(_TOP)
  for i in range(vit_names.depth(names, block) or 1):
    for theirs, pieces in _BLOCK.items():
      modules[f'blocks.{i}.{theirs}'] = [f'encoder/block_{i}/{name}' for name in pieces]
  for theirs, pieces in _POOL.items():
    modules[f'attn_pool.{theirs}'] = [f'map_head/{name}' for name in pieces]
  return linear.table(modules | _trunk(names, ours), _PLAIN)


def _trunk(names: Collection[str], ours: bool) -> torch_resnet.Modules:
  if not any(name.startswith('resnet/' if ours else _BACKBONE) for name in names):
    return {}
  if ours:
    depths = resnet_names.depths(names)
  else:
    unit = rf'{_BACKBONE}stages\.(\d+)\.blocks\.(\d+)\.'
    depths = resnet_names.depths(names, unit, first=0)
  # Without stages, the backbone consists of the stem.
  root = f'{_BACKBONE}stem.' if depths else _BACKBONE
  unit = f'{_BACKBONE}stages.{{stage}}.blocks.{{unit}}.'
  return torch_resnet.modules(depths, 1, root, unit)
