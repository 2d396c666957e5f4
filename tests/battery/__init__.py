"""Model cases of the battery: `CASES` of each module here, one module for each family.

A module may also declare `CANCELLED`: regular expressions of parameters that no output
of the family depends on, with the reason in a comment. Their gradients are zero.
"""

import functools
import importlib
import pkgutil
import re
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import numpy as np


class Case(NamedTuple):
  """A model, example inputs, and the names of the outputs that a loss would use.

  The first axis of all inputs is the batch. The battery does not run a case without
  outputs; it only compares its parameter tree. `deviations` are pairs of a regular
  expression of variables ('params/...') and the deviation with which they are drawn,
  0.2 by default. `cases` fills in the module and its `CANCELLED`.
  """

  model: nn.Module
  inputs: tuple[np.ndarray, ...]
  outputs: tuple[str, ...] = ('logits',)
  deviations: tuple[tuple[str, float], ...] = ()
  module: str = ''
  cancelled: tuple[str, ...] = ()


def images(*shape: int) -> np.ndarray:
  """Returns random images (B, H, W, C) between -1 and 1."""
  return np.random.default_rng(shape).uniform(-1, 1, shape).astype(np.float32)


def tokens(*shape: int, vocab_size: int) -> np.ndarray:
  """Returns random ids (B, T), none of them 0."""
  return np.random.default_rng(shape).integers(1, vocab_size, shape, np.int32)


def variables(
  model: nn.Module,
  *inputs: Any,
  deviations: tuple[tuple[str, float], ...] = (),
  **options: Any,
) -> dict:
  """Returns random variables, away from special initial values; compiles nothing."""
  rng = np.random.default_rng(2)

  def drawn(path: tuple, x: jax.ShapeDtypeStruct) -> jax.Array:
    name = '/'.join(key.key for key in path)
    mean = 1.0 if path[-1].key in ('scale', 'var') else 0.0
    found = (own for pattern, own in deviations if re.fullmatch(pattern, name))
    drawn = rng.normal(mean, next(found, 0.2), x.shape)
    return jax.device_put(drawn.astype(x.dtype))

  init = functools.partial(model.init, **options)
  return jax.tree.map_with_path(drawn, jax.eval_shape(init, jax.random.key(0), *inputs))


def cases() -> dict[str, Case]:
  """Returns the cases of all families by name."""
  found = {}
  for _, name, _ in pkgutil.iter_modules(__path__, f'{__name__}.'):
    module = importlib.import_module(name)
    assert not found.keys() & module.CASES.keys(), name
    own = dict(
      module=name.rpartition('.')[-1], cancelled=getattr(module, 'CANCELLED', ())
    )
    found |= {key: case._replace(**own) for key, case in module.CASES.items()}
  return found
