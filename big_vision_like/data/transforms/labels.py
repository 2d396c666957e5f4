"""Transforms of what an example says about its image to class labels.

The tasks of VTAB (arXiv:1910.04867) whose label is computed, labels of ImageNet-ReaL
(arXiv:2006.07159), and what a batch may hold. TFDS gives an example's objects as a dict
of lists, one entry to an object.
"""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

import grain
import numpy as np

from big_vision_like.data.sources.base import Source
from big_vision_like.errors import BadRecordError, UserError

Example = dict[str, Any]
# Names of classes by their labels.
Names = Mapping[int, str]


def feature(example: Example, name: str) -> Any:
  """What an example says under `name`, where 'objects/type' is the type of objects."""
  value = example
  for part in name.split('/'):
    if part not in value:
      raise UserError(f'examples have no {name!r}; they have {", ".join(example)}.')
    value = value[part]
  return value


class Relabeling(grain.transforms.Map):
  """A transform that gives labels another meaning.

  `makes` is what it makes: 'label' of an image, or 'box_labels' of its objects.
  """

  makes: ClassVar[str] = 'label'

  def renamed(self, names: Names) -> Names:
    """Returns the names of the new labels, given those of the old; empty if unknown."""
    del names
    return {}


def class_names(source: Source, transforms: Sequence[Any]) -> dict[str, Names]:
  """Returns the names of the classes in `label` and in `box_labels`, as far as known.

  They are those of a source's labels and categories after the transforms.
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
  """Returns the transforms that a source made of another one has applied already."""
  inner = list(source.inner.values())
  before = _kept(inner[0]) if len(inner) == 1 else []
  return [*before, *getattr(source, 'transforms', ())]


@dataclasses.dataclass(frozen=True)
class ByName(Relabeling):
  """Replaces each label by the one that its class has elsewhere, in `to`.

  `names` are those of all classes there.
  """

  to: Mapping[int, int]
  names: Names
  makes: str = 'label'

  def map(self, example: Example) -> Example:
    labels = np.asarray(feature(example, self.makes))
    if unknown := set(labels.ravel().tolist()) - self.to.keys() - {-1}:
      raise BadRecordError(
        f'label {min(unknown)} of the example with id {example.get("id", "unknown")} is'
        ' that of no class with a name'
      )
    places = {-1: -1, **self.to}
    mapped = [places[label] for label in labels.ravel().tolist()]
    return example | {self.makes: np.array(mapped, np.int32).reshape(labels.shape)[()]}

  def renamed(self, names: Names) -> Names:
    del names
    return self.names


@dataclasses.dataclass(frozen=True)
class Keep(grain.transforms.Map):
  """Of an example only these features, `mask`, and `id` where it is a number.

  Goes last: texts, and lists of several lengths, fit into no batch.
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
  """Raises BadRecordError for a `label` that is not one of so many `classes`."""

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
  """Another feature as `label`: 'label_azimuth' of smallNORB, for example."""

  name: str

  def map(self, example: Example) -> Example:
    return example | {'label': np.int32(feature(example, self.name))}


@dataclasses.dataclass(frozen=True)
class Mapped(Relabeling):
  """Replaces `label` i by `classes[i]`: other classes, or several that become one."""

  classes: Sequence[int]

  def map(self, example: Example) -> Example:
    label = int(example['label'])
    if not 0 <= label < len(self.classes):
      raise UserError(
        f'label {label} of the example with id {example.get("id", "unknown")} is not'
        f' one of the {len(self.classes)} that the transform maps'
      )
    return example | {'label': np.int32(self.classes[label])}

  def renamed(self, names: Names) -> Names:
    """Returns the names of the new labels; none where several classes become one."""
    kept = {k: name for k, name in names.items() if k < len(self.classes)}
    renamed = {int(self.classes[k]): name for k, name in kept.items()}
    return renamed if len(renamed) == len(kept) else {}


@dataclasses.dataclass(frozen=True)
class Unlabelled(Relabeling):
  """Hides the label of an example, which becomes -1; the image may have had none.

  `tasks.distillation.Distillation` learns such examples from its teacher alone.
  """

  def map(self, example: Example) -> Example:
    return example | {'label': np.int32(-1)}

  def renamed(self, names: Names) -> Names:
    return names


@dataclasses.dataclass(frozen=True)
class Binned(Relabeling):
  """A feature of so many `values`, from 0, as `label` in `classes` equal bins.

  dSprites in VTAB: 'label_x_position' has 32 values and 'label_orientation' 40, which
  become 16 classes.
  """

  name: str
  values: int
  classes: int = 16

  def map(self, example: Example) -> Example:
    value = int(feature(example, self.name))
    if not 0 <= value < self.values:
      raise UserError(
        f'{self.name} is {value} in the example with id {example.get("id", "unknown")}:'
        f' not one of the values={self.values} from 0 that the transform expects.'
      )
    return example | {'label': np.int32(value * self.classes // self.values)}


@dataclasses.dataclass(frozen=True)
class ClevrCount(Relabeling):
  """How many objects a CLEVR scene shows, of 3 to 10, as `label` 0 to 7."""

  def map(self, example: Example) -> Example:
    count = len(feature(example, 'objects/pixel_coords'))
    return example | {'label': np.int32(count - 3)}


@dataclasses.dataclass(frozen=True)
class ClevrDistance(Relabeling):
  """How far the closest object of a CLEVR scene is from the camera, in 6 classes.

  By the third of its `pixel_coords`: up to 8, 8.5, 9, 9.5, 10, and beyond.
  """

  def map(self, example: Example) -> Example:
    closest = min(depth for _, _, depth in feature(example, 'objects/pixel_coords'))
    return example | {'label': interval(closest, (0.0, 8.0, 8.5, 9.0, 9.5, 10.0))}


@dataclasses.dataclass(frozen=True)
class KittiDistance(Relabeling):
  """How far the closest car, van or truck of a KITTI image is, in 4 classes.

  By metres along the axis of the camera: up to 8, up to 20, beyond, and none in sight.
  """

  def map(self, example: Example) -> Example:
    types = feature(example, 'objects/type')  # 0 car, 1 van, 2 truck
    places = feature(example, 'objects/location')
    depths = [z for kind, (_, _, z) in zip(types, places, strict=True) if kind < 3]
    closest = min(depths, default=1000.0)
    return example | {'label': interval(closest, (-100.0, 8.0, 20.0, 999.0))}


def interval(value: float, thresholds: Sequence[float]) -> np.int32:
  """Index of the last of rising thresholds that is below `value`."""
  index = np.searchsorted(thresholds, value, side='left') - 1
  if index < 0:
    raise UserError(f'{value} is not above the lowest threshold, {thresholds[0]}.')
  return np.int32(index)


@dataclasses.dataclass(frozen=True)
class RealLabels(grain.transforms.Map):
  """The classes of a TFDS `imagenet2012_real` image as `labels`, filled up with -1.

  int32 (size,). Some images have none: the evaluator leaves them out. None of
  ImageNet-ReaL has more than nine.
  """

  size: int = 10

  def map(self, example: Example) -> Example:
    found = feature(example, 'real_label')
    if len(found) > self.size:
      raise UserError(
        f'the example with id {example.get("id", "unknown")} has {len(found)} labels:'
        f' more than size={self.size}; raise it.'
      )
    labels = np.full(self.size, -1, np.int32)
    labels[: len(found)] = found
    return example | {'labels': labels}
