"""What an evaluator is: one published protocol on its own input."""

import abc
import dataclasses
import functools
from collections.abc import Callable, Iterator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh

from big_vision_like.data import pipeline
from big_vision_like.errors import Checked, UserError
from big_vision_like.ops import sharding

Arrays = dict[str, jax.Array]
Predict = Callable[[Any, Arrays, jax.Array], Arrays]
Results = dict[str, float | np.ndarray]


@dataclasses.dataclass(kw_only=True)
class Evaluator(abc.ABC, Checked):
  """Runs every `every` steps and after the last one (`every` 0: only then).

  `run` gets the task's un-jitted `predict`, so that it compiles its own reduction and
  unused outputs cost nothing. It returns named scalars, and where people would rather
  look, sheets of pictures as uint8 arrays (B, H, W, C). `needs` are arrays that batches
  must have besides what the task predicts from.
  """

  needs = ()

  data: pipeline.EvalInput
  every: int = 0

  @abc.abstractmethod
  def run(self, predict: Predict, state: Any, mesh: Mesh) -> Results:
    """Returns what was measured, by name."""

  def compiled(
    self, fn: Callable[..., Arrays], predict: Predict, mesh: Mesh
  ) -> Callable[..., Arrays]:
    """`fn` (made of `predict`) jitted, with results in every process, once."""
    if getattr(self, '_compiled_for', None) != (predict, mesh):
      self._compiled_for = (predict, mesh)

      def on_mesh(*args: Any) -> Arrays:
        with sharding.on_mesh(mesh):
          return fn(*args)

      self._compiled = jax.jit(on_mesh, out_shardings=sharding.replicated(mesh))
    return self._compiled


@dataclasses.dataclass(kw_only=True)
class MeanEvaluator(Evaluator):
  """Averages something over all examples, each counted exactly once."""

  @abc.abstractmethod
  def measure(self, outputs: Arrays, batch: Arrays) -> Arrays:
    """Returns one number per example (B,) for each name.

    Under `count`, False for examples that are left out, if there are such.
    """

  def run(self, predict: Predict, state: Any, mesh: Mesh) -> Results:
    def sums(state: Any, batch: Arrays) -> Arrays:
      outputs = predict(state, batch, jax.random.key(0))
      values = {'count': batch['mask']} | self.measure(outputs, batch)
      counted = batch['mask'] & values['count']
      return {k: jnp.where(counted, v, 0.0).sum() for k, v in values.items()}

    step = self.compiled(sums, predict, mesh)
    total: dict[str, float] = {}
    for batch in batches(self.data, mesh):
      for name, value in jax.device_get(step(state, batch)).items():
        total[name] = total.get(name, 0.0) + float(value)
    count = total.pop('count')
    if not count:
      raise UserError(f'of {self.data.source}, no example counts.')
    return {name: value / count for name, value in total.items()}


def sampled(
  predict: Predict, state: Any, batch: Arrays, index: jax.Array, **replaced: Any
) -> Arrays:
  """What a task that samples predicts of batch `index`: the same each time.

  `replaced` are keywords of `predict`; those that are None are left out.
  """
  key = jax.random.fold_in(jax.random.key(0), index)
  chosen = {name: value for name, value in replaced.items() if value is not None}
  return predict(state, batch, key, **chosen)


def batches(data: pipeline.EvalInput, mesh: Mesh) -> Iterator[Arrays]:
  """Global batches on the devices; each process reads what its own devices hold."""
  for batch in data.epoch(functools.partial(sharding.local_rows, mesh)):
    yield sharding.put(batch, mesh)


def whole_batches(
  step: Callable[[Any, Arrays], Arrays],
  data: pipeline.EvalInput,
  state: Any,
  mesh: Mesh,
) -> Iterator[dict[str, np.ndarray]]:
  """Yields what a compiled step returns (`mask` too), less the rows that only fill."""
  for batch in batches(data, mesh):
    arrays = jax.device_get(step(state, batch))
    yield {k: v[arrays['mask']] for k, v in arrays.items()}
