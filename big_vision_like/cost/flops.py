"""Multiplications and additions of a program, counted from its jaxpr.

Only matrix products and convolutions count, with two operations per multiply-add. Loop
bodies count once per iteration, and recomputation in a backward pass does not count
(the compiler's own count includes a scanned body once, and recomputation). Branches
that `ops.branches.every` runs at some steps only are weighted by how often they run, so
counts are means over steps; among other branches, the largest counts.
"""

import collections
import math
import re
from collections.abc import Callable, Iterator
from typing import Any

import jax
from jax.extend import core

from big_vision_like.ops import branches


def count(fn: Callable[..., Any], *args: Any) -> int:
  """Counts the operations of one call of `fn` on these (abstract) arguments."""
  return total(jax.make_jaxpr(fn)(*args))


def total(jaxpr: core.ClosedJaxpr) -> int:
  """Counts the operations of a traced program."""
  return round(sum(by_scope(jaxpr).values()))


def by_scope(jaxpr: core.ClosedJaxpr) -> dict[str, float]:
  """Counts operations by named scope, such as 'ViT/encoder/block_0/mlp/fc1'.

  Methods of modules, which Flax names 'ViT.classified', are not scopes.
  """
  result: dict[str, float] = collections.defaultdict(int)
  for scope, operations in _operations(jaxpr.jaxpr, '', 1):
    parts = (p for p in scope.split('/') if not re.fullmatch(r'\w+\.\w+', p))
    result['/'.join(parts)] += operations
  return result


def _operations(
  jaxpr: core.Jaxpr, scope: str, times: float
) -> Iterator[tuple[str, float]]:
  for eqn in jaxpr.eqns:
    inner = '/'.join(s for s in (scope, str(eqn.source_info.name_stack)) if s)
    name, params = eqn.primitive.name, eqn.params
    if 'rematted_computation' in inner:
      continue
    if name == 'dot_general':
      (contracted, _), _ = params['dimension_numbers']
      size = math.prod(eqn.invars[0].aval.shape[i] for i in contracted)
      yield inner, 2 * times * size * eqn.outvars[0].aval.size
    elif name == 'conv_general_dilated':
      kernel = eqn.invars[1].aval
      features = kernel.shape[params['dimension_numbers'].rhs_spec[0]]
      size = eqn.outvars[0].aval.size * kernel.size // features
      # The zeros that dilate a strided gradient do not count as work.
      yield inner, times * (2 * size // math.prod(params['lhs_dilation']))
    elif name == 'cond':
      jaxprs = [branch.jaxpr for branch in params['branches']]
      steps = branches.steps_of(str(eqn.source_info.name_stack))
      if steps is not None:
        shares = 1 - 1 / steps, 1 / steps  # of the false branch and the true one
        for branch, share in zip(jaxprs, shares, strict=True):
          yield from _operations(branch, inner, times * share)
      else:
        each = [list(_operations(branch, inner, times)) for branch in jaxprs]
        yield from max(each, key=lambda found: sum(n for _, n in found))
    else:
      trips = params['length'] if name == 'scan' else 1
      for value in params.values():
        if isinstance(value, core.ClosedJaxpr):
          yield from _operations(value.jaxpr, inner, times * trips)
        elif isinstance(value, core.Jaxpr):
          yield from _operations(value, inner, times * trips)
