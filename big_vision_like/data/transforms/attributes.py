"""Transforms for tasks of UniT (arXiv:2102.10772): attributes, and pairs of texts.

Axes: K objects, N attributes of an object.
"""

import dataclasses
from collections.abc import Sequence
from typing import Any

import grain
import numpy as np

from big_vision_like.data.transforms import boxes, labels, questions

Example = dict[str, Any]


@dataclasses.dataclass(frozen=True)
class Attributes(labels.Relabeling):
  """The attributes of a record's objects as `attributes`, int32 (K, N); -1 is padding.

  It goes before `boxes.Objects`. `name` is a field of the objects with one attribute or
  several for each, of which the first `most` are kept, as published. `label`, if given,
  is the field of the objects that becomes their label.
  """

  makes = 'box_labels'

  name: str
  most: int = 16
  label: str = ''

  def map(self, example: Example) -> Example:
    found = labels.feature(example, f'objects/{self.name}')
    attribute_KN = np.full((len(found), self.most), -1, np.int32)
    for k, own in enumerate(found):
      own_N = np.atleast_1d(np.asarray(own, np.int32))[: self.most]
      attribute_KN[k, : len(own_N)] = own_N
    result = example | {'attributes': attribute_KN}
    if self.label:
      label = labels.feature(example, f'objects/{self.label}')
      result['objects'] = example['objects'] | {'label': label}
    return result

  def renamed(self, names: labels.Names) -> labels.Names:
    return {} if self.label else names


@dataclasses.dataclass(frozen=True)
class TextPair(grain.transforms.Map):
  """Word pieces of one text or two: `tokens`, `token_types`, `token_mask` (length,).

  `texts` names the features, such as ('question', 'sentence'). The second text has the
  token type 1. The longer text loses words until both fit, as in BERT. A text without a
  word is a bad record.
  """

  vocabulary: Any
  texts: Sequence[str]
  length: int

  tiny = dict(length=16)

  def map(self, example: Example) -> Example:
    ids = [questions.ids_of(self.vocabulary, example, name) for name in self.texts]
    second = ids[1] if len(ids) > 1 else None
    return example | questions.padded(self.vocabulary, ids[0], second, self.length)


@dataclasses.dataclass(frozen=True)
class NoObjects(grain.transforms.Map):
  """Empty boxes, so that transforms of `boxes` apply to an image without objects."""

  def map(self, example: Example) -> Example:
    none = dict(boxes=np.zeros((0, 4), np.float32), box_labels=np.zeros(0, np.int32))
    return example | none


@dataclasses.dataclass(frozen=True)
class AtMost(grain.transforms.Map):
  """The first `max_boxes` objects; others are counted as dropped."""

  max_boxes: int

  def map(self, example: Example) -> Example:
    kept = np.arange(len(example['boxes'])) < self.max_boxes
    return example if kept.all() else boxes.with_objects(example, kept)
