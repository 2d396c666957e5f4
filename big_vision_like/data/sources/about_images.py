"""Texts about images together with the images, from folders of files.

`language.WithRegions` adds stored regions to the same annotations; these sources add
the images themselves.
"""

import dataclasses
import functools
import os
import pathlib
from collections.abc import Mapping, Sequence

import numpy as np

from big_vision_like import files
from big_vision_like.data.sources import planned
from big_vision_like.data.sources.base import Source, digest
from big_vision_like.data.sources.coco import Coco
from big_vision_like.data.sources.language import Annotations, Example
from big_vision_like.errors import BadRecordError, UserError, plural


@dataclasses.dataclass(frozen=True)
class AboutImages(Source):
  """Annotations with the files of their images, as `image`, still encoded.

  `images` is a folder, and `name` the name of a file in it for an `image_id`:
  '{:0>12}.jpg' in COCO 2017. Examples whose image is not in the folder are left out and
  counted; more than the share `tolerated` of them is an error. (VQA v2 is split by the
  images of COCO 2014; with the folders of 2017 and `tolerated=1.0`, its questions are
  split as COCO 2017 is.)
  """

  annotations: Source
  images: str
  name: str = '{}.jpg'
  tolerated: float = 0.0

  @property
  def made_up(self) -> int:
    """The number of made-up examples; 0 if the data are real."""
    return getattr(self.annotations, 'made_up', 0)

  @property
  def inner(self) -> Mapping[str, Source]:
    """The annotations."""
    return {'annotations': self.annotations}

  @functools.cached_property
  def _kept(self) -> tuple[np.ndarray, int]:
    """The indices of examples with an image, and the number of others."""
    if self.made_up:
      return np.arange(self.made_up), 0
    folder = pathlib.Path(self.images).expanduser()
    if not folder.is_dir():
      raise UserError(f'there is no folder {self.images} with images')
    with os.scandir(folder) as entries:
      there = {entry.name for entry in entries}
    kept, first = [], ''
    for index in range(len(self.annotations)):
      file = self.name.format(self.annotations[index]['image_id'])
      if file in there:
        kept.append(index)
      else:
        first = first or file
    count = len(self.annotations)
    missing = count - len(kept)
    if not kept or missing > self.tolerated * count:
      raise UserError(
        f'{self.images} lacks the images of {missing:,} of {plural(count, "example")}'
        f' of {self.annotations.title}, such as {first}: add them, correct `name`'
        f' ({self.name!r}), or raise `tolerated` ({self.tolerated:g})'
      )
    return np.array(kept, np.int64), missing

  @property
  def left_out(self) -> Mapping[str, int]:
    """The number of unused examples, by reason."""
    missing = self._kept[1]
    found = {'examples whose image is not in the folder': missing} if missing else {}
    return {**self.annotations.left_out, **found}

  @property
  def title(self) -> str:
    """The name of the annotations."""
    return self.annotations.title

  @property
  def label_names(self) -> Sequence[str] | None:
    """The names of the classes of the annotations."""
    return self.annotations.label_names

  def remarks(self) -> list[str]:
    """Returns the remarks about the annotations."""
    return self.annotations.remarks()

  def fingerprint(self) -> str:
    """Returns a digest of the annotations and of the number of images."""
    return digest('AboutImages', self.annotations, len(self))

  def problems(self) -> list[str]:
    """Returns why the data cannot be used, or an empty list."""
    found = self.annotations.problems()
    if found:
      return found
    try:
      len(self)
    except UserError as error:
      return [str(error)]
    return []

  def planned(self) -> Source:
    """Returns this source, or a stand-in for planning if files are missing."""
    annotations = self.annotations.planned()
    there = pathlib.Path(self.images).expanduser().is_dir()
    if isinstance(annotations, Annotations) and not there and not annotations.made_up:
      count = annotations.examples or len(annotations)
      annotations = dataclasses.replace(annotations, made_up=count)
    return dataclasses.replace(self, annotations=annotations)

  def __len__(self) -> int:
    return len(self._kept[0])

  def __getitem__(self, index: int) -> Example:
    if not 0 <= index < len(self):
      raise IndexError(f'example {index} of {len(self)}')
    example = dict(self.annotations[int(self._kept[0][index])])
    if self.made_up:
      return example | {'image': planned.picture(*planned.SIZE)}
    path = os.path.join(self.images, self.name.format(example['image_id']))
    try:
      return example | {'image': files.read_bytes(os.path.expanduser(path))}
    except OSError as error:
      raise BadRecordError(f'{path} cannot be read: {error}') from error


@dataclasses.dataclass(frozen=True)
class WithAttributes(Source):
  """Objects in COCO's format with attributes, of Visual Genome.

  `attributes` is a JSON file with `names`, the attributes by number, and `of`, the
  numbers for the id of an annotation, as text. Objects get `attributes`, a list that
  may be empty. Without a file, as in plans and trials, it is always empty. `about` is
  the approximate number of images, for plans made before the data are available.
  """

  objects: Source
  attributes: str
  about: int | None = None

  tiny = dict(attributes=lambda arguments, _: '')

  @property
  def inner(self) -> Mapping[str, Source]:
    """The objects."""
    return {'objects': self.objects}

  @functools.cached_property
  def _of(self) -> Mapping[str, list[int]]:
    if not self.attributes:
      return {}
    path = os.path.expanduser(self.attributes)
    content = files.read_fields(path)
    names, of = content.get('names'), content.get('of')
    if not isinstance(names, list) or not isinstance(of, dict):
      raise UserError(f'{self.attributes} has no list `names` and no object `of`')
    for key, numbers in of.items():
      if not all(0 <= number < len(names) for number in numbers):
        raise UserError(
          f'{self.attributes}: annotation {key} has attributes {numbers}, which are not'
          f' all below {len(names)}, the number of names'
        )
    return of

  @property
  def category_names(self) -> Sequence[str]:
    """The classes of objects."""
    return self.objects.category_names

  @property
  def title(self) -> str:
    """The name of the objects."""
    return self.objects.title

  def fingerprint(self) -> str:
    """Returns a digest of the objects and of the attributes."""
    return digest('WithAttributes', self.objects, files.sha256(dict(self._of)))

  def problems(self) -> list[str]:
    """Returns why the data cannot be used, or an empty list."""
    found = self.objects.problems()
    try:
      len(self._of)
    except UserError as error:
      found = [*found, str(error)]
    return found

  def planned(self) -> Source:
    """Returns this source, or one without attributes if files are missing."""
    objects = self.objects
    if isinstance(objects, Coco) and not _is_file(objects.annotations):
      objects = dataclasses.replace(objects, examples=objects.examples or self.about)
    planned = objects.planned()
    if planned is self.objects and _is_file(self.attributes):
      return self
    return WithAttributes(planned, '')

  def __len__(self) -> int:
    return len(self.objects)

  def __getitem__(self, index: int) -> Example:
    example = dict(self.objects[index])
    own = [self._of.get(str(key), []) for key in example['objects']['id']]
    return example | {'objects': example['objects'] | {'attributes': own}}


def _is_file(path: str) -> bool:
  return os.path.isfile(os.path.expanduser(path))
