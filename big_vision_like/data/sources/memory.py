"""Small data sets cached in memory, decoded once."""

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

# An in-memory file system that processes share, if the system has one.
SHARED = pathlib.Path('/dev/shm')


@dataclasses.dataclass(frozen=True, eq=False)
class Cached(Source):
  """The examples of a source after deterministic transforms, cached in memory.

  The first use reads them all; the workers of a process share its copy. A decoded image
  takes height * width * channels bytes. More than `limit_gib` GiB in total is an error.
  An unusable record raises an error when it is requested, as in any other source.
  """

  source: Source
  transforms: Sequence[grain.transforms.Map] = ()
  limit_gib: float = 4.0

  def __post_init__(self) -> None:
    object.__setattr__(self, 'source', as_source(self.source))
    for transform in self.transforms:
      if isinstance(transform, grain.transforms.RandomMap):
        raise UserError(
          f'{type(transform).__name__} is random, but cached examples are the same in'
          ' all epochs: move it to the transforms of the input.'
        )

  @functools.cached_property
  def kept(self) -> tuple[str, np.ndarray]:
    """The path of a file with all examples, and the byte offset of each one.

    The file is unnamed, so it cannot outlive this process, however it ends. Workers
    open it through /proc, where the system lists the open files of this process.
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
        file.raw.close()  # otherwise the same bytes would be written again
        raise UserError(
          f'{index:,} of the {len(self.source):,} examples of {self.source} fill'
          f' {folder}: make it larger (docker run --shm-size), or cache smaller images.'
        ) from error
      if file.tell() > self.limit_gib * 2**30:
        raise UserError(
          f'{index + 1:,} of the {len(self.source):,} examples of {self.source} take'
          f' more memory than limit_gib={self.limit_gib:g}: cache smaller images, or'
          ' raise limit_gib.'
        )
    return f'/proc/{os.getpid()}/fd/{file.fileno()}', np.cumsum(lengths)

  def _made(self, index: int) -> dict[str, Any] | BadRecordError:
    try:
      return Transformed(self.source, self.transforms)[index]
    except BadRecordError as error:
      return error

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
    """The features of the source, before the transforms."""
    return self.source.features

  @property
  def label_names(self) -> Sequence[str] | None:
    """The names of classes in the source."""
    return self.source.label_names

  @property
  def num_objects(self) -> int | None:
    """The number of objects in the source that are not crowds."""
    return self.source.num_objects

  @property
  def inner(self) -> dict[str, Source]:
    """The source that is cached in memory."""
    return {'source': self.source}

  def fingerprint(self) -> str:
    """Returns a digest of the source and the transforms."""
    return digest('Cached', self.source, self.transforms)

  def planned(self) -> Source:
    """Returns this source, or a stand-in that caches nothing if data are missing."""
    source = self.source.planned()
    return self if source is self.source else Transformed(source, self.transforms)

  def __getstate__(self) -> dict[str, Any]:
    # Accessing `kept` makes the file before workers start, so that they find it.
    return {k: v for k, v in self.__dict__.items() if k != '_bytes'} | {
      'kept': self.kept
    }


@dataclasses.dataclass(frozen=True, eq=False)
class Transformed(Source):
  """The examples of a source after transforms, made whenever they are read."""

  source: Source
  transforms: Sequence[grain.transforms.Map] = ()

  def __len__(self) -> int:
    return len(self.source)

  def __getitem__(self, index: int) -> dict[str, Any]:
    example = self.source[index]
    for transform in self.transforms:
      example = transform.map(example)
    return example

  @property
  def inner(self) -> dict[str, Source]:
    """The source that is transformed."""
    return {'source': self.source}
