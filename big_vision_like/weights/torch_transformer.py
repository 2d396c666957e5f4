"""Weights of `torch.nn.Transformer`, together with one embedding `shared.weight`.

PyTorch stores matrices as (out, in), and query, key and value in one.
"""

from collections.abc import Mapping

import numpy as np

from big_vision_like.weights import linear, tree

_ATTENTION = {'self_attn': 'attention', 'multihead_attn': 'cross_attention'}
_EMBEDDING = 'shared.weight'
_QKV = ('query', 'key', 'value')


def modules(depths: Mapping[str, int]) -> dict[str, list[str]]:
  """Returns our modules for each of PyTorch's; query, key and value for `in_proj_`.

  `depths` are the depths of 'encoder' and 'decoder'.
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
  state: tree.Arrays, num_heads: int, source: str = 'state dict'
) -> tree.Tree:
  """Converts a state dict to parameters of our Transformer, float32.

  Raises a ValueError that lists unknown names.
  """
  known = _table(linear.depths(state, r'(\w+)\.layers\.(\d+)\.'))
  tree.check_names(source, state.keys() - known.keys(), {_EMBEDDING} - state.keys())
  return tree.unflatten(linear.from_state(state, known, num_heads))


def to_torch(params: Mapping[str, object]) -> dict[str, np.ndarray]:
  """Converts our parameters (unrolled or scanned) to PyTorch's state dict of arrays."""
  flat = tree.flatten(tree.unstack_blocks(params))
  return linear.written(flat, _table(linear.depths(flat, r'(\w+)/block_(\d+)/')))


def _table(depths: Mapping[str, int]) -> linear.Table:
  return linear.table(modules(depths), {_EMBEDDING: 'embedding'}, dot='')
