"""Images in folders, one folder to a class."""

import dataclasses
import functools
import os
from collections.abc import Sequence
from typing import Any

import numpy as np

from big_vision_like.data.sources import protos, shards
from big_vision_like.data.sources.base import Source, digest
from big_vision_like.errors import BadRecordError, UserError

EXTENSIONS = ('.jpg', '.jpeg', '.png', '.webp')


@dataclasses.dataclass(frozen=True)
class Folder(Source):
  """Images below `path`/CLASS/, at any depth, ordered as torchvision's ImageFolder.

  Classes are the names of the folders, sorted; or `classes`, in their order, where one
  split lacks some of another's. Examples have `image`, `label`, `file` (the path below
  `path`, UTF-8) and `id`, the index.
  """

  path: str
  classes: Sequence[str] | None = None

  @functools.cached_property
  def label_names(self) -> list[str]:
    """The classes' names in order."""
    root = os.path.expanduser(self.path)
    if not os.path.isdir(root):
      raise UserError(f'there is no folder {self.path}')
    there = sorted(entry.name for entry in os.scandir(root) if entry.is_dir())
    if not there:
      raise UserError(f'{self.path} holds no folders: it needs one for each class')
    if self.classes is None:
      return there
    if unknown := sorted(set(there) - set(self.classes)):
      raise UserError(
        f'{self.path} has folders that are no classes: {", ".join(unknown[:5])}'
      )
    return list(self.classes)

  @functools.cached_property
  def _names(self) -> tuple[np.ndarray, np.ndarray]:
    """Paths below `path` (bytes) and labels (int32) of all images."""
    root = os.path.expanduser(self.path)

    def walk(name: str) -> list[str]:
      return [
        os.path.relpath(os.path.join(folder, file), root)
        for folder, _, files in sorted(os.walk(f'{root}/{name}', followlinks=True))
        for file in sorted(files)
        if file.lower().endswith(EXTENSIONS)
      ]

    found = shards.on_threads(walk, self.label_names)
    empty = [n for n, files in zip(self.label_names, found, strict=True) if not files]
    if empty and self.classes is None:
      raise UserError(
        f'{self.path}/{empty[0]} holds no {", ".join(EXTENSIONS)}: delete it, or name'
        ' all classes with `classes`'
      )
    labels = np.repeat(np.arange(len(found), dtype=np.int32), [len(f) for f in found])
    return np.array([os.fsencode(f) for files in found for f in files]), labels

  @functools.cached_property
  def features(self) -> Any:
    """TFDS's description of an example."""
    import tensorflow_datasets as tfds

    return tfds.features.FeaturesDict(
      {
        'image': tfds.features.Image(),
        'label': tfds.features.ClassLabel(names=self.label_names),
        'file': tfds.features.Text(),
        'id': np.int64,
      }
    )

  @property
  def files(self) -> list[str]:
    """The paths of all images."""
    root = os.path.expanduser(self.path)
    return [os.path.join(root, os.fsdecode(name)) for name in self._names[0]]

  @property
  def title(self) -> str:
    """The name of the folder."""
    return shards.title(self, self.path)

  def fingerprint(self) -> str:
    """Returns a digest of the classes and of names and sizes of all images."""
    return digest('Folder', self.label_names, *self._names, self.file_sizes)

  def __len__(self) -> int:
    return len(self._names[1])

  def __getitem__(self, index: int) -> protos.Example:
    if not 0 <= index < len(self):
      raise IndexError(f'example {index} of {len(self)}')
    names, labels = self._names
    file = os.path.join(os.path.expanduser(self.path), os.fsdecode(names[index]))
    try:
      with open(file, 'rb') as opened:
        image = opened.read()
    except OSError as error:
      raise BadRecordError(f'{file} cannot be read: {error.strerror}') from error
    label, name = int(labels[index]), bytes(names[index])
    return {'image': image, 'label': label, 'file': name, 'id': index}

  def problems(self) -> list[str]:
    """What keeps it from being read."""
    try:
      len(self)
    except UserError as error:
      return [str(error)]
    return []

  def __getstate__(self) -> dict[str, Any]:
    # What the walk found travels to workers; descriptions are made again.
    own = ('features', 'file_sizes')
    return {k: v for k, v in self.__dict__.items() if k not in own}
