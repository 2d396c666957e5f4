"""The interface of evaluators; each runs a published protocol on its own input."""

import abc
import dataclasses
import functools
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any, ClassVar, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh

from big_vision_like.data.input import pipeline
from big_vision_like.errors import Checked, UserError
from big_vision_like.ops import sharding

Arrays = dict[str, jax.Array]
Predict = Callable[[Any, Arrays, jax.Array], Arrays]
Measure = Callable[[Arrays, Arrays], Arrays]


@dataclasses.dataclass(frozen=True)
class Results:
  """Results of an evaluator: scalars, images to look at and texts to read.

  `pictures` has sheets, uint8 (B, H, W, C); `texts` has lines such as captions.
  """

  scalars: Mapping[str, float]
  pictures: Mapping[str, np.ndarray] = dataclasses.field(default_factory=dict)
  texts: Mapping[str, Sequence[str]] = dataclasses.field(default_factory=dict)


class Rows(NamedTuple):
  """Measurements of the N examples of a batch that count.

  `index_N` has their indices in the source. `drawn` has the arrays of each of the first
  examples of an evaluation, for pictures; it is empty once there are enough.
  """

  index_N: np.ndarray
  values: dict[str, np.ndarray]
  drawn: list[dict[str, np.ndarray]]


@dataclasses.dataclass(kw_only=True)
class Evaluator(abc.ABC, Checked):
  """A protocol that runs every `every` steps and after the last (0: only after it).

  `predict` names the prediction of the task to evaluate, and `predict_args` has its
  keyword arguments. `needs` names arrays that batches must have in addition to the
  inputs of the prediction.
  """

  needs: ClassVar[Sequence[str]] = ()
  # Whether labels of the data are classes of the task, and must be in its range.
  task_labels: ClassVar[bool] = False
  # The field whose input defines the classes for the labels of other inputs; empty if
  # the task defines them.
  classes_of: ClassVar[str] = ''

  data: pipeline.EvalInput
  every: int = 0
  predict: str = 'predict'
  predict_args: Mapping[str, Any] = dataclasses.field(default_factory=dict)

  @abc.abstractmethod
  def reports(self) -> Mapping[str, str]:
    """Returns whether 'max' or 'min' is better, by regular expression of scalars."""

  @abc.abstractmethod
  def run(self, predict: Predict, state: Any, mesh: Mesh | None = None) -> Results:
    """Evaluates a prediction, not yet jitted, of a state on all of the data."""

  def prediction(self, task: Any) -> Predict:
    """Returns the prediction of a task to evaluate, the same object each time."""
    if getattr(self, '_task', None) is not task:
      self._task = task
      self._prediction = task.prediction(self.predict, **self.predict_args)
    return self._prediction

  def rows(
    self,
    measure: Measure,
    predict: Predict,
    state: Any,
    mesh: Mesh | None = None,
    data: pipeline.EvalInput | None = None,
    draw: Measure | None = None,
    pictures: int = 0,
    limit: int | None = None,
  ) -> Iterator[Rows]:
    """Yields the results of `measure(outputs, batch)` for each example, by batches.

    `measure` and `draw` run in one compiled program with the prediction, so unused
    outputs cost nothing. The prediction gets its own key for each batch, equal in every
    evaluation. Both functions return arrays with one row per example. Rows that only
    fill a batch are left out, as are rows for which `measure` returns False under
    `count`. `draw` is evaluated for the first `pictures` examples that count. Iteration
    ends after the batch with the `limit`-th example. Every process gets the rows of all
    processes. Without a mesh, everything runs on one device.
    """
    data, left = data or self.data, pictures
    step = self._compiled(measure, draw, pictures, predict, mesh)
    index, real = data.order
    start = seen = 0
    for number, batch in enumerate(batches(data, mesh)):
      values, drawn = step(state, batch, np.uint32(number))
      values = jax.device_get(values)
      size = len(values['count'])
      rows = slice(start, start + size)
      start += size
      counted = values.pop('count').astype(bool) & real[rows]
      first = min(left, int(counted.sum()))
      left -= first
      drawn = jax.device_get(drawn) if first else {}
      yield Rows(
        index[rows][counted],
        {k: x[counted] for k, x in values.items()},
        [{k: x[i] for k, x in drawn.items()} for i in range(first)],
      )
      seen += int(counted.sum())
      if limit is not None and seen >= limit:
        return

  def joined(
    self,
    measure: Measure,
    predict: Predict,
    state: Any,
    *args: Any,
    limit: int | None = None,
    **kwargs: Any,
  ) -> Rows:
    """Returns the `rows` of all batches as one, in the order of the source.

    If batches have several shapes, arrays are padded with zeros to the largest. Only
    the first `limit` of the measured examples are returned.
    """
    return join(self.rows(measure, predict, state, *args, limit=limit, **kwargs), limit)

  def chosen(
    self,
    measure: Measure,
    predict: Predict,
    state: Any,
    indices: Sequence[int],
    mesh: Mesh | None = None,
  ) -> list[dict[str, np.ndarray]]:
    """Returns the results of `measure` for examples with these indices in the source.

    Batches and keys are as in `rows`. Large arrays that were not kept can thus be
    recomputed exactly.
    """
    found: dict[int, dict[str, np.ndarray]] = {}
    for part in self.rows(measure, predict, state, mesh):
      for row, index in enumerate(part.index_N.tolist()):
        if index in indices:
          found[index] = {k: x[row] for k, x in part.values.items()}
      if len(found) == len(set(indices)):
        break
    return [found[index] for index in indices]

  def _compiled(
    self,
    measure: Measure,
    draw: Measure | None,
    pictures: int,
    predict: Predict,
    mesh: Mesh | None,
  ) -> Callable[..., tuple[Arrays, Arrays]]:
    """Returns the compiled program of `rows`; reuses it for equal arguments."""
    wanted = measure, draw, pictures, predict, mesh
    if getattr(self, '_compiled_for', None) != wanted:
      self._compiled_for = wanted
      on_mesh = functools.partial(_measured, *wanted)
      out = None if mesh is None else sharding.replicated(mesh)
      self._program = jax.jit(on_mesh, out_shardings=out)
    return self._program


def join(rows: Iterable[Rows], limit: int | None = None) -> Rows:
  """Returns the rows of all batches as one, as `Evaluator.joined` does."""
  parts = list(rows)
  index_N = np.concatenate([part.index_N for part in parts])
  order_N = np.argsort(index_N, kind='stable')[:limit]
  values = {
    name: _concatenated([part.values[name] for part in parts])[order_N]
    for name in parts[0].values
  }
  return Rows(index_N[order_N], values, [row for part in parts for row in part.drawn])


def _measured(
  measure: Measure,
  draw: Measure | None,
  pictures: int,
  predict: Predict,
  mesh: Mesh | None,
  state: Any,
  batch: Arrays,
  number: jax.Array,
) -> tuple[Arrays, Arrays]:
  with sharding.on_mesh(mesh):
    outputs = predict(state, batch, jax.random.fold_in(jax.random.key(0), number))
    values = {'count': batch['mask']} | measure(outputs, batch)
    if draw is None:
      return values, {}
    counted_B = batch['mask'] & values['count']
    first = jnp.argsort(~counted_B, stable=True)[:pictures]
    return values, {k: x[first] for k, x in draw(outputs, batch).items()}


def _concatenated(arrays: Sequence[np.ndarray]) -> np.ndarray:
  """Concatenates arrays along the first axis; pads other axes with zeros to match."""
  longest = np.max([array.shape[1:] for array in arrays], axis=0)
  if all(array.shape[1:] == tuple(longest) for array in arrays):
    return np.concatenate(arrays)
  padded = [
    np.pad(
      a, [(0, 0), *((0, n - s) for s, n in zip(a.shape[1:], longest, strict=True))]
    )
    for a in arrays
  ]
  return np.concatenate(padded)


@dataclasses.dataclass(kw_only=True)
class MeanEvaluator(Evaluator):
  """An evaluator of means over all examples, each counted exactly once."""

  @abc.abstractmethod
  def measure(self, outputs: Arrays, batch: Arrays) -> Arrays:
    """Returns one number per example (B,) for each name.

    The optional `count` is False for examples to leave out.
    """

  def run(self, predict: Predict, state: Any, mesh: Mesh | None = None) -> Results:
    return Results(means(self.rows(self.measure, predict, state, mesh), self.data))


def means(
  rows: Iterator[Rows], data: pipeline.EvalInput, why: str = 'no example counts'
) -> dict[str, float]:
  """Returns the means over all examples; raises UserError with `why` if none count."""
  total: dict[str, float] = {}
  count = 0
  for part in rows:
    count += len(part.index_N)
    for name, values_N in part.values.items():
      total[name] = total.get(name, 0.0) + values_N.sum(dtype=np.float64).item()
  if not count:
    raise UserError(f'{data.source}: {why}.')
  return {name: value / count for name, value in total.items()}


def batches(data: pipeline.EvalInput, mesh: Mesh | None = None) -> Iterator[Any]:
  """Yields global batches on the devices; each process reads its devices' rows."""
  if mesh is None:
    yield from data.epoch()
    return
  for batch in data.epoch(lambda size: sharding.local_rows(mesh, size)):
    yield sharding.put(batch, mesh)
