"""Transforms of annotations to class labels.

They cover tasks of VTAB (arXiv:1910.04867) with computed labels, labels of
ImageNet-ReaL (arXiv:2006.07159), and the selection of fields for batches. TFDS stores
the objects of an example as a dict of lists with one entry per object.
"""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

import grain
import numpy as np

from big_vision_like.data.sources.base import Source
from big_vision_like.errors import BadRecordError, UserError

Example = dict[str, Any]
# Names of classes by label.
Names = Mapping[int, str]


def feature(example: Example, name: str) -> Any:
  """Returns a field of an example; 'objects/type' is the field `type` of `objects`."""
  value = example
  for part in name.split('/'):
    if part not in value:
      raise UserError(f'examples have no {name!r}; they have {", ".join(example)}.')
    value = value[part]
  return value


class Relabeling(grain.transforms.Map):
  """A transform that changes the meaning of labels.

  `makes` is the field that it writes: 'label' of an image, or 'box_labels' of its
  objects.
  """

  makes: ClassVar[str] = 'label'

  def renamed(self, names: Names) -> Names:
    """Returns names of the new labels, given names of the old; empty if unknown."""
    del names
    return {}


def class_names(source: Source, transforms: Sequence[Any]) -> dict[str, Names]:
  """Returns the known names of the classes in `label` and in `box_labels`.

  They are the names of the source's labels and categories, followed through the
  transforms.
  """
  found = {'label': dict(enumerate(source.label_names or ()))}
  for transform in [*_kept(source), *transforms]:
    if isinstance(transform, Relabeling):
      before = found.get(transform.makes)
      if before is None:
        before = dict(enumerate(source.category_names))
      found[transform.makes] = dict(transform.renamed(before))
  return {field: names for field, names in found.items() if names}


def _kept(source: Source) -> list[Any]:
  """Returns the transforms that a source has already applied to its inner source."""
  inner = list(source.inner.values())
  before = _kept(inner[0]) if len(inner) == 1 else []
  return [*before, *getattr(source, 'transforms', ())]


@dataclasses.dataclass(frozen=True)
class ByName(Relabeling):
  """Replacement of each label by the label of the same class in another labelling.

  `to` maps labels; `names` has the names of all classes in the new labelling.
  """

  to: Mapping[int, int]
  names: Names
  makes: str = 'label'

  def map(self, example: Example) -> Example:
    labels = np.asarray(feature(example, self.makes))
    if unknown := set(labels.ravel().tolist()) - self.to.keys() - {-1}:
      raise BadRecordError(
        f'label {min(unknown)} of the example with id {example.get("id", "unknown")}'
        ' belongs to no named class'
      )
    places = {-1: -1, **self.to}
    mapped = [places[label] for label in labels.ravel().tolist()]
    return example | {self.makes: np.array(mapped, np.int32).reshape(labels.shape)[()]}

  def renamed(self, names: Names) -> Names:
    del names
    return self.names


@dataclasses.dataclass(frozen=True)
class Keep(grain.transforms.Map):
  """A selection of features; also keeps `mask`, and `id` if it is a number.

  It goes last, because texts and lists of varying length do not fit into a batch.
  """

  names: Sequence[str] = ('image', 'label')

  def map(self, example: Example) -> Example:
    kept = {name: feature(example, name) for name in self.names}
    if 'mask' in example:
      kept['mask'] = example['mask']
    if isinstance(example.get('id'), (int, np.integer)):
      kept['id'] = example['id']
    return kept


@dataclasses.dataclass(frozen=True)
class InRange(grain.transforms.Map):
  """A check that `label` is from 0 to `classes` - 1; raises BadRecordError if not."""

  classes: int

  def map(self, example: Example) -> Example:
    label = int(feature(example, 'label'))
    if not 0 <= label < self.classes:
      raise BadRecordError(
        f'label {label} of the example with id {example.get("id", "unknown")} is not'
        f' one of {self.classes:,} classes (0 to {self.classes - 1:,})'
      )
    return example


@dataclasses.dataclass(frozen=True)
class Label(Relabeling):
  """The use of another feature as `label`, for example 'label_azimuth' of smallNORB."""

  name: str

  def map(self, example: Example) -> Example:
    return example | {'label': np.int32(feature(example, self.name))}


@dataclasses.dataclass(frozen=True)
class Mapped(Relabeling):
  """Replacement of `label` i by `classes[i]`, to renumber or to merge classes."""

  classes: Sequence[int]

  def map(self, example: Example) -> Example:
    label = int(example['label'])
    if not 0 <= label < len(self.classes):
      raise UserError(
        f'label {label} of the example with id {example.get("id", "unknown")} is not'
        f' one of the {len(self.classes)} labels that the transform maps'
      )
    return example | {'label': np.int32(self.classes[label])}

  def renamed(self, names: Names) -> Names:
    """Returns the names of the new labels; empty if classes are merged."""
    kept = {k: name for k, name in names.items() if k < len(self.classes)}
    renamed = {int(self.classes[k]): name for k, name in kept.items()}
    return renamed if len(renamed) == len(kept) else {}


@dataclasses.dataclass(frozen=True)
class Unlabelled(Relabeling):
  """Removal of the label, if any, by setting it to -1.

  `tasks.distillation.Distillation` learns such examples only from its teacher.
  """

  def map(self, example: Example) -> Example:
    return example | {'label': np.int32(-1)}

  def renamed(self, names: Names) -> Names:
    return names


@dataclasses.dataclass(frozen=True)
class Binned(Relabeling):
  """Binning of a feature with values 0 to `values` - 1 into `classes` equal bins.

  VTAB uses it for dSprites: 'label_x_position' has 32 values and 'label_orientation'
  40, which become 16 classes.
  """

  name: str
  values: int
  classes: int = 16

  def map(self, example: Example) -> Example:
    value = int(feature(example, self.name))
    if not 0 <= value < self.values:
      raise UserError(
        f'{self.name} is {value} in the example with id {example.get("id", "unknown")}:'
        f' it must be at least 0 and below values={self.values}.'
      )
    return example | {'label': np.int32(value * self.classes // self.values)}


@dataclasses.dataclass(frozen=True)
class ClevrCount(Relabeling):
  """The number of objects in a CLEVR scene, 3 to 10, as `label` 0 to 7."""

  def map(self, example: Example) -> Example:
    count = len(feature(example, 'objects/pixel_coords'))
    return example | {'label': np.int32(count - 3)}


@dataclasses.dataclass(frozen=True)
class ClevrDistance(Relabeling):
  """The distance of a CLEVR scene's closest object to the camera, in 6 classes.

  The distance is the third of `pixel_coords`; classes are up to 8, 8.5, 9, 9.5, 10, and
  above.
  """

  def map(self, example: Example) -> Example:
    closest = min(depth for _, _, depth in feature(example, 'objects/pixel_coords'))
    return example | {'label': interval(closest, (0.0, 8.0, 8.5, 9.0, 9.5, 10.0))}


@dataclasses.dataclass(frozen=True)
class KittiDistance(Relabeling):
  """The distance of the closest car, van or truck in a KITTI image, in 4 classes.

  The distance is in metres along the camera axis; classes are up to 8, up to 20, above,
  and no vehicle in sight.
  """

  def map(self, example: Example) -> Example:
    types = feature(example, 'objects/type')  # 0 car, 1 van, 2 truck
    places = feature(example, 'objects/location')
    depths = [z for kind, (_, _, z) in zip(types, places, strict=True) if kind < 3]
    closest = min(depths, default=1000.0)
    return example | {'label': interval(closest, (-100.0, 8.0, 20.0, 999.0))}


def interval(value: float, thresholds: Sequence[float]) -> np.int32:
  """Returns the index of the last of ascending thresholds that is below `value`."""
  index = np.searchsorted(thresholds, value, side='left') - 1
  if index < 0:
    raise UserError(f'{value} is not above the lowest threshold, {thresholds[0]}.')
  return np.int32(index)


@dataclasses.dataclass(frozen=True)
class RealLabels(grain.transforms.Map):
  """The classes of a TFDS `imagenet2012_real` image as `labels`, int32 (size,).

  Unused entries are -1. Images without classes are ignored by the evaluator. Images of
  ImageNet-ReaL have at most nine classes.
  """

  size: int = 10

  def map(self, example: Example) -> Example:
    found = feature(example, 'real_label')
    if len(found) > self.size:
      raise UserError(
        f'the example with id {example.get("id", "unknown")} has {len(found)} labels:'
        f' more than size={self.size}; raise size.'
      )
    labels = np.full(self.size, -1, np.int32)
    labels[: len(found)] = found
    return example | {'labels': labels}
