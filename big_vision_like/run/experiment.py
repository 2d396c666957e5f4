"""Experiments built from configs: task, input, evaluators, mesh and compiled step."""

import dataclasses
import functools
import pathlib
import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import ml_collections as mlc
import numpy as np

from big_vision_like import errors, spec
from big_vision_like.data.input import base, pipeline
from big_vision_like.devices import mesh as meshes
from big_vision_like.errors import UserError
from big_vision_like.evals.evaluator import Evaluator
from big_vision_like.ops import sharding
from big_vision_like.run import checkpoint, init_from, labels
from big_vision_like.tasks import task as task_contract
from big_vision_like.tasks.task import State, Task


@dataclasses.dataclass(frozen=True, kw_only=True)
class Settings:
  """The fields of a config. Durations are steps, `epochs(n)` or `examples(n)`.

  `mesh` gives the sizes of the axes data, fsdp and tensor. `sharding` is a list of
  ordered rules (path regex, axes). `init_from` is an `init_from.InitFrom` or a list of
  them. `frozen` gives the weights of networks that are not trained, by name.
  `keep_best` names an evaluation scalar such as 'val/top1'; its evaluator knows whether
  more or less is better. `on_failed_evaluation` is 'stop' or 'continue'. `writers` are
  `run.writers.Writer`s by name. Copies of the state are compared every
  `check_replicas_every` steps and before each save (0: never). `name` is the name of
  the config file, as `spec.name_of` gives it.
  """

  task: Any
  train_data: Any
  total_steps: Any
  evals: Mapping[str, Any] = dataclasses.field(default_factory=dict)
  seed: int = 0
  init_from: Any = None
  frozen: Mapping[str, Any] = dataclasses.field(default_factory=dict)
  mesh: Mapping[str, int] = dataclasses.field(default_factory=dict)
  sharding: Sequence[Any] = ()
  log_every: int = 50
  checkpoint_every: Any = 1000
  check_replicas_every: int = 1000
  keep_last: int = 2
  keep_every: int | None = None
  keep_best: str | None = None
  on_failed_evaluation: str = 'stop'
  writers: Mapping[str, Any] = dataclasses.field(default_factory=dict)
  name: str = ''

  def __post_init__(self) -> None:
    errors.check_one_of(
      ('stop', 'continue'), on_failed_evaluation=self.on_failed_evaluation
    )
    for name in ('evals', 'frozen', 'mesh', 'writers'):
      value = getattr(self, name)
      if value is not None and not isinstance(value, (Mapping, mlc.ConfigDict)):
        kind = errors.type_text(type(value))
        raise UserError(f'config.{name} is {kind}, not a group of fields')


class Start(NamedTuple):
  """The start of a run; the input's `position` is None before the first step."""

  state: State
  position: Mapping[str, Any] | None = None
  seconds: float = 0.0


@dataclasses.dataclass(frozen=True)
class Experiment:
  """The objects that a config builds; `data` is None if nothing is trained.

  Everything except `example`, `init`, `first_state` and calls of the step also works
  for devices that do not exist, as in a plan.
  """

  settings: Settings
  task: Task
  evaluators: Mapping[str, Evaluator]
  mesh: jax.sharding.Mesh
  data: base.Input | None

  def rows_of(self, batch_size: int) -> np.ndarray:
    """Returns the rows of a batch of this size that this process must read."""
    return sharding.local_rows(self.mesh, batch_size)

  def batches(self) -> base.Batches:
    """Returns the training batches, with the rows that this process must read."""
    return self.data.batches(self.rows_of)

  @functools.cached_property
  def example(self) -> base.Batch:
    """This process's rows of the first batch; with several tasks, of each task's."""
    return self.data.first(self.rows_of)

  @functools.cached_property
  def abstract_batch(self) -> dict[str, Any]:
    """Shapes, types and shardings of a batch.

    With several signatures, this is the largest batch. With several tasks, it holds one
    batch per task.
    """
    return self.abstract_batch_of(None)

  def abstract_batch_of(self, signature: Any) -> dict[str, Any]:
    """Returns shapes, types and shardings of a batch with this input signature."""
    split = sharding.batch_sharding(self.mesh)
    return jax.tree.map(
      lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=split),
      self.data.abstract(signature),
    )

  @property
  def key(self) -> jax.Array:
    """The key from which all randomness on the devices derives."""
    return jax.random.key(self.settings.seed)

  @functools.cached_property
  def abstract_state(self) -> State:
    """Shapes, types and shardings of the state."""
    shapes = jax.eval_shape(self._init, self.key)
    shardings = self.lay_out(shapes)
    return jax.tree.map(
      lambda x, s: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=s), shapes, shardings
    )

  def lay_out(self, state: State) -> State:
    """Returns the sharding of each part of a state, by rules of config and model."""
    return meshes.state_shardings(
      self.mesh, state, self.settings.sharding, self.task.sharding_rules
    )

  @property
  def shardings(self) -> State:
    """The shardings of the state on the devices."""
    return jax.tree.map(lambda x: x.sharding, self.abstract_state)

  def init(self) -> State:
    """Initializes random weights, each device its own part; frozen ones are zeros."""
    return jax.jit(self._init, out_shardings=self.shardings)(self.key)

  def frozen(self) -> Any:
    """Reads the variables of the frozen networks that the config names; None if none.

    Each call reads them again, as a step donates the memory of the state.
    """
    abstract = self.abstract_state.frozen
    if abstract is None:
      return None
    classes = {}
    if self.data.together:
      first = next(iter(self.data.parts.values()))
      classes = labels.vocabulary(first).get('label', {})
    loaded = read_frozen(
      self.settings.frozen, self.task, abstract, self.abstract_batch, classes
    )
    shardings = jax.tree.map(lambda x: x.sharding, abstract)
    return meshes.put_tree(loaded, shardings)

  def checkpoints(self, workdir: pathlib.Path) -> checkpoint.Checkpoints:
    """Returns the checkpoints of a run of this config in a run directory."""
    settings = self.settings
    return checkpoint.Checkpoints(workdir, settings.keep_last, settings.keep_every)

  @property
  def best(self) -> tuple[str, str]:
    """The scalar of `keep_best`, and whether its best value is the 'max' or 'min'."""
    name = self.settings.keep_best
    return name, best_is(name, self.evaluators)

  def start(self, checkpoints: checkpoint.Checkpoints, frozen: Any) -> Start:
    """Returns the state to start from: the newest checkpoint's, or the first state.

    `frozen` are the variables that `self.frozen()` returns.
    """
    restored = checkpoints.restore(self.abstract_state)
    if restored is None:
      return Start(self.first_state().replace(frozen=frozen))
    state, position, seconds = restored
    return Start(state.replace(frozen=frozen), position, seconds)

  def _init(self, key: jax.Array) -> State:
    with sharding.on_mesh(self.mesh):
      return self.task.init(key, task_contract.zeros_of(self.abstract_batch))

  def first_state(self) -> State:
    """Returns the state before the first step, with the weights of `init_from`."""
    state, shardings = self.init(), self.shardings
    if self.settings.init_from is None:
      return state
    sources = spec.build(self.settings.init_from, 'config.init_from')
    variables = jax.device_get({'params': state.params, **state.mutable})
    mutable = init_from.fill(sources, variables, self.task, self.abstract_batch)
    params = mutable.pop('params')
    state = state.replace(
      params=meshes.put_tree(params, shardings.params),
      mutable=meshes.put_tree(mutable, shardings.mutable),
    )
    if state.ema is None:
      return state
    return jax.jit(self.task.with_first_average, out_shardings=shardings)(state)

  def step(self, state: State, batch: Any) -> tuple[State, dict[str, jax.Array]]:
    """Runs one training step; its key derives from the seed and the step number."""
    key = jax.random.fold_in(self.key, state.step)
    with sharding.on_mesh(self.mesh):
      return self.task.train_step(state, batch, key)

  @functools.cached_property
  def compiled_step(self) -> Callable[..., tuple[State, dict[str, jax.Array]]]:
    """`step` jitted over the mesh; it donates the memory of the old state."""
    out = (self.shardings, sharding.replicated(self.mesh))
    return jax.jit(self.step, donate_argnums=0, out_shardings=out)


def read_frozen(
  frozen: Mapping[str, Any],
  task: Task,
  abstract: Mapping[str, Any],
  batch: Mapping[str, Any],
  classes: labels.Names | None = None,
) -> dict[str, Any]:
  """Reads the weights that a config names for the frozen networks of a task.

  `abstract` holds the shapes of their variables, and `batch` the shapes of a batch.
  `classes` are the names of the label classes, as far as known.
  """
  networks, loaded = task.networks(), {}
  for name, node in frozen.items():
    source = spec.build(node, f'config.frozen.{name}')
    with errors.prefixed(f'config.frozen.{name}'):
      loaded[name] = init_from.complete_network(
        source, networks[name], abstract[name], batch, name, classes
      )
  return loaded


def check_frozen(task: Task, frozen: Mapping[str, Any]) -> None:
  """Raises unless the config names weights for every frozen network and no others."""
  wanted = [name for name, network in task.networks().items() if network.frozen]
  for name in wanted:
    if frozen.get(name) is None:
      raise UserError(
        f'config.frozen.{name} is missing: the weights of the frozen network {name!r}'
      )
  for name in frozen:
    if name not in wanted:
      listed = ', '.join(wanted) or 'none'
      raise UserError(
        f'config.frozen.{name}: {type(task).__name__} has no such frozen network; it'
        f' has {listed}'
      )


def best_is(
  wanted: str,
  evaluators: Mapping[str, Evaluator],
  place: str = 'config.keep_best',
) -> str:
  """Returns 'max' or 'min': which value of an evaluation scalar is best.

  Errors name the `place` where the scalar was given.
  """
  name, _, scalar = wanted.partition('/')
  known = [f'{n}/{key}' for n, e in evaluators.items() for key in e.reports()]
  if name in evaluators:
    for pattern, mode in evaluators[name].reports().items():
      if re.fullmatch(pattern, scalar):
        return mode
  raise UserError(
    f'{place}={wanted!r} is reported by no evaluator; there are'
    f' {", ".join(known) or "none"}'
  )


def check_evaluators(task: Task, evaluators: Mapping[str, Evaluator]) -> None:
  """Raises if an evaluator names a prediction that the task lacks."""
  for name, evaluator in evaluators.items():
    with errors.prefixed(f'config.evals.{name}.predict'):
      evaluator.prediction(task)


def check_warmups(node: Any) -> None:
  """Raises if the warmup of a task's schedule is longer than the schedule."""
  for path, call in spec.calls(node, 'config.task'):
    warmup, total = (call.get(name) for name in ('warmup_steps', 'total_steps'))
    known = isinstance(warmup, int | float) and isinstance(total, int | float)
    if known and warmup > total:
      raise UserError(
        f'{path}.warmup_steps={warmup:,} is more than total_steps={total:,}: lower'
        ' warmup_steps or train longer'
      )


def make(
  config: mlc.ConfigDict,
  training: bool = True,
  planned_for: Sequence[jax.Device] | None = None,
  inputs: Mapping[str, Any] | None = None,
) -> Experiment:
  """Builds the experiment of a config.

  `planned_for` are devices that need not exist; then the data need not exist either.
  `inputs` are inputs that `preflight.require` has already built, by their places in the
  config; others are built by this function.
  """
  made = dict(inputs or {})
  data = None
  epoch, batch_size = spec.NOMINAL_EPOCH, 1
  if training:
    data = made.get('config.train_data')
    if data is None:
      data = train_input(config, planned=planned_for is not None)
    epoch, batch_size = data.examples_per_epoch, data.batch_size
  settings = Settings(**spec.in_steps(config, epoch, batch_size))
  if training and settings.total_steps < 1:
    raise UserError(
      f'config.total_steps comes to {settings.total_steps}: train longer.'
    )
  spec.check_names(meshes.make_mesh, settings.mesh, 'config.mesh')
  mesh = meshes.make_mesh(**settings.mesh, devices=planned_for)
  evaluators = {
    name: spec.build(node, f'config.evals.{name}', made)
    for name, node in settings.evals.items()
  }
  for name, part in data.parts.items() if training else ():
    place = f'config.train_data.inputs.{name}' if name else 'config.train_data'
    meshes.check_batch_size(mesh, part.batch_size, f'{place}.batch_size')
  for path, node in spec.calls(settings.evals, 'config.evals'):
    if spec.symbol(node, path) is pipeline.EvalInput:
      meshes.check_batch_size(mesh, node['batch_size'], f'{path}.batch_size')
  task = spec.build(settings.task, 'config.task')
  check_evaluators(task, evaluators)
  if training:
    check_warmups(settings.task)
    check_frozen(task, settings.frozen)
    if settings.keep_best is not None:
      best_is(settings.keep_best, evaluators)
  return Experiment(settings, task, evaluators, mesh, data)


def train_input(config: mlc.ConfigDict, planned: bool = False) -> base.Input:
  """Builds the training data of a config; `planned` allows a stand-in if missing."""
  data = spec.build(config.train_data, 'config.train_data')
  return data.planned() if planned else data


def total_steps(config: mlc.ConfigDict) -> int:
  """Returns the last step of a config, from the data's epoch length if in epochs."""
  if isinstance(config.total_steps, int):
    return config.total_steps
  data = train_input(config, planned=True)
  return spec.in_steps(config, data.examples_per_epoch, data.batch_size)['total_steps']
