"""Readers of COCO's annotation files: tolerant for training, strict for evaluation.

Both repair fields with a single possible meaning: whole numbers written as `7.0` or
`"7"`, missing boxes that follow from the outline, and missing areas that follow from
the box. Ids of annotations matter only for the PNGs of panoptic files; missing and
repeated ids are replaced by new ones.

Axes: N annotations, I images; 4 is left, top, width, height.
"""

import collections
import itertools
import json
import operator
import os
import re
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from big_vision_like import files
from big_vision_like.data.sources import coco_outlines
from big_vision_like.data.sources.coco_outlines import REACH, finite
from big_vision_like.data.transforms import decoding
from big_vision_like.errors import UserError, listed

Entry = dict[str, Any]
# The lists `images`, `annotations` and `categories` of a file.
Truth = dict[str, list[Entry]]
# Maximum number of ids listed in a message.
NAMED = 5
# Up to 19 digits, as many as the largest 64-bit id has.
DIGITS = re.compile('-?[0-9]{1,19}', re.ASCII)
CROWD = {None: False, 0: False, 1: True, '0': False, '1': True}


class Contents(NamedTuple):
  """The contents of an annotation file.

  The annotations of image i are those from starts[i] up to, not including,
  starts[i + 1]. `labels_N` are indices into `categories`, which are sorted by id.
  `outlines` has outlines as in `coco_outlines` if masks are requested, and is empty
  otherwise. `repaired` counts annotations by kind of repair.
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
  repaired: dict[str, int]


def read(path: str, panoptic: bool = False, masks: bool = False) -> Contents:
  """Reads an annotation file tolerantly; raises `UserError` for an invalid file."""
  entries = _lists(path)
  images = _images(path, entries['images'])
  categories = _categories(path, entries['categories'])
  label_of = {name: label for label, name in enumerate(categories)}
  place_of = {image['id']: place for place, image in enumerate(images)}
  sizes_I2 = np.array([(i['height'], i['width']) for i in images], np.int32)
  sizes = sizes_I2.tolist()
  left_out: dict[str, list[str]] = collections.defaultdict(list)
  repaired: collections.Counter[str] = collections.Counter()
  annotations, maps = entries['annotations'], [''] * len(images)
  if panoptic:
    annotations, maps = _flat(path, annotations, place_of, left_out)
  elif any(
    isinstance(entry, dict) and 'segments_info' in entry for entry in annotations
  ):
    raise UserError(
      f"{path} has 'segments_info', so it is a panoptic file: set `panoptic` to the"
      ' folder of its PNGs'
    )
  found: list[list[list[Any]]] = [[] for _ in images]
  seen: dict[Any, Entry] = {}
  for number, entry in enumerate(annotations):
    outline = reason = None
    if isinstance(entry, dict):
      place = place_of.get(whole(entry.get('image_id')))
      size = None if place is None else sizes[place]
      entry = _repaired(entry, size, repaired)
      key = (place, entry['id']) if panoptic else entry['id']
      reason = _unfit(entry, size, label_of, seen.get(key), panoptic)
      if reason is None and masks:
        outline = coco_outlines.sound(entry.get('segmentation'), size)
        reason = outline if isinstance(outline, str) else None
    else:
      reason, entry = 'without fields', {'id': None}
    if reason is not None:
      name = entry['id']
      left_out[reason].append(f'entry {number}' if name is None else f'id {name}')
      continue
    if key in seen or entry['id'] is None:
      repaired['given new ids'] += 1
      entry['id'] = None
    else:
      seen[key] = entry
    label = label_of[entry['category_id']]
    row = [entry['id'], entry['bbox'], label, entry['area'], entry['iscrowd'], outline]
    found[place].append(row)
  new_ids = (number for number in itertools.count(1) if number not in seen)
  for row in itertools.chain.from_iterable(() if panoptic else found):
    row[0] = next(new_ids) if row[0] is None else row[0]
  by_id = operator.itemgetter(0)
  rows = [r for own in found for r in (own if panoptic else sorted(own, key=by_id))]
  ids, boxes, labels, areas, crowds, outlines = (
    zip(*rows, strict=True) if rows else [()] * 6
  )
  starts = np.cumsum([0, *map(len, found)])
  boxes_N4 = np.array(boxes, np.float64).reshape(-1, 4)
  _check_plausible(path, boxes_N4, np.repeat(sizes_I2, np.diff(starts), axis=0))
  return Contents(
    image_ids=np.array([image['id'] for image in images], np.int64),
    names=[image['file_name'] for image in images],
    sizes_I2=sizes_I2,
    categories=categories,
    starts=starts,
    ids_N=np.array(ids, np.int64),
    boxes_N4=boxes_N4,
    labels_N=np.array(labels, np.int64),
    areas_N=np.array(areas, np.float64),
    crowds_N=np.array(crowds, bool),
    outlines=list(outlines) if masks else [],
    maps=maps,
    left_out=dict(left_out),
    repaired=dict(repaired),
  )


def read_strictly(path: str) -> Truth:
  """Reads an instance file; raises `UserError` for the first malformed entry."""
  truth = _lists(path)
  for name in ('images', 'categories'):
    truth[name] = _checked(path, name, truth[name], {'id': int})
  sizes = {image['id']: _size(image) for image in truth['images']}
  categories = {category['id'] for category in truth['categories']}
  annotations = []
  for index, entry in enumerate(truth['annotations']):
    fields = entry
    if isinstance(entry, dict):
      size = sizes.get(whole(entry.get('image_id')))
      fields = _repaired(entry, size, collections.Counter())
    if problem := _problem(fields, sizes, categories):
      raise UserError(f'{path}: annotations[{index}] {problem}.')
    annotations.append(fields)
  measured = [e for e in annotations if sizes[e['image_id']]]
  _check_plausible(
    path,
    np.array([e['bbox'] for e in measured], np.float64).reshape(-1, 4),
    np.array([sizes[e['image_id']] for e in measured], np.int64).reshape(-1, 2),
  )
  return truth | {'annotations': annotations}


def _problem(entry: Any, images: Mapping[int, Any], categories: set[int]) -> str | None:
  """Returns a description of the first error in an annotation, or None."""
  if not isinstance(entry, dict):
    return f'is {_short(entry, repr)}, not an object'
  for name, of, known in (
    ('image_id', 'images', images),
    ('category_id', 'categories', categories),
  ):
    if type(entry[name]) is not int or entry[name] not in known:
      return (
        f'has {name}={_short(entry[name], repr)}, which is not the id of any of `{of}`'
      )
  box, area = entry['bbox'], entry['area']
  if not _is_box(box) or not finite(area) or min(box[2:]) < 0:
    return (
      f'has bbox={_short(box, repr)} and area={_short(area, repr)}; they must be left,'
      ' top, width, height and a number'
    )
  if type(entry['iscrowd']) is not bool:
    return f'has iscrowd={_short(entry["iscrowd"], repr)}, which must be 0 or 1'
  return None


def _lists(path: str) -> dict[str, list[Any]]:
  entries = files.read_fields(os.path.expanduser(path))
  for name in ('images', 'annotations', 'categories'):
    if not isinstance(entries.get(name), list):
      raise UserError(
        f'{path} has no list {name!r}; it has {listed(entries) or "none"}'
      )
  return entries


def _checked(
  path: str, name: str, entries: Sequence[Any], fields: Mapping[str, type]
) -> list[Entry]:
  """Returns the entries with valid fields; raises UserError for an invalid entry."""
  ids, checked = set(), []
  for number, entry in enumerate(entries):
    place = f'{path}: {name}[{number}]'
    if not isinstance(entry, dict):
      raise UserError(f'{place} is {_short(entry)}, not an object')
    own = {}
    for field, kind in fields.items():
      value = entry.get(field)
      own[field] = whole(value) if kind is int else _text(value)
      if own[field] is None:
        have = _short(value) if field in entry else 'missing'
        name = _short(entry.get('id', 'unknown'), str)
        want = 'whole number' if kind is int else 'text'
        raise UserError(f'{place} (id {name}): {field!r} is {have}, not a {want}')
    if 'id' in fields:
      if own['id'] in ids:
        raise UserError(f'{place}: another entry has id {own["id"]} too')
      ids.add(own['id'])
    checked.append(entry | own)
  return checked


def _images(path: str, entries: Sequence[Any]) -> list[Entry]:
  """Returns the images, sorted by id."""
  fields = {'id': int, 'file_name': str, 'height': int, 'width': int}
  images = _checked(path, 'images', entries, fields)
  if not images:
    raise UserError(f'{path} names no images')
  for number, entry in enumerate(images):
    if _size(entry) is None:
      raise UserError(
        f'{path}: images[{number}] (id {entry["id"]}) has'
        f' {entry["height"]}x{entry["width"]} pixels, not 1 to'
        f' {decoding.MOST_PIXELS:,}'
      )
  return sorted(images, key=operator.itemgetter('id'))


def _size(image: Entry) -> tuple[int, int] | None:
  """Returns the height and width of an image; None if they are invalid."""
  height, width = whole(image.get('height')), whole(image.get('width'))
  if height is None or width is None or min(height, width) < 1:
    return None
  return (height, width) if height * width <= decoding.MOST_PIXELS else None


def _categories(path: str, entries: Sequence[Any]) -> dict[int, str]:
  """Returns the names of categories by id, sorted by id."""
  categories = _checked(path, 'categories', entries, {'id': int, 'name': str})
  if not categories:
    raise UserError(f'{path} names no categories')
  names: dict[str, int] = {}
  for entry in categories:
    if entry['name'] in names:
      raise UserError(
        f'{path}: the categories {names[entry["name"]]} and {entry["id"]} are both'
        f' called {_short(entry["name"])}; give each a name of its own'
      )
    names[entry['name']] = entry['id']
  return {e['id']: e['name'] for e in sorted(categories, key=operator.itemgetter('id'))}


def _flat(
  path: str,
  annotations: Sequence[Any],
  place_of: Mapping[int, int],
  left_out: dict[str, list[str]],
) -> tuple[list[Any], list[str]]:
  """Returns one annotation per panoptic segment, and the name of each image's PNG."""
  fields = {'image_id': int, 'file_name': str}
  maps, flat = [''] * len(place_of), []
  for number, entry in enumerate(_checked(path, 'annotations', annotations, fields)):
    place = place_of.get(entry['image_id'])
    if place is None or maps[place]:
      left_out[
        'of an unknown image' if place is None else 'of an image that has one already'
      ].append(f'entry {number}')
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


def _repaired(
  entry: Entry, size: Sequence[int] | None, repaired: collections.Counter[str]
) -> Entry:
  """Returns an annotation with all fields, repaired where possible.

  `size` is the size of its image, if known. `repaired` counts the repairs by kind.
  """
  own = {name: entry.get(name) for name in ('id', 'image_id', 'category_id')}
  given = {name: whole(value) for name, value in own.items()}
  own |= {name: value for name, value in given.items() if value is not None}
  own['id'] = given['id']
  box, area, crowd = entry.get('bbox'), entry.get('area'), entry.get('iscrowd')
  if not _is_box(box) or not any(box):
    outline = coco_outlines.sound(entry.get('segmentation'), size)
    if not isinstance(outline, str):
      box = coco_outlines.box(outline, size)
      repaired['given the box of their outline'] += 1
  # Null, 0, and NaN, which table software writes for empty cells, are not areas.
  if _is_box(box) and (area is None or (type(area) in (int, float) and not area > 0)):
    if 'area' in entry:
      repaired['given the area of their box'] += 1
    area = box[2] * box[3]
  if crowd is None or type(crowd) in (int, float, str, bool):
    crowd = CROWD.get(crowd, crowd)
  return entry | own | {'bbox': box, 'area': area, 'iscrowd': crowd}


def _unfit(
  entry: Entry,
  size: Sequence[int] | None,
  label_of: Mapping[int, int],
  before: Entry | None,
  panoptic: bool,
) -> str | None:
  """Returns why a repaired annotation cannot be used, or None.

  `size` is the size of its image, None for an unknown image. `before` is an earlier
  annotation with the same id, if any.
  """
  if size is None:
    return 'of an unknown image'
  if type(entry['category_id']) is not int or entry['category_id'] not in label_of:
    return 'of an unknown category'
  if panoptic and not 0 < (entry['id'] or 0) < 1 << 24:
    return 'without an id that a pixel can have'
  if before is not None:
    same = ('image_id', 'category_id', 'bbox')
    if panoptic or all(entry[name] == before[name] for name in same):
      return 'with a repeated id'
  box = entry['bbox']
  if not _is_box(box):
    return 'whose bbox is not four finite numbers'
  if box[2] <= 0 or box[3] <= 0:
    return 'without area'
  for low, long, side in zip(box[:2], box[2:], reversed(size), strict=True):
    if low >= side or low + long <= 0:
      return 'outside of the image'
    if low < -REACH * side or low + long > (REACH + 1) * side:
      return 'reaching far beyond the image'
  if not finite(entry['area']):
    return 'whose area is not a number'
  if type(entry['iscrowd']) is not bool:
    return 'whose iscrowd is not 0 or 1'
  return None


def _check_plausible(path: str, boxes_N4: np.ndarray, sizes_N2: np.ndarray) -> None:
  """Raises `UserError` if boxes are not left, top, width, height in pixels."""
  if not len(boxes_N4):
    return
  sides_N2 = sizes_N2[:, ::-1]
  low_N2, long_N2 = boxes_N4[:, :2], boxes_N4[:, 2:]
  high_N2 = low_N2 + long_N2
  tiny_N = (high_N2 <= 1).all(axis=1) & (sides_N2 > 2).all(axis=1)
  if tiny_N.mean() > 0.5:
    raise UserError(
      f'{path}: {tiny_N.sum():,} of {len(tiny_N):,} boxes end within the first pixel of'
      ' their images: bbox must be left, top, width, height in pixels, not as fractions'
      ' of the image'
    )
  # Tolerate small excesses, and do not conclude anything from few boxes.
  beyond_N = (high_N2 > 1.05 * sides_N2).any(axis=1)
  corners_N = ((long_N2 > low_N2) & (long_N2 <= 1.05 * sides_N2)).all(axis=1)
  if len(boxes_N4) >= 4 and beyond_N.mean() > 0.1 and corners_N.mean() > 0.95:
    raise UserError(
      f'{path}: {beyond_N.sum():,} of {len(beyond_N):,} boxes reach beyond their'
      ' images, but fit as left, top, right, bottom: bbox must be left, top, width,'
      ' height'
    )


def whole(value: Any) -> int | None:
  """Returns a 64-bit integer written as 7, 7.0 or '7'; None for other values."""
  if isinstance(value, str):
    value = int(value) if DIGITS.fullmatch(value) else None
  elif isinstance(value, float) and value.is_integer():
    value = int(value)
  is_whole = type(value) is int and -(1 << 63) <= value < 1 << 63
  return value if is_whole else None


def _text(value: Any) -> str | None:
  """Returns a text that is printable and valid as a file name; None for others."""
  sound = isinstance(value, str) and '\0' not in value
  return value if sound and not files.has_half_character(value) else None


def _is_box(value: Any) -> bool:
  return isinstance(value, list) and len(value) == 4 and all(map(finite, value))


def _short(value: Any, text: Any = json.dumps) -> str:
  """Returns the first 50 characters of a value's text."""
  return text(value)[:50]
