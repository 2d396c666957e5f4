"""What is asked of a model: how a run starts, makes one step, predicts."""

import abc
import dataclasses
from collections.abc import Sequence
from typing import Any

import flax.linen as nn
import flax.struct
import jax
import jax.numpy as jnp
import optax

from big_vision_like import optim

Arrays = dict[str, jax.Array]


@flax.struct.dataclass
class State:
  """All that changes while training. `frozen` (teachers) is not checkpointed."""

  step: jax.Array
  params: Any
  opt_state: Any
  mutable: Any = flax.struct.field(default_factory=dict)
  ema: Any = None
  frozen: Any = None

  @property
  def variables(self) -> Any:
    """What predictions are made with: the running average where there is one."""
    params = self.params if self.ema is None else self.ema
    return {'params': params, **self.mutable}


class Task(abc.ABC):
  """Three pure functions; everything else about training lives in the loop."""

  @abc.abstractmethod
  def init(self, key: jax.Array, batch: Arrays) -> State:
    """Returns the state before the first step; only the shapes of `batch` count."""

  @abc.abstractmethod
  def train_step(
    self, state: State, batch: Arrays, key: jax.Array
  ) -> tuple[State, Arrays]:
    """Returns the next state and a dict of scalars, `loss` among them."""

  @abc.abstractmethod
  def predict(self, state: State, batch: Arrays, key: jax.Array) -> Arrays:
    """Returns a dict of named arrays, one row per example."""

  @property
  def sharding_rules(self) -> Sequence[tuple[str, Sequence[Any]]]:
    """Default rules (path regex, axes of the mesh) for the parameters; see `mesh`."""
    return ()

  def check(self, batch: dict) -> None:  # noqa: B027 - a hook, most tasks need none
    """Raises `UserError` for a host batch (numpy) that cannot be learnt from."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class GradientTask(Task):
  """A task that takes one gradient of one loss; final classes say which.

  `ema_decay` keeps a running average of the parameters, which `predict` then uses;
  `accumulate` splits each batch into that many parts, one after the other.
  """

  model: nn.Module
  optimizer: optim.Optimizer
  ema_decay: float | None = None
  accumulate: int = 1

  @property
  def sharding_rules(self) -> Sequence[tuple[str, Sequence[Any]]]:
    return getattr(self.model, 'sharding_rules', ())

  @abc.abstractmethod
  def model_inputs(self, batch: Arrays) -> tuple[jax.Array, ...]:
    """The arrays that the model is called with."""

  @abc.abstractmethod
  def loss(
    self, params: Any, mutable: Any, batch: Arrays, key: jax.Array
  ) -> tuple[jax.Array, tuple[Any, Arrays]]:
    """Returns the mean loss, and the next mutable variables with more scalars.

    A scalar `weight` (such as the number of tokens) says how much the mean counts
    among those of other parts of the batch, where there are several.
    """

  def trained(
    self, params: Any, mutable: Any, inputs: Sequence[jax.Array], **rngs: jax.Array
  ) -> tuple[Arrays, Any]:
    """The model's outputs while it learns, and the next mutable variables."""
    return self.model.apply(
      {'params': params, **mutable},
      *inputs,
      train=True,
      rngs=rngs,
      mutable=list(mutable),
    )

  def init(self, key: jax.Array, batch: Arrays) -> State:
    variables = self.model.init(key, *self.model_inputs(batch))
    params = variables.pop('params')
    variables.pop('intermediates', None)
    return State(
      step=jnp.zeros((), jnp.int32),
      params=params,
      opt_state=self.optimizer.init(params),
      mutable=variables,
      ema=None if self.ema_decay is None else jax.tree.map(jnp.copy, params),
    )

  def train_step(
    self, state: State, batch: Arrays, key: jax.Array
  ) -> tuple[State, Arrays]:
    grads, mutable, scalars = self._gradients(state, batch, key)
    scalars.pop('weight', None)  # which only parts of a batch need
    updates, opt_state = self.optimizer.update(grads, state.opt_state, state.params)
    params = optax.apply_updates(state.params, updates)
    ema = state.ema
    if ema is not None:
      ema = optim.ema(ema, params, self.ema_decay, state.step)
    scalars['gradient_norm'] = optax.tree.norm(grads)
    scalars['rate'] = self.optimizer.rate_at(state.step)
    state = state.replace(
      step=state.step + 1,
      params=params,
      opt_state=opt_state,
      mutable=mutable,
      ema=ema,
    )
    return state, scalars

  def _gradients(
    self, state: State, batch: Arrays, key: jax.Array
  ) -> tuple[Any, Any, Arrays]:
    def loss(params: Any, *rest: Any) -> tuple[jax.Array, tuple[Any, Arrays]]:
      return self.loss(self.optimizer.freeze(params), *rest)

    gradient = jax.value_and_grad(loss, has_aux=True)

    def part(mutable: Any, batch: Arrays, key: jax.Array) -> tuple[Any, Any, Arrays]:
      (loss, (mutable, scalars)), grads = gradient(state.params, mutable, batch, key)
      return mutable, (grads, {'loss': loss, **scalars})

    if self.accumulate == 1:
      mutable, (grads, scalars) = part(state.mutable, batch, key)
      return grads, mutable, scalars

    def split(x: jax.Array) -> jax.Array:
      if x.shape[0] % self.accumulate:
        raise ValueError(
          f'a batch of {x.shape[0]} does not divide into accumulate={self.accumulate}'
        )
      # Strided, so that each part still spreads over all devices.
      return x.reshape(-1, self.accumulate, *x.shape[1:]).swapaxes(0, 1)

    def body(carry: tuple, xs: tuple) -> tuple[tuple, None]:
      mutable, total = carry
      batch, index = xs
      mutable, result = part(mutable, batch, jax.random.fold_in(key, index))
      weight = result[1].get('weight', 1.0)
      added = jax.tree.map(lambda sum, x: sum + weight * x, total, (result, 1.0))
      return (mutable, added), None

    parts = jax.tree.map(split, batch)
    first = jax.tree.map(lambda x: x[0], parts)
    shapes = jax.eval_shape(part, state.mutable, first, key)[1]
    zeros = jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), shapes)
    (mutable, total), _ = jax.lax.scan(
      body, (state.mutable, (zeros, 0.0)), (parts, jnp.arange(self.accumulate))
    )
    total, weight = total
    grads, scalars = jax.tree.map(lambda x: x / weight, total)
    return grads, mutable, scalars
