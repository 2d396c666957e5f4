"""Multiplications and additions of a program, counted from its jaxpr.

Matrix products and convolutions alone, two operations each; loop bodies count once per
trip, and what is computed again in a backward pass counts not at all (the compiler's
own count sees a scanned body once, and recomputation as work).
"""

import collections
import math
from collections.abc import Callable, Iterator
from typing import Any

import jax
from jax.extend import core


def count(fn: Callable[..., Any], *args: Any) -> int:
  """Operations of one call of `fn` on these (abstract) arguments."""
  return total(jax.make_jaxpr(fn)(*args))


def total(jaxpr: core.ClosedJaxpr) -> int:
  """Operations of a traced program."""
  return sum(by_scope(jaxpr).values())


def by_scope(jaxpr: core.ClosedJaxpr) -> collections.Counter[str]:
  """Operations by named scope, such as 'ViT/encoder/block_0/mlp/fc1'."""
  result = collections.Counter()
  for scope, operations in _operations(jaxpr.jaxpr, '', 1):
    result[scope] += operations
  return result


def _operations(jaxpr: core.Jaxpr, scope: str, times: int) -> Iterator[tuple[str, int]]:
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
      # The zeros that a strided gradient is spread with are no work.
      yield inner, 2 * times * size // math.prod(params['lhs_dilation'])
    elif name == 'cond':
      branches = [list(_operations(b.jaxpr, inner, times)) for b in params['branches']]
      yield from max(branches, key=lambda found: sum(n for _, n in found))
    else:
      trips = params['length'] if name == 'scan' else 1
      for value in params.values():
        if isinstance(value, core.ClosedJaxpr):
          yield from _operations(value.jaxpr, inner, times * trips)
        elif isinstance(value, core.Jaxpr):
          yield from _operations(value, inner, times * trips)
