"""Weights in the names of google-research/vision_transformer and big_vision (.npz).

Supported are:
- names such as `Transformer/encoderblock_0/MlpBlock_3/Dense_0/kernel`, with sub-module
  numbers of old files (norms 0 and 2, attention 1, MLP 3) or newer ones (0 and 1, 0, 0)
- names under `params/`
- blocks stacked by nn.scan under `Transformer/encoderblock`
- bfloat16 saved as raw two-byte voids
- hybrids, with additional names of big_vision's models/bit.py (`conv_root`,
  `block1/unit1/gn1`, ...)

The two code bases place the class token's position differently. vision_transformer
keeps the positions inside `Transformer` with the class token's in row 0, as our model
does. big_vision keeps `pos_embedding` at the top for the patches only, and adds it
before prepending the class token: row 0 of our positions is then zero.
"""

import os
import re
from collections.abc import Collection, Mapping
from typing import Any

import numpy as np

from big_vision_like.errors import UserError, listed
from big_vision_like.weights import bit, files, tree, vit_names

_POSITIONS = 'Transformer/posembed_input/pos_embedding'
_TOP = {
  'embedding': 'embed',
  'cls': 'cls',
  _POSITIONS: 'pos_embedding',
  'Transformer': 'encoder',
  'Transformer/encoder_norm': 'encoder/norm',
  'MAPHead_0': 'map_head',
  'pre_logits': 'pre_logits',
  'head': 'head',
}
_BLOCK = {
  'LayerNorm_0': 'norm1',
  'MultiHeadDotProductAttention_0': 'attention',
  'LayerNorm_1': 'norm2',
  'MlpBlock_0': 'mlp',
  'MlpBlock_0/Dense_0': 'mlp/fc1',
  'MlpBlock_0/Dense_1': 'mlp/fc2',
}
# Parameters of our ViT that published files do not have.
_NAMELESS = ('registers', 'pos_rows', 'pos_columns', 'relative_keys')
_MAP_HEAD = {**_BLOCK, 'LayerNorm_0': 'norm', 'probe': 'probe'}
# Names that earlier versions wrote, and their current names.
_OLD = [
  (r'^params/', ''),
  (r'^Transformer/pos_embedding$', _POSITIONS),
  (r'^(probe|(?:LayerNorm|MultiHeadDotProductAttention|MlpBlock)_0/)', r'MAPHead_0/\1'),
  (r'^(Transformer/encoderblock\w*)/LayerNorm_2/', r'\1/LayerNorm_1/'),
  (
    r'^(Transformer/encoderblock\w*)/(MultiHeadDotProductAttention_1|MlpBlock_3)/',
    lambda match: f'{match[1]}/{match[2][:-1]}0/',
  ),
]


def read_npz(path: str | os.PathLike) -> tree.Tree:
  """Reads a published .npz file as a nested dict in the names of our ViT, float32.

  Nothing in the file is executed. Raises a `UserError` that lists unknown or missing
  names.
  """
  return from_npz(files.read_npz(path), source=str(path))


def from_npz(flat: tree.Arrays, source: str = 'weights') -> tree.Tree:
  """Converts a file's arrays by name, like `read_npz`; `source` is named in errors."""
  arrays: dict[str, np.ndarray] = {}
  unknown = []
  for name, array in flat.items():
    ours = our_name(name)
    if ours is None:
      unknown.append(name)
      continue
    if ours in arrays:
      raise UserError(f'{source}: {name!r} occurs twice, also under an old name')
    array = tree.as_float32(name, array)
    if ours.startswith('resnet/'):
      array = bit.squeezed(ours, array)
    # Only the location shows whether the class token has a row: 17 positions may be a
    # class token and 4x4 patches, or 1x17 patches.
    if _modern(name) == 'pos_embedding' and {'cls', 'params/cls'} & flat.keys():
      array = np.pad(array, ((0, 0), (1, 0), (0, 0)))
    arrays[ours] = array
  tree.check_names(source, unknown)
  params = tree.unstack_blocks(tree.unflatten(arrays))
  _check(tree.flatten(params), source)
  return params


def to_npz(params: Mapping[str, Any]) -> dict[str, np.ndarray]:
  """Converts our parameters (unrolled or scanned) to current published names.

  Raises a `UserError` for registers and the positions of ablations, which no published
  file has.
  """
  flat = tree.flatten(tree.unstack_blocks(params))
  nameless = [name for name in _NAMELESS if name in flat]
  if nameless or len(flat.get('pos_embedding', [None])) > 1:
    names = listed(nameless or ['pos_embedding of every block'])
    raise UserError(f'published .npz files have no name for {names}')
  _check(flat, 'parameters')
  return {published_name(name): np.asarray(array) for name, array in flat.items()}


def to_big_vision(
  params: Mapping[str, Any], scan: bool = False
) -> dict[str, np.ndarray]:
  """Converts our parameters to big_vision's names and layout; `scan` stacks blocks.

  The class token's position is added to the class token: the function is the same.
  """
  flat = to_npz(params)
  if _POSITIONS in flat:
    pos_1ND = flat.pop(_POSITIONS)
    if 'cls' in flat:
      flat['cls'] = flat['cls'] + pos_1ND[:, :1]
    flat['pos_embedding'] = pos_1ND[:, 1:] if 'cls' in flat else pos_1ND
  if scan:
    blocks = [name for name in flat if name.startswith('Transformer/encoderblock_')]
    ours = tree.unflatten({our_name(name): flat.pop(name) for name in blocks})
    stacked = tree.flatten(tree.stack_blocks(ours))
    flat |= {published_name(name): array for name, array in stacked.items()}
  return flat


def differences(names: Collection[str]) -> tree.Differences:
  """Returns names unknown in such a file, and current names missing from it.

  Of blocks stacked by nn.scan, only the first is checked.
  """
  ours = {name: our_name(name) for name in names}
  strange = {name for name, known in ours.items() if known is None}
  theirs = {
    re.sub(r'^encoder/blocks/', 'encoder/block_0/', known): name
    for name, known in ours.items()
    if known is not None
  }
  unknown, missing = vit_names.unfit(theirs)
  return (
    strange | {theirs[name] for name in unknown},
    {published_name(name) or name for name in missing},
  )


def our_name(name: str) -> str | None:
  """Returns our name of a published array or module; None if ViT has no such one."""
  name = _modern(name)
  if name == 'pos_embedding':
    return name
  if match := re.fullmatch(r'Transformer/encoderblock(_\d+)?(/.+)?', name):
    block = f'encoder/block{match[1] or "s"}'
    return block if match[2] is None else _join(block, _swap(match[2][1:], _BLOCK))
  if trunk := bit.our_v1_name(name):
    return trunk
  if name.startswith('MAPHead_0/'):
    return _join('map_head', _swap(name.removeprefix('MAPHead_0/'), _MAP_HEAD))
  return _swap(name, _TOP)


def published_name(name: str) -> str | None:
  """Returns the current published name of one of our arrays or modules, or None."""
  if match := re.fullmatch(r'encoder/block(_\d+|s)(/.+)?', name):
    block = f'Transformer/encoderblock{match[1].removeprefix("s")}'
    inverse = {ours: theirs for theirs, ours in _BLOCK.items()}
    return block if match[2] is None else _join(block, _swap(match[2][1:], inverse))
  if name.startswith('resnet/'):
    return bit.big_vision_v1_name(name)
  if name.startswith('map_head/'):
    inverse = {ours: theirs for theirs, ours in _MAP_HEAD.items()}
    return _join('MAPHead_0', _swap(name.removeprefix('map_head/'), inverse))
  return _swap(name, {ours: theirs for theirs, ours in _TOP.items()})


def _modern(name: str) -> str:
  for pattern, replacement in _OLD:
    name = re.sub(pattern, replacement, name)
  return name


def _swap(name: str, table: Mapping[str, str]) -> str | None:
  """Replaces the longest known prefix of a path."""
  head, rest = name, ''
  while head not in table:
    head, slash, last = head.rpartition('/')
    if not slash:
      return None
    rest = f'/{last}{rest}'
  return table[head] + rest


def _join(parent: str, name: str | None) -> str | None:
  return None if name is None else f'{parent}/{name}'


def _check(flat: Mapping[str, Any], source: str) -> None:
  unknown, missing = vit_names.unfit(flat)
  tree.check_names(
    source,
    [published_name(name) or name for name in unknown],
    [published_name(name) for name in missing],
  )
