"""Sections of a report on captioning: captions, and attention word by word.

Axes: B batch, T words of a caption, h w map of the model.
"""

import dataclasses
import functools
from collections.abc import Sequence
from typing import Any

import numpy as np

from big_vision_like.errors import UserError
from big_vision_like.evals import captions as evals
from big_vision_like.evals.evaluator import Arrays
from big_vision_like.inference import captions
from big_vision_like.report import images, page
from big_vision_like.report import source as report_source
from big_vision_like.report.source import Section, evenly, from_best_to_worst, percent
from big_vision_like.viz import word_attention

NUM_INPUTS, NUM_ROWS = 8, 12
SIDE = 160  # pixels of a picture
PREDICTIONS = {'greedy': 'greedy search', 'caption': 'beam search'}
COLUMNS = ('bleu1', 'bleu4', 'rouge_l', 'cider_d', 'exact')


@dataclasses.dataclass(frozen=True)
class Found:
  """Captions of the first evaluation images, by an evaluator of this name.

  `quality` is the ROUGE-L of each caption.
  """

  name: str
  evaluator: evals.CaptionScores
  index: Sequence[int]
  captions: Sequence[list[str]]
  references: Sequence[list[list[str]]]

  @property
  def quality(self) -> np.ndarray:
    pairs = zip(self.captions, self.references, strict=True)
    return np.array([evals.caption_scores.rouge_l(*pair) for pair in pairs])


@dataclasses.dataclass
class Source(report_source.Source):
  """A report on a run that writes captions."""

  predicts = 'captions'

  @property
  def sections(self) -> Sequence[Section]:
    return SECTIONS

  @functools.cached_property
  def vocabulary(self) -> Any:
    """The vocabulary of the run."""
    return captions.vocabulary_of(self.restored)

  @functools.cached_property
  def found(self) -> Found:
    name, made = self.evaluator_of(evals.CaptionScores, 'scores captions')
    rows = self.joined(made, made.measure)
    index = rows.index_N.tolist()
    texts = [made.vocabulary.decode(ids) for ids in rows.values['ids'].tolist()]
    references = [made.references(i) for i in index]
    return Found(name, made, index, [text.split() for text in texts], references)


def sample_inputs(source: Source) -> tuple[str, str]:
  """Shows the first training images with the captions that are learned."""
  _, batch = source.training_batch(NUM_INPUTS)
  for needed in ('image', 'target'):
    if needed not in batch:
      raise UserError(f'the training batches have no `{needed}`.')
  cards = []
  pairs = zip(batch['image'], batch['target'].tolist(), strict=True)
  for image_HWC, ids in list(pairs)[:NUM_INPUTS]:
    text = source.vocabulary.decode(ids)
    shown_HWC = word_attention.sheet(images.visible(image_HWC), [], [], SIDE)
    cards.append(page.card(page.picture(shown_HWC, text), '', page.text_line(text)))
  return page.cards(cards), (
    'Training images after all transforms, with the caption that the model learns. '
    'Words outside of the vocabulary are &lt;unk&gt;.'
  )


def predicted(source: Source) -> tuple[str, str]:
  """Shows the scores of captions, and captions with their references."""
  found = source.found
  scores = evals.scores(found.captions, found.references)
  search = PREDICTIONS.get(found.evaluator.predict, found.evaluator.predict)
  content = page.paragraph(
    f'Scores of the first {len(found.index):,} images of {found.name}, with captions '
    f'found by {search}:'
  )
  content += page.table(COLUMNS, [[f'{scores[name]:.3f}' for name in COLUMNS]])
  quality = found.quality
  order = np.argsort(quality, kind='stable')
  rows = [
    [
      str(found.index[i]),
      ' '.join(found.captions[i]) or '(empty)',
      '; '.join(' '.join(words) for words in found.references[i]),
      percent(quality[i]),
    ]
    for i in order[evenly(len(order), NUM_ROWS)].tolist()
  ]
  content += page.table(['image', 'caption', 'references', 'ROUGE-L'], rows)
  return content, (
    'Captions from the worst to the best by ROUGE-L, with all references of the image. '
    'The model never sees a word of a reference: each word is predicted from its own.'
  )


def attended(source: Source) -> tuple[str, str]:
  """Shows where the model looked at each word: best, median and worst caption."""
  found = source.found
  titles = from_best_to_worst(-found.quality)
  look = dataclasses.replace(found.evaluator, predict='look', predict_args={})

  def measure(outputs: Arrays, batch: Arrays) -> Arrays:
    return {name: outputs[name] for name in ('ids', 'attention')} | {
      'image': batch['image']
    }

  indices = [found.index[i] for i in titles]
  shown = source.chosen(look, measure, indices)
  content = ''
  for row, (place, title) in zip(shown, titles.items(), strict=True):
    words = source.vocabulary.decode(row['ids'].tolist()).split()
    content += page.heading(f'{title}: image {found.index[place]} of {found.name}')
    sheet_HWC = word_attention.sheet(
      images.visible(row['image']), words, row['attention'][: len(words)], SIDE
    )
    content += page.picture(sheet_HWC, f'attention word by word: {" ".join(words)}')
  return content, (
    'The image, and a copy for each word that greedy search found, lit where the model '
    'looked when it predicted the word (arXiv:1502.03044, figure 3). A recurrent '
    "decoder's weights of cells are shown, or the mean over the heads of the last "
    'attention to the image of a Transformer.'
  )


SECTIONS = (
  Section('Inputs', sample_inputs, 'below'),
  Section('Captions', predicted, 'below'),
  Section('Attention', attended, 'below'),
)
