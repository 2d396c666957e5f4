"""Damage to annotations in COCO's format, for training and for evaluation."""

import functools
import json
import pathlib
from typing import Any

import numpy as np
from PIL import Image

from big_vision_like.data.sources import coco
from tools.faults import common, values

HEIGHT, WIDTH, IMAGES = 48, 64, 3
CATEGORIES = (1, 5, 9)


def make(panoptic: bool, folder: pathlib.Path) -> None:
  """Writes pictures and annotations, with polygons and one mask of runs, or maps."""
  content: dict[str, list] = {'images': [], 'annotations': [], 'categories': []}
  for label in CATEGORIES:
    content['categories'].append({'id': label, 'name': f'c{label}', 'isthing': 1})
  for i in range(IMAGES):
    size = {'height': HEIGHT, 'width': WIDTH}
    content['images'].append({'id': i + 1, 'file_name': f'{i}.png', **size})
    Image.fromarray(np.zeros((HEIGHT, WIDTH, 3), np.uint8)).save(folder / f'{i}.png')
    if panoptic:
      content['annotations'].append(segments(i, folder))
    else:
      content['annotations'] += [instance(i, j) for j in range(len(CATEGORIES))]
  (folder / 'annotations.json').write_text(json.dumps(content))


def segments(index: int, folder: pathlib.Path) -> dict[str, Any]:
  """Writes the segment map of an image; returns its annotation."""
  pixels_HWC, found = np.zeros((HEIGHT, WIDTH, 3), np.uint8), []
  for j, label in enumerate(CATEGORIES):
    pixels_HWC[4:14, 5 * j : 5 * j + 5, 0] = 10 + j
    box = {'bbox': [5 * j, 4, 5, 10], 'area': 50, 'iscrowd': 0}
    found.append({'id': 10 + j, 'category_id': label, **box})
  Image.fromarray(pixels_HWC).save(folder / f'map_{index}.png')
  name = f'map_{index}.png'
  return {'image_id': index + 1, 'file_name': name, 'segments_info': found}


def instance(index: int, place: int) -> dict[str, Any]:
  """Returns the annotation of an object."""
  x, y, w, h = 5 + 10 * place, 6, 12, 9
  polygon = [[x, y, x + w, y, x + w, y + h, x, y + h]]
  runs = [HEIGHT * x + y, *[h, HEIGHT - h] * (w - 1), h]
  runs.append(HEIGHT * WIDTH - sum(runs))
  crowd = int(place == 2 and index == 0)
  return {
    'id': 10 * index + place + 1,
    'image_id': index + 1,
    'category_id': CATEGORIES[place],
    'bbox': [x, y, w, h],
    'area': w * h,
    'iscrowd': crowd,
    'segmentation': {'size': [HEIGHT, WIDTH], 'counts': runs} if crowd else polygon,
  }


def read(panoptic: bool, folder: pathlib.Path) -> Any:
  """Reads all examples, with masks."""
  where = {'panoptic': str(folder)} if panoptic else {'masks': True}
  path = str(folder / 'annotations.json')
  source = coco.Coco(annotations=path, images=str(folder), **where)
  return source.category_names, list(source)


KINDS = tuple(
  common.Kind(
    f'COCO JSON, {name}',
    functools.partial(make, panoptic),
    values.damage,
    functools.partial(read, panoptic),
  )
  for name, panoptic in {'instances': False, 'panoptic': True}.items()
)
