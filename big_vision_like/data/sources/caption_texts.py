"""Captions of images as texts: Conceptual Captions, and the splits of Karpathy.

Examples have `caption`, `image_id`, `image_number` and `id`. Images are numbered from 0
in the order of the file. Captions without a word are left out and counted.
"""

import collections
import dataclasses
import os
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from big_vision_like import files
from big_vision_like.data.input import cache
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


@dataclasses.dataclass(frozen=True)
class Nearest:
  """The most similar images of each image, by number, and the places of captions."""

  places: Mapping[int, np.ndarray]
  nearest: Mapping[int, np.ndarray]

  def other(self, own: int, rng: np.random.Generator) -> int:
    """Returns the place of a random caption of a random other image."""
    numbers = list(self.places)
    while (number := numbers[rng.integers(len(numbers))]) == own:
      pass
    return int(rng.choice(self.places[number]))

  def hard(self, own: int, rng: np.random.Generator) -> int:
    """Returns the place of a random caption of one of the most similar images."""
    return int(rng.choice(self.places[int(rng.choice(self.nearest[own]))]))


def nearest_images(captions: language.WithRegions, count: int) -> Nearest:
  """Returns the `count` most similar images of each image of the captions.

  The similarity is the cosine between the means of the regions' features. It is
  computed once and cached. Axes: I images, K nearest images, F features.
  """
  by_number = collections.defaultdict(list)
  for place in range(len(captions)):
    by_number[captions.text(place)['image_number']].append(place)
  places = {number: np.array(own) for number, own in by_number.items()}
  if len(places) < 2:
    raise UserError(
      f'{captions.title}: captions of at least 2 images with regions are needed, to'
      ' draw captions and images that do not belong together'
    )

  def make() -> dict[str, np.ndarray]:
    firsts = [own[0] for own in places.values()]
    means_IF = np.stack([_mean(captions[place]['features']) for place in firsts])
    return {'nearest_IK': _most_similar(means_IF, min(count, len(places) - 1))}

  known = ['nearest images', captions.fingerprint(), count]
  nearest_IK = cache.arrays(cache.file('nearest', known), make)['nearest_IK']
  numbers = np.array([*places])
  return Nearest(places, dict(zip(places, numbers[nearest_IK], strict=True)))


def _mean(features_NF: np.ndarray) -> np.ndarray:
  mean_F = features_NF.mean(axis=0) if len(features_NF) else features_NF.sum(axis=0)
  return mean_F / max(np.linalg.norm(mean_F), 1e-12)


def _most_similar(means_IF: np.ndarray, count: int) -> np.ndarray:
  """Returns the indices of the most similar other rows of each row, (I, K)."""
  found = []
  for start in range(0, len(means_IF), 1000):  # limits memory
    near_II = means_IF[start : start + 1000] @ means_IF.T
    own = np.arange(len(near_II))
    near_II[own, start + own] = -np.inf
    found.append(np.argpartition(-near_II, count - 1, axis=1)[:, :count])
  return np.concatenate(found).astype(np.int32)


def _caption(text: str, image: str, number: int, index: int) -> dict[str, Any]:
  return {'caption': text, 'image_id': image, 'image_number': number, 'id': index}
