"""Flat names and shapes of the parameters of our ViT, unrolled."""

import re
from collections.abc import Collection, Mapping, Sequence

from big_vision_like.errors import UserError, listed
from big_vision_like.weights import resnet_names, tree

_ATTENTION = [
  f'attention/{part}/{leaf}'
  for part in ('query', 'key', 'value', 'out')
  for leaf in ('kernel', 'bias')
]
_MLP = [f'mlp/{part}/{leaf}' for part in ('fc1', 'fc2') for leaf in ('kernel', 'bias')]
_NORM = ['scale', 'bias']
_BLOCK = [
  *(f'{norm}/{leaf}' for norm in ('norm1', 'norm2') for leaf in _NORM),
  *_ATTENTION,
  *_MLP,
]
_REQUIRED = [
  *('embed/kernel', 'embed/bias'),
  *(f'encoder/norm/{leaf}' for leaf in _NORM),
]
# Each of these groups exists completely or not at all.
_OPTIONAL = [
  ['cls'],
  ['registers'],
  ['pos_embedding'],
  ['pos_rows', 'pos_columns'],
  ['relative_keys'],
  ['map_head/probe', *(f'map_head/norm/{leaf}' for leaf in _NORM)]
  + [f'map_head/{name}' for name in _ATTENTION + _MLP],
  ['pre_logits/kernel', 'pre_logits/bias'],
  ['head/kernel', 'head/bias'],
]
# Axes: P Q patch, I its channels, D width, H heads, K features of one, M hidden
# units, L blocks or 1, N tokens, R registers, S representation (D without), C classes.
BLOCK_SHAPES = [
  (r'.*/norm\d?/(scale|bias)', 'D'),
  (r'.*attention/(query|key|value)/kernel', 'DHK'),
  (r'.*attention/(query|key|value)/bias', 'HK'),
  (r'.*/\w*attention/out/kernel', 'HKD'),
  (r'.*/mlp/fc1/kernel', 'DM'),
  (r'.*/mlp/fc1/bias', 'M'),
  (r'.*/mlp/fc2/kernel', 'MD'),
  (r'.*/(\w*attention/out|mlp/fc2)/bias', 'D'),
]
_SHAPES = [
  (r'embed/kernel', 'PQID'),
  (r'embed/bias', 'D'),
  (r'cls|map_head/probe', '11D'),
  (r'registers', '1RD'),
  (r'pos_embedding', 'LND'),
  *BLOCK_SHAPES,
  (r'pre_logits/kernel', 'DS'),
  (r'pre_logits/bias', 'S'),
  (r'head/kernel', 'SC'),
  (r'head/bias', 'C'),
]


def unfit(names: Collection[str]) -> tuple[set[str], set[str]]:
  """Returns the names that no ViT has, and the names missing from these."""
  have = set(names)
  want = set(_REQUIRED)
  for i in range(depth(have) or 1):
    want |= {f'encoder/block_{i}/{name}' for name in _BLOCK}
  if any(name.startswith('resnet/') for name in have):
    want |= resnet_names.trunk(resnet_names.depths(have), version=1).keys()
  for group in _OPTIONAL:
    if have.intersection(group):
      want.update(group)
  return have - want, want - have


def depth(names: Collection[str], block: str = r'encoder/block_(\d+)/') -> int:
  """Returns the number of blocks in names; `block` matches a block's number, from 0."""
  numbers = [int(match[1]) for name in names if (match := re.match(block, name))]
  # A file cannot have more blocks than arrays.
  return max((n + 1 for n in numbers if n < len(names)), default=0)


def check_shapes(flat: tree.Arrays, source: str) -> dict[str, int]:
  """Returns a ViT's sizes by letter; raises a `UserError` that names bad shapes."""
  sizes, trunk = {'1': 1}, {}
  if 'pre_logits/bias' not in flat:
    sizes['S'] = flat['embed/kernel'].shape[-1]
  if 'resnet/conv_root/kernel' in flat:
    stages = resnet_names.depths(flat)
    trunk = resnet_names.trunk(stages, version=1)
    sizes['I'] = 64 * 2 ** (len(stages) + 1) if stages else 64
  rest = {name: array for name, array in flat.items() if name not in trunk}
  wrong = resnet_names.wrong_shapes(flat, trunk)
  wrong += collect_sizes(rest, _SHAPES, sizes)
  if wrong:
    raise UserError(f'{source}: shapes that do not fit: {listed(wrong)}')
  return sizes


def collect_sizes(
  flat: tree.Arrays,
  shapes: Sequence[tuple[str, str]],
  sizes: dict[str, int],
) -> list[str]:
  """Adds to `sizes` by letter; returns a sentence for each array that does not match.

  `shapes` are patterns of names with the letters of their axes; others are skipped.
  """
  wrong = []
  for name, array in flat.items():
    letters = next((s for p, s in shapes if re.fullmatch(p, name)), '')
    if not letters:  # the tables of ablations
      continue
    new = dict(zip(letters, array.shape, strict=False))
    same = [new.get(letter) for letter in letters] == list(array.shape)  # as in 11D
    if not same or new != new | _known(sizes, letters):
      told = ', '.join(str(sizes.get(letter, letter)) for letter in letters)
      wrong.append(f'{name} {array.shape} is not ({told})')
    else:
      sizes |= new
  return wrong


def _known(sizes: Mapping[str, int], letters: str) -> dict[str, int]:
  return {letter: sizes[letter] for letter in letters if letter in sizes}
