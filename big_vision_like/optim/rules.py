"""A factor for each parameter, chosen by its path or its shape.

Rules are ordered (path regex, factor) pairs. The first regex that matches a parameter's
whole '/'-joined path counts; parameters without a match get the default. Rules may also
be a function from all parameters to their factors (`decay_weights`).
"""

import re
from collections.abc import Callable, Sequence

import jax

from big_vision_like.errors import UserError

Tree = dict
Rules = Sequence[tuple[str, float]] | Callable[[Tree], Tree]


def path_of(keys: Sequence[jax.tree_util.KeyEntry]) -> str:
  """Returns a leaf's path such as 'encoder/block_0/mlp/fc1/kernel'."""
  return jax.tree_util.keystr(keys, simple=True, separator='/')


def factors(tree: Tree, rules: Rules, default: float) -> Tree:
  """Returns the factor of each leaf; raises for a rule that matches nothing."""
  if callable(rules):
    return rules(tree)
  values = [value for _, value in rules] + [default]
  first = first_matches(tree, [pattern for pattern, _ in rules])
  return jax.tree.map(lambda rule: values[rule], first)


def first_matches(tree: Tree, patterns: Sequence[str]) -> Tree:
  """Returns, for each leaf, the index of the first matching pattern.

  The index is the number of patterns if none matches. Raises for a pattern that matches
  nothing: an earlier pattern may shadow a later one on purpose, but a typo matches
  nothing.
  """
  paths = [path_of(keys) for keys, _ in jax.tree_util.tree_leaves_with_path(tree)]
  for pattern in patterns:
    if not any(re.fullmatch(pattern, path) for path in paths):
      raise UserError(f'the rule {pattern!r} matches no parameter')

  def first(keys: Sequence[jax.tree_util.KeyEntry], _) -> int:
    found = (bool(re.fullmatch(pattern, path_of(keys))) for pattern in patterns)
    return [*found, True].index(True)

  return jax.tree_util.tree_map_with_path(first, tree)


def is_stacked(path: str) -> bool:
  """Returns whether the first axis of a parameter counts scanned blocks."""
  return 'blocks' in path.split('/')


def decay_weights(exempt: Sequence[str] = ()) -> Callable[[Tree], Tree]:
  """Returns rules that decay parameters with two or more axes, as timm and DeiT do.

  Biases (including those of queries, keys and values, which have an axis of heads
  here), vectors such as the scales of norms, and parameters that match a pattern in
  `exempt` do not decay: `spec(optim.decay_weights, exempt=['cls', 'pos_embedding'])`.
  """

  def rules(params: Tree) -> Tree:
    kept = first_matches(params, exempt)

    def factor(keys: Sequence[jax.tree_util.KeyEntry], x: jax.Array, own: int) -> float:
      path = path_of(keys)
      exempted = own < len(exempt) or path.rpartition('/')[-1] == 'bias'
      return float(x.ndim - is_stacked(path) >= 2 and not exempted)

    return jax.tree_util.tree_map_with_path(factor, params, kept)

  return rules


def layer_decay(decay: float, depth: int) -> list[tuple[str, float]]:
  """Returns rate rules of layer-wise decay (arXiv:2111.06377).

  The factor is 1 for the head, decay^(L-i) for block i and decay^(L+1) for the
  embedding, where L is `depth`. The rules are for the unrolled layout (`block_0`, ...).
  """
  embed = '(embed/.*|cls|pos_embedding)'
  rules = [(f'encoder/block_{i}/.*', decay ** (depth - i)) for i in range(depth)]
  return [(embed, decay ** (depth + 1)), *rules]
