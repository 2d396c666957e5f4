"""Sections of a report on answers: questions with their answers, retrieved images.

Axes: N examples, I images, O options, T tokens, C candidates, R regions, 5 is left,
top, right, bottom and area as fractions of the image; H W pixels.
"""

import dataclasses
import functools
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from big_vision_like import spec as specs
from big_vision_like.data.sources import vqa
from big_vision_like.data.sources.spread import Spread
from big_vision_like.data.text import wordpiece
from big_vision_like.errors import UserError
from big_vision_like.evals import answering, classification, retrieval
from big_vision_like.report import page
from big_vision_like.report import source as report_source
from big_vision_like.report.source import Section, evenly, percent
from big_vision_like.viz import boxes

SELECTS = (
  *(answering.AnswerScore, answering.RegionHits, answering.Vcr),
  classification.Accuracy,
)
NUM_WRONG = NUM_RIGHT = 8
NUM_BARS = 4
NUM_CAPTIONS, NUM_RETRIEVED = 6, 5
HEIGHT, WIDTH, PAPER = 120, 160, 235  # of pictures of boxes


@dataclasses.dataclass(frozen=True)
class Selected:
  """Questions of an evaluator with the shares and the scores of candidates.

  `tokens` (N, T) are those of the questions or, with options, (N, O, T).
  """

  name: str
  tokens: np.ndarray
  shares_NC: np.ndarray
  target_NC: np.ndarray

  @property
  def score_N(self) -> np.ndarray:
    """The score of the best candidate of each question."""
    best_N1 = self.shares_NC.argmax(axis=1)[:, None]
    return np.take_along_axis(self.target_NC, best_N1, axis=1)[:, 0]


@dataclasses.dataclass
class Source(report_source.Source):
  """A report on a run that selects answers, options or regions."""

  predicts = 'answers'

  @property
  def sections(self) -> Sequence[Section]:
    return SECTIONS

  def has(self, kinds: Sequence[type]) -> bool:
    """Returns whether an evaluator of the config is of one of these classes."""
    nodes = self.log.config.get('evals', {}).values()
    return any(issubclass(specs.symbol(node), tuple(kinds)) for node in nodes)

  @functools.cached_property
  def vocabulary(self) -> wordpiece.WordPiece:
    """The word pieces of the config."""
    return self._first(wordpiece.WordPiece, 'no word pieces')

  def _first(self, kind: type, lacking: str) -> Any:
    for path, node in specs.calls(self.log.config):
      if specs.symbol(node, path) is kind:
        return specs.build(node, path)
    raise UserError(f'the config has {lacking}.')

  def texts(self, tokens: np.ndarray) -> str:
    """Returns the text of ids (T,); texts of one sequence are separated by a dash."""
    end = self.vocabulary.sep_id
    parts = np.split(tokens, np.flatnonzero(tokens == end) + 1)
    found = [self.vocabulary.decode(part.tolist()) for part in parts]
    return ' - '.join(filter(None, found))

  @functools.cached_property
  def answer_names(self) -> Mapping[int, str]:
    """The names of classes, as far as they are known."""
    known = self.class_names('label')
    if known:
      return known
    for path, node in specs.calls(self.log.config):
      if specs.symbol(node, path) is vqa.Answers:
        return dict(enumerate(specs.build(node, path).names))
    return {}

  @functools.cached_property
  def selected(self) -> Selected:
    return select(self)


def select(source: Source) -> Selected:
  """Runs the prediction on the first examples of an evaluator's data."""
  name, made = source.evaluator_of(SELECTS, 'selects among candidates')
  independent = source.restored.task.loss_type != 'softmax'
  rows = source.joined(made, functools.partial(measured, independent))
  values = [rows.values[key] for key in ('tokens', 'shares', 'target')]
  return Selected(name, *values)


def measured(independent: bool, outputs: Any, batch: Any) -> dict[str, jax.Array]:
  """Returns tokens, probabilities and targets of each example."""
  logits_NC = outputs['logits']
  shares_NC = jax.nn.sigmoid(logits_NC) if independent else jax.nn.softmax(logits_NC)
  target_NC = batch.get('target')
  if target_NC is None:
    target_NC = jax.nn.one_hot(batch['label'], logits_NC.shape[1])
  tokens = jnp.asarray(batch['tokens'])
  return {'tokens': tokens, 'shares': shares_NC, 'target': target_NC}


def answered(source: Source) -> tuple[str, str]:
  """Shows wrongly and rightly answered questions with their likeliest candidates."""
  found = source.selected
  score_N = found.score_N
  content = page.paragraph(
    f'The first {len(score_N):,} examples of {found.name} have a mean score of '
    f'{percent(score_N.mean())}.'
  )
  for heading, rows, most in (
    ('Wrong', np.flatnonzero(score_N < 0.5), NUM_WRONG),
    ('Right', np.flatnonzero(score_N >= 0.5), NUM_RIGHT),
  ):
    content += page.heading(heading)
    if len(rows):
      shown = rows[evenly(len(rows), most)].tolist()
      content += page.cards([card(source, found, row) for row in shown])
    else:
      content += page.paragraph('There are none.')
  return content, (
    'Each question with its likeliest answers and their probabilities; right ones are '
    'green. An example is right if its likeliest answer has a score of at least 0.5.'
  )


def card(source: Source, found: Selected, row: int) -> str:
  """Returns a question with its likeliest answers, right ones marked."""
  tokens, shares_C = found.tokens[row], found.shares_NC[row]
  options = tokens.ndim == 2
  text = source.texts(tokens[0] if options else tokens)
  if options:  # they share their first text
    text = text.partition(' - ')[0]
  lines = page.text_line(f'{row}: {text}')
  for place in np.argsort(-shares_C, kind='stable')[:NUM_BARS].tolist():
    if options:
      name = source.texts(tokens[place]).rpartition(' - ')[2]
    else:
      name = source.answer_names.get(place, f'candidate {place}')
    is_right = bool(found.target_NC[row, place] >= 0.5)
    lines += page.bar(name, float(shares_C[place]), is_right)
  return page.card('', text, lines)


def gallery(source: Source) -> tuple[str, str]:
  """Shows the images that captions retrieve, as the boxes of their regions."""
  name, made = source.evaluator_of(retrieval.Retrieval, 'retrieves images')
  few = Spread(made.data.source, NUM_CAPTIONS)
  made = dataclasses.replace(made, data=dataclasses.replace(made.data, source=few))
  task, state = source.restored.task, source.restored.state
  scores_NI, image_N = made.scores(made.prediction(task), state)
  tokens_N = [example for batch in made.data.epoch() for example in batch['tokens']]
  arrays, _ = made.images_of()
  content = ''
  for scores_I, image, tokens_T in zip(scores_NI, image_N, tokens_N, strict=False):
    order = np.argsort(-scores_I, kind='stable')
    rank = int((scores_I >= scores_I[image]).sum())
    content += page.heading(source.texts(tokens_T))
    content += page.paragraph(f'The right image has rank {rank} of {len(scores_I):,}.')
    pictures = [
      page.card(
        page.picture(sketch(arrays, int(place)), f'boxes of image {place}'),
        f'image {place}',
        page.text_line(
          f'{number}. image {place}{", the right one" if place == image else ""}:'
          f' {scores_I[place]:.2f}'
        ),
      )
      for number, place in enumerate(order[:NUM_RETRIEVED].tolist(), start=1)
    ]
    content += page.cards(pictures)
  return content, (
    f'The {NUM_RETRIEVED} images with the highest scores for some captions of {name}, '
    'out of all its images. Images are stored as features of regions only, so their '
    'boxes are drawn.'
  )


def sketch(arrays: Mapping[str, np.ndarray], place: int) -> np.ndarray:
  """Draws the boxes of an image's regions, RGB uint8 (H, W, 3)."""
  mask_R = arrays['region_mask'][place].copy()
  mask_R[0] = False  # the whole image
  locations_R5 = arrays['locations'][place][mask_R]
  scale_4 = np.array([WIDTH, HEIGHT, WIDTH, HEIGHT])
  paper_HWC = np.full((HEIGHT, WIDTH, 3), PAPER, np.uint8)
  numbers = np.flatnonzero(mask_R).tolist()
  return boxes.draw(paper_HWC, locations_R5[:, :4] * scale_4[None], numbers)


SECTIONS = (
  Section(
    'Questions and answers', answered, 'below', lambda source: source.has(SELECTS)
  ),
  Section(
    'Retrieved images',
    gallery,
    'below',
    lambda source: source.has([retrieval.Retrieval]),
  ),
)
