"""Annotations in the format of COCO (cocodataset.org), with images in a folder.

Both kinds: of instances (boxes and outlines of things) and panoptic (a PNG that shows
which segment each pixel is of). Examples have the features of TFDS's `coco/2017` and
`coco/2017_panoptic`, so that the same transforms follow.

What cannot be used in a file that is otherwise sound is left out, counted and told:
annotations of an image or category that there is not, whose box is not four finite
numbers, has no area or lies outside of its image, or with an id that came before. Boxes
that reach beyond the image stay, and `boxes.Objects` cuts them. Images without objects
stay. What is no such file, or lacks what nothing can stand for, is an error that names
the entry. An image that is missing, or not of the size that the file says, is a bad
record: see `data.input.pipeline`.

Axes: N annotations, I images; 4 is left, top, width, height.
"""

import dataclasses
import functools
import os
import sys
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from big_vision_like.data.sources import (
  coco_classes,
  coco_json,
  planned,
  protos,
  shards,
)
from big_vision_like.data.sources.base import Source, digest
from big_vision_like.data.transforms import decoding
from big_vision_like.errors import BadRecordError, UserError, listed


@dataclasses.dataclass(frozen=True)
class Coco(Source):
  """The images of an annotation file, in the order of their ids.

  `annotations` is the .json, `images` the folder below which its file names are. With
  `panoptic`, the folder of the PNGs, the file is a panoptic one. `masks` makes `masks`,
  uint8 (N, H, W), of outlines of instances; it needs pycocotools. Labels are places
  among the categories sorted by id; `category_ids` says which these are. `examples`
  says how many images there are, for plans made before the data are there.
  """

  annotations: str
  images: str
  panoptic: str | None = None
  masks: bool = False
  examples: int | None = None

  def __post_init__(self) -> None:
    if self.masks and self.panoptic is not None:
      raise UserError('masks=True is of instances; panoptic maps have segments anyway')

  @functools.cached_property
  def contents(self) -> coco_json.Contents:
    """The file; tells, in one line, what is left out of it."""
    contents = coco_json.read(self.annotations, self.panoptic is not None, self.masks)
    if self.examples not in (None, len(contents.names)):
      raise UserError(
        f'{self.annotations} has {len(contents.names):,} images, not the'
        f' {self.examples:,} that the config says: set examples to what is true.'
      )
    if contents.left_out:
      print(_summary(self.annotations, contents.left_out), file=sys.stderr, flush=True)
    return contents

  @property
  def left_out(self) -> dict[str, int]:
    """How many annotations cannot be used, by the reason."""
    return {reason: len(found) for reason, found in self.contents.left_out.items()}

  @property
  def num_objects(self) -> int:
    """The number of objects that are no crowds."""
    return int((~self.contents.crowds_N).sum())

  @property
  def category_ids(self) -> tuple[int, ...]:
    """The id of each label."""
    return tuple(self.contents.categories)

  @property
  def category_names(self) -> list[str]:
    """The name of each label."""
    return list(self.contents.categories.values())

  @property
  def image_sizes(self) -> np.ndarray:
    """int32 (N, 2): heights and widths, as the file has them."""
    return self.contents.sizes_I2

  @functools.cached_property
  def features(self) -> Any:
    """TFDS's description of an example, but for masks."""
    return coco_classes.described(self.category_names, self.panoptic is not None)

  @property
  def files(self) -> list[str]:
    """The paths of the images."""
    folder = os.path.expanduser(self.images)
    return [os.path.join(folder, name) for name in self.contents.names]

  def fingerprint(self) -> str:
    """Returns a digest of the annotations in use and the sizes of all files."""
    contents = self.contents._replace(left_out={}, outlines=[])  # outlines are large
    paths = [os.path.expanduser(self.annotations), *self.files]
    if self.panoptic is not None:
      folder = os.path.expanduser(self.panoptic)
      paths += [os.path.join(folder, name) for name in contents.maps]
    sizes = shards.file_sizes(paths)
    return digest('Coco', *contents, sizes, self.panoptic is not None, self.masks)

  def planned(self) -> Source:
    """The images, or where they are not there what stands in for them in a plan."""
    paths = (self.annotations, self.images, self.panoptic or self.images)
    if all(os.path.exists(os.path.expanduser(path)) for path in paths):
      return self
    name = 'coco/2017' if self.panoptic is None else 'coco/2017_panoptic'
    return planned.Pictures(name, self.examples, self.masks)

  def __len__(self) -> int:
    return len(self.contents.names)

  def __getitem__(self, index: int) -> protos.Example:
    if not 0 <= index < len(self):
      raise IndexError(f'example {index} of {len(self)}')
    c = self.contents
    height, width = c.sizes_I2[index].tolist()
    own = slice(*c.starts[index : index + 2])
    left, top, wide, high = c.boxes_N4[own].T
    sides = top / height, left / width, (top + high) / height, (left + wide) / width
    objects = {
      'id': c.ids_N[own],
      'area': c.areas_N[own],
      'bbox': np.stack(sides, axis=-1).astype(np.float32),
      'label': c.labels_N[own],
      'is_crowd': c.crowds_N[own],
    }
    example = {
      'image': self._image(index),
      'image/filename': c.names[index].encode(),
      'image/id': int(c.image_ids[index]),
    }
    if self.panoptic is not None:
      example['panoptic_image'] = _opened(self.panoptic, c.maps[index])
      return example | {'panoptic_objects': objects}
    if self.masks:
      example['masks'] = coco_json.decoded(
        c.outlines[own], height, width, c.ids_N[own].tolist()
      )
    return example | {'objects': objects}

  def _image(self, index: int) -> bytes:
    name, said = self.contents.names[index], tuple(self.contents.sizes_I2[index])
    image = _opened(self.images, name)
    try:
      size = decoding.image_size(image)
    except ValueError as error:
      raise BadRecordError(f'{self.images}/{name} is no image: {error}') from error
    if size != said:
      raise BadRecordError(
        f'{self.images}/{name} has {size[0]}x{size[1]} pixels, but'
        f' {self.annotations} says {said[0]}x{said[1]}.'
      )
    return image

  def problems(self) -> list[str]:
    """What keeps it from being read, and how many images are not there."""
    try:
      names = self.contents.names
    except UserError as error:
      return [str(error)]
    folder = os.path.expanduser(self.images)
    missing = [n for n in names if not os.path.exists(os.path.join(folder, n))]
    if not missing:
      return []
    return [
      f'{len(missing):,} of {len(names):,} images of {self.annotations} are not in'
      f' {self.images}: {listed(missing, coco_json.NAMED)}'
    ]

  def __getstate__(self) -> dict[str, Any]:
    # What was read travels to workers; descriptions are made again.
    return {k: v for k, v in self.__dict__.items() if k != 'features'}


def catalogued(kind: str) -> Any:
  """Returns the features of TFDS's `coco/KIND`, which needs TensorFlow to tell them."""
  panoptic = kind.endswith('panoptic')
  ids = coco_classes.PANOPTIC_IDS if panoptic else coco_classes.IDS
  return coco_classes.described(len(ids), panoptic)


def _opened(folder: str, name: str) -> bytes:
  path = os.path.join(os.path.expanduser(folder), name)
  try:
    with open(path, 'rb') as opened:
      return opened.read()
  except OSError as error:
    raise BadRecordError(f'{path} cannot be read: {error.strerror}') from error


def _summary(path: str, left_out: Mapping[str, Sequence[str]]) -> str:
  reasons = (
    f'{len(found):,} {reason} ({listed(found, coco_json.NAMED)})'
    for reason, found in left_out.items()
  )
  return f'{path}: annotations left out: {"; ".join(reasons)}'
