"""Names of the arrays of TimeSformers: the published code's, and transformers'.

The published code has the names of timm's ViT, with a second attention in each block.
"""

import dataclasses
import re
from collections.abc import Collection, Mapping

import numpy as np

from big_vision_like.errors import UserError, listed
from big_vision_like.weights import linear, tree, vit_names

_QKV = ('query', 'key', 'value')
# Our attentions besides the usual one, by the scheme that has them.
EXTRA = {
  'divided': ('temporal_',),
  'local_global': ('local_',),
  'axial': ('temporal_', 'width_'),
}
_PUBLISHED = {
  'cls_token': 'cls',
  'pos_embed': 'pos_embedding',
  'time_embed': 'time_embedding',
}
_PUBLISHED_TOP = {
  'patch_embed.proj': 'embed',
  'norm': 'encoder/norm',
  'head': 'head',
}
_PUBLISHED_BLOCK = {
  'norm1': ['norm1'],
  'attn.qkv': [f'attention/{part}' for part in _QKV],
  'attn.proj': ['attention/out'],
  'temporal_norm1': ['temporal_norm'],
  'temporal_attn.qkv': [f'temporal_attention/{part}' for part in _QKV],
  'temporal_attn.proj': ['temporal_attention/out'],
  'temporal_fc': ['temporal_fc'],
  'norm2': ['norm2'],
  'mlp.fc1': ['mlp/fc1'],
  'mlp.fc2': ['mlp/fc2'],
}
_TRANSFORMERS = {
  'timesformer.embeddings.cls_token': 'cls',
  'timesformer.embeddings.position_embeddings': 'pos_embedding',
  'timesformer.embeddings.time_embeddings': 'time_embedding',
}
_TRANSFORMERS_TOP = {
  'timesformer.embeddings.patch_embeddings.projection': 'embed',
  'timesformer.layernorm': 'encoder/norm',
  'classifier': 'head',
}
_TRANSFORMERS_BLOCK = {
  'layernorm_before': ['norm1'],
  'attention.attention.qkv': [f'attention/{part}' for part in _QKV],
  'attention.output.dense': ['attention/out'],
  'temporal_layernorm': ['temporal_norm'],
  'temporal_attention.attention.qkv': [f'temporal_attention/{part}' for part in _QKV],
  'temporal_attention.output.dense': ['temporal_attention/out'],
  'temporal_dense': ['temporal_fc'],
  'layernorm_after': ['norm2'],
  'intermediate.dense': ['mlp/fc1'],
  'output.dense': ['mlp/fc2'],
}
# Shapes of our arrays that a ViT does not have; letters as in `vit_names`, T frames.
_SHAPES = [
  (r'embed/kernel', 'PQID'),
  (r'embed/bias', 'D'),
  (r'cls', '11D'),
  (r'pos_embedding', '1ND'),
  (r'time_embedding', '1TD'),
  (r'.*/\w+_norm/(scale|bias)', 'D'),
  (r'.*/\w+_fc/kernel', 'DD'),
  (r'.*/\w+_fc/bias', 'D'),
  *vit_names.BLOCK_SHAPES,
  (r'head/kernel', 'DC'),
  (r'head/bias', 'C'),
]


@dataclasses.dataclass(frozen=True)
class Layout:
  """The names of one library: of arrays, of layers, and of layers of a block.

  `block` is the prefix of a block's names, with its number as {}.
  """

  plain: Mapping[str, str]
  top: Mapping[str, str]
  layers: Mapping[str, Collection[str]]
  block: str

  def table(self, depth: int) -> linear.Table:
    """Returns our arrays for theirs, for this number of blocks."""
    modules = {theirs: [ours] for theirs, ours in self.top.items()}
    for i in range(depth):
      for theirs, ours in self.layers.items():
        name = self.block.format(i) + theirs
        modules[name] = [f'encoder/block_{i}/{part}' for part in ours]
    return linear.table(modules, self.plain)

  def theirs(self, ours: str) -> str:
    """Returns their name for an array of ours that belongs to no block."""
    return next(name for name, mine in self.table(0).items() if mine == [ours])

  def depth(self, names: Collection[str]) -> int:
    """Returns the number of blocks in their names, at least 1."""
    block = re.escape(self.block).replace(r'\{\}', r'(\d+)')
    return vit_names.depth(names, block) or 1

  def differences(self, names: Collection[str]) -> tree.Differences:
    """Returns names unknown in a file of a TimeSformer, and names missing from it.

    Without positions in time and a second attention, it is a ViT.
    """
    unknown, missing = linear.differences(names, self.table(self.depth(names)), unfit)
    ours = {theirs for theirs, mine in self.plain.items() if mine == 'time_embedding'}
    return unknown, missing if ours & {*names} else missing | ours

  def read(self, state: tree.Arrays, num_heads: int) -> tree.Tree:
    """Returns our parameters, float32."""
    known = self.table(self.depth(state))
    return tree.unflatten(linear.from_state(state, known, num_heads))

  def written(self, params: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Returns their arrays for our parameters, unrolled or scanned."""
    flat = tree.flatten(tree.unstack_blocks(params))
    return linear.written(flat, self.table(vit_names.depth(flat) or 1))


def unfit(names: Collection[str]) -> tuple[set[str], set[str]]:
  """Returns the names that no TimeSformer has, and the names missing from these."""
  own = {name for name in names if is_extra(name)}
  unknown, missing = vit_names.unfit({*names} - own - {'time_embedding'})
  missing |= {'cls', 'pos_embedding'} - {*names}
  if own:
    want = set()
    for i in range(vit_names.depth(names) or 1):
      for prefix in {found for name in own if (found := is_extra(name))}:
        want |= extra_names(i, prefix)
    unknown |= own - want
    missing |= want - own
  return unknown, missing


def extra_names(block: int, prefix: str) -> set[str]:
  """Returns the names of all arrays of an extra attention of a block."""
  layers = {f'{prefix}fc': ('kernel', 'bias'), f'{prefix}norm': ('scale', 'bias')}
  layers |= dict.fromkeys(
    (f'{prefix}attention/{part}' for part in (*_QKV, 'out')), ('kernel', 'bias')
  )
  return {
    f'encoder/block_{block}/{layer}/{leaf}'
    for layer, leaves in layers.items()
    for leaf in leaves
  }


def is_extra(name: str) -> str:
  """Returns the prefix of an extra attention if the name belongs to one, else ''."""
  match = re.match(r'encoder/block_\d+/(temporal_|local_|width_)', name)
  return match[1] if match else ''


def scheme(names: Collection[str]) -> str:
  """Returns the attention of a model with these names; 'joint' without an extra one."""
  found = {prefix for name in names if (prefix := is_extra(name))}
  if not found:
    return 'joint' if 'time_embedding' in names else 'space_only'
  return next(kind for kind, own in EXTRA.items() if found == {*own})


def check_shapes(flat: tree.Arrays, source: str) -> dict[str, int]:
  """Returns sizes by letter, L blocks; raises a `UserError` that names bad shapes."""
  sizes = {'1': 1}
  wrong = vit_names.collect_sizes(flat, _SHAPES, sizes)
  if wrong:
    raise UserError(f'{source}: shapes that do not fit: {listed(wrong)}')
  return sizes | {'L': vit_names.depth(flat)}


PUBLISHED = Layout(_PUBLISHED, _PUBLISHED_TOP, _PUBLISHED_BLOCK, 'blocks.{}.')
TRANSFORMERS = Layout(
  _TRANSFORMERS,
  _TRANSFORMERS_TOP,
  _TRANSFORMERS_BLOCK,
  'timesformer.encoder.layer.{}.',
)
