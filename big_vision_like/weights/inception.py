"""Weights of FID's Inception in the names of mseitzer/pytorch-fid.

Its modules have the names of ours with capitals: `Mixed_5b.branch1x1.bn.weight` is
`mixed_5b/branch1x1/norm/scale`.
"""

from collections.abc import Collection

import numpy as np

from big_vision_like.weights import files, linear, tree

# Our collection and name for the arrays of a convolution and its norm.
_LEAVES = {
  'conv.weight': 'params/{}/conv/kernel',
  'bn.weight': 'params/{}/norm/scale',
  'bn.bias': 'params/{}/norm/bias',
  'bn.running_mean': 'batch_stats/{}/norm/mean',
  'bn.running_var': 'batch_stats/{}/norm/var',
}
HEAD = {'fc.weight': ['params/head/kernel'], 'fc.bias': ['params/head/bias']}


def table(places: Collection[str], head: bool) -> linear.Table:
  """Returns our array for each of theirs, given our names of convolutions."""
  known = {
    f'{capital(place)}.{leaf}': [ours.format(place)]
    for place in places
    for leaf, ours in _LEAVES.items()
  }
  return known | (HEAD if head else {})


def capital(place: str) -> str:
  """Returns their name of one of our convolutions."""
  first, *rest = place.split('/')
  return '.'.join([first[0].upper() + first[1:], *rest])


def from_pytorch_fid(
  state: tree.Arrays, places: Collection[str], source: str = 'state dict'
) -> tree.Tree:
  """Converts a state dict to variables of our `Inception`, by collection."""
  state = files.without_counts(state)
  known = table(places, 'fc.weight' in state)
  tree.check_names(source, *tree.differences(state, known))
  return tree.unflatten(linear.from_state(state, known, num_heads=1))


def to_pytorch_fid(
  variables: tree.Tree, places: Collection[str]
) -> dict[str, np.ndarray]:
  """Inverts `from_pytorch_fid`, without the counts of steps."""
  flat = tree.flatten(variables)
  return linear.written(flat, table(places, 'params/head/kernel' in flat))
