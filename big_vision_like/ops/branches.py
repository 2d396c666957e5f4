"""Conditionals for work done at some steps only, such as lazy regularization."""

import re
from collections.abc import Callable
from typing import Any

import jax

SCOPE = 'every_{}_steps'


def every(
  steps: int,
  step: jax.Array,
  then: Callable[..., Any],
  otherwise: Callable[..., Any],
  *operands: Any,
) -> Any:
  """Returns `then(*operands)` where `steps` divides `step`, else `otherwise(...)`.

  Both return the same shapes. Only one of them runs, and operation counts (`flops`)
  weight each by how often it runs.
  """
  with jax.named_scope(SCOPE.format(steps)):
    return jax.lax.cond(step % steps == 0, then, otherwise, *operands)


def steps_of(name_stack: str) -> int | None:
  """Returns `steps` of a conditional made by `every`, from its scope, or None."""
  # The scopes of derivatives are in parentheses: 'transpose(jvp(every_16_steps))'.
  found = re.search(SCOPE.format(r'(\d+)') + r'\)*$', name_stack)
  return int(found[1]) if found else None
