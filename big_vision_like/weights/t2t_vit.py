"""Weights of T2T-ViTs in the names of yitu-opensource/T2T-ViT.

In those files, matrices are (out, in), and queries, keys and values are joined in one;
the order in the Performer is k, q, v. In our models, positions and the matrix of random
features are constants. Names show the kind of layer between soft splits, and the
backbone.
"""

import re
from collections.abc import Collection, Mapping
from typing import Any

import numpy as np

from big_vision_like.errors import UserError, listed
from big_vision_like.weights import linear, tree, vit_names

_TOP = {
  'tokens_to_token.project': ['tokens_to_token/project'],
  'norm': ['encoder/norm'],
  'head': ['head'],
}
_LAYERS = {
  'performer': {
    'norm1': 'norm1',
    'kqv': 'qkv',
    'proj': 'out',
    'norm2': 'norm2',
    'mlp.0': 'mlp/fc1',
    'mlp.2': 'mlp/fc2',
  },
  'transformer': {
    'norm1': 'norm1',
    'attn.qkv': 'qkv',
    'attn.proj': 'out',
    'norm2': 'norm2',
    'mlp.fc1': 'mlp/fc1',
    'mlp.fc2': 'mlp/fc2',
  },
}
_QKV = ('query', 'key', 'value')
_COMMON = {name: [name] for name in ('norm1', 'norm2')}
_MLP = {'mlp.fc1': ['mlp/fc1'], 'mlp.fc2': ['mlp/fc2']}
_BLOCKS = {
  'plain': _COMMON
  | _MLP
  | {
    'attn.qkv': [f'attention/{name}' for name in _QKV],
    'attn.proj': ['attention/out'],
  },
  'se': _COMMON
  | _MLP
  | {
    'attn.qkv': [f'attention/attention/{name}' for name in _QKV],
    'attn.proj': ['attention/attention/out'],
    'attn.se_layer.fc.0': ['attention/squeeze_excite/fc1'],
    'attn.se_layer.fc.2': ['attention/squeeze_excite/fc2'],
  },
  'ghost': _COMMON
  | _MLP
  | {f'attn.{name[0]}': [f'attention/half_{name}'] for name in _QKV}
  | {f'attn.cheap_operation_{name[0]}': [f'attention/ghost_{name}'] for name in _QKV}
  | {'attn.proj': ['attention/out']}
  | {f'mlp.cheap_operation{i}': [f'mlp/ghost{i}'] for i in (2, 3)},
}
# Layers without a bias in those files.
_UNBIASED = re.compile(r'.*attn\.(qkv|[qkv]|cheap_\w+|se_layer\.fc\.\d)|.*cheap_\w+')
_CONSTANTS = {
  'pos_embed': 'pos_embedding',
  'tokens_to_token.attention1.w': 'tokens_to_token/layer1/w',
  'tokens_to_token.attention2.w': 'tokens_to_token/layer2/w',
}
PIXELS = 7 * 7  # pixels of one token in the first soft split
# Axes: I features of the first soft split, J of the other splits, E of tokens between
# them, T three times E, D width, G half of it, U three times D, S M hidden units, F
# random features, C classes, N positions.
_SHAPES = [
  (r'cls', '11D'),
  (r'pos_embedding', '1ND'),
  (r'tokens_to_token/layer1/norm1/(scale|bias)', 'I'),
  (r'tokens_to_token/layer2/norm1/(scale|bias)', 'J'),
  (r'tokens_to_token/layer1/qkv/kernel', 'IT'),
  (r'tokens_to_token/layer2/qkv/kernel', 'JT'),
  (r'tokens_to_token/layer./qkv/bias', 'T'),
  (r'tokens_to_token/layer./(out|mlp/fc1|mlp/fc2)/kernel', 'EE'),
  (r'tokens_to_token/layer./(norm2/scale|norm2/bias|(out|mlp/fc.)/bias)', 'E'),
  (r'tokens_to_token/layer./w', 'FE'),
  (r'tokens_to_token/project/kernel', 'JD'),
  (r'tokens_to_token/project/bias', 'D'),
  (r'head/bias', 'C'),
]
# Shapes of all backbones except the dense one, whose blocks vary in width.
_BLOCK_SHAPES = [
  *vit_names.BLOCK_SHAPES,
  (r'.*/squeeze_excite/fc1/kernel', 'DS'),
  (r'.*/squeeze_excite/fc2/kernel', 'SD'),
  (r'.*/half_\w+/kernel', 'DG'),
  (r'.*/attention/ghost_\w+/kernel', '11G'),
  (r'.*/mlp/ghost\d/kernel', '11M'),
  (r'head/kernel', 'DC'),
]


def kinds(names: Collection[str], ours: bool = False) -> tuple[str, str, bool]:
  """Returns the layer between soft splits, the backbone, and whether it is dense."""
  marks = ('/w', '/squeeze_excite/', '/ghost_', '/growth')
  if not ours:
    marks = ('attention1.w', '.se_layer.', '.cheap_operation', '.dense_linear.')
  w, se, ghost, dense = (any(mark in name for name in names) for mark in marks)
  tokens = 'performer' if w else 'transformer'
  return tokens, 'se' if se else 'ghost' if ghost else 'plain', dense


def differences(names: Collection[str]) -> tree.Differences:
  """Returns names unknown in a file of such a T2T-ViT, and names missing from it."""
  return tree.differences(names, _table(names).keys())


def read(
  state: tree.Arrays, num_heads: int, source: str = 'state dict'
) -> dict[str, tree.Tree]:
  """Converts a state dict to our `params` and `constants`, float32.

  Errors name `source`: a `UserError` that lists unknown and missing names.
  """
  tree.check_names(source, *differences(state))
  tokens, _, _ = kinds(state)
  flat = linear.from_state(state, _table(state), num_heads)
  if tokens == 'performer':
    for name in [name for name in flat if '/qkv/' in name]:
      key, query, value = np.split(flat[name], 3, axis=-1)
      flat[name] = np.concatenate([query, key, value], axis=-1)
  constants = {name: flat.pop(name) for name in _CONSTANTS.values() if name in flat}
  return {'params': tree.unflatten(flat), 'constants': tree.unflatten(constants)}


def write(variables: Mapping[str, Any]) -> dict[str, np.ndarray]:
  """Converts our variables, unrolled or scanned, to their arrays."""
  flat = tree.flatten(tree.unstack_blocks(variables['params']))
  flat |= tree.flatten(variables.get('constants', {}))
  tokens, _, _ = kinds(flat, ours=True)
  if tokens == 'performer':
    for name in [name for name in flat if '/qkv/' in name]:
      query, key, value = np.split(np.asarray(flat[name]), 3, axis=-1)
      flat[name] = np.concatenate([key, query, value], axis=-1)
  known = _table(flat, ours=True)
  needed = {name for pieces in known.values() for name in pieces}
  tree.check_names('parameters', missing=needed - flat.keys())
  return linear.written(flat, known)


def channels(params: Mapping[str, Any]) -> int:
  """Returns the number of image channels that our parameters are for."""
  return len(params['tokens_to_token']['layer1']['norm1']['bias']) // PIXELS


def architecture(variables: Mapping[str, Any], source: str) -> dict[str, Any]:
  """Returns the arguments of our `T2TViT`, from the shapes of its variables."""
  params = tree.flatten(variables['params'])
  flat = params | tree.flatten(variables.get('constants', {}))
  tokens, backbone, dense = kinds(flat, ours=True)
  width, token_dim = (
    len(params[f'tokens_to_token/{name}/bias']) for name in ('project', 'layer1/out')
  )
  sizes = {'1': 1, 'D': width, 'G': width // 2, 'U': 3 * width}
  sizes |= dict(E=token_dim, T=3 * token_dim, J=9 * token_dim, F=token_dim // 2)
  sizes['I'] = max(channels(variables['params']), 1) * PIXELS
  shapes = _SHAPES + ([] if dense else _BLOCK_SHAPES)
  if backbone == 'ghost':
    shapes = [(r'encoder/.*/mlp/fc2/kernel', 'UD'), *shapes]
  if wrong := vit_names.collect_sizes(flat, shapes, sizes):
    raise UserError(f'{source}: shapes that do not fit: {listed(wrong)}')
  told = dict(
    num_classes=sizes['C'],
    patch=16,
    width=width,
    pool='token',
    posemb='sinusoid',
    activation='gelu_exact',
    epsilon=1e-5,
    tokens=tokens,
    token_dim=token_dim,
    backbone=backbone,
  )
  if dense:
    return told | _dense_sizes(params, source)
  out = next(x for name, x in params.items() if name.endswith('attention/out/kernel'))
  return told | dict(
    depth=vit_names.depth(params),
    num_heads=out.shape[0],
    mlp_dim=sizes['U' if backbone == 'ghost' else 'M'],
    groups=(),
    growth=64,
  )


def _dense_sizes(params: tree.Arrays, source: str) -> dict[str, Any]:
  """Returns a dense backbone's sizes: depth, heads, MLP, groups and growth."""
  groups = [0]
  for i in range(vit_names.depth(params, r'encoder/(?:growth|transition)(\d+)/')):
    if f'encoder/growth{i}/kernel' in params:
      groups[-1] += 1
    else:
      groups.append(0)
  first = 'encoder/unit0/block_0'
  told = dict(
    depth=sum(groups),
    num_heads=params[f'{first}/attention/out/kernel'].shape[0],
    mlp_dim=params[f'{first}/mlp/fc1/kernel'].shape[1],
    groups=tuple(groups),
    growth=params['encoder/growth0/kernel'].shape[1],
  )
  width, growth = params['tokens_to_token/project/bias'].shape[0], told['growth']
  ratio, i, wrong = told['mlp_dim'] / width, 0, []
  for group, depth in enumerate(groups):
    for _ in range(depth):
      unit = {n: x for n, x in params.items() if n.startswith(f'encoder/unit{i}/')}
      sizes = dict(D=width, H=told['num_heads'], M=int(width * ratio))
      wrong += vit_names.collect_sizes(unit, vit_names.BLOCK_SHAPES, sizes)
      wrong += _wrong_dense(params, f'encoder/growth{i}', width, growth)
      width, i = width + growth, i + 1
    if group < len(groups) - 1:
      wrong += _wrong_dense(params, f'encoder/transition{i}', width, width // 2)
      width, i = width // 2, i + 1
  wrong += _wrong_dense(params, 'head', width, len(params['head/bias']))
  norm = {n: x for n, x in params.items() if n.startswith('encoder/norm/')}
  wrong += vit_names.collect_sizes(norm, [('.*', 'D')], {'D': width})
  if wrong:
    raise UserError(f'{source}: shapes that do not fit: {listed(wrong)}')
  return told


def _wrong_dense(
  params: tree.Arrays, module: str, inputs: int, outputs: int
) -> list[str]:
  """Returns problems with the shapes of a layer."""
  names = [f'{module}/{leaf}' for leaf in ('kernel', 'bias')]
  layer = {name: params[name] for name in names}
  shapes = [('.*/kernel', 'IO'), ('.*/bias', 'O')]
  return vit_names.collect_sizes(layer, shapes, dict(I=inputs, O=outputs))


def _table(names: Collection[str], ours: bool = False) -> linear.Table:
  """Returns our arrays for each of theirs, for the kinds and blocks in the names."""
  tokens, backbone, dense = kinds(names, ours)
  modules = dict(_TOP)
  for i in (1, 2):
    for theirs, own in _LAYERS[tokens].items():
      name = f'tokens_to_token.attention{i}.{theirs}'
      modules[name] = [f'tokens_to_token/layer{i}/{own}']
  modules |= (_dense if dense else _even)(names, backbone, ours)
  plain = {'cls_token': 'cls'} | {
    theirs: own
    for theirs, own in _CONSTANTS.items()
    if tokens == 'performer' or not theirs.endswith('.w')
  }
  table = linear.table(modules, plain)
  return {
    name: own
    for name, own in table.items()
    if not (name.endswith('.bias') and _unbiased(name.removesuffix('.bias'), tokens))
  }


def _unbiased(module: str, tokens: str) -> bool:
  if module.startswith('tokens_to_token.'):
    return tokens == 'transformer' and module.endswith('attn.qkv')
  return _UNBIASED.fullmatch(module) is not None


def _even(names: Collection[str], backbone: str, ours: bool) -> dict[str, list[str]]:
  """Returns our modules for theirs, in blocks that all have the same width."""
  block = r'encoder/block_(\d+)/' if ours else r'blocks\.(\d+)\.'
  return {
    f'blocks.{i}.{theirs}': [f'encoder/block_{i}/{name}' for name in pieces]
    for i in range(vit_names.depth(names, block) or 1)
    for theirs, pieces in _BLOCKS[backbone].items()
  }


def _dense(names: Collection[str], backbone: str, ours: bool) -> dict[str, list[str]]:
  """Returns our modules for theirs in a dense backbone, numbered consecutively."""
  number = r'encoder/(?:growth|transition)(\d+)/' if ours else r'blocks\.(\d+)\.'
  modules: dict[str, list[str]] = {}
  for i in range(vit_names.depth(names, number) or 1):
    mark = f'encoder/transition{i}/' if ours else f'blocks.{i}.linear.'
    if any(name.startswith(mark) for name in names):
      modules[f'blocks.{i}.linear'] = [f'encoder/transition{i}']
      continue
    for theirs, pieces in _BLOCKS[backbone].items():
      own = [f'encoder/unit{i}/block_0/{name}' for name in pieces]
      modules[f'blocks.{i}.{theirs}'] = own
    modules[f'blocks.{i}.dense_linear'] = [f'encoder/growth{i}']
  return modules
