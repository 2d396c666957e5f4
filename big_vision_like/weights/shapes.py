"""Comparison of the shapes of weights with those that a model declares."""

from collections.abc import Mapping
from typing import Any

import jax

from big_vision_like.errors import UserError, listed
from big_vision_like.weights import tree


def check(
  model: Any, inputs: tuple[Any, ...], params: Mapping[str, Any], source: str
) -> None:
  """Raises a `UserError` that lists parameters whose shapes the model does not have.

  `model` is a Linen module for inputs with these shapes, whose arguments were derived
  from some of the parameters.
  """
  variables = jax.eval_shape(model.init, jax.random.key(0), *inputs)
  want, have = tree.flatten(variables['params']), tree.flatten(params)
  tree.check_names(source, have.keys() - want.keys(), want.keys() - have.keys())
  wrong = [
    f'{name} {have[name].shape} is not {want[name].shape}'
    for name in want
    if have[name].shape != want[name].shape
  ]
  if wrong:
    raise UserError(f'{source}: shapes that do not fit: {listed(wrong)}')
