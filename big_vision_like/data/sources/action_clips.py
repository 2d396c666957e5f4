"""Clips of annotated actions, as a source: several for each action."""

import dataclasses
import functools
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from big_vision_like.data.sources.base import Example, Source, as_source, digest
from big_vision_like.errors import UserError, check_one_of

AROUND = ('centres', 'objects')


@dataclasses.dataclass(frozen=True)
class ActionClips(Source):
  """The clips with which actions of `source` are evaluated, ordered by action.

  Examples are those of `source` with `centre`, the frame around which the clip is.
  `around` is 'centres', the published test clips of each action, or 'objects', each of
  its frames that has an annotated object which is not hidden. Of these, the first
  `clips` of each action are used, by default all.
  """

  source: Source
  around: str = 'centres'
  clips: int | None = None

  tiny = dict(clips=lambda arguments, _: 1)

  def __post_init__(self) -> None:
    check_one_of(AROUND, around=self.around)
    object.__setattr__(self, 'source', as_source(self.source))

  @functools.cached_property
  def places(self) -> np.ndarray:
    """The index of the action in the source, and the centre, of each clip: (N, 2)."""
    found = [
      (index, centre)
      for index in range(len(self.source))
      for centre in self._centres(self.source[index]).tolist()
    ]
    if not found:
      raise UserError(
        f'{self.source.title} has no frames for around={self.around!r}: its actions'
        ' have no annotated objects'
      )
    return np.array(found, np.int64)

  def _centres(self, example: Example) -> np.ndarray:
    if self.around == 'centres':
      return np.asarray(example['centres'])[: self.clips]
    first, last = example['frames'].tolist()
    frames = example['object_frames'][~example['object_hidden']]
    return np.unique(frames[(frames >= first) & (frames <= last)])[: self.clips]

  @property
  def inner(self) -> dict[str, Source]:
    """The source of actions."""
    return {'source': self.source}

  @property
  def features(self) -> Mapping[str, Any]:
    """TFDS's features of the source's examples."""
    return self.source.features

  @property
  def label_names(self) -> Sequence[str] | None:
    """The names of the classes of the source."""
    return self.source.label_names

  @property
  def title(self) -> str:
    """The name of the source."""
    return self.source.title

  def planned(self) -> Source:
    """Returns this source with a stand-in for actions that are missing."""
    return dataclasses.replace(self, source=self.source.planned())

  def problems(self) -> list[str]:
    """Returns why the source cannot be used, or an empty list."""
    return self.source.problems()

  def fingerprint(self) -> str:
    """Returns a digest of the source and the choice of clips."""
    return digest('ActionClips', self.source, self.around, self.clips)

  def __len__(self) -> int:
    return len(self.places)

  def __getitem__(self, index: int) -> Example:
    if not 0 <= index < len(self):
      raise IndexError(f'clip {index} of {len(self)}')
    action, centre = self.places[index].tolist()
    return self.source[action] | {'centre': centre, 'id': index}
