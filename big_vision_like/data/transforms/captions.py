"""Transforms of images with captions: one caption becomes the ids of its words."""

import dataclasses
from collections.abc import Sequence
from typing import Any

import grain
import numpy as np

from big_vision_like.data.text import words
from big_vision_like.errors import BadRecordError, UserError

Example = dict[str, Any]


@dataclasses.dataclass(frozen=True)
class Choose(grain.transforms.RandomMap):
  """Keeps one of an image's `captions`, drawn at random."""

  def random_map(self, example: Example, rng: np.random.Generator) -> Example:
    texts = texts_of(example)
    if not len(texts):
      raise BadRecordError(f'the example with id {name_of(example)} has no captions')
    place = int(rng.integers(len(texts)))
    return example | {'captions': texts[place : place + 1]}


@dataclasses.dataclass(frozen=True)
class Encode(grain.transforms.Map):
  """Replaces `captions` by `target`: int32 ids of the first, the end, then zeros.

  `target` has `length` ids, including the end. A longer caption is an error, or with
  `truncate` loses its last words. Words outside of the vocabulary become unknown. A
  `target` of ids without an end, which made-up examples have, replaces the caption.
  """

  vocabulary: words.Words
  length: int
  truncate: bool = False

  tiny = dict(length=8)

  def __post_init__(self) -> None:
    if self.length < 2:
      raise UserError(f'length={self.length} leaves no room for a word and the end')

  def map(self, example: Example) -> Example:
    if 'target' in example:
      ids, end = example['target'].tolist(), 2
    else:
      texts, end = texts_of(example), self.vocabulary.eos_id
      ids = self.vocabulary.encode(decoded(texts[0])) if len(texts) else []
    if not ids:
      raise BadRecordError(
        f'the example with id {name_of(example)} has no caption with words'
      )
    if len(ids) > self.length - 1 and not self.truncate:
      raise BadRecordError(
        f'the caption of the example with id {name_of(example)} has {len(ids)} words,'
        f' but length={self.length} leaves room for {self.length - 1} and the end:'
        ' raise it, set truncate, or leave out long captions with max_words of the'
        ' source'
      )
    ids = [*ids[: self.length - 1], end]
    target = np.zeros(self.length, np.int32)
    target[: len(ids)] = ids
    kept = {name: value for name, value in example.items() if name != 'captions'}
    return kept | {'target': target}


def texts_of(example: Example) -> Sequence[bytes | str]:
  """Returns the captions of an example; raises a `UserError` if it has none."""
  if 'captions' not in example:
    raise UserError(f'examples have no `captions`; they have {", ".join(example)}')
  return example['captions']


def decoded(text: bytes | str) -> str:
  """Returns a text, which TFDS stores as bytes."""
  return text.decode(errors='replace') if isinstance(text, bytes) else str(text)


def name_of(example: Example) -> Any:
  """Returns the id of an example, for messages."""
  return example.get('id', 'unknown')
