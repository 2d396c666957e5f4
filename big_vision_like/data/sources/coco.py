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

import collections
import dataclasses
import functools
import json
import math
import os
import sys
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from big_vision_like.data.sources import coco_classes, planned, protos, shards
from big_vision_like.data.sources.base import Source, digest
from big_vision_like.data.transforms import decoding
from big_vision_like.errors import BadRecordError, UserError, listed

# So many of what is left out are named.
NAMED = 5


class Contents(NamedTuple):
  """What a file says; annotations of image i are those from starts[i] to starts[i + 1].

  `labels_N` are places among `categories`, which are sorted by their ids. Where masks
  are wanted, `outlines` are polygons or run lengths, as in the file, else none.
  """

  image_ids: np.ndarray
  names: list[str]
  sizes_I2: np.ndarray
  categories: dict[int, str]
  starts: np.ndarray
  ids_N: np.ndarray
  boxes_N4: np.ndarray
  labels_N: np.ndarray
  areas_N: np.ndarray
  crowds_N: np.ndarray
  outlines: list[Any]
  maps: list[str]
  left_out: dict[str, list[str]]


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
  def contents(self) -> Contents:
    """The file; tells, in one line, what is left out of it."""
    contents = read(self.annotations, self.panoptic is not None, self.masks)
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
      example['masks'] = decoded(c.outlines[own], height, width, c.ids_N[own].tolist())
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
      f' {self.images}: {listed(missing, NAMED)}'
    ]

  def __getstate__(self) -> dict[str, Any]:
    # What was read travels to workers; descriptions are made again.
    return {k: v for k, v in self.__dict__.items() if k != 'features'}


def _opened(folder: str, name: str) -> bytes:
  path = os.path.join(os.path.expanduser(folder), name)
  try:
    with open(path, 'rb') as opened:
      return opened.read()
  except OSError as error:
    raise BadRecordError(f'{path} cannot be read: {error.strerror}') from error


def _summary(path: str, left_out: Mapping[str, Sequence[str]]) -> str:
  reasons = (
    f'{len(found):,} {reason} ({listed(found, NAMED)})'
    for reason, found in left_out.items()
  )
  return f'{path}: annotations left out: {"; ".join(reasons)}'


# Files


def read(path: str, panoptic: bool = False, masks: bool = False) -> Contents:
  """An annotation file; UserError for what is none."""
  entries = _entries(path)
  images = _images(path, entries['images'])
  categories = _categories(path, entries['categories'])
  label_of = {name: label for label, name in enumerate(categories)}
  place_of = {image['id']: place for place, image in enumerate(images)}
  left_out: dict[str, list[str]] = collections.defaultdict(list)
  annotations, maps = entries['annotations'], [''] * len(images)
  if panoptic:
    annotations, maps = _flat(path, annotations, place_of, left_out)
  found: list[list[tuple[Any, ...]]] = [[] for _ in images]
  seen = set()
  for number, entry in enumerate(annotations):
    reason = _unfit(entry, images, place_of, label_of, seen)
    outline = None
    if reason is None and masks:
      outline = entry.get('segmentation')
      image = images[place_of[entry['image_id']]]
      reason = _unfit_outline(outline, image['height'], image['width'])
    if reason is not None:
      name = entry.get('id') if isinstance(entry, dict) else None
      left_out[reason].append(
        f'entry {number}' if not isinstance(name, int) else f'id {name}'
      )
      continue
    key = entry['image_id'], entry['id'] if panoptic else None
    seen.add(key if panoptic else entry['id'])
    area = entry.get('area', entry['bbox'][2] * entry['bbox'][3])
    crowd = bool(entry.get('iscrowd', 0))
    label = label_of[entry['category_id']]
    row = entry['id'], entry['bbox'], label, area, crowd, outline
    found[place_of[entry['image_id']]].append(row)
  rows = [row for own in found for row in (own if panoptic else sorted(own, key=_id))]
  ids, boxes, labels, areas, crowds, outlines = (
    zip(*rows, strict=True) if rows else [()] * 6
  )
  return Contents(
    image_ids=np.array([image['id'] for image in images], np.int64),
    names=[image['file_name'] for image in images],
    sizes_I2=np.array([(i['height'], i['width']) for i in images], np.int32),
    categories=categories,
    starts=np.cumsum([0, *map(len, found)]),
    ids_N=np.array(ids, np.int64),
    boxes_N4=np.array(boxes, np.float64).reshape(-1, 4),
    labels_N=np.array(labels, np.int64),
    areas_N=np.array(areas, np.float64),
    crowds_N=np.array(crowds, bool),
    outlines=list(outlines) if masks else [],
    maps=maps,
    left_out=dict(left_out),
  )


def _id(row: tuple[Any, ...]) -> int:
  return row[0]


def _entries(path: str) -> dict[str, list[Any]]:
  try:
    with open(os.path.expanduser(path), encoding='utf-8') as file:
      entries = json.load(file)
  except OSError as error:
    raise UserError(f'{path} cannot be read: {error.strerror}') from error
  except UnicodeDecodeError as error:
    raise UserError(f'{path} is no JSON: {error}') from error
  except json.JSONDecodeError as error:
    raise UserError(
      f'{path} is no JSON: {error.msg} in line {error.lineno}, column {error.colno}'
    ) from error
  if not isinstance(entries, dict):
    raise UserError(
      f'{path} holds a {type(entries).__name__}, not an object with images'
    )
  for name in ('images', 'annotations', 'categories'):
    if not isinstance(entries.get(name), list):
      raise UserError(f'{path} has no list {name!r}; it has {", ".join(entries)}')
  return entries


def _checked(
  path: str, name: str, entries: Sequence[Any], fields: Mapping[str, type]
) -> None:
  """Raises UserError, which names the entry, unless all have these fields."""
  ids = set()
  for number, entry in enumerate(entries):
    place = f'{path}: {name}[{number}]'
    if not isinstance(entry, dict):
      raise UserError(f'{place} is {json.dumps(entry)[:50]}, not an object')
    for field, kind in fields.items():
      value = entry.get(field)
      if not isinstance(value, kind) or isinstance(value, bool):
        have = 'missing' if field not in entry else json.dumps(value)[:50]
        raise UserError(
          f'{place} (id {entry.get("id", "unknown")}): {field!r} is {have}, not a'
          f' {"whole number" if kind is int else "text"}'
        )
    if 'id' in fields:
      if entry['id'] in ids:
        raise UserError(f'{place}: another entry has id {entry["id"]} too')
      ids.add(entry['id'])


def _images(path: str, entries: Sequence[Any]) -> list[dict[str, Any]]:
  """Sorted by id."""
  fields = {'id': int, 'file_name': str, 'height': int, 'width': int}
  _checked(path, 'images', entries, fields)
  if not entries:
    raise UserError(f'{path} names no images')
  for number, entry in enumerate(entries):
    if entry['height'] < 1 or entry['width'] < 1:
      raise UserError(
        f'{path}: images[{number}] (id {entry["id"]}) has'
        f' {entry["height"]}x{entry["width"]} pixels'
      )
  return sorted(entries, key=lambda entry: entry['id'])


def _categories(path: str, entries: Sequence[Any]) -> dict[int, str]:
  """Names by ids, sorted."""
  _checked(path, 'categories', entries, {'id': int, 'name': str})
  return {e['id']: e['name'] for e in sorted(entries, key=lambda entry: entry['id'])}


def _flat(
  path: str,
  annotations: Sequence[Any],
  place_of: Mapping[int, int],
  left_out: dict[str, list[str]],
) -> tuple[list[Any], list[str]]:
  """Panoptic annotations as one for each segment, and the PNG of each image."""
  _checked(path, 'annotations', annotations, {'image_id': int, 'file_name': str})
  maps, flat = [''] * len(place_of), []
  for number, entry in enumerate(annotations):
    place = place_of.get(entry['image_id'])
    if place is None or maps[place]:
      left_out['of no image' if place is None else 'of an image that has one'].append(
        f'entry {number}'
      )
      continue
    segments = entry.get('segments_info')
    if not isinstance(segments, list):
      raise UserError(f"{path}: annotations[{number}] has no list 'segments_info'")
    maps[place] = entry['file_name']
    for segment in segments:
      own = {'image_id': entry['image_id']}
      flat.append(segment | own if isinstance(segment, dict) else segment)
  without = [image for image, place in place_of.items() if not maps[place]]
  if without:
    raise UserError(f'{path} has no annotation of image {listed(without, NAMED)}')
  return flat, maps


def _unfit(
  entry: Any,
  images: Sequence[Mapping[str, Any]],
  place_of: Mapping[int, int],
  label_of: Mapping[int, int],
  seen: set[Any],
) -> str | None:
  """Why an annotation cannot be used, if so."""
  if not isinstance(entry, dict) or not isinstance(entry.get('id'), int):
    return 'without an id'
  image_id, category = entry.get('image_id'), entry.get('category_id')
  if not isinstance(image_id, int) or image_id not in place_of:
    return 'of no image'
  if not isinstance(category, int) or category not in label_of:
    return 'of no category'
  if entry['id'] in seen or (entry['image_id'], entry['id']) in seen:
    return 'with an id that came before'
  box = entry.get('bbox')
  if not isinstance(box, list) or len(box) != 4 or not all(map(_finite, box)):
    return 'whose bbox is not four finite numbers'
  if not _finite(entry.get('area', 0)):
    return 'whose area is no number'
  left, top, width, height = box
  if width <= 0 or height <= 0:
    return 'without area'
  image = images[place_of[entry['image_id']]]
  inside = left < image['width'] and top < image['height']
  if not (inside and left + width > 0 and top + height > 0):
    return 'outside of the image'
  return None


def _finite(value: Any) -> bool:
  return isinstance(value, (int, float)) and math.isfinite(value)


# Outlines


def _unfit_outline(outline: Any, height: int, width: int) -> str | None:
  """Why an outline is none, if so."""
  if isinstance(outline, list) and outline:
    sound = all(
      isinstance(polygon, list)
      and len(polygon) >= 6
      and len(polygon) % 2 == 0
      and all(map(_finite, polygon))
      for polygon in outline
    )
    return None if sound else 'whose polygons are none'
  if isinstance(outline, dict) and outline.get('size') == [height, width]:
    counts = outline.get('counts')
    if isinstance(counts, str):
      return None
    if isinstance(counts, list) and all(isinstance(n, int) and n >= 0 for n in counts):
      if sum(counts) == height * width:
        return None
  return 'whose segmentation is no polygons or run lengths of the image'


def decoded(
  outlines: Sequence[Any], height: int, width: int, ids: Sequence[int]
) -> np.ndarray:
  """Polygons or run lengths as masks, uint8 (N, H, W), by pycocotools."""
  try:
    from pycocotools import mask
  except ImportError as error:
    raise UserError('masks need pycocotools: pip install pycocotools') from error
  masks = np.zeros((len(outlines), height, width), np.uint8)
  for place, (outline, name) in enumerate(zip(outlines, ids, strict=True)):
    if isinstance(outline, list):
      runs = mask.merge(mask.frPyObjects(outline, height, width))
    elif isinstance(outline['counts'], list):
      runs = mask.frPyObjects(outline, height, width)
    else:
      runs = outline
    try:
      masks[place] = mask.decode(runs)
    except Exception as error:  # of types of its own
      raise BadRecordError(f'annotation {name} has no sound mask: {error}') from error
  return masks
