"""Small data sets kept in memory, decoded once."""

import dataclasses
import functools
import os
import pathlib
import pickle
import tempfile
import weakref
from collections.abc import Mapping, Sequence
from typing import Any

import grain
import numpy as np

from big_vision_like.data.sources.base import Source, as_source, digest
from big_vision_like.errors import BadRecordError, UserError

# A file system in memory that processes share, where there is one.
SHARED = pathlib.Path('/dev/shm')


@dataclasses.dataclass(frozen=True, eq=False)
class Cached(Source):
  """The examples of a source after transforms that are not random, kept in memory.

  The first use reads them all; the workers of a process share its copy. A decoded image
  takes height * width * channels bytes: more than `limit_gib` in all is refused. A
  record that cannot be used is told when it is asked for, as anywhere else.
  """

  source: Source
  transforms: Sequence[grain.transforms.Map] = ()
  limit_gib: float = 4.0

  def __post_init__(self) -> None:
    object.__setattr__(self, 'source', as_source(self.source))
    for transform in self.transforms:
      if isinstance(transform, grain.transforms.RandomMap):
        raise UserError(
          f'{type(transform).__name__} is random, and what is kept would be the same in'
          ' all epochs: put it among the transforms of the input.'
        )

  @functools.cached_property
  def kept(self) -> tuple[str, np.ndarray]:
    """A file with all examples, and where each one starts.

    The file has no name that could outlive this process, however it ends: workers find
    it where the system lists what this process has open.
    """
    folder = SHARED if SHARED.is_dir() else pathlib.Path(tempfile.gettempdir())
    file, lengths = tempfile.TemporaryFile(dir=folder), [0]
    weakref.finalize(self, file.close)
    for index in range(len(self.source)):
      example = pickle.dumps(self._made(index))
      try:
        lengths.append(file.write(example))
        file.flush()
      except OSError as error:
        file.raw.close()  # else the same bytes would be written again
        raise UserError(
          f'{index:,} of the {len(self.source):,} examples of {self.source} fill'
          f' {folder}: make it larger (docker run --shm-size), or keep smaller images.'
        ) from error
      if file.tell() > self.limit_gib * 2**30:
        raise UserError(
          f'{index + 1:,} of the {len(self.source):,} examples of {self.source} take'
          f' more memory than limit_gib={self.limit_gib:g}: keep smaller images, or'
          ' raise it.'
        )
    return f'/proc/{os.getpid()}/fd/{file.fileno()}', np.cumsum(lengths)

  def _made(self, index: int) -> dict[str, Any] | BadRecordError:
    try:
      example = self.source[index]
      for transform in self.transforms:
        example = transform.map(example)
    except BadRecordError as error:
      return error
    return example

  @functools.cached_property
  def _bytes(self) -> np.ndarray:
    return np.memmap(self.kept[0], np.uint8, mode='r')

  def __len__(self) -> int:
    return len(self.source)

  def __getitem__(self, index: int) -> dict[str, Any]:
    if not 0 <= index < len(self):
      raise IndexError(f'example {index} of {len(self)}')
    start, stop = self.kept[1][index : index + 2]
    example = pickle.loads(self._bytes[start:stop])
    if isinstance(example, BadRecordError):
      raise example
    return example

  @property
  def features(self) -> Mapping[str, Any]:
    """Those of the source, before the transforms."""
    return self.source.features

  @property
  def label_names(self) -> Sequence[str] | None:
    """Those of the source."""
    return self.source.label_names

  @property
  def num_objects(self) -> int | None:
    """That of the source."""
    return self.source.num_objects

  @property
  def inner(self) -> dict[str, Source]:
    """The source that is kept in memory."""
    return {'source': self.source}

  def fingerprint(self) -> str:
    """Returns a digest of the source and the transforms."""
    return digest('Cached', self.source, self.transforms)

  def planned(self) -> Source:
    """Returns itself, or with a stand-in for the source in a plan without the data."""
    source = self.source.planned()
    return self if source is self.source else dataclasses.replace(self, source=source)

  def __getstate__(self) -> dict[str, Any]:
    # Made before workers start, so that they find it.
    return {k: v for k, v in self.__dict__.items() if k != '_bytes'} | {
      'kept': self.kept
    }
