"""Sources with a few examples per class, for few-shot training."""

import dataclasses
import functools
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from big_vision_like.data.sources.base import Source, as_source, digest
from big_vision_like.errors import UserError, listed
from big_vision_like.ops import ridge


def rare(labels: np.ndarray, count: int, names: Mapping[int, str]) -> list[str]:
  """Returns a line for each class with fewer than `count` examples."""
  return [
    f'class {names.get(label, label)} has {found} of {count} examples'
    for label, found in ridge.rare_classes(labels, count).items()
  ]


@dataclasses.dataclass(frozen=True)
class PerClass(Source):
  """`count` examples of each class of a source, drawn with `seed`.

  A class with fewer examples contributes all of them, as in the published evaluator.
  All labels are read once to find the classes. `classes` is the number of classes, for
  plans made before the data are available.
  """

  source: Source
  count: int
  classes: int | None = None
  seed: int = 0

  tiny = dict(count=3)

  def __post_init__(self) -> None:
    object.__setattr__(self, 'source', as_source(self.source))

  @property
  def inner(self) -> dict[str, Source]:
    """The source that the examples are chosen from."""
    return {'source': self.source}

  @property
  def features(self) -> Mapping[str, Any]:
    """The features of the source."""
    return self.source.features

  @property
  def label_names(self) -> Sequence[str] | None:
    """The names of classes in the source."""
    return self.source.label_names

  def fingerprint(self) -> str:
    """Returns a digest of the source, the count and the seed."""
    return digest('PerClass', self.source, self.count, self.seed)

  @functools.cached_property
  def labels(self) -> np.ndarray:
    """The labels of all examples of the source, (N,)."""
    return np.array([self.source[i]['label'] for i in range(len(self.source))])

  @functools.cached_property
  def indices(self) -> np.ndarray:
    """The indices of the chosen examples in the source."""
    try:
      return ridge.fewshot_indices(self.labels, self.count, self.seed)
    except ValueError as error:
      raise UserError(f'count={self.count} of {self.source}: {error}') from error

  def remarks(self) -> list[str]:
    """Returns remarks about classes with fewer than `count` examples."""
    names = dict(enumerate(self.label_names or ()))
    few = rare(self.labels, self.count, names)
    return [*self.source.remarks(), *([listed(few, 3)] if few else [])]

  def planned(self) -> Source:
    """Returns this source, or a stand-in for planning if its data are missing."""
    there = self.source.planned()
    if there is self.source:
      return self
    count = None if self.classes is None else self.count * self.classes
    return dataclasses.replace(there, examples=count)

  def __len__(self) -> int:
    return len(self.indices)

  def __getitem__(self, index: int) -> dict[str, Any]:
    return self.source[int(self.indices[index])]


@dataclasses.dataclass(frozen=True)
class Remaining(Source):
  """The examples of a source that `chosen` does not select, without labels."""

  chosen: PerClass

  @property
  def inner(self) -> dict[str, Source]:
    """The few-shot choice of examples."""
    return {'chosen': self.chosen}

  @property
  def features(self) -> Mapping[str, Any]:
    """The features of the source without its label."""
    return {k: x for k, x in self.chosen.features.items() if k != 'label'}

  def fingerprint(self) -> str:
    """Returns a digest of the few-shot choice."""
    return digest('Remaining', self.chosen)

  @functools.cached_property
  def indices(self) -> np.ndarray:
    """The indices of the remaining examples in the source."""
    every = np.arange(len(self.chosen.source))
    return np.setdiff1d(every, self.chosen.indices)

  def planned(self) -> Source:
    """Returns this source, or a stand-in for planning if its data are missing."""
    there = self.chosen.source.planned()
    return self if there is self.chosen.source else there

  def __len__(self) -> int:
    return len(self.indices)

  def __getitem__(self, index: int) -> dict[str, Any]:
    example = self.chosen.source[int(self.indices[index])]
    return {k: x for k, x in example.items() if k != 'label'}
