"""Weights of phcavelar's superpixel networks, and of GATs of PyTorch Geometric.

Axes: H heads, F input features, K features of a head.
"""

import re
from collections.abc import Mapping

import numpy as np

from big_vision_like.errors import UserError
from big_vision_like.weights import tree

# Their linear functions of an edge, `f` of its value and `w` of its logit.
FUNCTIONS = {'f': 'value', 'w': 'logit'}
HEAD = re.compile(r'GAT_layers\.(\d+)\.(?:GAT_heads\.(\d+)\.)?([fw])\.(weight|bias)')
LAST = re.compile(r'MLP_layers\.(\d+)\.(weight|bias)')


def from_published(state: tree.Arrays) -> dict[str, np.ndarray]:
  """Returns our flat parameters of `SuperpixelGAT`, float32.

  Files with one head have no number of heads in their names.
  """
  found: dict[str, np.ndarray] = {}
  heads: dict[str, dict[int, np.ndarray]] = {}
  for name, array in state.items():
    array = tree.as_float32(name, array)
    if match := HEAD.fullmatch(name):
      layer, head, function, leaf = match.groups()
      own = f'attention{layer}/{FUNCTIONS[function]}_{_leaf(leaf)}'
      heads.setdefault(own, {})[int(head or 0)] = array.T
    elif match := LAST.fullmatch(name):
      found[f'dense{match[1]}/{_leaf(match[2])}'] = array.T
    else:
      raise UserError(f'a superpixel network has no array {name!r}')
  for name, arrays in heads.items():
    if sorted(arrays) != list(range(len(arrays))):
      raise UserError(f'{name} has heads {sorted(arrays)}: some are missing')
    found[name] = np.stack([arrays[head] for head in range(len(arrays))])
  return found


def to_published(flat: tree.Arrays, single: bool = False) -> dict[str, np.ndarray]:
  """Returns our flat parameters in their names; `single` omits the number of heads."""
  found = {}
  letters = {ours: theirs for theirs, ours in FUNCTIONS.items()}
  for name, array in flat.items():
    module, _, leaf = name.partition('/')
    if module.startswith('dense'):
      number = module.removeprefix('dense')
      found[f'MLP_layers.{number}.{_their_leaf(leaf)}'] = np.asarray(array).T
      continue
    function, _, leaf = leaf.partition('_')
    start = f'GAT_layers.{module.removeprefix("attention")}'
    if single and len(array) > 1:
      raise UserError(
        f'{name} has {len(array)} heads, and names without heads have one'
      )
    for head, own in enumerate(np.asarray(array)):
      place = start if single else f'{start}.GAT_heads.{head}'
      found[f'{place}.{letters[function]}.{_their_leaf(leaf)}'] = own.T
  return found


def from_geometric(state: tree.Arrays, dynamic: bool = False) -> dict[str, np.ndarray]:
  """Returns our flat parameters of a `GraphAttention` from GATConv or GATv2Conv."""
  known = _geometric(dynamic)
  names = state.keys()
  tree.check_names('a layer of PyTorch Geometric', names - known, known.keys() - names)
  found = {}
  for name, ours in known.items():
    array = tree.as_float32(name, state[name])
    found[ours] = array[0] if array.ndim == 3 else array.T
  return found


def to_geometric(flat: tree.Arrays, dynamic: bool = False) -> dict[str, np.ndarray]:
  """Returns our flat parameters of a `GraphAttention` in names of PyTorch Geometric."""
  found = {}
  for name, ours in _geometric(dynamic).items():
    array = np.asarray(flat[ours])
    found[name] = array[None] if name.startswith('att') else array.T
  return found


def _geometric(dynamic: bool) -> Mapping[str, str]:
  if not dynamic:
    return {
      'lin.weight': 'source/kernel',
      'att_src': 'source_score',
      'att_dst': 'target_score',
      'bias': 'bias',
    }
  ends = {'lin_l': 'source', 'lin_r': 'target'}
  linear = {
    f'{theirs}.{_their_leaf(leaf)}': f'{ours}/{leaf}'
    for theirs, ours in ends.items()
    for leaf in ('kernel', 'bias')
  }
  return {'att': 'score', 'bias': 'bias', **linear}


def from_geometric_gat(state: tree.Arrays) -> dict[str, np.ndarray]:
  """Returns our flat parameters of `GAT` from BDI-UFRGS/superpixel-graphs."""
  layers: dict[str, dict[str, np.ndarray]] = {}
  found = {}
  for name, array in state.items():
    if match := re.fullmatch(r'out\.(weight|bias)', name):
      found[f'head/{_leaf(match[1])}'] = tree.as_float32(name, array).T
      continue
    match = re.fullmatch(r'(?:initial_conv|hidden_layers\.(\d+))\.(.+)', name)
    if match is None:
      raise UserError(f'a GAT of superpixel-graphs has no array {name!r}')
    number = 0 if match[1] is None else int(match[1]) + 1
    layers.setdefault(f'attention{number}', {})[match[2]] = array
  for layer, arrays in layers.items():
    own = from_geometric(arrays)
    found |= {f'{layer}/{name}': array for name, array in own.items()}
  return found


def to_geometric_gat(flat: tree.Arrays) -> dict[str, np.ndarray]:
  """Returns our flat parameters of `GAT` as BDI-UFRGS/superpixel-graphs names them."""
  layers: dict[str, dict[str, np.ndarray]] = {}
  found = {}
  for name, array in flat.items():
    module, _, leaf = name.partition('/')
    if module == 'head':
      found[f'out.{_their_leaf(leaf)}'] = np.asarray(array).T
    else:
      layers.setdefault(module, {})[leaf] = array
  for layer, arrays in layers.items():
    number = int(layer.removeprefix('attention'))
    place = f'hidden_layers.{number - 1}' if number else 'initial_conv'
    found |= {f'{place}.{name}': x for name, x in to_geometric(arrays).items()}
  return found


def _leaf(theirs: str) -> str:
  return 'kernel' if theirs == 'weight' else 'bias'


def _their_leaf(ours: str) -> str:
  return 'weight' if ours == 'kernel' else 'bias'
