"""Weights of `torch.nn.Transformer`, with one embedding `shared.weight` beside it.

PyTorch keeps matrices as (out, in), and query, key and value in one.
"""

import re
from collections.abc import Iterable, Mapping

import numpy as np

from big_vision_like.weights import linear, tree

_ATTENTION = {'self_attn': 'attention', 'multihead_attn': 'cross_attention'}
_QKV = ('query', 'key', 'value')


def modules(depths: Mapping[str, int]) -> dict[str, list[str]]:
  """Our modules behind each of PyTorch's, query, key and value behind `in_proj_`.

  `depths` are those of 'encoder' and 'decoder'.
  """
  found = {}
  for stack, depth in depths.items():
    found[f'{stack}.norm.'] = [f'{stack}/norm']
    for i in range(depth):
      theirs, ours = f'{stack}.layers.{i}.', f'{stack}/block_{i}/'
      found |= {f'{theirs}norm{n}.': [f'{ours}norm{n}'] for n in (1, 2, 3)}
      found |= {f'{theirs}linear{n}.': [f'{ours}mlp/fc{n}'] for n in (1, 2)}
      for name, attention in _ATTENTION.items():
        found[f'{theirs}{name}.in_proj_'] = [f'{ours}{attention}/{x}' for x in _QKV]
        found[f'{theirs}{name}.out_proj.'] = [f'{ours}{attention}/out']
  return found


def from_torch(
  state: Mapping[str, np.ndarray], num_heads: int, source: str = 'state dict'
) -> tree.Tree:
  """The state dict as the parameters of our Transformer, float32.

  Raises a ValueError that lists names which are unknown.
  """
  known = modules(_depths(state, r'(\w+)\.layers\.(\d+)\.'))
  flat, unknown = {}, []
  for name, array in state.items():
    prefix, leaf = re.fullmatch(r'(.*?)(weight|bias)?', name).groups()
    if name == 'shared.weight':
      flat['embedding'] = tree.as_float32(name, array)
    elif prefix in known and leaf:
      array = tree.as_float32(name, array)
      pieces = linear.split(name, array, len(known[prefix]))
      for ours, piece in zip(known[prefix], pieces, strict=True):
        our_leaf, piece = linear.to_ours(ours, leaf, piece, num_heads)
        flat[f'{ours}/{our_leaf}'] = piece
    else:
      unknown.append(name)
  tree.check_names(source, unknown, () if 'embedding' in flat else ['shared.weight'])
  return tree.unflatten(flat)


def to_torch(params: Mapping[str, object]) -> dict[str, np.ndarray]:
  """Our parameters (unrolled or scanned) as PyTorch's state dict of arrays."""
  flat = {
    k: np.asarray(v) for k, v in tree.flatten(tree.unstack_blocks(params)).items()
  }
  result = {'shared.weight': flat.pop('embedding')}
  for theirs, ours in modules(_depths(flat, r'(\w+)/block_(\d+)/')).items():
    for leaf in linear.leaves(ours[0]):
      names = [f'{module}/{leaf}' for module in ours]
      if all(name in flat for name in names):
        pieces = [linear.to_torch(name, flat.pop(name)) for name in names]
        their_leaf = 'bias' if leaf == 'bias' else 'weight'
        result[theirs + their_leaf] = np.ascontiguousarray(np.concatenate(pieces))
  tree.check_names('parameters', unknown=flat)
  return result


def _depths(names: Iterable[str], block: str) -> dict[str, int]:
  """How many blocks the names tell of each stack."""
  depths = {'encoder': 0, 'decoder': 0}
  for name in names:
    if (match := re.match(block, name)) and match[1] in depths:
      depths[match[1]] = max(depths[match[1]], int(match[2]) + 1)
  return depths
