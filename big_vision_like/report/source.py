"""Base classes for the sections of a report."""

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

NUM_SHOWN = 3  # examples shown, from the best to the worst


@dataclasses.dataclass(frozen=True)
class Section:
  """A part of a page: `show` returns its HTML content and its caption for a run.

  Several runs are shown `beside` each other or, if they are wide, `below`. The section
  is omitted silently for runs that it does not fit. For other problems `show` raises a
  `UserError` with the reason.
  """

  heading: str
  show: Callable[[Any], tuple[str, str]]
  layout: str
  fits: Callable[[Any], bool] = lambda source: True


@dataclasses.dataclass
class Source:
  """A run to report on: its log and, with a checkpoint, the restored run.

  `predicts` names the kind of predictions of the tasks that the class is for.
  `sections` are shown for such a run in addition to the general ones.
  """

  predicts: ClassVar[str]
  sections: ClassVar[Sequence[Section]] = ()

  log: runs.Log
  run: Any  # None without a checkpoint; `why` has the reason
  why: str
  num_examples: int
  evaluator: str

  @classmethod
  def shows(cls, config: Mapping[str, Any]) -> bool:
    """Returns whether a run's inputs are such as the sections show."""
    del config
    return True

  @property
  def restored(self) -> Any:
    """The run with its task and state."""
    if self.run is None:
      raise UserError(self.why)
    return self.run

  @property
  def params(self) -> Mapping[str, Any]:
    """The parameters used for predictions."""
    return self.restored.params

  @functools.cached_property
  def known(self) -> Mapping[str, Known]:
    """The known classes of the run, by the names of its inputs."""
    return {} if self.run is None else learned.known(self.run.workdir)

  def class_names(self, field: str) -> Mapping[int, str]:
    """Returns the class names of the run by label, for 'label' or 'box_labels'."""
    return next((k.names[field] for k in self.known.values() if field in k.names), {})

  def training_batch(self, size: int) -> tuple[Any, Mapping[str, np.ndarray]]:
    """Returns the training data, and their first `size` examples, augmented."""
    node = self.log.config.get('train_data')
    if not node:
      raise UserError('the config has no `train_data`.')
    # The stream does not depend on these two, and a full batch would be slow.
    node = node | {k: v for k, v in (('batch_size', size), ('workers', 0)) if k in node}
    data = specs.build(node, 'config.train_data')
    with contextlib.closing(iter(data)) as batches:
      return data, next(batches)

  def evaluation(
    self, fits: Callable[[Any], bool], what: str
  ) -> tuple[str, Mapping[str, Any]]:
    """Returns the name and the recorded call of the evaluator whose examples are shown.

    Unless one was requested, it is the first whose class `fits`. If there is none, the
    error says that no evaluator does `what`.
    """
    nodes, name = self.log.config.get('evals', {}), self.evaluator
    if not name:
      name = next((k for k, node in nodes.items() if fits(specs.symbol(node))), None)
    if name is None:
      raise UserError(f'no evaluator of the config {what}.')
    return name, nodes[name]

  def evaluator_of(self, kind: type, what: str) -> tuple[str, Any]:
    """Returns that evaluator with its name; `UserError` if it is not of this kind."""
    name, node = self.evaluation(lambda each: issubclass(each, kind), what)
    made = specs.build(node, f'config.evals.{name}')
    if not isinstance(made, kind):
      raise UserError(f'evals.{name} is not an evaluator that {what}.')
    return name, labels.with_labels_of(made, self.known)

  def spread_of(self, kind: type, what: str) -> tuple[str, Any]:
    """Returns `evaluator_of` on `num_examples` examples spread over its data."""
    name, made = self.evaluator_of(kind, what)
    few = Spread(made.data.source, self.num_examples)
    return name, dataclasses.replace(
      made, data=dataclasses.replace(made.data, source=few)
    )

  def joined(self, made: Evaluator, measure: Measure) -> Rows:
    """Returns measurements of the first examples of an evaluator's data."""
    predict, state = made.prediction(self.restored.task), self.restored.state
    return made.joined(measure, predict, state, limit=self.num_examples)

  def chosen(
    self, made: Evaluator, measure: Measure, indices: Sequence[int]
  ) -> list[dict[str, np.ndarray]]:
    """Returns measurements of some of these examples, by indices in the source."""
    predict, state = made.prediction(self.restored.task), self.restored.state
    return made.chosen(measure, predict, state, indices)


@dataclasses.dataclass
class Plain(Source):
  """A report on a run with the general sections only."""

  predicts = ''


def evenly(count: int, most: int) -> np.ndarray:
  """Returns up to `most` of `count` indices, spread as data may be sorted by class."""
  return np.linspace(0, count - 1, min(count, most)).round().astype(int)


def from_best_to_worst(errors_N: np.ndarray) -> dict[int, str]:
  """Returns the titles of a few examples by index: best, median, worst."""
  order = np.argsort(errors_N, kind='stable')
  places = evenly(len(order), NUM_SHOWN)
  titles = {int(place): 'Median' for place in places}
  titles |= {len(order) - 1: 'Worst'} | {0: 'Best'}
  return {int(order[place]): title for place, title in titles.items()}


def percent(share: float) -> str:
  return f'{100 * share:.1f}\u00a0%'
