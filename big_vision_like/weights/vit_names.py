"""Which arrays the parameter tree of our ViT holds, unrolled, by flat name."""

import re
from collections.abc import Collection

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
# Each of these is there as a whole or not at all.
_OPTIONAL = [
  ['cls'],
  ['pos_embedding'],
  ['map_head/probe', *(f'map_head/norm/{leaf}' for leaf in _NORM)]
  + [f'map_head/{name}' for name in _ATTENTION + _MLP],
  ['pre_logits/kernel', 'pre_logits/bias'],
  ['head/kernel', 'head/bias'],
]


def unfit(names: Collection[str]) -> tuple[set[str], set[str]]:
  """Returns which of the names no ViT has, and which ones a ViT with these lacks."""
  have = set(names)
  indices = [
    int(match[1]) for name in have if (match := re.match(r'encoder/block_(\d+)/', name))
  ]
  want = set(_REQUIRED)
  for i in range(max(indices, default=0) + 1):
    want |= {f'encoder/block_{i}/{name}' for name in _BLOCK}
  for group in _OPTIONAL:
    if have.intersection(group):
      want.update(group)
  return have - want, want - have
