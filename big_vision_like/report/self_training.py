"""Sections of a report on pseudo labels: the teacher's confidence, and the choice.

Axes: N images, K classes, H W pixels, C channels.
"""

import contextlib
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from big_vision_like import spec as specs
from big_vision_like.data.sources import pseudo_labels
from big_vision_like.errors import UserError, shape_text
from big_vision_like.inference import preprocessing
from big_vision_like.report import page
from big_vision_like.report.source import Source, evenly, percent
from big_vision_like.run import labels
from big_vision_like.tasks import self_training
from big_vision_like.viz import curves, images

NUM_INPUTS = 8
THUMBNAIL = 128  # pixels
MOST_CLASSES = 20  # classes with a row in the table
BINS = 20  # bins of the histogram of confidence
WITHOUT = '\u2013'  # cell of a class without images


def learns_from_pseudo_labels(source: Source) -> bool:
  """Returns whether a run uses pseudo labels, stored or predicted in each step."""
  task = specs.symbol(source.log.config['task'], 'config.task')
  return isinstance(task, type) and issubclass(task, self_training.SelfTraining)


def learns_from_labels(source: Source) -> bool:
  """Returns whether all examples of a run have labels of one kind."""
  return not learns_from_pseudo_labels(source)


def stored(source: Source) -> pseudo_labels.PseudoLabelled:
  """Returns the pseudo-labelled images that a run was trained on."""
  node = input_of(source, self_training.UNLABELLED)['source']
  if specs.symbol(node) is not pseudo_labels.PseudoLabelled:
    raise UserError(
      'the teacher predicts in each step, so no pseudo labels are stored.'
    )
  return specs.build(specs.in_steps(node), 'config.train_data.inputs.unlabelled.source')


def input_of(source: Source, part: str) -> Mapping[str, Any]:
  """Returns the recorded input for a part of the batches."""
  return source.log.config['train_data']['inputs'][part]


def inputs(source: Source) -> tuple[str, str]:
  """Shows the first training images of both parts, as the student receives them."""
  content, size = '', ''
  for part in (self_training.LABELLED, self_training.UNLABELLED):
    node = input_of(source, part) | {'batch_size': NUM_INPUTS, 'workers': 0}
    data = specs.build(specs.in_steps(node), f'config.train_data.inputs.{part}')
    with contextlib.closing(iter(data)) as batches:
      batch = next(batches)
    size = shape_text(batch['image'].shape[1:])
    names = labels.vocabulary(data).get('label', {})
    cards = []
    for row, image_HWC in enumerate(batch['image']):
      text = ''
      if 'probabilities' in batch:
        probability_K = batch['probabilities'][row]
        label = int(probability_K.argmax())
        name = names.get(label, str(label))
        text = page.bar(name, float(probability_K[label]), False)
      elif 'label' in batch:
        label = int(batch['label'][row])
        text = page.text_line(names.get(label, str(label)))
      cards.append(page.card(thumbnail(image_HWC), f'{part} image', text))
    content += page.heading(part.capitalize()) + page.cards(cards)
  caption = (
    f'Training images after all transforms, as {size} arrays enter the student. Below'
    ' each labelled image is its class. Below each unlabelled image is the class that'
    ' the teacher finds most probable in the clean image, with its probability.'
  )
  return content, caption


def confidence(source: Source) -> tuple[str, str]:
  """Shows the teacher's confidence by class, before and after images are chosen."""
  found = stored(source)
  chosen, label_N = found.choice, found.told['label']
  confidence_N = found.told['confidence']
  names_K = names_of(found, len(chosen.available_K))
  text = page.paragraph('. '.join(map(sentence, found.remarks())) + '.')
  by_class = balance(label_N, chosen.copies_N, len(names_K))
  parts = [histogram(confidence_N, chosen.copies_N), by_class]
  content = text + page.charts(parts)
  content += page.heading('By class') + table(found, names_K)
  content += page.heading('The least and the most confident chosen images')
  content += page.cards(extremes(found, names_K))
  caption = (
    'Confidence is the probability of the class that the teacher finds most probable.'
    ' "Before" counts every image once. "After" counts the chosen confident images,'
    ' with as many copies as give each class its share. Thresholds raise the mean'
    ' confidence of a class; copies hardly change it.'
  )
  return content, caption


def sentence(text: str) -> str:
  """Returns a text with its first letter capitalized."""
  return text[:1].upper() + text[1:]


def names_of(found: pseudo_labels.PseudoLabelled, classes: int) -> Sequence[str]:
  """Returns the names of the teacher's classes, or their numbers."""
  return found.label_names or [str(label) for label in range(classes)]


def histogram(confidence_N: np.ndarray, copies_N: np.ndarray) -> str:
  """Plots the number of images by confidence, before and after."""
  edges = np.linspace(0.0, 1.0, BINS + 1)
  middles = (edges[1:] + edges[:-1]) / 2
  lines = []
  for label, weights_N in (('before', np.ones_like(copies_N)), ('after', copies_N)):
    counts, _ = np.histogram(confidence_N, edges, weights=weights_N)
    lines.append(curves.Curve(label, middles, counts, dash=len(lines)))
  return curves.chart(
    lines,
    'Images by confidence',
    x_label='confidence',
    y_label='images',
    from_zero=True,
  )


def balance(label_N: np.ndarray, copies_N: np.ndarray, classes: int) -> str:
  """Plots the number of images of each class, before and after, largest first."""
  before_K = np.bincount(label_N, minlength=classes)
  after_K = np.bincount(label_N, weights=copies_N, minlength=classes)
  order_K = np.argsort(-before_K, kind='stable')
  place_K = np.arange(1, classes + 1)
  lines = [
    curves.Curve('before', place_K, before_K[order_K], points=classes <= 30),
    curves.Curve('after', place_K, after_K[order_K], points=classes <= 30, dash=1),
  ]
  return curves.chart(
    lines,
    'Images by class',
    x_label='classes, the most frequent first',
    y_label='images',
    from_zero=True,
  )


def table(found: pseudo_labels.PseudoLabelled, names_K: Sequence[str]) -> str:
  """Returns counts and mean confidence of all classes, or of the rarest ones."""
  copies_N, threshold_K, available_K = found.choice
  label_N, confidence_N = found.told['label'], found.told['confidence']
  predicted_K = np.bincount(label_N, minlength=len(names_K))
  shown_K = np.argsort(predicted_K, kind='stable')[:MOST_CLASSES]
  shown_K = np.sort(shown_K) if len(names_K) <= MOST_CLASSES else shown_K
  rows = []
  for label in shown_K:
    own_N = label_N == label
    rows.append(
      [
        names_K[label],
        f'{predicted_K[label]:,}',
        mean(confidence_N[own_N], np.ones(own_N.sum())),
        f'{threshold_K[label]:.2f}',
        f'{available_K[label]:,}',
        f'{copies_N[own_N].sum():,}',
        mean(confidence_N[own_N], copies_N[own_N]),
      ]
    )
  header = [
    *('class', 'images', 'mean confidence', 'threshold', 'reaching it'),
    *('with copies', 'mean confidence after'),
  ]
  more = ''
  if len(rows) < len(names_K):
    more = page.paragraph(f'The rarest {len(rows)} of {len(names_K):,} classes.')
  return page.table(header, rows) + more


def mean(confidence_N: np.ndarray, weight_N: np.ndarray) -> str:
  """Returns the weighted mean as text, or a dash if all weights are zero."""
  if not weight_N.sum():
    return WITHOUT
  return percent(float(np.average(confidence_N, weights=weight_N)))


def extremes(found: pseudo_labels.PseudoLabelled, names_K: Sequence[str]) -> list[str]:
  """Returns cards with the least and the most confident chosen image by class."""
  label_N, confidence_N = found.told['label'], found.told['confidence']
  cards = []
  for label in evenly(len(names_K), MOST_CLASSES // 2):
    own = np.flatnonzero((label_N == label) & (found.choice.copies_N > 0))
    if not len(own):
      continue
    ends = own[[confidence_N[own].argmin(), confidence_N[own].argmax()]]
    pictures = ''.join(thumbnail(decoded(found, int(place))) for place in ends)
    bars = ''.join(
      page.bar(names_K[label], float(confidence_N[place]), False) for place in ends
    )
    cards.append(page.card(pictures, str(names_K[label]), bars))
  return cards


def decoded(found: pseudo_labels.PseudoLabelled, place: int) -> np.ndarray:
  """Returns an unchanged image of the source, RGB uint8 (H, W, C)."""
  return preprocessing.decoded(found.source[place]['image'])


def thumbnail(image_HWC: np.ndarray) -> str:
  """Scales an image to the size of a card."""
  return page.picture(images.fit(images.to_rgb(image_HWC), THUMBNAIL), 'example')
