"""Flat names and shapes of the parameters of our DeiT and DeiT III."""

import re
from collections.abc import Collection

from big_vision_like.errors import UserError, listed
from big_vision_like.weights import tree, vit_names

# Arrays that a DeiT adds to those of a ViT, and ViT arrays that it requires.
DISTILLED = {'dist', 'head_dist/kernel', 'head_dist/bias'}
_NEEDED = {'cls', 'pos_embedding', 'head/kernel', 'head/bias'}
# Axes: D width, C classes.
_SHAPES = [
  (r'dist', '11D'),
  (r'head_dist/kernel', 'DC'),
  (r'head_dist/bias', 'C'),
  (r'.*/layer_scale[12]', 'D'),
]


def unfit_distilled(names: Collection[str]) -> tree.Differences:
  """Returns names that no distilled DeiT has, and names missing from these."""
  have = set(names)
  unknown, missing = vit_names.unfit(have - DISTILLED)
  return unknown, missing | (DISTILLED | _NEEDED) - have


def unfit_scaled(names: Collection[str]) -> tree.Differences:
  """Returns names that no DeiT III has, and names missing from these."""
  have, depth = set(names), vit_names.depth(names) or 1
  scales = {
    f'encoder/block_{i}/layer_scale{branch}' for i in range(depth) for branch in (1, 2)
  }
  unknown, missing = vit_names.unfit(have - scales)
  return unknown, missing | (scales | _NEEDED - {'head/kernel', 'head/bias'}) - have


def check_shapes(flat: tree.Arrays, source: str) -> None:
  """Raises a `UserError` that names shapes which do not match the rest of a ViT."""
  sizes = {'1': 1, 'D': flat['embed/kernel'].shape[-1]}
  if 'head/bias' in flat:
    sizes['C'] = len(flat['head/bias'])
  extra = {n: x for n, x in flat.items() if any(re.fullmatch(p, n) for p, _ in _SHAPES)}
  if wrong := vit_names.collect_sizes(extra, _SHAPES, sizes):
    raise UserError(f'{source}: shapes that do not fit: {listed(wrong)}')
