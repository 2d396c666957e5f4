"""Visual Genome's json files: detection in COCO's format, triples and attributes.

The files are `image_data.json`, `objects.json`, `attributes.json` and
`relationships.json`, of any version (arXiv:1602.07332). The class of an object is its
first name, in lower case and without spaces around it.
"""

import collections
import os
import pathlib
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from big_vision_like import files
from big_vision_like.data import class_graph
from big_vision_like.data.sources import coco_json
from big_vision_like.errors import UserError

Entry = dict[str, Any]
COORDINATES = ('x', 'y', 'w', 'h')
# Endings of folders in which the images come.
FOLDERS = ('VG_100K', 'VG_100K_2')


def entries(path: str | os.PathLike, field: str) -> Iterator[tuple[int, Entry]]:
  """Yields the entries `field` of each image, with its id.

  Raises a `UserError` that names the file and the first image without them.
  """
  for number, image in enumerate(_list(path)):
    own = image.get(field) if isinstance(image, dict) else None
    key = coco_json.whole(_id(image))
    if not isinstance(own, list) or key is None:
      raise UserError(
        f'{path}: entry {number} is no image with an `image_id` and a list {field!r}'
      )
    for entry in own:
      if isinstance(entry, dict):
        yield key, entry


def name_of(entry: Mapping[str, Any]) -> str | None:
  """Returns the class of an object of any of the files, None without a name."""
  names = entry.get('names') or [entry.get('name')]
  name = names[0] if isinstance(names, list) else names
  return ' '.join(name.lower().split()) or None if isinstance(name, str) else None


def frequent_classes(objects: str | os.PathLike, most: int) -> list[str]:
  """Returns the most frequent classes of objects, the most frequent first."""
  names = [name for _, entry in entries(objects, 'objects') if (name := name_of(entry))]
  found = class_graph.frequent(names, most)
  if len(found) < most:
    raise UserError(f'{objects} has {len(found):,} classes, not {most:,}')
  return found


def detection(
  image_data: str | os.PathLike, objects: str | os.PathLike, classes: Sequence[str]
) -> tuple[coco_json.Truth, dict[str, int]]:
  """Returns objects of these classes in COCO's format, and counts of objects left out.

  Label k is `classes[k]`, the category of id k + 1. File names start with the folder in
  which Visual Genome's archives have an image, as its url does. Images without objects
  of these classes are kept.
  """
  id_of = {name: number for number, name in enumerate(classes, start=1)}
  images, left_out = {}, collections.Counter()
  for number, image in enumerate(_list(image_data)):
    key = coco_json.whole(_id(image))
    url = image.get('url') if isinstance(image, dict) else None
    if key is None or not isinstance(url, str):
      raise UserError(f'{image_data}: entry {number} has no `image_id` and `url`')
    images[key] = {
      'id': key,
      'file_name': '/'.join(url.split('/')[-2:]),
      'height': image.get('height'),
      'width': image.get('width'),
    }
  annotations = []
  for key, entry in entries(objects, 'objects'):
    box = [coco_json.whole(entry.get(name)) for name in COORDINATES]
    category = id_of.get(name_of(entry))
    reason = None
    if category is None:
      reason = 'of other classes'
    elif key not in images:
      reason = 'of unknown images'
    elif None in box or min(box[2:]) <= 0:
      reason = 'without a box'
    if reason:
      left_out[reason] += 1
      continue
    annotations.append(
      {
        'id': len(annotations) + 1,
        'image_id': key,
        'category_id': category,
        'bbox': box,
        'area': box[2] * box[3],
        'iscrowd': 0,
      }
    )
  truth = {
    'images': [images[key] for key in sorted(images)],
    'annotations': annotations,
    'categories': [{'id': number, 'name': name} for name, number in id_of.items()],
  }
  return truth, dict(left_out)


def split(truth: coco_json.Truth, test: int) -> tuple[coco_json.Truth, coco_json.Truth]:
  """Returns the images with the highest ids, `test` of them, and before them the rest.

  Each part has its own images and their annotations, and all categories.
  """
  if not 0 < test < len(truth['images']):
    raise UserError(
      f'{test} of {len(truth["images"]):,} images cannot be kept for evaluation'
    )
  parts = truth['images'][:-test], truth['images'][-test:]
  return _with_images(truth, parts[0]), _with_images(truth, parts[1])


def split_by_coco(
  truth: coco_json.Truth, image_data: str | os.PathLike, validation: str | os.PathLike
) -> tuple[coco_json.Truth, coco_json.Truth]:
  """Returns the images outside and inside of a file of COCO, such as that of val2017.

  Half of Visual Genome's images are images of COCO: `coco_id` in `image_data`.
  """
  held = {image['id'] for image in files.read_fields(validation)['images']}
  ids = {_id(x) for x in _list(image_data) if x.get('coco_id') in held}
  parts = [], []
  for image in truth['images']:
    parts[image['id'] in ids].append(image)
  if not all(parts):
    raise UserError(f'none or all images of {image_data} are in {validation}')
  return _with_images(truth, parts[0]), _with_images(truth, parts[1])


def _with_images(
  truth: coco_json.Truth, images: list[dict[str, Any]]
) -> coco_json.Truth:
  """Returns some images with their annotations, and all categories."""
  ids = {image['id'] for image in images}
  own = [entry for entry in truth['annotations'] if entry['image_id'] in ids]
  return truth | {'images': images, 'annotations': own}


def attributes_of(
  attributes: str | os.PathLike, truth: coco_json.Truth, most: int
) -> dict[str, Any]:
  """Returns the attributes of annotations, for `about_images.WithAttributes`.

  `names` are the `most` frequent attributes of objects, and `of` has their numbers for
  the id of each annotation with an attribute: those of the objects with its image, box
  and name.
  """
  words: dict[tuple, dict[str, None]] = collections.defaultdict(dict)
  for image, entry in entries(attributes, 'attributes'):
    found = entry.get('attributes') or ()
    if isinstance(found, list):
      place = (image, name_of(entry), *(entry.get(name) for name in COORDINATES))
      kept = (' '.join(x.lower().split()) for x in found if isinstance(x, str))
      words[place] |= dict.fromkeys(filter(None, kept))
  names = class_graph.frequent([x for own in words.values() for x in own], most)
  number = {name: place for place, name in enumerate(names)}
  class_of = {entry['id']: entry['name'] for entry in truth['categories']}
  of = {}
  for entry in truth['annotations']:
    place = entry['image_id'], class_of[entry['category_id']], *entry['bbox']
    if known := [number[x] for x in words.get(place, ()) if x in number]:
      of[str(entry['id'])] = known
  return {'names': names, 'of': of}


def triples(relationships: str | os.PathLike) -> list[tuple[str, str, str]]:
  """Returns subject, relation and object of each relationship, by name."""
  found = []
  for _, entry in entries(relationships, 'relationships'):
    ends = [entry.get(end) for end in ('subject', 'object')]
    names = [name_of(end) if isinstance(end, dict) else None for end in ends]
    verb = name_of({'name': entry.get('predicate')})
    if all(names) and verb:
      found.append((names[0], verb, names[1]))
  return found


def attribute_counts(attributes: str | os.PathLike) -> dict[str, dict[str, int]]:
  """Returns how often objects of each class have each attribute."""
  found: dict[str, collections.Counter] = collections.defaultdict(collections.Counter)
  for _, entry in entries(attributes, 'attributes'):
    name, words = name_of(entry), entry.get('attributes') or ()
    if name is None or not isinstance(words, Sequence) or isinstance(words, str):
      continue
    for word in words:
      if isinstance(word, str) and word.strip():
        found[name][' '.join(word.lower().split())] += 1
  return {name: dict(words) for name, words in found.items()}


def _id(image: Any) -> Any:
  """Returns the id of an image, which early versions call `id`."""
  if not isinstance(image, dict):
    return None
  return image.get('image_id', image.get('id'))


def _list(path: str | os.PathLike) -> list[Any]:
  found = files.read_json(pathlib.Path(path).expanduser())
  if not isinstance(found, list):
    raise UserError(f'{path} is no list of images, as files of Visual Genome are')
  return found
