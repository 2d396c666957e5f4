"""A few examples of a source, evenly spread from the first to the last."""

import dataclasses
import functools
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from big_vision_like.data.sources.base import Source, as_source, digest


@dataclasses.dataclass(frozen=True)
class Spread(Source):
  """At most `count` examples of a source, evenly spaced.

  If the source is ordered by class, they cover the classes evenly.
  """

  source: Source
  count: int

  def __post_init__(self) -> None:
    object.__setattr__(self, 'source', as_source(self.source))

  @property
  def inner(self) -> dict[str, Source]:
    """The source that the examples are chosen from."""
    return {'source': self.source}

  @property
  def features(self) -> Mapping[str, Any]:
    """TFDS's features of the source's examples."""
    return self.source.features

  @property
  def label_names(self) -> Sequence[str] | None:
    """The names of the classes of the source."""
    return self.source.label_names

  @functools.cached_property
  def places(self) -> np.ndarray:
    """The indices of the examples in the source, int64 (N,)."""
    size = len(self.source)
    return np.linspace(0, size - 1, min(size, self.count)).round().astype(int)

  @property
  def files(self) -> Sequence[str]:
    """The paths of the examples' files, or () unless each example has its own file."""
    files = self.source.files
    if len(files) != len(self.source):
      return ()
    return [files[place] for place in self.places.tolist()]

  def fingerprint(self) -> str:
    """Returns a digest of the source and the number of examples."""
    return digest('Spread', self.source, self.count)

  def __len__(self) -> int:
    return len(self.places)

  def __getitem__(self, index: int) -> dict[str, Any]:
    return self.source[int(self.places[index])]
