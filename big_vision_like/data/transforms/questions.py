"""Transforms of texts about images to word pieces, and of answers to targets.

Sequences are [CLS] text [SEP], or [CLS] text [SEP] text [SEP] with token type 1 for the
second text, as in BERT, followed by padding. `vocabulary` is a `wordpiece.WordPiece`.

Axes: O options, T tokens, C classes.
"""

import dataclasses
import functools
from collections.abc import Sequence
from typing import Any

import grain
import numpy as np

from big_vision_like.data.sources import caption_texts, language
from big_vision_like.data.text import wordpiece
from big_vision_like.data.transforms import labels
from big_vision_like.errors import BadRecordError, UserError

Example = dict[str, Any]


@dataclasses.dataclass(frozen=True)
class Words(grain.transforms.Map):
  """Word pieces of one text, the feature `text`: `tokens`, `token_types`, `token_mask`.

  Each has `length` entries; longer texts lose their last words. If the feature is a
  list of texts, they follow each other, separated by [SEP]. A text without a word is a
  bad record. `task`, if given, becomes the feature `task`, the number of the task.
  """

  vocabulary: wordpiece.WordPiece
  text: str
  length: int
  task: int | None = None

  tiny = dict(length=16)

  def map(self, example: Example) -> Example:
    ids = ids_of(self.vocabulary, example, self.text)
    made = padded(self.vocabulary, ids, None, self.length)
    if self.task is not None:
      made['task'] = np.int32(self.task)
    return example | made


@dataclasses.dataclass(frozen=True)
class Options(grain.transforms.Map):
  """Word pieces of several texts, the feature `options`: arrays (O, T) as in `Words`.

  With `text`, each sequence has this text first and the option second. Then the longer
  of the two texts loses words until both fit, as published for VCR.
  """

  vocabulary: wordpiece.WordPiece
  length: int
  options: str = 'options'
  text: str | None = None
  task: int | None = None

  tiny = dict(length=16)

  def map(self, example: Example) -> Example:
    first = None if self.text is None else ids_of(self.vocabulary, example, self.text)
    rows = []
    for place in range(len(labels.feature(example, self.options))):
      option = ids_of(self.vocabulary, example, self.options, place)
      pair = (option, None) if first is None else (first, option)
      rows.append(padded(self.vocabulary, *pair, self.length))
    made = {name: np.stack([row[name] for row in rows]) for name in rows[0]}
    if self.task is not None:
      made['task'] = np.int32(self.task)
    return example | made


@dataclasses.dataclass(frozen=True)
class Answers(grain.transforms.Map):
  """Scores of all answers, `target` float32 (C,), from `labels` and their `scores`."""

  num_answers: int

  tiny = dict(num_answers=50)

  def map(self, example: Example) -> Example:
    found = np.asarray(labels.feature(example, 'labels'))
    if len(found) and not 0 <= found.min() <= found.max() < self.num_answers:
      raise UserError(
        f'the example with id {example.get("id", "unknown")} has the answer'
        f' {found.max()}, but num_answers={self.num_answers}: set it to the size of the'
        ' vocabulary of answers, as in the head of the model'
      )
    target_C = np.zeros(self.num_answers, np.float32)
    target_C[found] = example['scores']
    return example | {'target': target_C}


@dataclasses.dataclass(frozen=True)
class AskClass(grain.transforms.RandomMap):
  """A question whether the class of an image is a given one, yes or no at random.

  The results are `question`, `form` with the name of a class, and `label`, 1 for yes.
  `names` are the names of the classes of the former `label`.
  """

  names: Sequence[str]
  form: str = 'is it {}'

  def random_map(self, example: Example, rng: np.random.Generator) -> Example:
    own = int(labels.feature(example, 'label'))
    yes = bool(rng.integers(2))
    other = (own + 1 + int(rng.integers(len(self.names) - 1))) % len(self.names)
    question = self.form.format(self.names[own if yes else other])
    return example | {'question': question, 'label': np.int64(yes)}


@dataclasses.dataclass(frozen=True)
class FixedQuestion(grain.transforms.Map):
  """The question of `ask` that the id of the example determines, for evaluation."""

  ask: AskClass

  def map(self, example: Example) -> Example:
    rng = np.random.default_rng(int(labels.feature(example, 'id')))
    return self.ask.random_map(example, rng)


@dataclasses.dataclass(frozen=True)
class Distractors(grain.transforms.RandomMap):
  """Four pairs of caption and image, of which the first belongs together.

  The other pairs have another caption, another image, and the caption of one of the
  `hard` nearest images, as ViLBERT is trained for retrieval. `captions` is the source
  of the examples. The results are `options`, four captions, `label` 0, and the regions
  of the other image in arrays that end in `_2`.
  """

  captions: language.WithRegions
  hard: int = 100

  tiny = dict(hard=3)

  def random_map(self, example: Example, rng: np.random.Generator) -> Example:
    own, nearest = example['image_number'], self._nearest
    caption, hard = nearest.other(own, rng), nearest.hard(own, rng)
    image = self.captions[nearest.other(own, rng)]
    texts = [self.captions.text(place)['caption'] for place in (caption, hard)]
    names = ('boxes', 'features', 'size')
    return example | {
      'options': [example['caption'], texts[0], example['caption'], texts[1]],
      'label': np.int64(0),
      **{f'{name}_2': image[name] for name in names},
    }

  @functools.cached_property
  def _nearest(self) -> caption_texts.Nearest:
    return caption_texts.nearest_images(self.captions, self.hard)


@dataclasses.dataclass(frozen=True)
class Paired(grain.transforms.Map):
  """The arrays of `Regions` for two images stacked along a new first axis.

  `order` lists the images of the pairs: (0, 0, 1, 0) gives the third pair the second
  image.
  """

  order: Sequence[int] = (0, 1)

  names = ('regions', 'locations', 'region_mask')

  def map(self, example: Example) -> Example:
    kept = dict(example)
    for name in self.names:
      images = kept[name], kept.pop(f'{name}_2')
      kept[name] = np.stack([images[i] for i in self.order])
    return kept


def ids_of(
  vocabulary: wordpiece.WordPiece,
  example: Example,
  name: str,
  place: int | None = None,
) -> list[int]:
  """Returns the ids of a text, or of several texts separated by [SEP]."""
  value = labels.feature(example, name)
  value = value if place is None else value[place]
  found: list[int] = []
  for part in value if isinstance(value, (list, tuple)) else [value]:
    text = part.decode() if isinstance(part, bytes) else part
    ids = vocabulary.encode(text)
    if not ids:
      raise BadRecordError(
        f'{name} of the example with id {example.get("id", "unknown")} has no words'
      )
    found += ([vocabulary.sep_id] if found else []) + ids
  return found


def padded(
  vocabulary: wordpiece.WordPiece,
  first: Sequence[int],
  second: Sequence[int] | None,
  length: int,
) -> dict[str, np.ndarray]:
  """Returns the arrays of a sequence of one or two texts."""
  room = length - (2 if second is None else 3)
  if room < 1:
    raise UserError(f'length={length} leaves no room for words')
  first, second = list(first), None if second is None else list(second)
  while len(first) + len(second or ()) > room:
    longer = first if second is None or len(first) > len(second) else second
    longer.pop()
  ids = [vocabulary.cls_id, *first, vocabulary.sep_id]
  types = [0] * len(ids)
  if second is not None:
    ids += [*second, vocabulary.sep_id]
    types += [1] * (len(second) + 1)
  rest = length - len(ids)
  return {
    'tokens': np.array(ids + [vocabulary.pad_id] * rest, np.int32),
    'token_types': np.array(types + [0] * rest, np.int32),
    'token_mask': np.arange(length) < len(ids),
  }
