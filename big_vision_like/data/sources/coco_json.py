"""Reads COCO's JSON files of annotations: tolerantly to train, strictly to evaluate.

Axes: N annotations, I images; 4 is left, top, width, height.
"""

import collections
import json
import math
import operator
import os
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from big_vision_like import files
from big_vision_like.errors import BadRecordError, UserError, listed

Entry = dict[str, Any]
# Lists of `images`, `annotations` and `categories`, as the files have them.
Truth = dict[str, list[Entry]]
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


def read(path: str, panoptic: bool = False, masks: bool = False) -> Contents:
  """Reads an annotation file; raises a `UserError` for what is none."""
  entries = _lists(path)
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
  by_id = operator.itemgetter(0)
  rows = [r for own in found for r in (own if panoptic else sorted(own, key=by_id))]
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


def read_strictly(path: str) -> Truth:
  """Returns a file of objects; a `UserError` names the first malformed entry."""
  truth = _lists(path)
  known: dict[str, set[int]] = {}
  for name in ('images', 'categories'):
    _checked(path, name, truth[name], {'id': int})
    known[name] = {entry['id'] for entry in truth[name]}
  for index, entry in enumerate(truth['annotations']):
    if problem := _problem(entry, known):
      raise UserError(f'{path}: annotations[{index}] {problem}.')
  return truth


def _problem(entry: Any, known: Mapping[str, set[int]]) -> str | None:
  """Returns what is wrong with an annotation, or None."""
  if not isinstance(entry, dict):
    return f'is {entry!r}, not an object'
  for name, of in ('image_id', 'images'), ('category_id', 'categories'):
    value = entry.get(name)
    if type(value) is not int or value not in known[of]:
      return f'has {name}={value!r}, which none of `{of}` has as its id'
  box, area = entry.get('bbox'), entry.get('area', 0)
  numbers = [*box, area] if isinstance(box, list) else []
  if len(numbers) != 5 or not all(map(_finite, numbers)) or min(box[2:]) < 0:
    return f'has bbox={box!r} and area={area!r}: left, top, width, height and a number'
  if entry.get('iscrowd', 0) not in (0, 1):
    return f'has iscrowd={entry["iscrowd"]!r}, which must be 0 or 1'
  return None


def _lists(path: str) -> dict[str, list[Any]]:
  entries = files.read_fields(os.path.expanduser(path))
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
  """Returns the images, sorted by id."""
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
  """Returns names by ids, sorted."""
  _checked(path, 'categories', entries, {'id': int, 'name': str})
  return {e['id']: e['name'] for e in sorted(entries, key=lambda entry: entry['id'])}


def _flat(
  path: str,
  annotations: Sequence[Any],
  place_of: Mapping[int, int],
  left_out: dict[str, list[str]],
) -> tuple[list[Any], list[str]]:
  """Returns an annotation for each panoptic segment, and each image's PNG."""
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
  """Returns why an annotation cannot be used, if so."""
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
  """Returns why an outline is none, if so."""
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
