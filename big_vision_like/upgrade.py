"""Reads configs that earlier versions of the code saved with their runs.

`config.json` records symbols and arguments by name. What was renamed since is listed
here, so that old runs load, resume and compare equal to a config of today.
"""

from collections.abc import Callable, Mapping
from typing import Any

Call = dict[str, Any]

# Symbols that moved: the path in old configs, and the path of today.
MOVED: Mapping[str, str] = {
  f'big_vision_like.checkpoint:{name}': f'big_vision_like.init_from:{name}'
  for name in ('InitFrom', 'from_run', 'from_file', 'from_backbone')
}

# Changes of arguments, by the symbol (of today) that takes them.
ARGUMENTS: Mapping[str, Callable[[Call], Call]] = {}


def upgraded(node: Any) -> Any:
  """Returns a plain copy of a saved config in the names of today."""
  if isinstance(node, (list, tuple)):
    return type(node)(map(upgraded, node))
  if not isinstance(node, Mapping):
    return node
  node = {key: upgraded(value) for key, value in node.items()}
  if '_fn' not in node:
    return node
  node['_fn'] = MOVED.get(node['_fn'], node['_fn'])
  change = ARGUMENTS.get(node['_fn'])
  return change(node) if change else node
