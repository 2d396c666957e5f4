"""A folder of your own images, whole or split by a seed, without damaged files."""

import collections
import dataclasses
import functools
import hashlib
import os
import sys
import unicodedata
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from big_vision_like.data.sources import folders, planned, protos, shards
from big_vision_like.data.sources.base import Source, digest
from big_vision_like.data.transforms import decoding
from big_vision_like.errors import (
  UserError,
  check_one_of,
  listed,
  nearest,
  plural,
)

PARTS = ('all', 'train', 'val')
# Names of the folders that hold the images of each part.
SPLITS = {
  'train': ('train', 'training'),
  'val': ('val', 'valid', 'validation', 'dev'),
  'test': ('test', 'testing'),
}
TINY = 8  # side in pixels below which an image is reported as tiny
NAMED = 3  # number of files or classes that a message names
MANY = 2000  # number of images from which the slow check is announced
# JPEGs are decoded at an eighth of their size, which finds the same damage faster.
FACTOR = 8


class Checked(NamedTuple):
  """The readable images of a part.

  `places_N` are their indices among all images of the folder, and `sizes_N2` their
  heights and widths. `unreadable` maps each file that is left out to the reason.
  """

  places_N: np.ndarray
  sizes_N2: np.ndarray
  unreadable: Mapping[str, str]


@dataclasses.dataclass(frozen=True)
class OwnImages(Source):
  """Readable images of `folders.Folder(path, classes)`, or a part of them.

  `part` is 'all', 'train' or 'val'. 'train' and 'val' divide the images of each class:
  `held_out` is the share for 'val', which gets at least one image of each class that
  has two or more. The choice depends on the images' names and `seed`, not on other
  classes.

  All images of the part are decoded once when they are first needed. Files that cannot
  be decoded are counted, named and left out of training and evaluation. `examples` is
  the number of images, for plans made before the folder exists.
  """

  path: str
  part: str = 'all'
  held_out: float = 0.2
  seed: int = 0
  classes: Sequence[str] | None = None
  examples: int | None = None

  def __post_init__(self) -> None:
    check_one_of(PARTS, part=self.part)
    if not 0 < self.held_out < 1:
      raise UserError(f'held_out={self.held_out} is not a share between 0 and 1')

  @functools.cached_property
  def folder(self) -> folders.Folder:
    """The folder with all its images."""
    if not os.path.isdir(os.path.expanduser(self.path)):
      raise UserError(missing(self.path))
    return folders.Folder(self.path, self.classes)

  @functools.cached_property
  def chosen(self) -> np.ndarray:
    """The indices of the part's images in the folder, int64 (N,), with damaged ones."""
    by_class = collections.defaultdict(list)
    for place, name in enumerate(self._names):
      by_class[_top(name)].append((name, place))
    places = []
    for images in by_class.values():
      held = held_out([name for name, _ in images], self.held_out, self.seed)
      wanted = {'all': (False, True), 'train': (False,), 'val': (True,)}[self.part]
      places += [place for name, place in images if (name in held) in wanted]
    return np.array(sorted(places), np.int64)

  @functools.cached_property
  def checked(self) -> Checked:
    """The images of the part that can be decoded."""
    files, names = self.folder.files, self._names
    if len(self.chosen) >= MANY:
      count = f'{len(self.chosen):,} images'
      _tell(f'{self.path}: decoding {count} once, to leave out damaged files')
    found = shards.on_threads(lambda place: size_of(files[place]), self.chosen.tolist())
    good = [i for i, size in enumerate(found) if not isinstance(size, str)]
    if not good:
      why = ''
      if found:
        file = shown(names[self.chosen[0]])
        why = f' that can be decoded; for example, {file}: {found[0]}'
      raise UserError(f'{self.path} has no image for {self.part!r}{why}')
    return Checked(
      places_N=self.chosen[good],
      sizes_N2=np.array([found[i] for i in good], np.int32).reshape(-1, 2),
      unreadable={
        names[place]: why
        for place, why in zip(self.chosen.tolist(), found, strict=True)
        if isinstance(why, str)
      },
    )

  @functools.cached_property
  def _names(self) -> list[str]:
    """The path of each image of the folder below `path`."""
    root = os.path.expanduser(self.path)
    return [os.path.relpath(file, root) for file in self.folder.files]

  @property
  def split(self) -> str:
    """The name of the part, for display."""
    return self.part

  @property
  def title(self) -> str:
    """The name of the class and the folder, for display."""
    name = os.path.basename(os.path.abspath(os.path.expanduser(self.path)))
    return f'{type(self).__name__} {name}'

  @property
  def label_names(self) -> list[str]:
    """The names of the classes in order."""
    return self.folder.label_names

  @property
  def features(self) -> Mapping[str, Any]:
    """TFDS's description of an example: its `image`, `label` and `id`."""
    own = self.folder.features
    return {name: feature for name, feature in own.items() if name != 'file'}

  @property
  def image_sizes(self) -> np.ndarray:
    """Heights and widths of all images, int32 (N, 2)."""
    return self.checked.sizes_N2

  @property
  def files(self) -> list[str]:
    """The paths of the images."""
    files = self.folder.files
    return [files[place] for place in self.checked.places_N.tolist()]

  @property
  def left_out(self) -> dict[str, int]:
    """The number of files that are not used, by reason."""
    damaged = len(self.checked.unreadable)
    found = dict(self.folder.left_out)
    return found | ({'images that cannot be decoded': damaged} if damaged else {})

  def planned(self) -> Source:
    """Returns this source, or a stand-in for planning if the folder does not exist."""
    if os.path.isdir(os.path.expanduser(self.path)):
      return self
    return planned.Pictures('imagenet2012', self.examples)

  def fingerprint(self) -> str:
    """Returns a digest of the classes and of the images' names and file sizes."""
    names = [self._names[place] for place in self.checked.places_N.tolist()]
    encoded = [os.fsencode(name) for name in names]
    return digest('OwnImages', self.label_names, encoded, self.file_sizes)

  def remarks(self) -> list[str]:
    """Returns remarks about damaged, tiny, misplaced and missing images."""
    sizes_N2, unreadable = self.checked.sizes_N2, self.checked.unreadable
    found = []
    if unreadable:
      each = [f'{shown(name)} ({why})' for name, why in sorted(unreadable.items())]
      what = plural(len(unreadable), 'damaged image')
      found.append(f'{what} left out: {listed(each, NAMED)}')
    tiny = np.flatnonzero(sizes_N2.min(axis=1, initial=TINY) < TINY)
    if tiny.size:
      files = self.checked.places_N[tiny].tolist()
      each = [shown(self._names[place]) for place in files]
      what = plural(len(each), 'image')
      found.append(f'{what} with a side below {TINY} pixels: {listed(each, NAMED)}')
    deep = [name for name in self._names if name.count(os.sep) > 1]
    if deep:
      what = plural(len(deep), 'image')
      found.append(
        f'{what} in subfolders of class folders, which are not classes themselves:'
        f' {listed(map(shown, deep), 1)}'
      )
    count_C = np.bincount(self._labels, minlength=len(self.label_names))
    for number, what in ((0, 'no image in this part'), (1, '1 image')):
      few = [self.label_names[c] for c in np.flatnonzero(count_C == number)]
      if few and (number == 0 or self.part != 'val'):
        have = 'class has' if len(few) == 1 else 'classes have'
        found.append(f'{len(few):,} {have} {what}: {listed(map(shown, few), NAMED)}')
    return found

  @property
  def _labels(self) -> np.ndarray:
    """The labels of the images, int64 (N,)."""
    labels = {name: label for label, name in enumerate(self.label_names)}
    places = self.checked.places_N.tolist()
    return np.array([labels[_top(self._names[place])] for place in places], np.int64)

  def problems(self) -> list[str]:
    """Returns the reasons why the images cannot be used, if any."""
    try:
      absent = set(range(len(self.label_names))) - {*self._labels.tolist()}
    except UserError as error:
      return [str(error)]
    if absent and self.part != 'val' and self.classes is None:
      each = [shown(self.label_names[label]) for label in sorted(absent)]
      return [
        f'{self.path} has no readable image of {listed(each, NAMED)}: add some, or'
        ' delete the folder'
      ]
    return []

  def __len__(self) -> int:
    return len(self.checked.places_N)

  def __getitem__(self, index: int) -> protos.Example:
    if not 0 <= index < len(self):
      raise IndexError(f'example {index} of {len(self)}')
    example = self.folder[int(self.checked.places_N[index])]
    return {'image': example['image'], 'label': example['label'], 'id': index}


def held_out(names: Sequence[str], share: float, seed: int) -> set[str]:
  """Returns the names of a class's held-out images: `share` of all, but at least one.

  They are the first in the order of a hash of seed and name. No image is held out of a
  class with a single image.
  """
  count = min(max(1, round(share * len(names))), len(names) - 1)

  def place(name: str) -> bytes:
    return hashlib.sha256(b'%d %s' % (seed, os.fsencode(name))).digest()

  return {*sorted(names, key=place)[:count]}


def count(**arguments: Any) -> int:
  """Returns the number of images of `OwnImages(**arguments)`, with damaged ones."""
  return len(OwnImages(**arguments).chosen)


def size_of(file: str) -> tuple[int, int] | str:
  """Returns the height and width of an image file, or why it cannot be decoded."""
  try:
    with open(file, 'rb') as opened:
      encoded = opened.read()
  except OSError as error:
    return error.strerror or str(error)
  try:
    decoding.decode(encoded, factor=FACTOR)
    return decoding.image_size(encoded)
  except ValueError as error:
    return str(error)


def parts_of(path: str, seed: int = 0, share: float = 0.2) -> dict[str, dict[str, Any]]:
  """Returns the arguments of `OwnImages` for 'train', 'val' and maybe 'test', by name.

  A folder that holds `train` and another split, by the names in `SPLITS`, is used as it
  is; if it has no validation images, the test images replace them. Any other folder is
  split by the seed. Raises a `UserError` for fewer than two classes.
  """
  root = os.path.expanduser(path)
  if not os.path.isdir(root):
    raise UserError(missing(path))
  inside = {name.lower(): name for name in _folders(root)}
  splits = {
    part: os.path.join(path, inside[name])
    for part, names in SPLITS.items()
    for name in names
    if name in inside
  }
  if 'train' in splits and len(splits) == 1 and len(inside) == 1:
    path = splits.pop('train')
  if 'train' not in splits or len(splits) == 1:
    classes = classes_of(path)
    own = dict(path=path, held_out=share, seed=seed, classes=classes)
    if not count(**own, part='val'):
      raise UserError(
        f'no class of {path} has two images, so none can be held out for validation:'
        ' add images, or put some into `val` next to `train`'
      )
    return {part: own | {'part': part} for part in ('train', 'val')}
  classes = classes_of(splits['train'])
  if 'val' not in splits:
    splits['val'] = splits.pop('test')
  return {part: dict(path=p, classes=classes) for part, p in splits.items()}


def classes_of(path: str) -> list[str]:
  """Returns the names of the classes in a folder.

  Raises a `UserError` if there is only one class, or if a class has no image.
  """
  folder, root = folders.Folder(path), os.path.expanduser(path)
  loose = [x for x in os.listdir(root) if x.lower().endswith(decoding.SUFFIXES)]
  if loose and not _folders(root):
    raise UserError(
      f'{path} has {plural(len(loose), "image")} and no folders: put the images of each'
      ' class into a folder with its name'
    )
  names = folder.label_names
  if odd := [name for name in names if unprintable(name)]:
    raise UserError(
      f'{path} has a folder named {odd[0]!r}, which is not printable UTF-8: rename it'
    )
  if len(names) == 1:
    advice = 'add a folder for each other class'
    if deeper := _folders(os.path.join(root, names[0])):
      advice = f'if {listed(deeper, NAMED)} are the classes, name {path}/{names[0]}'
    raise UserError(
      f'{path} has a single class, {names[0]!r}, but a classifier needs two: {advice}'
    )
  len(folder)  # raises for a class without images
  return list(names)


def missing(path: str) -> str:
  """Returns an error message for a path that is not a folder."""
  if os.path.exists(os.path.expanduser(path)):
    return f'{path} is a file: name the folder of your images'
  above, name = os.path.split(path.rstrip(os.sep))
  parent = os.path.expanduser(above or '.')
  there = os.listdir(parent) if os.path.isdir(parent) else []
  if close := nearest(name, there):
    return f'{path} does not exist; did you mean {os.path.join(above, close[0])!r}?'
  return f'{path} does not exist: name the folder of your images'


def shown(name: str) -> str:
  """Returns a file name as text that any terminal can print."""
  text = os.fsencode(name).decode(errors='replace')
  return repr(text) if unprintable(text) else text


def unprintable(name: str) -> bool:
  """Returns whether a name has control characters, line breaks or undecodable bytes."""
  return any(unicodedata.category(x) in ('Cc', 'Cs', 'Zl', 'Zp') for x in name)


def _folders(root: str) -> list[str]:
  """Returns the sorted names of a folder's subfolders, except hidden ones and junk."""
  return sorted(
    entry.name
    for entry in os.scandir(root)
    if entry.is_dir() and entry.name[0] != '.' and entry.name not in folders.JUNK
  )


def _top(name: str) -> str:
  """Returns the class of an image: the first part of its path below the folder."""
  return name.split(os.sep, 1)[0]


def _tell(line: str) -> None:
  print(line, file=sys.stderr, flush=True)
