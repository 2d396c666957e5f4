"""The interface of tasks: the initial state, the training step and predictions.

A task defines the training objective and the predictions. A prediction is any public
method that takes `state`, `batch` and `key` (and keywords of its own) and returns named
arrays with one row per example: `predict`, `generate`, `translate`. Evaluators and
tools select a prediction by name.
"""

import abc
import dataclasses
import functools
import inspect
from collections.abc import Callable, Mapping, Sequence
from typing import Any, ClassVar

import flax.linen as nn
import flax.struct
import jax
import jax.numpy as jnp
import optax

from big_vision_like import optim
from big_vision_like.errors import UserError
from big_vision_like.ops import images, sharding
from big_vision_like.ops.images import Normalization

Arrays = dict[str, jax.Array]
Prediction = Callable[..., Arrays]
# The mean loss, with the next mutable variables and further scalars.
Loss = tuple[jax.Array, tuple[Any, Arrays]]
# Variables of frozen networks, by name.
Frozen = Mapping[str, Any] | None
Rules = Sequence[tuple[str, Sequence[Any]]]


@flax.struct.dataclass
class State:
  """The state of training: all arrays that change, and the frozen networks.

  `ema` is a running average of variables that the task chooses. `frozen` holds the
  variables of networks that are not trained (teachers), by name. They are loaded when a
  run starts or resumes and are not stored in checkpoints.
  """

  step: jax.Array
  params: Any
  opt_state: Any
  mutable: Any = flax.struct.field(default_factory=dict)
  ema: Any = None
  frozen: Any = None

  @property
  def variables(self) -> Any:
    """The variables of a single network for predictions: averages if there are any."""
    return {'params': self.params, **self.mutable, **(self.ema or {})}

  @property
  def trained(self) -> 'State':
    """The state without frozen networks, as stored in checkpoints."""
    return self.replace(frozen=None)


@dataclasses.dataclass(frozen=True)
class Network:
  """A network of a task, for tools that visualize it, load it or count its operations.

  `inputs` maps a batch to the arrays that `module` is called with. `variables` maps a
  state to the network's variables for predictions. `images` is the normalization of
  images before the network, None if it takes no images. A `frozen` network is not
  trained: the config names its weights under `frozen`.
  """

  module: nn.Module
  inputs: Callable[[Arrays], Sequence[jax.Array]]
  variables: Callable[[State], Any]
  images: Normalization | None = None
  frozen: bool = False


class Task(abc.ABC):
  """The base class of tasks, whose methods are pure functions; the loop does the rest.

  `predicts` names the subject of predictions ('classes', 'objects', ...), from which
  tools choose the preprocessing and the report.
  """

  predicts: ClassVar[str] = ''

  @abc.abstractmethod
  def init(self, key: jax.Array, batch: Any) -> State:
    """Returns the state before the first step; only the shapes of `batch` matter.

    Variables of frozen networks have only their shapes here (`frozen_shapes`): their
    values come from the config's `frozen`.
    """

  @abc.abstractmethod
  def train_step(
    self, state: State, batch: Any, key: jax.Array
  ) -> tuple[State, Arrays]:
    """Returns the next state and a dict of scalars, `loss` among them."""

  @abc.abstractmethod
  def networks(self) -> Mapping[str, Network]:
    """Returns the task's networks by name, the most important one first."""

  @abc.abstractmethod
  def optimizers(self) -> Mapping[str, optim.Optimizer]:
    """Returns optimizers by the entry of `state.params` they train; '' means all."""

  @property
  def sharding_rules(self) -> Rules:
    """The default sharding rules (path regex, mesh axes) of parameters; see `mesh`."""
    return ()

  @property
  def num_classes(self) -> int | None:
    """The number of classes that labels may name; None where there are no labels."""
    return None

  @property
  def images(self) -> Normalization | None:
    """The normalization of the first network's images."""
    return next(iter(self.networks().values())).images

  def part(self, name: str) -> 'Task | None':
    """Returns the task of batches with this name; '' is the task itself.

    Returns None for batches without known labels.
    """
    if name:
      raise UserError(f'{type(self).__name__} has no parts, so none called {name!r}')
    return self

  def prepare(self, batch: Any, key: jax.Array, frozen: Any = None) -> Any:
    """Returns the batch as a training step's networks see it; unchanged by default."""
    del key, frozen
    return batch

  def with_first_average(self, state: State) -> State:
    """Returns the state with averages initialized to its variables, if it has any."""
    return state

  def check(self, batch: Any) -> None:  # noqa: B027 - a hook, most tasks need none
    """Raises a `UserError` for a host batch (NumPy) that cannot be trained on."""

  def prediction(self, name: str, **arguments: Any) -> Prediction:
    """Returns a prediction method by its name, with these keywords filled in."""
    known = predictions(type(self))
    if name not in known:
      raise UserError(
        f'{type(self).__name__} has no prediction {name!r}; it has {", ".join(known)}'
      )
    method = getattr(self, name)
    takes = list(inspect.signature(method).parameters)[3:]
    for argument in arguments:
      if argument not in takes:
        listed = ', '.join(takes) or 'nothing'
        raise UserError(
          f'{type(self).__name__}.{name} takes no argument {argument!r}; besides state,'
          f' batch and key it takes {listed}'
        )
    return functools.partial(method, **arguments) if arguments else method


def predictions(kind: type[Task]) -> list[str]:
  """Returns the names of a task's prediction methods, in alphabetical order."""
  return [
    name
    for name, method in inspect.getmembers(kind, inspect.isfunction)
    if not name.startswith('_')
    and name != 'train_step'
    and list(inspect.signature(method).parameters)[1:4] == ['state', 'batch', 'key']
  ]


def frozen_shapes(task: Task, batch: Any) -> dict[str, Any] | None:
  """Returns zeros with the shapes of frozen networks' variables, by network name."""
  frozen = {
    name: zeros_of(jax.eval_shape(network.module.init, jax.random.key(0), *inputs))
    for name, network in task.networks().items()
    if network.frozen
    for inputs in [network.inputs(batch)]
  }
  return frozen or None


def zeros_of(shapes: Any) -> Any:
  """Returns arrays of zeros for a tree of shapes and dtypes."""
  return jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), shapes)


@dataclasses.dataclass(frozen=True, kw_only=True)
class GradientTask(Task):
  """A task trained by one gradient of one loss, which subclasses define.

  `ema` keeps a running average, which predictions then use. `accumulate` computes the
  gradient sequentially in this many parts of the batch. `optimizer` is None if the task
  is part of a `MultiTask`.
  """

  inputs: ClassVar[Sequence[str]] = ('image',)

  model: nn.Module
  optimizer: optim.Optimizer | None
  ema: optim.Ema | None = None
  accumulate: int = 1

  def model_inputs(self, batch: Arrays) -> tuple[jax.Array, ...]:
    """Returns the model's input arrays, for raw and for prepared batches."""
    return tuple(images.normalize(batch[name], *self.images) for name in self.inputs)

  @abc.abstractmethod
  def loss(self, params: Any, mutable: Any, batch: Arrays, key: jax.Array) -> Loss:
    """Returns the mean loss of a prepared batch, or of a part of it.

    It also returns the next mutable variables and further scalars. A scalar `weight`
    (such as the number of tokens) is the weight of this mean among the parts.
    """

  def prepare(self, batch: Arrays, key: jax.Array, frozen: Frozen = None) -> Arrays:
    """Returns the batch as `loss` sees it: normalized, augmented, mixed, counted.

    It is called once per step with the whole batch, and no gradient flows through it.
    Arrays have one row per example; scalars are passed to every part of the batch.
    `frozen` holds the variables of the frozen networks, by name. By default it
    normalizes images.
    """
    if self.images is None:
      return batch
    return batch | dict(zip(self.inputs, self.model_inputs(batch), strict=True))

  def networks(self) -> Mapping[str, Network]:
    return {
      'model': Network(
        self.model, self.model_inputs, lambda state: state.variables, self.images
      )
    }

  @property
  def num_classes(self) -> int | None:
    return getattr(self.model, 'num_classes', None)

  @property
  def images(self) -> Normalization | None:
    return None

  def optimizers(self) -> Mapping[str, optim.Optimizer]:
    return {'': self.optimizer}

  @property
  def sharding_rules(self) -> Rules:
    return getattr(self.model, 'sharding_rules', ())

  def trained(
    self, params: Any, mutable: Any, inputs: Sequence[jax.Array], **rngs: jax.Array
  ) -> tuple[Arrays, Any]:
    """Returns the model's training outputs and the next mutable variables."""
    return self.model.apply(
      {'params': params, **mutable},
      *inputs,
      train=True,
      rngs=rngs,
      mutable=list(mutable),
    )

  def init_variables(self, key: jax.Array, batch: Arrays) -> tuple[Any, Any]:
    """Returns randomly initialized parameters and the model's other variables."""
    variables = self.model.init(key, *self.model_inputs(batch))
    params = variables.pop('params')
    variables.pop('intermediates', None)
    return params, variables

  def init(self, key: jax.Array, batch: Arrays) -> State:
    params, mutable = self.init_variables(key, batch)
    return first_state(
      params, mutable, self.optimizer, self.ema, frozen_shapes(self, batch)
    )

  def with_first_average(self, state: State) -> State:
    return averaged_from(self.ema, state)

  def train_step(
    self, state: State, batch: Arrays, key: jax.Array
  ) -> tuple[State, Arrays]:
    prepared = self.prepare(batch, key, state.frozen)
    step = functools.partial(optimized_step, self.optimizer, self.ema)
    return step(self.loss, state, prepared, key, self.accumulate)


def first_state(
  params: Any,
  mutable: Any,
  optimizer: optim.Optimizer,
  ema: optim.Ema | None,
  frozen: Any = None,
) -> State:
  """Returns the state of step 0 with these variables."""
  state = State(
    step=jnp.zeros((), jnp.int32),
    params=params,
    opt_state=optimizer.init(params),
    mutable=mutable,
    frozen=frozen,
  )
  return averaged_from(ema, state)


def averaged_from(ema: optim.Ema | None, state: State) -> State:
  """Returns the state with an average initialized to its variables."""
  if ema is None:
    return state
  return state.replace(ema=ema.init({'params': state.params, **state.mutable}))


def optimized_step(
  optimizer: optim.Optimizer,
  ema: optim.Ema | None,
  loss: Callable[..., Loss],
  state: State,
  prepared: Arrays,
  key: jax.Array,
  accumulate: int = 1,
) -> tuple[State, Arrays]:
  """Returns the state after one gradient step on `loss`, and scalars."""
  batch_size = sharding.num_rows(prepared)

  def trainable(params: Any, *rest: Any) -> Loss:
    return loss(optimizer.freeze(params), *rest)

  grads, mutable, scalars = gradients(trainable, state, prepared, key, accumulate)
  scalars.pop('weight', None)  # needed only to combine the parts of a batch
  updates, opt_state = optimizer.update(grads, state.opt_state, state.params)
  params = optax.apply_updates(state.params, updates)
  average = state.ema
  if average is not None:
    variables = {'params': params, **mutable}
    average = ema.update(average, variables, state.step, batch_size)
  if optimizer.l2:
    scalars['l2'] = optimizer.penalty(state.params)
    scalars['loss'] = scalars['loss'] + scalars['l2']
  scalars['gradient_norm'] = optax.tree.norm(grads)
  scalars['rate'] = optimizer.rate_at(state.step)
  state = state.replace(
    step=state.step + 1,
    params=params,
    opt_state=opt_state,
    mutable=mutable,
    ema=average,
  )
  return state, scalars


def gradients(
  loss: Callable[..., Loss],
  state: State,
  prepared: Arrays,
  key: jax.Array,
  accumulate: int = 1,
) -> tuple[Any, Any, Arrays]:
  """Returns gradients, mutable variables and scalars of a batch, computed in parts.

  Part i consists of examples i, i + accumulate, ... and gets the key `fold_in(key, i)`.
  """
  gradient = jax.value_and_grad(loss, has_aux=True)

  def part(mutable: Any, batch: Arrays, key: jax.Array) -> tuple[Any, Any, Arrays]:
    (value, (mutable, scalars)), grads = gradient(state.params, mutable, batch, key)
    return mutable, (grads, {'loss': value, **scalars})

  if accumulate == 1:
    mutable, (grads, scalars) = part(state.mutable, prepared, key)
    return grads, mutable, scalars

  def split(x: jax.Array) -> jax.Array:
    if not x.ndim:
      return jnp.broadcast_to(x, (accumulate,))
    if accumulate < 1 or x.shape[0] % accumulate:
      raise UserError(
        f'a batch of {x.shape[0]} does not divide into accumulate={accumulate} parts:'
        ' set task.accumulate to a divisor of the batch size, or train_data.batch_size'
        ' to a multiple of it'
      )
    # Strided, so that each part is still sharded over all devices.
    return x.reshape(-1, accumulate, *x.shape[1:]).swapaxes(0, 1)

  def body(carry: tuple, xs: tuple) -> tuple[tuple, None]:
    mutable, total = carry
    batch, index = xs
    mutable, result = part(mutable, batch, jax.random.fold_in(key, index))
    weight = result[1].get('weight', 1.0)
    added = jax.tree.map(lambda sum, x: sum + weight * x, total, (result, 1.0))
    return (mutable, added), None

  parts = jax.tree.map(split, prepared)
  first = jax.tree.map(lambda x: x[0], parts)
  shapes = jax.eval_shape(part, state.mutable, first, key)[1]
  (mutable, total), _ = jax.lax.scan(
    body,
    (state.mutable, (zeros_of(shapes), 0.0)),
    (parts, jnp.arange(accumulate)),
  )
  total, weight = total
  grads, scalars = jax.tree.map(lambda x: x / weight, total)
  return grads, mutable, scalars
