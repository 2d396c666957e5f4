"""Names of dorarad/gansformer's PyTorch version for our generator and discriminator.

Axes: k components, h heads, E features of a query and its position, O I channels.
"""

import re
from collections.abc import Iterable, Mapping

import numpy as np

from big_vision_like.weights import tree

# Buffers that our code computes: the resampling filter and the pixels' positions.
COMPUTED = re.compile(r'(?:.*\.)?(?:resample_kernel|grid_pos)')
START = 4  # rows and columns of the first map of both networks

_ATTENTION = {
  'to_queries': 'query',
  'to_keys': 'key',
  'to_values': 'value',
  'from_pos_map': 'from_position',
  'to_pos_map': 'to_position',
  'modulation': 'modulation',
  'to_gate_attention.gate': 'to_gate',
  'to_gate_attention.gate_pos': 'to_gate_position',
  'from_gate_attention.gate': 'from_gate',
  'from_gate_attention.gate_pos': 'from_gate_position',
}
_OF_ATTENTION = {ours: theirs for theirs, ours in _ATTENTION.items()}
_ARRAYS = {'weight': 'kernel', 'bias': 'bias'}
_OF_ARRAYS = {ours: theirs for theirs, ours in _ARRAYS.items()}
_MLPS = {'global_mlp': 'global', 'mlp': 'local'}
_OF_MLPS = {ours: theirs for theirs, ours in _MLPS.items()}


def attention_name(theirs: str) -> str | None:
  """Returns our name of an array of attention; None if there is none."""
  if theirs in ('centroids', 'att_weight'):
    return {'centroids': 'centroids', 'att_weight': 'weight'}[theirs]
  module, _, leaf = theirs.rpartition('.')
  if module in _ATTENTION and leaf in _ARRAYS:
    return f'{_ATTENTION[module]}/{_ARRAYS[leaf]}'
  return None


def their_attention_name(ours: str) -> str:
  """Inverts `attention_name`."""
  module, _, leaf = ours.rpartition('/')
  if not module:
    return {'centroids': 'centroids', 'weight': 'att_weight'}[leaf]
  return f'{_OF_ATTENTION[module]}.{_OF_ARRAYS[leaf]}'


def generator_name(theirs: str) -> str | None:
  """Returns collection and our name of an array of the generator, if there is one."""
  if theirs == 'pos':
    return 'params/position'
  if theirs == 'mapping.w_avg':
    return 'batch_stats/mapping_network/average'
  if match := re.fullmatch(r'mapping\.(global_mlp|mlp)\.(.+)', theirs):
    own = _mapping_name(match[2])
    return own and f'params/mapping_network/{_MLPS[match[1]]}/{own}'
  match = re.fullmatch(r'synthesis\.(b\d+)\.(.+)', theirs)
  if match is None:
    return None
  block, rest = match.groups()
  if rest in ('const', 'skip.weight'):
    return f'params/{block}/{rest.replace(".weight", "/kernel")}'
  if match := re.fullmatch(r'conv_stem\.(weight|bias)', rest):
    return f'params/{block}/stem/{_ARRAYS[match[1]]}'
  match = re.fullmatch(r'(conv0|conv1|conv_last|torgb)\.(.+)', rest)
  if match is None:
    return None
  layer, rest = match.groups()
  place = f'{block}/{"to_rgb" if layer == "torgb" else layer}'
  if rest == 'noise_const':
    return f'constants/{place}/noise'
  if rest.startswith('transformer.'):
    own = attention_name(rest.removeprefix('transformer.'))
    return own and f'params/{place}/attention/{own}'
  own = {
    'weight': 'kernel',
    'biasAct.bias': 'bias',
    'noise_strength': 'noise_strength',
    'affine.weight': 'affine/kernel',
    'affine.bias': 'affine/bias',
  }.get(rest)
  return own and f'params/{place}/{own}'


def _mapping_name(theirs: str) -> str | None:
  if match := re.fullmatch(r'sa(\d+)\.(.+)', theirs):
    own = attention_name(match[2])
    return own and f'attention_{match[1]}/{own}'
  match = re.fullmatch(r'(?:l(\d+)(?:\.fc([01]))?|out_layer)\.(weight|bias)', theirs)
  if match is None:
    return None
  number, half, leaf = match.groups()
  if number is None:
    return f'out/{_ARRAYS[leaf]}'
  module = f'fc_{number}' if half is None else f'block_{number}_fc{int(half) + 1}'
  return f'{module}/{_ARRAYS[leaf]}'


def their_generator_name(ours: str) -> str:
  """Inverts `generator_name`: collection and name to their name."""
  collection, _, name = ours.partition('/')
  if name == 'position':
    return 'pos'
  if collection == 'batch_stats':
    return 'mapping.w_avg'
  parts = name.split('/')
  if parts[0] == 'mapping_network':
    return f'mapping.{_OF_MLPS[parts[1]]}.{_their_mapping_name(parts[2:])}'
  block, layer, *rest = parts
  start = f'synthesis.{block}'
  if layer in ('const', 'skip', 'stem'):
    module = {'stem': 'conv_stem'}.get(layer, layer)
    return '.'.join([start, module, *(_OF_ARRAYS[leaf] for leaf in rest)])
  start += f'.{"torgb" if layer == "to_rgb" else layer}'
  if rest[0] == 'attention':
    return f'{start}.transformer.{their_attention_name("/".join(rest[1:]))}'
  if rest[0] == 'affine':
    return f'{start}.affine.{_OF_ARRAYS[rest[1]]}'
  leaves = {'kernel': 'weight', 'bias': 'biasAct.bias', 'noise': 'noise_const'}
  return f'{start}.{leaves.get(rest[0], rest[0])}'


def _their_mapping_name(parts: list[str]) -> str:
  module, *rest = parts
  if module.startswith('attention_'):
    own = their_attention_name('/'.join(rest))
    return f'sa{module.removeprefix("attention_")}.{own}'
  leaf = _OF_ARRAYS[rest[0]]
  if match := re.fullmatch(r'block_(\d+)_fc([12])', module):
    return f'l{match[1]}.fc{int(match[2]) - 1}.{leaf}'
  if match := re.fullmatch(r'fc_(\d+)', module):
    return f'l{match[1]}.{leaf}'
  return f'out_layer.{leaf}'


_ENDS = {'fromrgb': 'from_rgb', 'conv': 'conv', 'fc': 'fc', 'out': 'out'}
_OF_ENDS = {ours: theirs for theirs, ours in _ENDS.items()}


def discriminator_name(theirs: str) -> str | None:
  """Returns collection and our name of an array of the discriminator, if any."""
  match = re.fullmatch(r'(b\d+)\.(\w+)\.(weight|bias|biasAct\.bias)', theirs)
  if match is None:
    return None
  block, module, leaf = match.groups()
  leaf = 'kernel' if leaf == 'weight' else 'bias'
  if module in _ENDS:
    return f'params/{_ENDS[module]}/{leaf}'
  if module in ('conv0', 'conv1', 'skip'):
    return f'params/{block}/{module}/{leaf}'
  return None


def their_discriminator_name(ours: str, resolution: int) -> str:
  """Inverts `discriminator_name`."""
  *place, leaf = ours.removeprefix('params/').split('/')
  if len(place) == 1:
    block = resolution if place[0] == 'from_rgb' else START
    place = [f'b{block}', _OF_ENDS[place[0]]]
  dense = place[-1] in ('fc', 'out')
  bias = 'bias' if dense else 'biasAct.bias'
  return '.'.join([*place, 'weight' if leaf == 'kernel' else bias])


def ours_of(name: str, array: np.ndarray) -> np.ndarray:
  """Converts an array with our name from their layout."""
  leaf = name.rpartition('/')[2]
  if leaf == 'centroids':
    return array[0]
  if leaf == 'weight':  # of attention
    return array[:, 0]
  if leaf == 'const':
    return array.transpose(1, 2, 0)
  if leaf == 'noise_strength':
    return array.reshape(())
  if name == 'params/fc/kernel':
    # The map is flattened with channels first there, and last here.
    array_OIhw = array.reshape(len(array), -1, START, START)
    return array_OIhw.transpose(2, 3, 1, 0).reshape(-1, len(array))
  if name.endswith('/stem/kernel'):
    array_OhwI = array.reshape(-1, START, START, array.shape[-1]).transpose(1, 2, 0, 3)
    return array_OhwI.reshape(-1, array.shape[-1]).T
  if name.endswith('/stem/bias'):
    return array.reshape(-1, START, START).transpose(1, 2, 0).reshape(-1)
  if leaf == 'kernel':
    return array.T if array.ndim == 2 else array.transpose(2, 3, 1, 0)
  return array


def theirs_of(name: str, array: np.ndarray) -> np.ndarray:
  """Inverts `ours_of`."""
  leaf = name.rpartition('/')[2]
  if leaf == 'centroids':
    return array[None]
  if leaf == 'weight':
    return array[:, None]
  if leaf == 'const':
    return array.transpose(2, 0, 1)
  if name == 'params/fc/kernel':
    array_hwIO = array.reshape(START, START, -1, array.shape[-1])
    return array_hwIO.transpose(3, 2, 0, 1).reshape(array.shape[-1], -1)
  if name.endswith('/stem/kernel'):
    array_hwOI = array.T.reshape(START, START, -1, len(array))
    return array_hwOI.transpose(2, 0, 1, 3).reshape(-1, len(array))
  if name.endswith('/stem/bias'):
    return array.reshape(START, START, -1).transpose(2, 0, 1).reshape(-1)
  if leaf == 'kernel':
    return array.T if array.ndim == 2 else array.transpose(3, 2, 0, 1)
  return array


def _converted(
  arrays: tree.Arrays, names: Mapping[str, str | None], source: str
) -> tree.Tree:
  tree.check_names(source, [theirs for theirs, ours in names.items() if ours is None])
  found = {
    ours: ours_of(ours, tree.as_float32(theirs, arrays[theirs]))
    for theirs, ours in names.items()
  }
  return tree.unflatten(found)


def generator(arrays: tree.Arrays, source: str = 'weights') -> tree.Tree:
  """Returns our generator's variables by collection; raises for unknown names."""
  names = {name: generator_name(name) for name in kept(arrays)}
  return _converted(arrays, names, source)


def discriminator(arrays: tree.Arrays, source: str = 'weights') -> tree.Tree:
  """Returns our discriminator's variables by collection; raises for unknown names."""
  names = {name: discriminator_name(name) for name in kept(arrays)}
  return _converted(arrays, names, source)


def kept(names: Iterable[str]) -> list[str]:
  """Returns the names without buffers that our code computes."""
  return [name for name in names if not COMPUTED.fullmatch(name)]


def to_generator(variables: Mapping[str, object]) -> dict[str, np.ndarray]:
  """Inverts `generator`."""
  return {
    their_generator_name(name): theirs_of(name, np.asarray(array))
    for name, array in tree.flatten(variables).items()
  }


def to_discriminator(variables: Mapping[str, object]) -> dict[str, np.ndarray]:
  """Inverts `discriminator`."""
  flat = tree.flatten(variables)
  sides = [int(name.split('/')[1][1:]) for name in flat if '/conv0/' in name]
  resolution = max(sides, default=START)
  return {
    their_discriminator_name(name, resolution): theirs_of(name, np.asarray(array))
    for name, array in flat.items()
  }
