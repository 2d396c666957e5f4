"""Statements about images that are true or not: NLVR2 and SNLI-VE.

Examples have `sentence`, `label`, `image_id` and `id`, and for NLVR2 `image_id_2`.
"""

import collections
import dataclasses
from collections.abc import Sequence

import numpy as np

from big_vision_like.data.sources import language
from big_vision_like.data.sources.language import Annotations, Example, Read
from big_vision_like.errors import UserError

TRUTH = {'false': 0, 'true': 1}
ENTAILMENT = {'contradiction': 0, 'neutral': 1, 'entailment': 2}


@dataclasses.dataclass(frozen=True, kw_only=True)
class Nlvr2(Annotations):
  """The lines of a .json file of NLVR2 (arXiv:1811.00491), with two images each.

  The ids of the images of `train-10171-0-0` are `train-10171-0-img0` and
  `train-10171-0-img1`. `label` is 1 if the sentence is true of them.
  """

  path: str

  label_names = ('false', 'true')

  @property
  def paths(self) -> Sequence[str]:
    return [self.path]

  def read(self) -> Read:
    examples, left_out = [], collections.Counter()
    for where, entry in language.lines_of(self.path):
      key, text, truth = language.fields(
        entry, ('identifier', 'sentence', 'label'), where
      )
      label = TRUTH.get(str(truth).lower())
      if label is None:
        raise UserError(f'{where} has the label {truth!r}, not True or False')
      if not text.strip():
        left_out['sentences without words'] += 1
        continue
      images = key.rpartition('-')[0]
      examples.append(
        {
          'sentence': text,
          'label': label,
          'image_id': f'{images}-img0',
          'image_id_2': f'{images}-img1',
          'id': len(examples),
        }
      )
    return Read(examples, left_out)

  def trial(self, index: int, rng: np.random.Generator) -> Example:
    second = str((index + 1) % language.region_features.FEW)
    return {'sentence': language.words(rng), 'label': index % 2, 'image_id_2': second}


@dataclasses.dataclass(frozen=True, kw_only=True)
class SnliVe(Annotations):
  """The lines of a .jsonl file of SNLI-VE (arXiv:1901.06706) on images of Flickr30k.

  `label` is 0 for contradiction, 1 for neutral, 2 for entailment. Lines without
  agreement, whose label is '-', are left out and counted.
  """

  path: str

  label_names = tuple(ENTAILMENT)

  @property
  def paths(self) -> Sequence[str]:
    return [self.path]

  def read(self) -> Read:
    examples, left_out = [], collections.Counter()
    for where, entry in language.lines_of(self.path):
      image, text, label = language.fields(
        entry, ('Flickr30K_ID', 'sentence2', 'gold_label'), where
      )
      if label == '-':
        left_out['sentences without agreement'] += 1
      elif label not in ENTAILMENT:
        raise UserError(f'{where} has the label {label!r}: not {", ".join(ENTAILMENT)}')
      elif not text.strip():
        left_out['sentences without words'] += 1
      else:
        examples.append(
          {
            'sentence': text,
            'label': ENTAILMENT[label],
            'image_id': language.image_id(image).removesuffix('.jpg'),
            'id': len(examples),
          }
        )
    return Read(examples, left_out)

  def trial(self, index: int, rng: np.random.Generator) -> Example:
    return {'sentence': language.words(rng), 'label': index % 3}
