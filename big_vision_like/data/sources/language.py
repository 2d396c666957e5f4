"""Texts about images, and their combination with stored regions of the images.

Sources of texts read annotation files in their published formats. Their examples have
texts and answers, and `image_id`, a text. `WithRegions` adds the regions of the image.

Axes: N regions, F features; 4 is left, top, right, bottom.
"""

import abc
import dataclasses
import functools
import json
import os
import pickle
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from big_vision_like import files
from big_vision_like.data.sources import region_features, shards
from big_vision_like.data.sources.base import Source, counted, digest
from big_vision_like.errors import UserError, listed, plural

Example = dict[str, Any]
WORDS = 'the a red round small dog cat man tree on near what is how many two'.split()


class Read(NamedTuple):
  """The examples of annotation files, and the number of unused entries, by reason."""

  examples: Sequence[Example]
  left_out: Mapping[str, int]


class Packed(Sequence):
  """A list of examples as bytes, which take a fraction of the memory of dicts.

  Each worker has its own copy of all examples.
  """

  def __init__(self, examples: Iterable[Example]):
    packed = [pickle.dumps(example, pickle.HIGHEST_PROTOCOL) for example in examples]
    self._ends = np.cumsum([0, *map(len, packed)])
    self._bytes = b''.join(packed)

  def __len__(self) -> int:
    return len(self._ends) - 1

  def __getitem__(self, index: int) -> Example:
    if not 0 <= index < len(self):
      raise IndexError(f'example {index} of {len(self)}')
    start, stop = self._ends[index : index + 2].tolist()
    return pickle.loads(self._bytes[start:stop])


@dataclasses.dataclass(frozen=True, kw_only=True)
class Annotations(Source):
  """The examples of annotation files, which are held in memory.

  Subclasses define `paths`, `read` and `trial`. Unusable entries are left out and
  counted; more than the share `tolerated` of all is an error. `examples` is the number
  of examples, for plans made before the data are available. `made_up`, if above 0, is
  the number of made-up examples that replace the data in plans and trials.
  """

  examples: int | None = None
  tolerated: float = 0.01
  made_up: int = 0

  tiny = dict(made_up=lambda arguments, _: 20)

  @property
  @abc.abstractmethod
  def paths(self) -> Sequence[str]:
    """The paths of the annotation files."""

  @abc.abstractmethod
  def read(self) -> Read:
    """Reads the files; a file in another format raises a `UserError`."""

  @abc.abstractmethod
  def trial(self, index: int, rng: np.random.Generator) -> Example:
    """Returns a made-up example, without its image."""

  @functools.cached_property
  def _read(self) -> Read:
    found = self.read()
    left_out = sum(found.left_out.values())
    count = len(found.examples) + left_out
    if not count:
      raise UserError(f'{listed(self.paths)}: there are no examples')
    if left_out > self.tolerated * count:
      raise UserError(
        f'{listed(self.paths)}: {left_out:,} of {count:,} entries cannot be used:'
        f' {counted(found.left_out)}; correct them, or raise `tolerated`'
        f' ({self.tolerated:g}), the share that may be left out'
      )
    if self.examples not in (None, len(found.examples)):
      raise UserError(
        f'{listed(self.paths)}: there are {len(found.examples):,} examples, not the'
        f' {self.examples:,} that the config gives: correct `examples`.'
      )
    return Read(Packed(found.examples), found.left_out)

  @property
  def left_out(self) -> Mapping[str, int]:
    """The number of unused entries, by reason."""
    return {} if self.made_up else self._read.left_out

  @property
  def files(self) -> Sequence[str]:
    """The paths of the annotation files."""
    return [] if self.made_up else [os.path.expanduser(path) for path in self.paths]

  @property
  def title(self) -> str:
    """The kind of the annotations, and the name of their first file."""
    return shards.title(self, self.paths[0])

  def identified_by(self) -> Sequence[Any]:
    """Returns what else than the annotation files determines the examples."""
    return ()

  def fingerprint(self) -> str:
    """Returns a digest of the examples' number and ends, and of the files' sizes."""
    ends = [self[0], self[len(self) - 1]]
    others = () if self.made_up else self.identified_by()
    return digest(type(self).__qualname__, len(self), self.file_sizes, ends, others)

  def problems(self) -> list[str]:
    """Returns why the files cannot be read, or an empty list."""
    try:
      len(self)
    except UserError as error:
      return [str(error)]
    return []

  def planned(self) -> Source:
    """Returns this source, or a stand-in for planning if files are missing."""
    found = all(os.path.isfile(os.path.expanduser(path)) for path in self.paths)
    if found or self.made_up:
      return self
    if self.examples is None:
      raise UserError(
        f'{listed(self.paths)} are missing: give the number of examples with `examples`'
      )
    return dataclasses.replace(self, made_up=self.examples)

  def __len__(self) -> int:
    return self.made_up or len(self._read.examples)

  def __getitem__(self, index: int) -> Example:
    if not 0 <= index < len(self):
      raise IndexError(f'example {index} of {len(self)}')
    if not self.made_up:
      return self._read.examples[index]
    trial = self.trial(index, np.random.default_rng(index))
    place = index % region_features.FEW
    return {'image_id': str(place), 'id': index} | trial


@dataclasses.dataclass(frozen=True)
class WithRegions(Source):
  """Annotations with the stored regions of their images.

  Adds `boxes`, `features`, `classes` and `size` (see `region_features`). `given` has
  regions at known boxes, such as the true ones, which precede the detected ones;
  `num_detected` is then the number of the latter. Examples with `image_id_2` get a
  second image, whose arrays end in `_2`.

  Examples whose image has no stored regions are left out and counted, and so are those
  without `given` regions. More than the share `tolerated` of them is an error.
  """

  annotations: Source
  regions: region_features.RegionFeatures
  given: region_features.RegionFeatures | None = None
  tolerated: float = 0.0

  @property
  def inner(self) -> Mapping[str, Source]:
    """The annotations and the regions."""
    parts = {'annotations': self.annotations, 'regions': self.regions}
    return parts if self.given is None else parts | {'given': self.given}

  @functools.cached_property
  def _kept(self) -> tuple[np.ndarray, int]:
    """The indices of examples about images with regions, and the number of others."""
    needed = [self.regions] if self.given is None else [self.regions, self.given]
    if getattr(self.annotations, 'made_up', 0) and all(x.made_up for x in needed):
      # Plans have millions of made-up texts, all of them about made-up images.
      return np.arange(len(self.annotations)), 0
    kept, first = [], ''
    for index in range(len(self.annotations)):
      images = images_of(self.annotations[index])
      lacking = [x for x in images if any(x not in part.places for part in needed)]
      if lacking:
        first = first or lacking[0]
      else:
        kept.append(index)
    count = len(self.annotations)
    missing = count - len(kept)
    if missing == count or missing > self.tolerated * count:
      raise UserError(
        f'{self.regions.name}: {missing:,} of {plural(count, "example")} of'
        f' {self.annotations.title} are about images without stored regions, such as'
        f' {first!r}: convert the features of these images, check that ids are written'
        f' alike ({listed(self.regions.places, 2)} are stored), or raise `tolerated`'
        f' ({self.tolerated:g})'
      )
    return np.array(kept, np.int64), missing

  @property
  def left_out(self) -> Mapping[str, int]:
    """The number of unused examples, by reason."""
    missing = self._kept[1]
    found = {'examples whose image has no stored regions': missing} if missing else {}
    return {**self.annotations.left_out, **found}

  @property
  def title(self) -> str:
    """The name of the annotations."""
    return self.annotations.title

  def remarks(self) -> list[str]:
    """Returns the remarks about the annotations."""
    return self.annotations.remarks()

  def fingerprint(self) -> str:
    """Returns a digest of the annotations and of the regions."""
    return digest('WithRegions', *self.inner.values(), len(self))

  def problems(self) -> list[str]:
    """Returns why the data cannot be used, or an empty list."""
    found = [problem for part in self.inner.values() for problem in part.problems()]
    if found:
      return found
    try:
      len(self)
    except UserError as error:
      return [str(error)]
    return []

  def planned(self) -> Source:
    """Returns this source, or a stand-in for planning if parts are missing."""
    parts = {name: part.planned() for name, part in self.inner.items()}
    if all(part is self.inner[name] for name, part in parts.items()):
      return self
    few = region_features.FEW  # made-up annotations are about made-up images
    made_up = {
      name: dataclasses.replace(part, made_up=part.made_up or few)
      for name, part in parts.items()
      if name != 'annotations'
    }
    annotations = parts['annotations']
    if isinstance(annotations, Annotations) and not annotations.made_up:
      count = annotations.examples or len(annotations)
      annotations = dataclasses.replace(annotations, made_up=count)
    return dataclasses.replace(self, annotations=annotations, **made_up)

  def text(self, index: int) -> Example:
    """Returns an example without the regions of its image."""
    return self.annotations[int(self._kept[0][index])]

  def __len__(self) -> int:
    return len(self._kept[0])

  def __getitem__(self, index: int) -> Example:
    if not 0 <= index < len(self):
      raise IndexError(f'example {index} of {len(self)}')
    example = dict(self.text(index))
    for suffix, image in zip(('', '_2'), images_of(example), strict=False):
      example |= self._regions_of(image, suffix)
    return example

  def _regions_of(self, image: str, suffix: str) -> Example:
    found = self.regions[self.regions.places[image]]
    found.pop('image_id')
    if self.given is not None:
      own = self.given[self.given.places[image]]
      found['num_detected'] = len(found['boxes'])
      for name in ('boxes', 'features', 'classes'):
        if name in found and name in own:
          found[name] = np.concatenate([own[name], found[name]])
    return {name + suffix: value for name, value in found.items()}


@dataclasses.dataclass(frozen=True)
class ImagesOf(Source):
  """The regions of each image that captions are about, once, in the captions' order.

  The k-th example is the image with `image_number` k. All images must have regions.
  """

  captions: Source
  regions: region_features.RegionFeatures

  @property
  def inner(self) -> Mapping[str, Source]:
    """The captions and the regions."""
    return {'captions': self.captions, 'regions': self.regions}

  @functools.cached_property
  def ids(self) -> list[str]:
    """The ids of the images, by number."""
    numbers = {e['image_number']: e['image_id'] for e in self.captions}
    ids = [numbers[k] for k in range(len(numbers))]
    lacking = [name for name in ids if name not in self.regions.places]
    if lacking:
      raise UserError(
        f'{self.regions.name} has no regions of {len(lacking):,} of'
        f' {plural(len(ids), "image")} to retrieve ({listed(lacking, 2)}): convert'
        ' their features'
      )
    return ids

  def planned(self) -> Source:
    """Returns this source, or a stand-in for planning if parts are missing."""
    captions, regions = self.captions.planned(), self.regions.planned()
    if captions is self.captions and regions is self.regions:
      return self
    few = region_features.FEW
    return ImagesOf(
      dataclasses.replace(captions, made_up=captions.made_up or few),
      dataclasses.replace(regions, made_up=regions.made_up or few),
    )

  def __len__(self) -> int:
    return len(self.ids)

  def __getitem__(self, index: int) -> Example:
    if not 0 <= index < len(self):
      raise IndexError(f'example {index} of {len(self)}')
    found = self.regions[self.regions.places[self.ids[index]]]
    return {**found, 'image_number': index, 'id': index}


def images_of(example: Mapping[str, Any]) -> list[str]:
  """Returns the ids of the images that an example is about."""
  return [example[name] for name in ('image_id', 'image_id_2') if name in example]


def image_id(value: Any) -> str:
  """Returns the id of an image as text; 9, 9.0 and '9' are the same."""
  if isinstance(value, float) and value.is_integer():
    value = int(value)
  return str(value)


def lines_of(path: str) -> Iterator[tuple[str, dict[str, Any]]]:
  """Yields the name of each line of a JSON Lines file, and its object."""
  with open(os.path.expanduser(path), 'rb') as file:
    for number, line in enumerate(file, start=1):
      if line.strip():
        name = f'line {number} of {path}'
        found = files.parse_json(line, name)
        if not isinstance(found, dict):
          raise UserError(f'{name} is not an object of JSON')
        yield name, found


def fields(entry: Any, names: Iterable[str], where: str) -> list[Any]:
  """Returns fields of an entry; raises a `UserError` that names a missing one."""
  for name in names:
    if not isinstance(entry, dict) or name not in entry:
      there = listed(entry, 6) if isinstance(entry, dict) else json.dumps(entry)[:50]
      raise UserError(f'{where} has no {name!r}; it has {there}')
  return [entry[name] for name in names]


def words(rng: np.random.Generator, count: int = 4) -> str:
  """Returns a made-up text."""
  return ' '.join(rng.choice(WORDS, count).tolist())
