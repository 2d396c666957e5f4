"""Trees of parameters: nested dicts of arrays, and their flat 'a/b/c' form.

A stack of equal blocks has two layouts. Unrolled is the canonical one, used on disk,
with one subtree `block_{i}` per block. Scanned has one subtree `blocks` of arrays with
a leading depth axis, as nn.scan declares them.
"""

import re
from collections.abc import Collection, Iterable, Mapping
from typing import Any

import ml_dtypes  # also registers bfloat16 with numpy, and so with safetensors
import numpy as np

from big_vision_like.errors import UserError, listed

Tree = dict[str, Any]
# Arrays by flat name, as stored in files.
Arrays = Mapping[str, np.ndarray]
# Names that a format does not have, and names of the format that are missing.
Differences = tuple[set[str], set[str]]


def flatten(tree: Mapping[str, Any]) -> dict[str, Any]:
  """Returns the leaves of a nested dict under '/'-joined names, in its order."""
  flat = {}
  for name, value in tree.items():
    if isinstance(value, Mapping):
      flat |= {f'{name}/{rest}': leaf for rest, leaf in flatten(value).items()}
    else:
      flat[name] = value
  return flat


def unflatten(flat: Mapping[str, Any]) -> Tree:
  """Inverts `flatten`."""
  tree: Tree = {}
  for name, leaf in flat.items():
    *parents, last = name.split('/')
    node = tree
    for parent in parents:
      node = node.setdefault(parent, {})
      if not isinstance(node, dict):
        raise ValueError(f'{name!r} is under a name that is itself an array.')
    if last in node:
      raise ValueError(f'{name!r} is both an array and a parent of others.')
    node[last] = leaf
  return tree


def stack_blocks(tree: Mapping[str, Any]) -> Tree:
  """Converts unrolled to scanned: `block_0, block_1, ...` become `blocks`."""
  found, result = {}, {}
  for name, value in tree.items():
    if isinstance(value, Mapping):
      value = stack_blocks(value)
      if match := re.fullmatch(r'block_(\d+)', name):
        found[int(match[1])] = flatten(value)
        continue
    result[name] = value
  if not found:
    return result
  if 'blocks' in result:
    raise ValueError("A tree has either 'block_0', 'block_1', ... or 'blocks'.")
  if sorted(found) != list(range(len(found))):
    raise ValueError(f'Blocks must be numbered 0 to depth - 1, got {sorted(found)}.')
  blocks = [found[i] for i in range(len(found))]
  for i, block in enumerate(blocks):
    check_names(
      f'block_{i} differs from block_0',
      block.keys() - blocks[0],
      blocks[0].keys() - block,
    )
  stacked = {name: np.stack([block[name] for block in blocks]) for name in blocks[0]}
  return result | {'blocks': unflatten(stacked)}


def unstack_blocks(tree: Mapping[str, Any]) -> Tree:
  """Converts scanned to unrolled, the inverse of `stack_blocks`."""
  result: Tree = {}
  for name, value in tree.items():
    if not isinstance(value, Mapping):
      result[name] = value
    elif name != 'blocks':
      result[name] = unstack_blocks(value)
    else:
      flat = flatten(value)
      depths = {np.shape(leaf)[:1] for leaf in flat.values()}
      if len(depths) != 1 or depths == {()}:
        raise ValueError(
          f"Arrays under 'blocks' must share their leading axis, got {depths}."
        )
      for i in range(depths.pop()[0]):
        block = {leaf_name: np.asarray(leaf)[i] for leaf_name, leaf in flat.items()}
        result[f'block_{i}'] = unstack_blocks(unflatten(block))
  return result


def as_float32(name: str, array: np.ndarray) -> np.ndarray:
  """Converts an array to float32; two-byte voids are .npz's form of bfloat16."""
  array = np.asarray(array)
  if array.dtype == np.dtype('V2'):
    array = array.view(ml_dtypes.bfloat16)
  if array.dtype.kind != 'f' and array.dtype != ml_dtypes.bfloat16:
    raise UserError(f'{name!r} holds {array.dtype}, not floating-point numbers')
  return array.astype(np.float32)


def differences(names: Collection[str], known: Collection[str]) -> Differences:
  """Returns the names that are not known, and the known names that are missing."""
  return set(names) - set(known), set(known) - set(names)


def check_names(
  source: str, unknown: Iterable[str] = (), missing: Iterable[str] = ()
) -> None:
  """Raises a `UserError` that lists names a reader does not know or does not find."""
  parts = [
    f'{what} {listed(sorted(names))}'
    for what, names in (('unknown', set(unknown)), ('missing', set(missing)))
    if names
  ]
  if parts:
    raise UserError(f'{source}: {"; ".join(parts)}')
