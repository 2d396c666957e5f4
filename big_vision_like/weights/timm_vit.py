"""Weights of timm's VisionTransformer (.safetensors, or a state dict of arrays).

Understood are plain ViTs that pool by class token, by average of normed tokens
(`global_pool='avg', fc_norm=False`) or by attention (`global_pool='map'`, no class
token). timm keeps matrices as (out, in), convolutions as OIHW, and query, key and value
in one matrix. Its GELU is exact unless `act_layer=GELUTanh`, ours is the tanh form.
"""

import os
import re
from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np
import safetensors
import safetensors.numpy

from big_vision_like.weights import linear, tree, vit_names

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
  'pos_embed': 'pos_embedding',
  'attn_pool.latent': 'map_head/probe',
}


def read_safetensors(
  path: str | os.PathLike, num_heads: int, no_embed_class: bool = False
) -> tree.Tree:
  """Reads a timm ViT file as a nested dict in the naming of our ViT, float32."""
  try:
    state = safetensors.numpy.load_file(path)
  except safetensors.SafetensorError as error:
    raise ValueError(f'{path} is not a .safetensors file: {error}') from error
  return from_timm(state, num_heads, no_embed_class, source=str(path))


def from_timm(
  state: Mapping[str, np.ndarray],
  num_heads: int,
  no_embed_class: bool = False,
  source: str = 'state dict',
) -> tree.Tree:
  """As `read_safetensors`, from the arrays by name; `source` is named in errors.

  `no_embed_class` means the same as in timm: the class token has no row among the
  positions; ours is then zero. Raises a ValueError that lists unknown or missing names.
  """
  modules = _modules(state, r'blocks\.(\d+)\.')
  flat, unknown = {}, []
  for name, array in state.items():
    module, _, leaf = name.rpartition('.')
    if name in _PLAIN:
      flat[_PLAIN[name]] = tree.as_float32(name, array)
    elif module in modules and leaf in ('weight', 'bias'):
      array = tree.as_float32(name, array)
      pieces = linear.split(name, array, len(modules[module]))
      for ours, piece in zip(modules[module], pieces, strict=True):
        our_leaf, piece = linear.to_ours(ours, leaf, piece, num_heads)
        flat[f'{ours}/{our_leaf}'] = piece
    else:
      unknown.append(name)
  _, missing = vit_names.unfit(flat)
  names = _timm_names(modules)
  tree.check_names(source, unknown, [names[name] for name in missing])
  if 'cls' in flat and 'map_head/probe' in flat:
    raise ValueError(f'{source}: has a class token as well as attention pooling.')
  if no_embed_class and {'cls', 'pos_embedding'} <= flat.keys():
    flat['pos_embedding'] = np.pad(flat['pos_embedding'], ((0, 0), (1, 0), (0, 0)))
  return tree.unflatten(flat)


def to_timm(params: Mapping[str, Any]) -> dict[str, np.ndarray]:
  """Our parameters (unrolled or scanned) as timm's state dict of arrays."""
  flat = tree.flatten(tree.unstack_blocks(params))
  names = _timm_names(_modules(flat, r'encoder/block_(\d+)/'))
  unfit, missing = vit_names.unfit(flat)
  tree.check_names('parameters', unfit | (flat.keys() - names.keys()), missing)
  pieces: dict[str, list[np.ndarray]] = {}
  for ours, theirs in names.items():  # in the order query, key, value
    if ours in flat:
      pieces.setdefault(theirs, []).append(
        linear.to_torch(ours, np.asarray(flat[ours]))
      )
  return {
    # safetensors writes the memory as it lies.
    name: np.ascontiguousarray(np.concatenate(arrays))
    for name, arrays in pieces.items()
  }


def _modules(names: Iterable[str], block: str) -> dict[str, list[str]]:
  """Our modules behind each module of timm, for as many blocks as the names tell."""
  indices = [int(match[1]) for name in names if (match := re.match(block, name))]
  modules = dict(_TOP)
  for i in range(max(indices, default=0) + 1):
    for theirs, ours in _BLOCK.items():
      modules[f'blocks.{i}.{theirs}'] = [f'encoder/block_{i}/{name}' for name in ours]
  for theirs, ours in _POOL.items():
    modules[f'attn_pool.{theirs}'] = [f'map_head/{name}' for name in ours]
  return modules


def _timm_names(modules: Mapping[str, list[str]]) -> dict[str, str]:
  """Timm's name for each of our arrays."""
  names = {ours: theirs for theirs, ours in _PLAIN.items()}
  for theirs, all_ours in modules.items():
    for ours in all_ours:
      for leaf in ('kernel', 'scale', 'bias'):
        names[f'{ours}/{leaf}'] = f'{theirs}.{"bias" if leaf == "bias" else "weight"}'
  return names
