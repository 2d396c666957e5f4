"""What the sections of a report are made from, whatever the run."""

import contextlib
import dataclasses
import functools
from collections.abc import Callable, Mapping, Sequence
from typing import Any, ClassVar

import numpy as np

from big_vision_like import spec as specs
from big_vision_like.data.sources.spread import Spread
from big_vision_like.errors import UserError
from big_vision_like.evals.evaluator import Evaluator, Measure, Rows
from big_vision_like.report import runs
from big_vision_like.run import labels, learned
from big_vision_like.run.labels import Known

NUM_SHOWN = 3  # of examples, from the best to the worst


@dataclasses.dataclass(frozen=True)
class Section:
  """A part of a page: `show` gives what it shows of a run and how to read that.

  Runs stand `beside` each other or, being wide, `below`. A run that it does not fit is
  left out without a word; otherwise `show` raises a `UserError` that says why not.
  """

  heading: str
  show: Callable[[Any], tuple[str, str]]
  layout: str
  fits: Callable[[Any], bool] = lambda source: True


@dataclasses.dataclass
class Source:
  """A run to report on: what it logged and, with a checkpoint, the restored run.

  `predicts` says which tasks' runs: those that predict this. `sections` are what a page
  shows of such a run besides the general ones.
  """

  predicts: ClassVar[str]
  sections: ClassVar[Sequence[Section]] = ()

  log: runs.Log
  run: Any  # None without a checkpoint; `why` says why
  why: str
  num_examples: int
  evaluator: str

  @property
  def restored(self) -> Any:
    """The run with its task and state."""
    if self.run is None:
      raise UserError(self.why)
    return self.run

  @property
  def params(self) -> Mapping[str, Any]:
    """The parameters that predictions are made with."""
    return self.restored.params

  @functools.cached_property
  def known(self) -> Mapping[str, Known]:
    """The classes of the run by the names of its inputs."""
    return {} if self.run is None else learned.known(self.run.workdir)

  def class_names(self, field: str) -> Mapping[int, str]:
    """The names of the run's classes by label; `field` is 'label' or 'box_labels'."""
    return next((k.names[field] for k in self.known.values() if field in k.names), {})

  def training_batch(self, size: int) -> tuple[Any, Mapping[str, np.ndarray]]:
    """The training data, and its first `size` examples, augmented."""
    node = self.log.config.get('train_data')
    if not node:
      raise UserError('the config has no `train_data`.')
    # The stream does not depend on these two, and a full batch takes its time.
    node = node | {k: v for k, v in (('batch_size', size), ('workers', 0)) if k in node}
    data = specs.build(node, 'config.train_data')
    with contextlib.closing(iter(data)) as batches:
      return data, next(batches)

  def evaluation(
    self, fits: Callable[[Any], bool], what: str
  ) -> tuple[str, Mapping[str, Any]]:
    """Name and recorded call of the evaluator whose examples are shown.

    Without one asked for it is the first whose class `fits`; if there is none, no
    evaluator does `what`.
    """
    nodes, name = self.log.config.get('evals', {}), self.evaluator
    if not name:
      name = next((k for k, node in nodes.items() if fits(specs.symbol(node))), None)
    if name is None:
      raise UserError(f'no evaluator of the config {what}.')
    return name, nodes[name]

  def evaluator_of(self, kind: type, what: str) -> tuple[str, Any]:
    """The name of that evaluator, and the evaluator itself, one of this kind."""
    name, node = self.evaluation(lambda each: issubclass(each, kind), what)
    made = specs.build(node, f'config.evals.{name}')
    if not isinstance(made, kind):
      raise UserError(f'evals.{name} is no evaluator that {what}.')
    return name, labels.with_labels_of(made, self.known)

  def spread_of(self, kind: type, what: str) -> tuple[str, Any]:
    """Returns `evaluator_of` on `num_examples` examples spread over its data."""
    name, made = self.evaluator_of(kind, what)
    few = Spread(made.data.source, self.num_examples)
    return name, dataclasses.replace(
      made, data=dataclasses.replace(made.data, source=few)
    )

  def joined(self, made: Evaluator, measure: Measure) -> Rows:
    """What is measured of the first examples of an evaluator's data."""
    predict, state = made.prediction(self.restored.task), self.restored.state
    return made.joined(measure, predict, state, limit=self.num_examples)

  def chosen(
    self, made: Evaluator, measure: Measure, indices: Sequence[int]
  ) -> list[dict[str, np.ndarray]]:
    """What is measured of some of these examples, by their places in the source."""
    predict, state = made.prediction(self.restored.task), self.restored.state
    return made.chosen(measure, predict, state, indices)


@dataclasses.dataclass
class Plain(Source):
  """A run of which only the general sections know what to show."""

  predicts = ''


def evenly(count: int, most: int) -> np.ndarray:
  """At most `most` of `count` indices, spread because data may be in class order."""
  return np.linspace(0, count - 1, min(count, most)).round().astype(int)


def from_best_to_worst(errors_N: np.ndarray) -> dict[int, str]:
  """A few examples, and what of each there is to say: best, median, worst."""
  order = np.argsort(errors_N, kind='stable')
  places = evenly(len(order), NUM_SHOWN)
  titles = {int(place): 'Median' for place in places}
  titles |= {len(order) - 1: 'Worst'} | {0: 'Best'}
  return {int(order[place]): title for place, title in titles.items()}


def percent(share: float) -> str:
  return f'{100 * share:.1f}\u00a0%'
