"""Common parts of golden checks: tolerances, and running a model on a file."""

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from big_vision_like.errors import UserError
from big_vision_like.ops import losses
from big_vision_like.weights import tree


class Tolerance(NamedTuple):
  """The largest allowed error; `relative` refers to the golden array's magnitude."""

  absolute: float = 0.0
  relative: float = 0.0


EXACT = Tolerance()
LOGITS = Tolerance(absolute=2e-5)
LOSS = Tolerance(relative=1e-5)
LAYER = Tolerance(relative=1e-4)
FLOAT = Tolerance(absolute=1e-6)
TOKENS = Tolerance(absolute=2e-5)
NUMBER = Tolerance(absolute=1e-5)
# In float32, torch's own interpolation differs by 2e-6 from its result in float64.
CUBIC = Tolerance(absolute=1e-5)
# For small l2, the published float32 solver itself varies by 1e-3 between machines.
SCORES = Tolerance(relative=1e-3)
Results = dict[str, tuple[Any, Tolerance]]


@dataclasses.dataclass(frozen=True)
class Check:
  """A function that computes our values for golden files of one kind.

  The "reference" in a file's description must contain `reference`. Descriptions without
  one must have all `fields`; of several such checks, the one with the most fields is
  used. The function gets the description and the arrays. For files without arrays
  (`alone`) it gets the description, and returns the golden values before ours.
  """

  function: Callable
  reference: str = ''
  fields: tuple[str, ...] = ()
  alone: bool = False

  def fits(self, description: Mapping[str, Any], alone: bool) -> bool:
    """Returns whether the check is for files of this description."""
    if 'reference' in description:
      fits = not self.fields and self.reference in description['reference']
    else:
      fits = bool(self.fields) and description.keys() >= set(self.fields)
    return fits and alone == self.alone


class Fields(dict):
  """A dict whose error for a missing key names it."""

  def __missing__(self, name: str):
    raise UserError(f'it lacks {name!r}')


def select(arrays: Mapping[str, np.ndarray], prefix: str) -> dict[str, np.ndarray]:
  """Returns the arrays whose names start with `prefix`, which is removed."""
  return {
    name.removeprefix(prefix): array
    for name, array in arrays.items()
    if name.startswith(prefix)
  }


def two(size: int | list[int]) -> tuple[int, int]:
  """Returns a size that is given once, or for both axes, as two numbers."""
  return (size, size) if isinstance(size, int) else tuple(size)


def float_name() -> str:
  """Returns the dtype of this check: float64 under `jax.enable_x64`, else float32."""
  return jnp.result_type(float).name


def widened(params: tree.Tree) -> tree.Tree:
  """Converts parameters, which are read as float32, to the dtype of this check."""
  return jax.tree.map(lambda array: np.asarray(array, float_name()), params)


def choice(config: Fields, name: str, ours: Mapping[str, str]) -> str:
  """Returns our name for a value of the config; `UserError` if there is none."""
  if config[name] not in ours:
    raise UserError(f'{name} {config[name]!r} is not one of {", ".join(ours)}')
  return ours[config[name]]


def dense(params: Mapping[str, np.ndarray], x: jax.Array) -> jax.Array:
  """Applies a linear layer to the last axis."""
  y = jnp.einsum('...i,io->...o', x, params['kernel'])
  return y + jnp.broadcast_to(params['bias'], y.shape)


def captured(
  model: nn.Module, variables: tree.Tree, *inputs: Any, **options: Any
) -> tuple[dict[str, jax.Array], dict[str, Any]]:
  """Returns the model's outputs, and the outputs of its submodules by path."""
  outputs, state = model.apply(
    variables,
    *inputs,
    **options,
    capture_intermediates=True,
    mutable=['intermediates'],
  )
  flat = tree.flatten(state['intermediates'])
  return outputs, {path.removesuffix('/__call__'): x[0] for path, x in flat.items()}


def fit_parameters(model: nn.Module, params: tree.Tree, *inputs: np.ndarray) -> None:
  """Raises unless the parameters match the model in names and shapes."""
  variables = jax.eval_shape(model.init, jax.random.key(0), *inputs)
  want, have = tree.flatten(variables['params']), tree.flatten(params)
  tree.check_names(
    'its parameters do not fit its config',
    have.keys() - want.keys(),
    want.keys() - have.keys(),
  )
  for name, array in have.items():
    if array.shape != want[name].shape:
      raise UserError(
        f'{name} has shape {array.shape}, its config requires {want[name].shape}'
      )


def classified(
  description: Fields, arrays: Fields, model: nn.Module, params: tree.Tree
) -> tuple[dict[str, jax.Array], dict[str, jax.Array], Results, tree.Tree]:
  """Returns outputs, outputs of submodules by path, losses as results, and gradients.

  The losses are those in the file; the gradients belong to the last one.
  """
  image_BHWC = arrays['input/image']
  fit_parameters(model, params, image_BHWC)
  functions = {
    'softmax_xent': losses.softmax_cross_entropy,
    'sigmoid_xent': losses.sigmoid_cross_entropy,
  }
  names = [name for name in functions if f'output/loss_{name}' in arrays]
  if 'loss' in description:
    named = choice(description, 'loss', {name: name for name in functions})
    names = [name for name in names if name != named] + [named]
  if not names and select(arrays, 'grad/'):
    raise UserError('it has gradients but does not name their loss')
  labels_BC = arrays.get('input/labels_onehot')
  if names and labels_BC is None:
    labels_BC = arrays['input/labels']
  if names and labels_BC.ndim == 1:
    labels_BC = jax.nn.one_hot(labels_BC, model.num_classes)

  def last_loss(params: tree.Tree) -> tuple[jax.Array, tuple]:
    outputs, modules = captured(model, {'params': params}, image_BHWC)
    values = {n: functions[n](outputs['logits'], labels_BC).mean() for n in names}
    loss = values[names[-1]] if names else jnp.zeros(())
    return loss, (outputs, modules, values)

  _, (outputs, modules, values), gradients = loss_and_gradients(last_loss, params)
  results = {f'output/loss_{name}': (value, LOSS) for name, value in values.items()}
  return outputs, modules, results, gradients


def loss_and_gradients(
  loss: Callable[[tree.Tree], tuple[jax.Array, Any]], params: tree.Tree
) -> tuple[jax.Array, Any, tree.Tree]:
  """Returns the loss, further outputs of `loss`, and the gradients of parameters."""
  (value, others), gradients = jax.jit(jax.value_and_grad(loss, has_aux=True))(params)
  return value, others, jax.device_get(gradients)


def gradient_results(
  gradients: tree.Tree,
  rename: Callable[[tree.Tree], dict[str, np.ndarray]],
  tolerance: Tolerance | None = None,
) -> Results:
  """Returns gradients under the reference's names; default tolerance as of layers."""
  named = rename(gradients)
  if tolerance is None:
    # Some gradients are zero except for rounding: key biases do not change softmax.
    largest = max(float(np.abs(array).max()) for array in named.values())
    tolerance = LAYER._replace(absolute=1e-7 * largest)
  return {f'grad/{name}': (array, tolerance) for name, array in named.items()}
