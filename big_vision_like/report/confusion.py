"""Accuracy by class and confusions of a classifier.  Axes: N examples, C classes."""

from collections.abc import Sequence

import numpy as np

from big_vision_like.report import page
from big_vision_like.report.source import percent
from big_vision_like.viz import confusion

MOST_ROWS = 12  # of the table that is shown unfolded
MOST_PAIRS = 12
MOST_CLASSES = 250  # largest matrix that is drawn


def counts(label_N: np.ndarray, predicted_N: np.ndarray, classes: int) -> np.ndarray:
  """Returns the number of examples by true and predicted class, int64 (C, C)."""
  pairs = np.bincount(label_N * classes + predicted_N, minlength=classes**2)
  return pairs.reshape(classes, classes)


def by_class(counts_CC: np.ndarray, names: Sequence[str], data: str) -> tuple[str, str]:
  """Returns a table of classes, worst first, and its caption.

  `data` names the examples, as in '8 examples of val'.
  """
  true_C, given_C = counts_CC.sum(axis=1), counts_CC.sum(axis=0)
  right_C = np.diagonal(counts_CC)
  shown = np.flatnonzero(true_C)
  recall = right_C[shown] / true_C[shown]
  rows = [
    [
      names[c],
      f'{true_C[c]:,}',
      percent(right_C[c] / true_C[c]),
      percent(right_C[c] / given_C[c]) if given_C[c] else 'never predicted',
      mostly(counts_CC[c], c, names),
    ]
    for c in shown[np.argsort(recall, kind='stable')].tolist()
  ]
  header = ['class', 'examples', 'recognized', 'right when predicted', 'taken for']
  table = page.table(header, rows[:MOST_ROWS])
  if len(rows) > MOST_ROWS:
    table += page.details(f'all {len(rows):,} classes', page.table(header, rows))
  mean = f'The mean over classes is {percent(recall.mean())}'
  absent = len(true_C) - len(shown)
  without = f'; classes without examples: {absent:,}' if absent else ''
  text = page.paragraph(f'{mean} on {data}{without}.')
  return text + table, (
    'The least recognized classes come first. "Recognized" is the share of a class\'s '
    'examples that the model assigns to it (recall). "Right when predicted" is the '
    'share of the examples assigned to a class that belong to it (precision).'
  )


def mostly(counts_C: np.ndarray, own: int, names: Sequence[str]) -> str:
  """Returns the two classes that a class is most often mistaken for, with counts."""
  others_C = np.where(np.arange(len(counts_C)) == own, 0, counts_C)
  order = np.argsort(-others_C, kind='stable')[:2]
  return ', '.join(f'{names[c]} ({others_C[c]:,})' for c in order if others_C[c])


def matrix(counts_CC: np.ndarray, names: Sequence[str]) -> tuple[str, str]:
  """Returns a drawing and a table of the most frequent confusions, and a caption."""
  wrong_CC = counts_CC - np.diag(np.diagonal(counts_CC))
  order = np.argsort(-wrong_CC, axis=None, kind='stable')[:MOST_PAIRS]
  pairs = [tuple(map(int, np.unravel_index(place, wrong_CC.shape))) for place in order]
  total_C = counts_CC.sum(axis=1)
  rows = [
    [names[a], names[b], f'{wrong_CC[a, b]:,}', percent(wrong_CC[a, b] / total_C[a])]
    for a, b in pairs
    if wrong_CC[a, b]
  ]
  content, caption = '', ''
  if len(names) <= MOST_CLASSES:
    content = confusion.matrix(counts_CC, names)
    caption = (
      'Rows of the matrix are true classes and columns are predicted classes, so the '
      'diagonal is right. Cells are shaded by their share of the row.'
    )
  header = ['true class', 'taken for', 'examples', 'share of the true class']
  listed = page.table(header, rows) if rows else page.paragraph('There are none.')
  return content + page.heading('Most frequent confusions') + listed, caption
