"""Evaluation of captions, and of where a model looks when it writes them.

Axes: B batch, T words of a caption, h w map of the model, M = h * w
cells, N parts of an image.
"""

import dataclasses
from collections.abc import Mapping
from typing import Any

import numpy as np
from jax.sharding import Mesh

from big_vision_like.data.text import words
from big_vision_like.data.transforms import captions as transforms
from big_vision_like.errors import UserError
from big_vision_like.evals import caption_scores, evaluator
from big_vision_like.evals.evaluator import Arrays, Predict, Results

PENALTIES = {'': 'scores', '_no_penalty': 'without_penalty'}


@dataclasses.dataclass(kw_only=True)
class CaptionScores(evaluator.Evaluator):
  """BLEU-1 to 4, ROUGE-L and CIDEr-D of generated captions, fractions.

  References are the texts `captions` of the source of `data`, all of an image. Words
  are split as in the COCO caption evaluation (`text.words.split_words`). The prediction
  has `ids`, int (B, any) up to the end of a caption: captions are never evaluated by
  what a model predicts after the words of a reference.

  `bleu1` and so on have the brevity penalty, `bleu1_no_penalty` and so on have not.
  `exact` is the share of captions that equal a reference, `length_ratio` the number of
  words over that of the closest references, `unfinished` the share of captions without
  an end, and `unknown_words` the share of words of references that the vocabulary
  lacks. `captions` has the first `shown` texts.
  """

  needs = ('image',)

  vocabulary: words.Words
  predict: str = 'caption'
  shown: int = 8

  def reports(self) -> Mapping[str, str]:
    better = 'bleu\\d(_no_penalty)?|rouge_l|cider_d|exact'
    return {better: 'max', 'unfinished': 'min'}

  def run(self, predict: Predict, state: Any, mesh: Mesh | None = None) -> Results:
    found = self.joined(self.measure, predict, state, mesh)
    ids = found.values['ids'].tolist()
    texts = [self.vocabulary.decode(row) for row in ids]
    references = [self.references(index) for index in found.index_N.tolist()]
    scalars = scores([text.split() for text in texts], references)
    every = [word for own in references for text in own for word in text]
    known = self.vocabulary.ids
    ended = [self.vocabulary.eos_id in row for row in ids]
    scalars |= {
      'unfinished': 1.0 - float(np.mean(ended)),
      'unknown_words': float(np.mean([word not in known for word in every])),
    }
    return Results(scalars, texts={'captions': texts[: self.shown]})

  def references(self, index: int) -> list[list[str]]:
    """Returns the words of an image's captions; raises a `UserError` without any."""
    example = self.data.source[index]
    texts = map(transforms.decoded, transforms.texts_of(example))
    found = [own for own in map(words.split_words, texts) if own]
    if not found:
      raise UserError(
        f'the example with id {transforms.name_of(example)} has no caption with'
        f' words in {self.data.source}: leave such images out'
      )
    return found

  def measure(self, outputs: Arrays, batch: Arrays) -> Arrays:
    """Returns the predicted ids."""
    return {'ids': outputs['ids']}


def scores(
  captions: list[list[str]], references: list[list[list[str]]]
) -> dict[str, float]:
  """Returns the scores of captions, lists of words, by name."""
  bleu = caption_scores.bleu(captions, references)
  scalars = {
    f'bleu{n}{suffix}': score
    for suffix, field in PENALTIES.items()
    for n, score in enumerate(getattr(bleu, field), start=1)
  }
  pairs = list(zip(captions, references, strict=True))
  return scalars | {
    'length_ratio': bleu.length_ratio,
    'rouge_l': float(np.mean([caption_scores.rouge_l(*pair) for pair in pairs])),
    'cider_d': float(np.mean(caption_scores.cider_d(captions, references))),
    'exact': float(np.mean([caption in own for caption, own in pairs])),
  }


@dataclasses.dataclass(kw_only=True)
class AttentionPlaces(evaluator.Evaluator):
  """The share of words, `right_place`, whose attention is largest where it belongs.

  Batches have `spans` (B, N, 2), the first column and the column after the last of the
  part of the image that the n-th word is about; -1 without a part. The prediction has
  `attention` (B, T, h, w) and `ids` (B, T). A word counts if its part exists. The
  center of the cell with the largest weight must be in the span.
  """

  needs = ('image', 'spans')

  predict: str = 'look'

  def reports(self) -> Mapping[str, str]:
    return {'right_place': 'max'}

  def measure(self, outputs: Arrays, batch: Arrays) -> Arrays:
    """Returns the number of words in the right place and of all words, (B,)."""
    attention_BThw, spans_BN2 = outputs['attention'], batch['spans']
    count = min(attention_BThw.shape[1], spans_BN2.shape[1])
    spans_BT2, columns = spans_BN2[:, :count], attention_BThw.shape[-1]
    cells_BTM = attention_BThw[:, :count].reshape(len(spans_BT2), count, -1)
    column_BT = cells_BTM.argmax(axis=-1) % columns
    center_BT = (column_BT + 0.5) * (batch['image'].shape[2] / columns)
    inside_BT = (center_BT >= spans_BT2[..., 0]) & (center_BT < spans_BT2[..., 1])
    counted_BT = (spans_BT2[..., 0] >= 0) & (outputs['ids'][:, :count] != 0)
    return {
      'right': (inside_BT & counted_BT).sum(axis=1),
      'words': counted_BT.sum(axis=1),
    }

  def run(self, predict: Predict, state: Any, mesh: Mesh | None = None) -> Results:
    mean = evaluator.means(self.rows(self.measure, predict, state, mesh), self.data)
    if not mean['words']:
      raise UserError(f'{self.data.source}: no word is about a part of its image')
    return Results({'right_place': mean['right'] / mean['words']})
