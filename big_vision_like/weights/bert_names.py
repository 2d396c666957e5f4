"""Names of BERT's arrays in transformers, and of models that contain its parts.

Matrices are (out, in). Old files call the scale and offset of norms gamma and beta.
The matrix of the logits of masked words is that of the embeddings, which files may
store twice.
"""

import re
from collections.abc import Collection, Mapping

import numpy as np

from big_vision_like.errors import UserError
from big_vision_like.weights import linear, tree

_BLOCK = {
  'attention.self.query': 'attention/query',
  'attention.self.key': 'attention/key',
  'attention.self.value': 'attention/value',
  'attention.output.dense': 'attention/out',
  'attention.output.LayerNorm': 'norm1',
  'intermediate.dense': 'mlp/fc1',
  'output.dense': 'mlp/fc2',
  'output.LayerNorm': 'norm2',
}
_TABLES = {
  'word_embeddings': 'word',
  'position_embeddings': 'position',
  'token_type_embeddings': 'token_type',
}
_WORDS = {'transform.dense': 'transform', 'transform.LayerNorm': 'norm'}
TIED = ('cls.predictions.decoder.weight', 'cls.predictions.decoder.bias')
# Not read: tied arrays, and ids that old versions of transformers stored.
PASSED = (
  r'((bert|visual_bert)\.)?embeddings\.(position_ids|token_type_ids)'
  r'|cls\.predictions\.decoder\.(weight|bias)'
)


def renamed(arrays: tree.Arrays) -> dict[str, np.ndarray]:
  """Returns arrays with norms that have a weight and a bias, as in new files."""
  return {new_name(name): array for name, array in arrays.items()}


def new_name(name: str) -> str:
  """Returns the name of an array in new files."""
  ends = {'LayerNorm.gamma': 'LayerNorm.weight', 'LayerNorm.beta': 'LayerNorm.bias'}
  for old, new in ends.items():
    if name.endswith(old):
      return name.removesuffix(old) + new
  return name


def prefix_of(names: Collection[str]) -> str:
  """Returns the prefix of the encoder: none if a file holds nothing else."""
  return 'bert.' if any(name.startswith('bert.') for name in names) else ''


def depth(names: Collection[str], start: str) -> int:
  """Returns the number of blocks whose names start with `start`, from their numbers."""
  found = [re.match(rf'{re.escape(start)}(\d+)\.', name) for name in names]
  # A file cannot have more blocks than arrays.
  numbers = [int(m[1]) for m in found if m and int(m[1]) < len(names)]
  return max(numbers, default=-1) + 1


def blocks(theirs: str, ours: str, count: int) -> dict[str, list[str]]:
  """Returns our modules for each of theirs, in `count` blocks."""
  return {
    f'{theirs}{i}.{module}': [f'{ours}/block_{i}/{own}']
    for i in range(count)
    for module, own in _BLOCK.items()
  }


def embeddings(theirs: str, ours: str) -> linear.Table:
  """Returns the table of the embeddings of word pieces."""
  tables = {
    f'{theirs}{name}.weight': f'{ours}/{own}/embedding' for name, own in _TABLES.items()
  }
  return linear.table({f'{theirs}LayerNorm': [f'{ours}/norm']}, tables)


def words(ours: str) -> linear.Table:
  """Returns the table of the head of masked words."""
  modules = {
    f'cls.predictions.{name}': [f'{ours}/{own}'] for name, own in _WORDS.items()
  }
  return linear.table(modules, {'cls.predictions.bias': f'{ours}/bias'})


def table(prefix: str, count: int) -> linear.Table:
  """Returns the table of a whole BERT with all heads."""
  return (
    embeddings(f'{prefix}embeddings.', 'embeddings')
    | linear.table(blocks(f'{prefix}encoder.layer.', 'encoder', count), {})
    | linear.table({f'{prefix}pooler.dense': ['pooler']}, {})
    | words('words')
    | linear.table({'cls.seq_relationship': ['next_text']}, {})
  )


def optional(known: linear.Table, *starts: str) -> list[set[str]]:
  """Returns, for each start of our names, the names of theirs that it covers."""
  return [
    {theirs for theirs, ours in known.items() if ours[0].startswith(start)}
    for start in starts
  ]


def compared(
  found: Collection[str],
  known: linear.Table,
  groups: Collection[set[str]],
  passed: str,
) -> tree.Differences:
  """Returns names unknown in a file, and those missing from it.

  A file has all names of a group or none. Names that match `passed` are not read.
  """
  have = {name for name in map(new_name, found) if not re.fullmatch(passed, name)}
  absent = set().union(*(group for group in groups if not have & group))
  return have - known.keys(), known.keys() - absent - have


def differences(found: Collection[str]) -> tree.Differences:
  """Returns names unknown in a file of BERT, and names missing from it."""
  prefix = prefix_of(found)
  known = table(prefix, max(depth(found, f'{prefix}encoder.layer.'), 1))
  groups = optional(known, 'pooler', 'words', 'next_text')
  return compared(found, known, groups, PASSED)


def check_tied(arrays: tree.Arrays, embedding: str, source: str) -> None:
  """Raises if a file has another matrix for the logits of words than for embeddings."""
  weight, bias = (arrays.get(name) for name in TIED)
  own = arrays.get('cls.predictions.bias')
  same = weight is None or np.array_equal(weight, arrays[embedding])
  if not same or (bias is not None and not np.array_equal(bias, own)):
    raise UserError(
      f'{source}: {TIED[0]} is not {embedding}: our models use one matrix for both'
    )


def from_state(
  arrays: tree.Arrays, num_heads: int, source: str = 'state dict'
) -> tree.Tree:
  """Converts a state dict to parameters of our `Bert`, float32."""
  arrays = renamed(arrays)
  prefix = prefix_of(arrays)
  check_tied(arrays, f'{prefix}embeddings.word_embeddings.weight', source)
  known = table(prefix, depth(arrays, f'{prefix}encoder.layer.'))
  return tree.unflatten(linear.from_state(arrays, known, num_heads))


def to_state(params: Mapping[str, object]) -> dict[str, np.ndarray]:
  """Converts parameters of our `Bert` to a state dict, for the class it belongs to."""
  flat = tree.flatten(tree.unstack_blocks(params))
  heads = any(name.startswith(('words/', 'next_text/')) for name in flat)
  prefix = 'bert.' if heads else ''
  count = len([name for name in flat if re.fullmatch(r'.*/norm1/scale', name)])
  return linear.written(flat, table(prefix, count))
