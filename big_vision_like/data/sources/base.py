"""The interface of data sources, which provide examples."""

import abc
import dataclasses
import functools
import hashlib
import json
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from big_vision_like.data.sources import shards
from big_vision_like.errors import BadRecordError, Checked, UserError, listed, plural

Example = dict[str, Any]

# Number of examples that the default fingerprint reads.
SEEN = 8


class Identified(abc.ABC):
  """An object identified by its content, wherever the content is stored."""

  @abc.abstractmethod
  def fingerprint(self) -> str:
    """Returns hexadecimal digits that identify the content, for `digest`."""


class Source(Identified, Checked):
  """Random access to examples: dicts of NumPy values, with images still encoded.

  A source must define `__len__` and `__getitem__`. All other members have defaults for
  unknown values. Sources are sent to worker processes, so they must support pickling.
  An unusable record raises `BadRecordError`.

  `split` names the part of the data set, for display.
  """

  split: str = ''

  @abc.abstractmethod
  def __len__(self) -> int:
    """Returns the number of examples."""

  @abc.abstractmethod
  def __getitem__(self, index: int) -> Example:
    """Returns an example; raises IndexError past the end, which makes it iterable."""

  def __getitems__(self, indices: Sequence[int]) -> list[Example]:
    """Returns several examples, in bulk if the format makes that faster."""
    return [self[index] for index in indices]

  @property
  def features(self) -> Mapping[str, Any]:
    """TFDS features of an example; empty if there is no description."""
    return {}

  @property
  def label_names(self) -> Sequence[str] | None:
    """The names of the classes of `label`, in order; None if there are no names."""
    return label_names(self.features)

  @property
  def category_names(self) -> Sequence[str]:
    """The names of the categories of objects, in order; empty without names."""
    for objects in ('objects', 'panoptic_objects'):
      if objects in self.features and 'label' in self.features[objects]:
        return class_names(self.features[objects]['label'])
    return ()

  @property
  def image_sizes(self) -> np.ndarray | None:
    """Heights and widths of all images, int32 (N, 2); None if they must be measured."""
    return None

  @property
  def groups(self) -> np.ndarray | None:
    """Starts of runs of records that are cheap to read only together.

    int64 (groups + 1,); the last entry is the number of examples. None if reading in
    any order is equally cheap.
    """
    return None

  @property
  def files(self) -> Sequence[str]:
    """The paths of the files that the examples are read from."""
    return ()

  @functools.cached_property
  def file_sizes(self) -> np.ndarray:
    """The size of each of `files` in bytes, int64; -1 for a missing file."""
    return np.array(shards.file_sizes(self.files), np.int64)

  @property
  def left_out(self) -> Mapping[str, int]:
    """The number of stored items that are not used, by kind."""
    return {}

  @property
  def num_objects(self) -> int | None:
    """The number of objects that are not crowds; None if they must be counted."""
    return None

  def remarks(self) -> list[str]:
    """Returns remarks about the examples that users should know before using them."""
    return []

  @property
  def title(self) -> str:
    """The name of the data set, for display: 'digits 1.0.0', 'Folder birds'."""
    return type(self).__name__

  @property
  def inner(self) -> Mapping[str, 'Source']:
    """The sources that this one is made of, by argument name."""
    return {}

  def record(self, index: int) -> bytes | None:
    """Returns the serialized tf.train.Example of an example; None if there is none."""
    del index
    return None

  def planned(self) -> 'Source':
    """Returns this source, or a stand-in for planning if its data are missing."""
    return self

  def fingerprint(self) -> str:
    """Returns hexadecimal digits that identify the content.

    The digits depend on names, counts and sizes of files, never on where the data are
    stored or on reading all of them. By default they depend on the arguments of a
    dataclass, the number of examples, and a few examples spread over all.
    """
    count = len(self)
    places = np.unique(np.linspace(0, count - 1, SEEN).astype(int)) if count else []
    return digest(
      type(self).__qualname__,
      arguments(self),
      count,
      [_seen(self, int(place)) for place in places],
    )

  def identity(self) -> dict[str, Any]:
    """Returns a plain dict that describes the data set and its size, for display.

    Two sources with equal content have equal `fingerprint`, and other content changes
    it. The other entries help to find a difference. `title` may change when the data
    are moved. `files` and `bytes` include the files of `inner`, each file once.
    `classes` is the number of classes of labels or of objects, None without names.
    """
    sizes = _sizes_by_path(self)
    names = self.label_names or self.category_names or None
    known = {
      'title': self.title,
      'split': self.split,
      'examples': len(self),
      'files': len(sizes),
      'bytes': sum(max(size, 0) for size in sizes.values()),
      'classes': names and len(names),
      'fingerprint': self.fingerprint(),
    }
    if self.inner:
      known['inner'] = {name: part.identity() for name, part in self.inner.items()}
    return known


def _sizes_by_path(source: Source) -> dict[str, int]:
  """Returns the sizes of all files of a source and of its inner sources, by path."""
  sizes = dict(zip(source.files, source.file_sizes.tolist(), strict=True))
  for part in source.inner.values():
    sizes |= _sizes_by_path(part)
  return sizes


class InMemory(Source):
  """A list of examples as a source."""

  def __init__(self, examples: Sequence[Example]):
    self._examples = examples

  def __len__(self) -> int:
    return len(self._examples)

  def __getitem__(self, index: int) -> Example:
    return self._examples[index]

  def __repr__(self) -> str:
    return f'a list of {plural(len(self), "example")}'

  def fingerprint(self) -> str:
    """Returns hexadecimal digits that depend on every value of every example."""
    return digest(type(self).__qualname__, self._examples)


def as_source(examples: Any) -> Source:
  """Returns a source unchanged; wraps a list or another sequence of examples."""
  if isinstance(examples, Source):
    return examples
  if isinstance(examples, Sequence):
    return InMemory(examples)
  raise UserError(
    f'{type(examples).__name__} is not a data source: derive the class from'
    ' big_vision_like.data.sources.base.Source, or pass a list of examples'
  )


def label_names(features: Mapping[str, Any]) -> list[str] | None:
  """Returns the names of the classes of `label`, in order; None if there are none."""
  feature = features['label'] if 'label' in features else None
  return None if num_classes(feature) is None else list(feature.names)


def num_classes(feature: Any) -> int | None:
  """Returns the number of classes of a TFDS feature; None if it is not a ClassLabel."""
  return getattr(feature, 'num_classes', None)  # importing TFDS to ask would be slow


def class_names(feature: Any) -> Sequence[str]:
  """Returns the names of the classes of a TFDS feature; empty if it has no classes."""
  return () if num_classes(feature) is None else feature.names


def fixed_size(features: Mapping[str, Any]) -> tuple[int, int] | None:
  """Returns the height and width that the features fix for all images, or None."""
  feature = features['image'] if 'image' in features else None
  size = () if feature is None else feature.shape[:2]
  return tuple(size) if len(size) == 2 and None not in size else None


def counted(left_out: Mapping[str, int]) -> str:
  """Formats the kinds of left-out items with their counts, the most frequent first."""
  most = sorted(left_out.items(), key=lambda item: (-item[1], item[0]))
  return listed((f'{what} ({count:,})' for what, count in most if count), most=8)


def arguments(instance: Any) -> dict[str, Any]:
  """Returns the fields of a dataclass; empty for other classes."""
  if not dataclasses.is_dataclass(instance):
    return {}
  return {f.name: getattr(instance, f.name) for f in dataclasses.fields(instance)}


def digest(*content: Any) -> str:
  """Returns 32 hexadecimal digits that identify plain data, arrays and dataclasses.

  An `Identified` object is represented by its fingerprint. Other objects, such as
  functions, are represented by the name of their class only.
  """
  text = json.dumps(_plain(content), sort_keys=True)
  return hashlib.sha256(text.encode()).hexdigest()[:32]


def _plain(value: Any) -> Any:
  match value:
    case None | bool() | int() | float() | str():
      return value
    case bytes():
      return ['bytes', hashlib.sha256(value).hexdigest()]
    case np.generic():
      return _plain(value.item())
    case np.ndarray() if value.dtype == object:
      return ['array', list(value.shape), _plain(value.ravel().tolist())]
    case np.ndarray():
      data = hashlib.sha256(np.ascontiguousarray(value)).hexdigest()
      return ['array', value.dtype.str, list(value.shape), data]
    case Identified():
      return ['identified', value.fingerprint()]
    case Mapping():
      return {str(key): _plain(inner) for key, inner in value.items()}
    case list() | tuple() | range():
      return [_plain(inner) for inner in value]
  return [type(value).__qualname__, _plain(arguments(value))]


def _seen(source: Source, index: int) -> Any:
  """Returns an example, or 'bad record' if it cannot be used."""
  try:
    return source[index]
  except BadRecordError:
    return 'bad record'
