"""Weights of Yujun-Yan/Neural-Execution-Engines, TensorFlow's object checkpoints.

Their kernels have our axes. Names follow attributes of objects; a checkpoint of a
program holds several networks: `transformer_1` adds, `transformer_2` selects, and
`msk_transform_2` finds the masks of the latter. Layers of a Keras `Sequential` are
called `layer-0` or `layer_with_weights-0`.
"""

import re
from collections.abc import Collection, Mapping

import numpy as np

from big_vision_like.errors import UserError
from big_vision_like.weights import tree

NETWORK = re.compile(r'(transformer|msk_transform)(?:_(\d+))?/(.+)')
END = '/.ATTRIBUTES/VARIABLE_VALUE'
SEQUENTIAL = re.compile(r'(?<=/)(?:layer|layer_with_weights)-(\d+)(?=/)')
LEAVES = {'gamma': 'scale', 'beta': 'bias'}
# Their names of the parts of a layer, by ours.
ENCODER = {
  'attention/project': 'mha/w',
  'attention/out': 'mha/dense',
  'norm': 'layernorm1',
  'fc1': 'ffn/0',
  'fc2': 'ffn/1',
  'mlp_norm': 'layernorm2',
}
DECODER = {
  'attention/project': 'mha1/w',
  'attention/out': 'mha1/dense',
  'norm': 'layernorm1',
  'cross/project': 'mha2/w',
  'cross/out': 'mha2/dense',
  'cross_norm': 'layernorm2',
  'fc1': 'ffn/0',
  'fc2': 'ffn/1',
  'mlp_norm': 'layernorm3',
}
# Parts outside of layers, ours and theirs.
FIXED = {
  'embed/kernel': 'emb/kernel',
  'score/first': 'NN/0/kernel',
  'score/first_bias': 'NN/0/bias',
  'score/last': 'NN/1/kernel',
  'score/last_bias': 'NN/1/bias',
  'head/kernel': 'final_layer/kernel',
  'head/bias': 'final_layer/bias',
}
MASK = {
  'conv/kernel': 'CNN/kernel',
  'conv/bias': 'CNN/bias',
  'head/kernel': 'final/kernel',
  'head/bias': 'final/bias',
}
LAYER = re.compile(r'(encoder/enc|decoder/dec)_layers/(\d+)/.+')


def layer_names(depth: int) -> dict[str, str]:
  """Returns the published names of the parameters of all layers, by ours."""
  found = {}
  for layer in range(depth):
    for stack, short, parts in (
      ('encoder', 'enc', ENCODER),
      ('decoder', 'dec', DECODER),
    ):
      for ours, theirs in parts.items():
        leaves = ('gamma', 'beta') if 'norm' in theirs else ('kernel', 'bias')
        for leaf in leaves:
          own = f'{stack}/block_{layer}/{ours}/{LEAVES.get(leaf, leaf)}'
          found[own] = f'{stack}/{short}_layers/{layer}/{theirs}/{leaf}'
  return found


def subroutine_names(depth: int) -> dict[str, str]:
  """Returns the published names of the parameters of a subroutine, by ours."""
  return FIXED | layer_names(depth)


def networks(names: Collection[str]) -> dict[str, dict[str, str]]:
  """Returns the published name of each array, by network and by name without it.

  Only the names of networks are looked at; slots of optimizers are left out.
  """
  found: dict[str, dict[str, str]] = {}
  for name in names:
    match = NETWORK.fullmatch(name.removesuffix(END))
    if match and '.OPTIMIZER_SLOT' not in name:
      kind, number, rest = match.groups()
      rest = SEQUENTIAL.sub(r'\1', rest)
      found.setdefault(f'{kind}_{number or ""}'.rstrip('_'), {})[rest] = name
  return found


def depth_of(names: Collection[str]) -> int:
  """Returns the number of layers of the encoder in names without their network."""
  layers = [match for name in names if (match := LAYER.fullmatch(name))]
  return 1 + max((int(match[2]) for match in layers), default=0)


def from_published(
  state: tree.Arrays, source: str = 'a subroutine'
) -> dict[str, np.ndarray]:
  """Returns our flat parameters of a `Subroutine`, from names without its network."""
  return _renamed(state, subroutine_names(depth_of(state)), source)


def mask_from_published(
  state: tree.Arrays, source: str = 'a mask network'
) -> dict[str, np.ndarray]:
  """Returns our flat parameters of a `MaskNetwork`, from names without its network."""
  return _renamed(state, MASK, source)


def to_published(flat: tree.Arrays) -> dict[str, np.ndarray]:
  """Returns our flat parameters of a `Subroutine` or `MaskNetwork` in their names."""
  if 'conv/kernel' in flat:
    return {MASK[name]: np.asarray(array) for name, array in flat.items()}
  depth = sum(bool(re.fullmatch(r'encoder/block_\d+/fc1/bias', name)) for name in flat)
  known = subroutine_names(depth)
  if absent := flat.keys() - known.keys():
    raise UserError(
      f'published engines have no {sorted(absent)[0]!r}: only those with numbers as'
      " bits (numbers='bits') and scores='mlp' are written"
    )
  return {known[name]: np.asarray(array) for name, array in flat.items()}


def _renamed(
  state: tree.Arrays, known: Mapping[str, str], source: str
) -> dict[str, np.ndarray]:
  theirs = {name: ours for ours, name in known.items()}
  tree.check_names(source, *tree.differences(state, theirs))
  return {theirs[name]: tree.as_float32(name, x) for name, x in state.items()}


def chosen(names: Collection[str]) -> dict[str, dict[str, str]]:
  """Returns the parts of one engine in names: `subroutine` and perhaps `mask`.

  Each part maps names without the network to those of the file. If there are several
  engines, it is the selector, which is the last one.
  """
  found = networks(names)
  numbers = sorted(
    (name for name in found if name.startswith('transformer')),
    key=lambda name: int(name.rpartition('_')[2] if '_' in name else 0),
  )
  if not numbers:
    return {}
  end = numbers[-1].removeprefix('transformer')
  parts = {'subroutine': found[numbers[-1]]}
  if mask := found.get(f'msk_transform{end}'):
    parts['mask'] = mask
  return parts


def differences(names: Collection[str]) -> tree.Differences:
  """Returns the names that checkpoints of engines do not have, and those missing."""
  parts = chosen(names)
  if not parts:
    return set(names), {'transformer/NN/layer-0/kernel'}
  known = subroutine_names(depth_of(parts['subroutine'])).values()
  unknown, missing = tree.differences(parts['subroutine'], known)
  if 'mask' in parts:
    more = tree.differences(parts['mask'], MASK.values())
    unknown, missing = unknown | more[0], missing | more[1]
  return unknown, missing


def engine(state: tree.Arrays, source: str) -> tuple[tree.Tree, list[str]]:
  """Returns our parameters of the `chosen` engine, and the other networks' names."""
  parts, params = chosen(state), {}
  readers = {'subroutine': from_published, 'mask': mask_from_published}
  for part, own in parts.items():
    arrays = {name: state[theirs] for name, theirs in own.items()}
    params[part] = tree.unflatten(readers[part](arrays, f'{source}: {part}'))
  used = {theirs for own in parts.values() for theirs in own.values()}
  others = [
    name for name, own in networks(state).items() if not used >= set(own.values())
  ]
  return params, sorted(others)


def written(params: tree.Tree) -> dict[str, np.ndarray]:
  """Returns the arrays of an engine in the names of published checkpoints."""
  found = {}
  for part, network in (('subroutine', 'transformer'), ('mask', 'msk_transform')):
    if part in params:
      own = to_published(tree.flatten(params[part]))
      for name, array in own.items():
        theirs = re.sub(r'\b(NN|ffn)/(\d+)', r'\1/layer-\2', name)
        found[f'{network}/{theirs}'] = array
  return found
