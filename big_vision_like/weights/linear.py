"""Layers in PyTorch's form: matrices (out, in), convolutions OI..., heads joined."""

import re
from collections.abc import Callable, Collection, Mapping, Sequence

import numpy as np

from big_vision_like.errors import UserError
from big_vision_like.weights import tree

# Our arrays for each array of a state dict; several if they are joined in one.
Table = dict[str, list[str]]


def table(
  modules: Mapping[str, Sequence[str]], plain: Mapping[str, str], dot: str = '.'
) -> Table:
  """Builds a table from our modules for each of theirs, and arrays outside of layers.

  `dot` separates their modules and leaves.
  """
  found = {theirs: [ours] for theirs, ours in plain.items()}
  for theirs, ours in modules.items():
    for leaf in leaves(ours[0]):
      their_leaf = 'bias' if leaf == 'bias' else 'weight'
      found[f'{theirs}{dot}{their_leaf}'] = [f'{module}/{leaf}' for module in ours]
  return found


def differences(
  names: Collection[str],
  known: Table,
  unfit: Callable[[Collection[str]], tree.Differences],
) -> tree.Differences:
  """Returns their names that are unknown to our model, and those it also requires."""
  theirs = {ours: name for name, all_ours in known.items() for ours in all_ours}
  strange = {name for name in names if name not in known}
  ours = [piece for name in names if name in known for piece in known[name]]
  unknown, missing = unfit(ours)
  return (
    strange | {theirs[name] for name in unknown},
    {theirs.get(name, name) for name in missing},
  )


def from_state(
  state: tree.Arrays, known: Table, num_heads: int
) -> dict[str, np.ndarray]:
  """Converts to our flat arrays, float32; names outside the table are ignored."""
  flat = {}
  for name, all_ours in known.items():
    if name not in state:
      continue
    array, count = tree.as_float32(name, state[name]), len(all_ours)
    if count > 1 and len(array) % count:
      raise UserError(f'{name!r} of shape {array.shape} does not split into {count}')
    pieces = np.split(array, count) if count > 1 else [array]
    for ours, piece in zip(all_ours, pieces, strict=True):
      module, _, leaf = ours.rpartition('/')
      if leaf in ('kernel', 'scale', 'bias'):
        their_leaf = 'bias' if leaf == 'bias' else 'weight'
        _, piece = to_ours(module, their_leaf, piece, num_heads)
      flat[ours] = piece
  return flat


def written(flat: tree.Arrays, known: Table) -> dict[str, np.ndarray]:
  """Calls `to_state`; raises a `UserError` that lists our names outside the table."""
  named = {name for names in known.values() for name in names}
  tree.check_names('parameters', unknown=flat.keys() - named)
  return to_state(flat, known)


def to_state(flat: tree.Arrays, known: Table) -> dict[str, np.ndarray]:
  """Converts our flat arrays to their names and axes."""
  state = {}
  for theirs, ours in known.items():
    if ours[0] in flat:
      pieces = [to_torch(name, np.asarray(flat[name])) for name in ours]
      array = pieces[0] if len(pieces) == 1 else np.concatenate(pieces)
      state[theirs] = np.array(array, order='C')  # keeps single numbers as they are
  return state


def to_ours(
  module: str, leaf: str, array: np.ndarray, num_heads: int
) -> tuple[str, np.ndarray]:
  """Returns our leaf name and array for a module, from PyTorch's weight or bias."""
  if module.endswith(('/query', '/key', '/value')):
    if len(array) % num_heads:
      raise UserError(f'width {len(array)} does not divide into {num_heads} heads')
    heads = (num_heads, len(array) // num_heads)
    if leaf == 'bias':
      return 'bias', array.reshape(heads)
    return 'kernel', array.T.reshape(-1, *heads)
  if leaf == 'bias':
    return 'bias', array
  if module.endswith('attention/out'):
    return 'kernel', array.T.reshape(num_heads, -1, len(array))
  if module == 'head' and array.ndim == 4:  # a 1x1 convolution
    return 'kernel', array[:, :, 0, 0].T
  if array.ndim > 3:
    return 'kernel', np.moveaxis(array, (0, 1), (-1, -2))
  return ('scale', array) if array.ndim == 1 else ('kernel', array.T)


def to_torch(name: str, array: np.ndarray) -> np.ndarray:
  """Converts one of our arrays to PyTorch's axes."""
  module, _, leaf = name.rpartition('/')
  if module.endswith(('/query', '/key', '/value')):
    return array.reshape(-1) if leaf == 'bias' else array.reshape(len(array), -1).T
  if leaf != 'kernel':
    return array
  if module.endswith('attention/out'):
    return array.reshape(-1, array.shape[-1]).T
  return np.moveaxis(array, (-1, -2), (0, 1)) if array.ndim > 3 else array.T


def depths(names: Collection[str], block: str) -> dict[str, int]:
  """Returns the blocks per stack; `block` matches stack and block number, from 0."""
  found = {'encoder': 0, 'decoder': 0}
  for name in names:
    match = re.match(block, name)
    # A file cannot have more blocks than arrays.
    if match and match[1] in found and int(match[2]) < len(names):
      found[match[1]] = max(found[match[1]], int(match[2]) + 1)
  return found


def leaves(module: str) -> Sequence[str]:
  """Returns the leaves that one of our modules may have, by kind of module."""
  return ('scale', 'bias') if 'norm' in module.split('/')[-1] else ('kernel', 'bias')
