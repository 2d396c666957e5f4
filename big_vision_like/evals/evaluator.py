"""What an evaluator is: one published protocol on its own input."""

import abc
import dataclasses
from collections.abc import Callable, Iterator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh, NamedSharding
from jax.sharding import PartitionSpec as P

from big_vision_like.data import pipeline

Arrays = dict[str, jax.Array]
Predict = Callable[[Any, Arrays, jax.Array], Arrays]
Put = Callable[[pipeline.Batch, Mesh], Arrays]
Results = dict[str, float | np.ndarray]


@dataclasses.dataclass(kw_only=True)
class Evaluator(abc.ABC):
  """Runs every `every` steps and after the last one (`every` 0: only then).

  `run` gets the task's un-jitted `predict`, so that it compiles its own reduction and
  unused outputs cost nothing. It returns named scalars, and where people would rather
  look, sheets of pictures as uint8 arrays (B, H, W, C).
  """

  data: pipeline.EvalInput
  every: int = 0

  @abc.abstractmethod
  def run(self, predict: Predict, state: Any, mesh: Mesh, put: Put) -> Results:
    """Returns what was measured, by name."""

  def compiled(
    self, fn: Callable[..., Arrays], predict: Predict, mesh: Mesh
  ) -> Callable[..., Arrays]:
    """`fn` (made of `predict`) jitted, with results in every process, once."""
    if getattr(self, '_compiled_for', None) != (predict, mesh):
      self._compiled_for = (predict, mesh)
      self._compiled = jax.jit(fn, out_shardings=NamedSharding(mesh, P()))
    return self._compiled


@dataclasses.dataclass(kw_only=True)
class MeanEvaluator(Evaluator):
  """Averages something over all examples, each counted exactly once."""

  @abc.abstractmethod
  def measure(self, outputs: Arrays, batch: Arrays) -> Arrays:
    """Returns one number per example (B,) for each name."""

  def run(self, predict: Predict, state: Any, mesh: Mesh, put: Put) -> Results:
    def sums(state: Any, batch: Arrays) -> Arrays:
      outputs = predict(state, batch, jax.random.key(0))
      values = self.measure(outputs, batch) | {'count': jnp.ones(batch['mask'].shape)}
      return {k: jnp.where(batch['mask'], v, 0.0).sum() for k, v in values.items()}

    step = self.compiled(sums, predict, mesh)
    total: dict[str, float] = {}
    for batch in self.data.epoch():
      for name, value in jax.device_get(step(state, put(batch, mesh))).items():
        total[name] = total.get(name, 0.0) + float(value)
    count = total.pop('count')
    return {name: value / count for name, value in total.items()}


def whole_batches(
  step: Callable[[Any, Arrays], Arrays],
  data: pipeline.EvalInput,
  state: Any,
  mesh: Mesh,
  put: Put,
) -> Iterator[dict[str, np.ndarray]]:
  """Yields what a compiled step returns (`mask` too), less the rows that only fill."""
  for batch in data.epoch():
    arrays = jax.device_get(step(state, put(batch, mesh)))
    yield {k: v[arrays['mask']] for k, v in arrays.items()}
