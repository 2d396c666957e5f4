"""Captions of images as texts: Conceptual Captions, and the splits of Karpathy.

Examples have `caption`, `image_id`, `image_number` and `id`. Images are numbered from 0
in the order of the file. Captions without a word are left out and counted.
"""

import collections
import dataclasses
import os
from collections.abc import Sequence
from typing import Any

import numpy as np

from big_vision_like import files
from big_vision_like.data.sources import language
from big_vision_like.data.sources.language import Annotations, Example, Read
from big_vision_like.errors import UserError, check_one_of

SPLITS = ('train', 'val', 'test', 'restval')


@dataclasses.dataclass(frozen=True, kw_only=True)
class ConceptualCaptions(Annotations):
  """The tab-separated files of Conceptual Captions: caption, link and perhaps an id.

  Without a third column, the id of an image is the number of its line, from 0, as in
  the features that ViLBERT was trained on. `share` takes the first part of the lines.
  Links that are dead have no regions, so give `language.WithRegions` the share of them
  as `tolerated`.
  """

  path: str
  share: float = 1.0

  @property
  def paths(self) -> Sequence[str]:
    return [self.path]

  def read(self) -> Read:
    examples, left_out = [], collections.Counter()
    with open(os.path.expanduser(self.path), encoding='utf-8') as file:
      lines = file.read().split('\n')
    lines = lines[:-1] if lines and not lines[-1] else lines
    for number, line in enumerate(lines[: round(self.share * len(lines))]):
      columns = line.rstrip('\r').split('\t')
      if len(columns) not in (2, 3):
        raise UserError(
          f'line {number + 1} of {self.path} has {len(columns)} columns, not a caption,'
          ' a link and perhaps an id, separated by tabs'
        )
      if not columns[0].strip():
        left_out['captions without words'] += 1
        continue
      image = columns[2] if len(columns) == 3 else str(number)
      examples.append(_caption(columns[0], image, len(examples), len(examples)))
    return Read(examples, left_out)

  def trial(self, index: int, rng: np.random.Generator) -> Example:
    return {'caption': language.words(rng), 'image_number': index}


@dataclasses.dataclass(frozen=True, kw_only=True)
class Karpathy(Annotations):
  """The captions of a split of a `dataset.json` of Karpathy's (arXiv:1412.2306).

  It exists for COCO, Flickr8k and Flickr30k. The id of an image is its `cocoid`, or
  else the name of its file without ending. `split` is one of 'train', 'val', 'test' and
  'restval', or several of them joined by '+'.
  """

  path: str
  split: str = 'train'

  def __post_init__(self) -> None:
    for split in self.split.split('+'):
      check_one_of(SPLITS, split=split)

  @property
  def paths(self) -> Sequence[str]:
    return [self.path]

  def read(self) -> Read:
    content = files.read_fields(os.path.expanduser(self.path))
    (images,) = language.fields(content, ['images'], self.path)
    examples, left_out, number = [], collections.Counter(), 0
    for place, image in enumerate(images):
      where = f'image {place} of {self.path}'
      names = ('split', 'filename', 'sentences')
      split, file, sentences = language.fields(image, names, where)
      if split not in self.split.split('+'):
        continue
      key = image.get('cocoid', os.path.splitext(file)[0])
      texts = [language.fields(s, ['raw'], where)[0] for s in sentences]
      sound = [text for text in texts if isinstance(text, str) and text.strip()]
      if len(sound) < len(texts):
        left_out['captions without words'] += len(texts) - len(sound)
      if not sound:
        left_out['images without captions'] += 1
        continue
      for text in sound:
        name = language.image_id(key)
        examples.append(_caption(text, name, number, len(examples)))
      number += 1
    return Read(examples, left_out)

  def trial(self, index: int, rng: np.random.Generator) -> Example:
    place = index % language.region_features.FEW
    return {'caption': language.words(rng), 'image_number': place}


def _caption(text: str, image: str, number: int, index: int) -> dict[str, Any]:
  return {'caption': text, 'image_id': image, 'image_number': number, 'id': index}
