"""Weights of the memory network of Monireh2/kg-deductive-reasoner.

Their tables are (features, vocabulary): `embed_0` of queries and of the first hop, up
to `embed_H` of what the last hop reads. `to_vocab` is (features, vocabulary) too,
`to_answer` (classes, vocabulary).
"""

import re

import numpy as np

from big_vision_like.errors import UserError
from big_vision_like.weights import tree

TABLE = re.compile(r'embed_(\d+)')


def from_published(state: tree.Arrays) -> tuple[dict[str, np.ndarray], int]:
  """Returns our flat parameters, float32, and the number of hops."""
  hops = sum(bool(TABLE.fullmatch(name)) for name in state) - 1
  expected = {f'embed_{i}' for i in range(hops + 1)} | {'to_vocab', 'to_answer'}
  if hops < 1:
    raise UserError('a memory network has tables embed_0, embed_1 and so on')
  tree.check_names('a memory network', state.keys() - expected, expected - state.keys())
  arrays = {name: np.asarray(state[name], np.float32) for name in expected}
  flat = {ours(name): turned(name, array) for name, array in arrays.items()}
  return flat, hops


def to_published(flat: tree.Arrays) -> dict[str, np.ndarray]:
  """Returns our flat parameters under the published names and in their axes."""
  found = {}
  for name, array in flat.items():
    match = re.fullmatch(r'words_(\d+)', name)
    theirs = f'embed_{match[1]}' if match else name.removesuffix('/kernel')
    found[theirs] = turned(theirs, np.asarray(array))
  return found


def turned(name: str, array: np.ndarray) -> np.ndarray:
  """Exchanges the axes of a published array, or of ours, where they differ."""
  return array if name == 'to_vocab' else array.T


def ours(name: str) -> str:
  """Returns our name of a published array."""
  match = TABLE.fullmatch(name)
  return f'words_{match[1]}' if match else f'{name}/kernel'
