"""A source of images in a folder with annotations in COCO format (cocodataset.org).

It reads instance annotations (boxes and outlines of things) and panoptic annotations
(a PNG that shows the segment of each pixel). Examples have the features of TFDS's
`coco/2017` and `coco/2017_panoptic`, so the same transforms apply.

In an otherwise valid file, unusable annotations are left out, counted and reported.
These are annotations of an unknown image or category, annotations whose box is not four
finite numbers, has no area or is outside its image, and duplicates. More than a few of
them are an error. Repairs by `coco_json` are reported too. Boxes that reach beyond the
image are kept, and `boxes.Objects` clips them. Images without objects are kept. A file
in another format, or with an entry that lacks an essential field, raises an error that
names the entry. An image that is missing, or whose size differs from the annotation
file, is a bad record: see `data.input.pipeline`.

Axes: N annotations, I images; 4 is left, top, width, height.
"""

import dataclasses
import functools
import io
import os
import sys
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from PIL import ExifTags, Image

from big_vision_like.data.sources import (
  coco_classes,
  coco_json,
  coco_outlines,
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

  `annotations` is the path of the .json file, and `images` the folder that its file
  names are relative to. For panoptic annotations, `panoptic` is the folder of the PNGs.
  `masks` adds `masks`, uint8 (N, H, W), made from outlines of instances; this needs
  pycocotools. `outlines` adds the outlines themselves, as `outlines` (N,), from which
  `instance_masks.BoxMasks` makes small masks. Label k is the k-th category by id;
  `category_ids` lists the ids. `examples` is the number of images, for plans made
  before the data are available.
  `tolerated` is the share of annotations that may be left out.
  """

  annotations: str
  images: str
  panoptic: str | None = None
  masks: bool = False
  outlines: bool = False
  examples: int | None = None
  tolerated: float = 0.05

  def __post_init__(self) -> None:
    for name in ('masks', 'outlines'):
      if getattr(self, name) and self.panoptic is not None:
        raise UserError(
          f'{name}=True needs instances; panoptic maps already have segments'
        )

  @functools.cached_property
  def contents(self) -> coco_json.Contents:
    """The contents of the file; prints what was left out and repaired."""
    shapes = self.masks or self.outlines
    contents = coco_json.read(self.annotations, self.panoptic is not None, shapes)
    if self.examples not in (None, len(contents.names)):
      raise UserError(
        f'{self.annotations} has {len(contents.names):,} images, not the'
        f' {self.examples:,} that the config gives: correct `examples`.'
      )
    left_out = sum(map(len, contents.left_out.values()))
    count = left_out + len(contents.ids_N)
    reasons = _reasons(contents.left_out)
    if left_out and (left_out == count or left_out > self.tolerated * count):
      raise UserError(
        f'{self.annotations}: {left_out:,} of {count:,} annotations cannot be used:'
        f' {reasons}; correct them, or raise `tolerated` ({self.tolerated:g}), the'
        ' share that may be left out'
      )
    if left_out:
      _tell(f'{self.annotations}: annotations left out: {reasons}')
    if contents.repaired:
      done = '; '.join(f'{n:,} {what}' for what, n in contents.repaired.items())
      _tell(f'{self.annotations}: annotations repaired: {done}')
    return contents

  @property
  def left_out(self) -> dict[str, int]:
    """The number of unusable annotations, by reason."""
    return {reason: len(found) for reason, found in self.contents.left_out.items()}

  @property
  def num_objects(self) -> int:
    """The number of objects that are not crowds."""
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
    """Heights and widths of the images, int32 (N, 2), from the annotation file."""
    return self.contents.sizes_I2

  @functools.cached_property
  def features(self) -> Any:
    """TFDS features of an example, without masks."""
    return coco_classes.described(self.category_names, self.panoptic is not None)

  @property
  def files(self) -> list[str]:
    """The paths of the images."""
    folder = os.path.expanduser(self.images)
    return [os.path.join(folder, name) for name in self.contents.names]

  def fingerprint(self) -> str:
    """Returns a digest of the used annotations and the sizes of all files."""
    contents = self.contents._replace(left_out={}, outlines=[])  # outlines are large
    paths = [os.path.expanduser(self.annotations), *self.files]
    if self.panoptic is not None:
      folder = os.path.expanduser(self.panoptic)
      paths += [os.path.join(folder, name) for name in contents.maps]
    sizes = shards.file_sizes(paths)
    used = contents[:-1]  # without `repaired`
    kind = (self.panoptic is not None, self.masks)
    # Sources without outlines keep the digest that older runs have stored.
    return digest('Coco', *used, sizes, *kind, *([True] if self.outlines else []))

  def planned(self) -> Source:
    """Returns this source, or a stand-in for planning if its files are missing."""
    paths = (self.annotations, self.images, self.panoptic or self.images)
    if all(os.path.exists(os.path.expanduser(path)) for path in paths):
      return self
    name = 'coco/2017' if self.panoptic is None else 'coco/2017_panoptic'
    return planned.Pictures(name, self.examples, self.masks, self.outlines)

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
      'image': self._image(self.images, c.names[index], (height, width)),
      'image/filename': c.names[index].encode(),
      'image/id': int(c.image_ids[index]),
    }
    if self.panoptic is not None:
      example['panoptic_image'] = self._image(
        self.panoptic, c.maps[index], (height, width)
      )
      return example | {'panoptic_objects': objects}
    if self.masks:
      example['masks'] = coco_outlines.decoded(
        c.outlines[own], height, width, c.ids_N[own].tolist()
      )
    if self.outlines:
      example['outlines'] = coco_outlines.listed(c.outlines[own])
    return example | {'objects': objects}

  def _image(self, folder: str, name: str, said: tuple[int, int]) -> bytes:
    image = _opened(folder, name)
    try:
      size = decoding.image_size(image)
    except ValueError as error:
      raise BadRecordError(f'{folder}/{name} is not an image: {error}') from error
    if size != said:
      turned = ''
      if size == said[::-1] and _is_turned(image):
        turned = (
          ' This is its size after rotation by its EXIF orientation, which is ignored:'
          ' rotate the files themselves, for instance with mogrify -auto-orient.'
        )
      raise BadRecordError(
        f'{folder}/{name} has {size[0]}x{size[1]} pixels, but {self.annotations} says'
        f' {said[0]}x{said[1]}.{turned}'
      )
    return image

  def problems(self) -> list[str]:
    """Returns why the annotations cannot be read, or how many images are missing."""
    try:
      names = self.contents.names
    except UserError as error:
      return [str(error)]
    folder = os.path.expanduser(self.images)
    missing = [n for n in names if not os.path.exists(os.path.join(folder, n))]
    if not missing:
      return []
    above = os.path.dirname(os.path.abspath(folder))
    there = os.path.exists(os.path.join(above, missing[0]))
    advice = f'; {missing[0]} is in {above}: set `images` to that' if there else ''
    return [
      f'{len(missing):,} of {len(names):,} images of {self.annotations} are not in'
      f' {self.images}: {listed(missing, coco_json.NAMED)}{advice}'
    ]

  def __getstate__(self) -> dict[str, Any]:
    # Workers receive the file's contents; they make `features` again.
    return {k: v for k, v in self.__dict__.items() if k != 'features'}


def catalogued(kind: str) -> Any:
  """Returns the features of TFDS's `coco/KIND`, for which TFDS needs TensorFlow."""
  panoptic = kind.endswith('panoptic')
  ids = coco_classes.PANOPTIC_IDS if panoptic else coco_classes.IDS
  return coco_classes.described(len(ids), panoptic)


def _opened(folder: str, name: str) -> bytes:
  path = os.path.join(os.path.expanduser(folder), name)
  try:
    if os.path.exists(path) and not os.path.isfile(path):  # a device never ends
      raise BadRecordError(f'{path} is not a file')
    with open(path, 'rb') as opened:
      return opened.read()
  except OSError as error:
    raise BadRecordError(f'{path} cannot be read: {error.strerror}') from error


def _is_turned(encoded: bytes) -> bool:
  """Returns whether the EXIF data of an image ask viewers for a quarter turn."""
  try:
    with Image.open(io.BytesIO(encoded)) as picture:
      return picture.getexif().get(ExifTags.Base.Orientation, 1) in (5, 6, 7, 8)
  except Exception:  # Pillow raises many types for damaged headers
    return False


def _reasons(left_out: Mapping[str, Sequence[str]]) -> str:
  return '; '.join(
    f'{len(found):,} {reason} ({listed(found, coco_json.NAMED)})'
    for reason, found in left_out.items()
  )


def _tell(line: str) -> None:
  print(line, file=sys.stderr, flush=True)
