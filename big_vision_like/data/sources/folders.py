"""Images in folders, one folder per class."""

import collections
import dataclasses
import functools
import os
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

from big_vision_like.data.sources import protos, shards
from big_vision_like.data.sources.base import Source, counted, digest
from big_vision_like.data.transforms import decoding
from big_vision_like.errors import BadRecordError, UserError, listed

# Folders and files that programs create, in addition to names that start with a dot.
JUNK = {
  *('__MACOSX', '@eaDir', '$RECYCLE.BIN', 'System Volume Information', 'lost+found'),
  *('Thumbs.db', 'desktop.ini'),
}
# Names of splits. Two of them in one folder are not classes; 'train' alone may be one.
SPLITS = {'train', 'training', 'val', 'valid', 'validation', 'dev', 'test', 'testing'}


@dataclasses.dataclass(frozen=True)
class Folder(Source):
  """Images below `path`/CLASS/, at any depth, ordered as in torchvision's ImageFolder.

  Image files are recognised by their suffixes, `decoding.SUFFIXES`. Links are followed,
  except to a folder that contains them, and no folder is read twice for a class.
  `left_out` counts everything else in the folders.

  Classes are the names of the folders, sorted, or `classes` in the given order. Pass
  `classes` if a split lacks some classes of another split. Examples have `image`,
  `label`, `file` (the path relative to `path`, UTF-8) and `id`, the index.
  """

  path: str
  classes: Sequence[str] | None = None

  @functools.cached_property
  def _top(self) -> 'Found':
    """The folders of classes, and counts of everything else in `path`."""
    root = os.path.expanduser(self.path)
    if not os.path.isdir(root):
      raise UserError(f'there is no folder {self.path}')
    within = os.path.realpath(root)
    found = Found()
    for entry in found.entries(root):
      real = os.path.realpath(entry.path) if entry.is_symlink() else None
      if not os.path.isdir(entry):
        found.left_out[_other(entry)] += 1
      elif real and _contains(real, within):
        found.left_out['links to a folder that contains them'] += 1
      else:
        found.folders.append(entry.name)
    found.folders.sort()
    return found

  @functools.cached_property
  def label_names(self) -> list[str]:
    """The names of the classes, in order."""
    there = self._top.folders
    if not there:
      raise UserError(f'{self.path} holds no folders: it needs one for each class')
    if self.classes is None:
      splits = [name for name in there if name.lower() in SPLITS]
      if len(splits) > 1:
        raise UserError(
          f'{self.path} holds {listed(splits)}, which are splits, not classes: name one'
          ' of them as `path`, or all classes with `classes`'
        )
      return there
    if unknown := sorted(set(there) - set(self.classes)):
      raise UserError(
        f'{self.path} has folders that are not classes: {", ".join(unknown[:5])}'
      )
    return list(self.classes)

  @functools.cached_property
  def _found(self) -> list['Found']:
    """The images of each class, as paths relative to `path`."""
    root = os.path.expanduser(self.path)
    there = set(self._top.folders)

    def walk(name: str) -> Found:
      found = Found()
      if name in there:
        found.walk(root, name)
        found.images.sort()
      return found

    found = shards.on_threads(walk, self.label_names)
    empty = [i for i, images in enumerate(found) if not images.images]
    if empty and self.classes is None:
      name, others = self.label_names[empty[0]], found[empty[0]].left_out
      what = f', but {counted(others)}' if others else ''
      raise UserError(
        f'{self.path}/{name} holds no {listed(decoding.SUFFIXES, most=3)}{what}: delete'
        ' it, or name all classes with `classes`'
      )
    return found

  @functools.cached_property
  def _names(self) -> tuple[np.ndarray, np.ndarray]:
    """Paths relative to `path` (bytes) and labels (int32) of all images."""
    images = [image for found in self._found for image in found.images]
    names = [os.fsencode(f'{folder}/{file}') for folder, file in images]
    counts = [len(found.images) for found in self._found]
    return np.array(names, np.bytes_), np.repeat(
      np.arange(len(counts), dtype=np.int32), counts
    )

  @functools.cached_property
  def left_out(self) -> dict[str, int]:
    """The number of unused files, folders and links, by kind."""
    every = sum((found.left_out for found in self._found), self._top.left_out)
    return dict(every.most_common())

  @functools.cached_property
  def features(self) -> Any:
    """TFDS features of an example."""
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
    """Returns why the folder cannot be read, or an empty list."""
    try:
      len(self)
    except UserError as error:
      return [str(error)]
    return []

  def __getstate__(self) -> dict[str, Any]:
    # Workers receive the paths and labels; they make `features` again.
    own = ('features', 'file_sizes', '_found')
    return {k: v for k, v in self.__dict__.items() if k not in own}


class Found:
  """The images and subfolders of a folder, and counts of everything else in it."""

  def __init__(self) -> None:
    self.images: list[tuple[str, str]] = []  # folder and name
    self.folders: list[str] = []
    self.left_out: collections.Counter[str] = collections.Counter()

  def entries(self, folder: str) -> Iterator[os.DirEntry]:
    """Yields the entries of a folder, without hidden ones and junk."""
    try:
      with os.scandir(folder) as entries:
        for entry in entries:
          if not entry.name.startswith('.') and entry.name not in JUNK:
            yield entry
          elif entry.is_dir(follow_symlinks=False):
            self.left_out[f'folders {entry.name}'] += 1
          else:
            self.left_out['hidden files'] += 1
    except OSError as error:
      raise UserError(f'{folder} cannot be read: {error.strerror}') from error

  def walk(self, root: str, name: str) -> None:
    """Collects the images of a class; visits each folder once, linked folders last."""
    seen: set[str] = set()
    above = os.path.realpath(root)
    # Folders relative to the root, their real paths, and the real paths of folders with
    # links that led there.
    waiting = collections.deque(
      [(name, os.path.realpath(os.path.join(root, name)), (above,))]
    )
    while waiting:
      folder, real, through = waiting.popleft()
      if real in seen:
        self.left_out['links to a folder that is read already'] += 1
        continue
      seen.add(real)
      for entry in self.entries(os.path.join(root, folder)):
        below = f'{folder}/{entry.name}'
        link = entry.is_symlink()
        if not (os.path.isdir(entry) if link else entry.is_dir()):
          if not (os.path.isfile(entry) if link else entry.is_file()):
            self.left_out[_other(entry)] += 1
          elif entry.name.lower().endswith(decoding.SUFFIXES):
            self.images.append((folder, entry.name))
          else:
            self.left_out[shards.kind(entry.name)] += 1
        elif not link:
          waiting.appendleft((below, os.path.join(real, entry.name), through))
        else:
          target = os.path.realpath(entry.path)
          if any(_contains(target, inner) for inner in (real, *through)):
            self.left_out['links to a folder that contains them'] += 1
          else:
            waiting.append((below, target, (real, *through)))


def _contains(folder: str, inner: str) -> bool:
  """Returns whether a real path equals another one or is one of its parents."""
  return os.path.commonpath([folder, inner]) == folder


def _other(entry: os.DirEntry) -> str:
  """Returns the kind of an entry that is neither a folder nor a file of a class."""
  if os.path.isfile(entry):
    return 'files outside of the folders of classes'
  return 'broken links' if entry.is_symlink() else 'devices and pipes'
