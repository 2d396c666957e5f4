"""Several tasks that share parameters; each step trains one of them."""

import dataclasses
import functools
import re
from collections.abc import Mapping, Sequence
from typing import Any

import jax
from flax import traverse_util

from big_vision_like import optim
from big_vision_like.errors import UserError
from big_vision_like.ops.images import Normalization
from big_vision_like.tasks import task
from big_vision_like.tasks.task import Arrays, GradientTask, Network, Rules, State

SHARED = 'shared'


@dataclasses.dataclass(frozen=True, kw_only=True)
class MultiTask(task.Task):
  """Training of several tasks, whose parameters of equal name are shared.

  A batch {name: batch} belongs to one task (`alternating.Alternating` returns such
  batches), and the step uses that task's loss and augmentation. Variables whose path
  matches a pattern in `own`, such as the head's, are separate for each task. All other
  variables are shared and must have the same shape in each task that has them.

  `state.params` is {'shared': ..., task name: own parameters}. One optimizer and one
  average (`ema`) cover all parameters, so the tasks' own must be None. Tools and
  evaluators refer to a task's networks and predictions as 'NAME.network' and
  'NAME.predict'; the config refers to its frozen networks as 'NAME.teacher'.
  """

  tasks: Mapping[str, GradientTask]
  optimizer: optim.Optimizer
  own: Sequence[str] = ('head/.*',)
  ema: optim.Ema | None = None

  def __post_init__(self) -> None:
    for name, part in self.tasks.items():
      if name == SHARED or '.' in name or '/' in name:
        raise UserError(f'tasks: {name!r} cannot name a task')
      if part.optimizer is not None or part.ema is not None:
        raise UserError(
          f'tasks.{name}: set optimizer=None and no ema; the MultiTask has an optimizer'
          ' and ema for all parameters'
        )
    if not self.tasks:
      raise UserError('a MultiTask needs tasks')

  def init(self, key: jax.Array, batch: Mapping[str, Arrays]) -> State:
    absent = [name for name in self.tasks if name not in batch]
    if absent:
      raise UserError(
        f'task {absent[0]!r} has no data: train_data gives batches of'
        f' {", ".join(batch)}'
      )
    params: dict[str, Any] = {SHARED: {}}
    mutable: dict[str, Any] = {}
    for number, (name, part) in enumerate(self.tasks.items()):
      own_key = jax.random.fold_in(key, number)
      own_params, own_mutable = part.init_variables(own_key, batch[name])
      params = self._added(name, params, own_params)
      for collection, variables in own_mutable.items():
        before = mutable.get(collection, {SHARED: {}})
        mutable[collection] = self._added(name, before, variables)
    frozen = task.frozen_shapes(self, batch)
    return task.first_state(params, mutable, self.optimizer, self.ema, frozen)

  def train_step(
    self, state: State, batch: Mapping[str, Arrays], key: jax.Array
  ) -> tuple[State, Arrays]:
    name = self._only(batch)
    part = self.tasks[name]
    prepared = self.prepare(batch, key, state.frozen)[name]

    def loss(params: Any, mutable: Any, *rest: Any) -> tuple[jax.Array, Any]:
      own = {c: self._joined(name, variables) for c, variables in mutable.items()}
      value, (after, scalars) = part.loss(self._joined(name, params), own, *rest)
      after = {c: self._updated(name, mutable[c], x) for c, x in after.items()}
      return value, (after, scalars)

    step = functools.partial(task.optimized_step, self.optimizer, self.ema)
    state, scalars = step(loss, state, prepared, key, part.accumulate)
    general = ('loss', 'gradient_norm', 'rate')
    named = {f'{name}/{k}': v for k, v in scalars.items() if k not in general[1:]}
    return state, {k: scalars[k] for k in general} | named

  def with_first_average(self, state: State) -> State:
    return task.averaged_from(self.ema, state)

  def prepare(
    self, batch: Mapping[str, Arrays], key: jax.Array, frozen: Any = None
  ) -> dict[str, Arrays]:
    return {
      name: self.tasks[name].prepare(part, key, self._frozen_of(name, frozen))
      for name, part in batch.items()
    }

  def networks(self) -> Mapping[str, Network]:
    def named(name: str, network: Network) -> Network:
      return dataclasses.replace(
        network,
        inputs=lambda batch: network.inputs(batch[name]),
        variables=lambda state: network.variables(self.state_of(name, state)),
      )

    return {
      f'{name}.{key}': named(name, network)
      for name, part in self.tasks.items()
      for key, network in part.networks().items()
    }

  def optimizers(self) -> Mapping[str, optim.Optimizer]:
    return {'': self.optimizer}

  @property
  def sharding_rules(self) -> Rules:
    return [
      (f'({SHARED}|{re.escape(name)})/{pattern}', axes)
      for name, part in self.tasks.items()
      for pattern, axes in part.sharding_rules
    ]

  @property
  def images(self) -> Normalization | None:
    """The normalization that all tasks share; None if they differ."""
    found = [part.images for part in self.tasks.values()]
    return found[0] if all(images == found[0] for images in found) else None

  def part(self, name: str) -> GradientTask:
    if name not in self.tasks:
      raise UserError(
        f'there are batches of {name!r}, but the tasks are {", ".join(self.tasks)}'
      )
    return self.tasks[name]

  def check(self, batch: Mapping[str, dict]) -> None:
    for name, own in batch.items():
      self.part(name).check(own)

  def prediction(self, name: str, **arguments: Any) -> task.Prediction:
    """Returns the prediction 'TASK.METHOD', which takes plain batches of that task."""
    which, _, method = name.partition('.')
    if which not in self.tasks or not method:
      known = ', '.join(f'{key}.predict' for key in self.tasks)
      raise UserError(
        f'{name!r} is not a prediction of a MultiTask: use TASK.METHOD, such as {known}'
      )
    predict = self.tasks[which].prediction(method, **arguments)

    def of_task(state: State, batch: Arrays, key: jax.Array) -> Arrays:
      return predict(self.state_of(which, state), batch, key)

    return of_task

  def state_of(self, name: str, state: State) -> State:
    """Returns the state as one task sees it, without optimizer state."""
    return State(
      step=state.step,
      params=self._joined(name, state.params),
      opt_state=None,
      mutable={c: self._joined(name, x) for c, x in state.mutable.items()},
      ema=state.ema and {c: self._joined(name, x) for c, x in state.ema.items()},
      frozen=self._frozen_of(name, state.frozen),
    )

  def _only(self, batch: Mapping[str, Arrays]) -> str:
    if len(batch) != 1:
      raise UserError(
        f'a step takes a batch of one task, not of {", ".join(batch) or "none"}'
      )
    return next(iter(batch))

  def _frozen_of(self, name: str, frozen: Any) -> Any:
    prefix = f'{name}.'
    own = {
      k.removeprefix(prefix): x
      for k, x in (frozen or {}).items()
      if k.startswith(prefix)
    }
    return own or None

  def _split(self, tree: Any) -> tuple[dict[str, Any], dict[str, Any]]:
    """Splits variables into flat shared variables and flat own variables of a task."""
    flat = traverse_util.flatten_dict(tree, sep='/')
    own = {k for k in flat if any(re.fullmatch(p, k) for p in self.own)}
    return {k: x for k, x in flat.items() if k not in own}, {k: flat[k] for k in own}

  def _added(self, name: str, tree: dict[str, Any], new: Any) -> dict[str, Any]:
    """Returns the variables of all tasks with the initial variables of one more."""
    shared, own = self._split(new)
    before = traverse_util.flatten_dict(tree[SHARED], sep='/')
    for path, x in shared.items():
      if path in before and before[path].shape != x.shape:
        raise UserError(
          f'{path} is {list(x.shape)} in task {name!r} and {list(before[path].shape)}'
          ' in a task before it: make them equal, or add a pattern to `own`'
        )
    return tree | {
      SHARED: traverse_util.unflatten_dict(shared | before, sep='/'),
      name: traverse_util.unflatten_dict(own, sep='/'),
    }

  def _joined(self, name: str, tree: Mapping[str, Any]) -> dict[str, Any]:
    """Returns the shared variables and a task's own, under their names in its model."""
    parts = [
      traverse_util.flatten_dict(tree.get(part, {}), sep='/') for part in (SHARED, name)
    ]
    return traverse_util.unflatten_dict(parts[0] | parts[1], sep='/')

  def _updated(self, name: str, tree: Mapping[str, Any], new: Any) -> dict[str, Any]:
    shared, own = self._split(new)
    after = dict(tree) | {SHARED: traverse_util.unflatten_dict(shared, sep='/')}
    return after | ({name: traverse_util.unflatten_dict(own, sep='/')} if own else {})
