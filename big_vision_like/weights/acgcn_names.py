"""Names of the arrays of micts/acgcn: actors with a context graph, and the baseline.

Our variables are flat, with their collection first: `params/...`, `batch_stats/...`.
Each graph of a layer has its own arrays there, and one part of ours.
"""

import re
from collections.abc import Collection
from typing import Any

import numpy as np

from big_vision_like.errors import UserError
from big_vision_like.weights import i3d_names, linear, resnet_names, tree

ENDPOINT = 'mixed_4f'
BACKBONE, ACTOR = 'backbone', 'actor'
_LAST = ('mixed_5b', 'mixed_5c')
_NUMBERED = re.compile(
  r'gcn_layers\.(\d+)\.(actor_emb|context_emb|head_linear)\.(\d+)\.(weight|bias)'
)
_PARTS = {
  ('actor_emb', 'weight'): 'actor/kernel',
  ('actor_emb', 'bias'): 'actor/bias',
  ('context_emb', 'weight'): 'context/kernel',
  ('context_emb', 'bias'): 'context/bias',
  ('head_linear', 'weight'): 'kernel',
}


def plain() -> linear.Table:
  """Returns our arrays for each of theirs, without those of graphs."""
  found = {
    f'{BACKBONE}.{theirs}': [_inside(ours, BACKBONE) for ours in all_ours]
    for theirs, all_ours in i3d_names.trunk(ENDPOINT).items()
  }
  for name in _LAST:
    found |= i3d_names.of_units(name, f'{ACTOR}/{name}')
  return found | {
    'linear.weight': ['params/head/kernel'],
    'linear.bias': ['params/head/bias'],
  }


def numbers(names: Collection[str]) -> tuple[int, int]:
  """Returns the numbers of layers and of graphs of a file with these names."""
  pairs = [(int(m[1]), int(m[3])) for m in map(_NUMBERED.fullmatch, names) if m]
  # A file cannot have more layers or graphs than arrays.
  pairs = [pair for pair in pairs if max(pair) < len(names)]
  layers, graphs = (max((p[i] + 1 for p in pairs), default=0) for i in range(2))
  return layers, graphs


def differences(names: Collection[str]) -> tree.Differences:
  """Returns names unknown in a file of such a model, and names missing from it."""
  layers, graphs = numbers(names)
  known = {
    _theirs(layer, part, graph)
    for layer in range(layers)
    for part in _PARTS
    for graph in range(graphs)
  }
  return tree.differences(names, {*plain(), *known})


def read(state: tree.Arrays) -> dict[str, np.ndarray]:
  """Returns our flat arrays, with the collection first."""
  flat = linear.from_state(state, plain(), num_heads=1)
  layers, graphs = numbers(state)
  for layer in range(layers):
    for part, ours in _PARTS.items():
      names = [_theirs(layer, part, graph) for graph in range(graphs)]
      arrays = [tree.as_float32(name, state[name]) for name in names]
      if len({array.shape for array in arrays}) > 1:
        raise UserError(f'{names[0]} and the same of other graphs differ in shape')
      if part[0] == 'context_emb' and part[1] == 'weight':
        arrays = [array.reshape(array.shape[:2]) for array in arrays]
      if part[1] == 'weight':
        arrays = [array.T for array in arrays]
      axis = 1 if ours.endswith('/kernel') else 0
      flat[f'params/graph/layer{layer + 1}/{ours}'] = np.stack(arrays, axis)
  return flat


def written(flat: tree.Arrays) -> dict[str, np.ndarray]:
  """Returns their arrays for all of our flat arrays."""
  own = {k: x for k, x in flat.items() if not k.startswith('params/graph/')}
  found = linear.written(own, plain())
  for name, array in flat.items():
    match = re.fullmatch(r'params/graph/layer(\d+)/(.*)', name)
    if match is None:
      continue
    part = next(part for part, ours in _PARTS.items() if ours == match[2])
    axis = 1 if match[2].endswith('/kernel') else 0
    for graph, x in enumerate(np.moveaxis(np.asarray(array), axis, 0)):
      x = x.T if part[1] == 'weight' else x
      if part == ('context_emb', 'weight'):
        x = x[..., None, None, None]
      theirs = _theirs(int(match[1]) - 1, part, graph)
      found[theirs] = np.ascontiguousarray(x)
  return found


def architecture(flat: tree.Arrays, source: str) -> dict[str, Any]:
  """Returns the arguments of `context_graph.published` for flat variables.

  Raises a `UserError` that names shapes which do not match each other.
  """
  divisor = i3d_names.divisor_of(flat, f'{BACKBONE}/')
  root = flat.get('params/backbone/conv_1a/conv/kernel')
  channels = root.shape[-2] if np.ndim(root) == 5 else 3
  want = i3d_names.shapes(divisor, channels, ENDPOINT, f'{BACKBONE}/')
  _, cells = i3d_names.mixed_shapes('', ENDPOINT, divisor, 1)
  before = cells
  for name in _LAST:
    found, before = i3d_names.mixed_shapes(f'{ACTOR}/{name}', name, divisor, before)
    want |= found
  layers = len({k.split('/')[2] for k in flat if k.startswith('params/graph/')})
  classes = len(flat.get('params/head/bias', ()))
  told: dict[str, Any] = dict(num_classes=classes, divisor=divisor, graph=layers > 0)
  if layers:
    kernel = flat.get('params/graph/layer1/kernel', np.zeros((1, 1, 1)))
    if kernel.ndim != 3:
      raise UserError(f'{source}: graph/layer1/kernel has shape {kernel.shape}')
    graphs, width = kernel.shape[:2]
    for i in range(layers):
      inputs = (graphs * width if i else before) + 4
      want |= _layer(f'params/graph/layer{i + 1}', inputs, cells + 2, graphs, width)
    rows = len(flat.get('params/head/kernel', ()))
    merge = 'sum' if rows == width and graphs > 1 else 'concat'
    before = width if merge == 'sum' else graphs * width
    told |= dict(layers=layers, graphs=graphs, width=width, merge=merge)
  want |= {'params/head/kernel': (before, classes), 'params/head/bias': (classes,)}
  i3d_names.check(flat, want, source)
  return told


def _layer(
  name: str, inputs: int, cells: int, graphs: int, width: int
) -> resnet_names.Shapes:
  return {
    f'{name}/actor/kernel': (inputs, graphs, width),
    f'{name}/actor/bias': (graphs, width),
    f'{name}/context/kernel': (cells, graphs, width),
    f'{name}/context/bias': (graphs, width),
    f'{name}/kernel': (graphs, width, width),
  }


def _theirs(layer: int, part: tuple[str, str], graph: int) -> str:
  return f'gcn_layers.{layer}.{part[0]}.{graph}.{part[1]}'


def _inside(name: str, module: str) -> str:
  """Returns the name of an array within a module: the collection stays first."""
  collection, _, rest = name.partition('/')
  return f'{collection}/{module}/{rest}'
