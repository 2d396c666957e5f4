"""Detection of annotations in COCO's format, and their images, in your own folder.

Each part has one annotation file and a folder of images. These layouts are recognized:

    train.json, val.json             train/, val/ or images/      any folder
    annotations/*train*.json, ...    train2017/, val2017/, ...    COCO's
    train/_annotations.coco.json     train/, valid/, test/        Roboflow's
"""

import os
import re
from collections.abc import Iterator

from big_vision_like.data.sources import coco_json, own_images
from big_vision_like.errors import UserError, listed

# Annotation files of other tasks, which COCO's archive contains too.
OTHERS = re.compile(r'caption|keypoint|panoptic|image_info|stuff')


def parts_of(path: str) -> dict[str, dict[str, str]]:
  """Returns the arguments of `coco.Coco` for 'train' and 'val', by name.

  If there are no validation images, the test images replace them. Raises a `UserError`
  if training or validation has no annotation file, or several.
  """
  root = os.path.expanduser(path)
  if not os.path.isdir(root):
    raise UserError(own_images.missing(path))
  found = {}
  for part, names in own_images.SPLITS.items():
    # Longer words come first, since 'validation' starts with 'valid' and 'val'.
    word = re.compile(f'(?<![a-z])({"|".join(sorted(names, key=len)[::-1])})(?![a-z])')
    every = [file for file in _annotations(root) if word.search(file.lower())]
    if len(every) > 1:
      raise UserError(
        f'{path} has several annotation files for {part}, {listed(every, 3)}: keep one,'
        ' or set config.train_data.source.annotations and the same in config.evals'
      )
    for file in every:
      annotations = os.path.join(root, file)
      found[part] = dict(annotations=annotations, images=_images(root, file, word))
  if 'val' not in found and 'test' in found:
    found['val'] = found.pop('test')
  if lacking := [part for part in ('train', 'val') if part not in found]:
    there = [*_annotations(root)]
    what = f'only {listed(there, 3)}' if there else 'no .json file'
    raise UserError(
      f'{path} has no annotations for {" and ".join(lacking)} ({what}): COCO-style'
      ' folders hold train.json and val.json, with images in train and val'
    )
  return {part: found[part] for part in ('train', 'val')}


def _annotations(root: str) -> Iterator[str]:
  """Yields the sorted .json files of a folder and its subfolders, relative to it."""
  for folder in ('', *sorted(os.listdir(root))):
    inside = os.path.join(root, folder)
    for name in sorted(os.listdir(inside)) if os.path.isdir(inside) else ():
      if name.lower().endswith('.json') and not OTHERS.search(name.lower()):
        yield os.path.join(folder, name)


def _images(root: str, annotations: str, word: re.Pattern) -> str:
  """Returns the folder that contains the first image of an annotation file."""
  first = coco_json.read(os.path.join(root, annotations)).names[0]
  inside = {
    folder: sorted(os.listdir(os.path.join(root, folder)))
    for folder in ('', 'images')
    if os.path.isdir(os.path.join(root, folder))
  }
  own = [
    os.path.join(folder, name)
    for folder, names in inside.items()
    for name in names
    if word.search(name.lower()) and os.path.isdir(os.path.join(root, folder, name))
  ]
  for place in (*own, 'images', os.path.dirname(annotations)):
    if os.path.isfile(os.path.join(root, place, first)):
      return os.path.normpath(os.path.join(root, place))
  tried = [os.path.join(root, place) for place in (*own, 'images')]
  raise UserError(
    f'{os.path.join(root, annotations)} names the image {first}, which is not in'
    f' {" or ".join(tried)}'
  )
