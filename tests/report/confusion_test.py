import html
import re

import numpy as np

from big_vision_like.report import confusion
from big_vision_like.viz import confusion as drawing

NAMES = ['ape', 'bee <i>', 'cat', 'dog']
# There are no dogs; two apes are mistaken for bees, and one cat for a dog.
LABELS = np.array([0, 0, 0, 0, 1, 1, 2, 2])
FOUND = np.array([0, 0, 1, 1, 1, 1, 2, 3])


def text_of(page):
  return html.unescape(re.sub(r'<[^>]*>', '|', page))


def test_counts_match_a_loop():
  rng = np.random.default_rng(0)
  label, found = rng.integers(0, 5, (2, 200))
  want = np.zeros((5, 5), int)
  for true, predicted in zip(label, found, strict=True):
    want[true, predicted] += 1
  np.testing.assert_array_equal(confusion.counts(label, found, 5), want)


def test_the_table_has_the_worst_class_first():
  counts = confusion.counts(LABELS, FOUND, 4)
  page, caption = confusion.by_class(counts, NAMES, '8 examples of val')
  text = text_of(page)
  mean = 'The mean over classes is 66.7\u00a0% on 8 examples of val; classes without'
  assert mean in text and 'precision' in caption
  rows = [row.split('||') for row in text.split('|||')]
  cells = [[cell.strip('|') for cell in row] for row in rows]
  wanted = [
    ['ape', '4', '50.0\u00a0%', '100.0\u00a0%', 'bee <i> (2)'],
    ['cat', '2', '50.0\u00a0%', '100.0\u00a0%', 'dog (1)'],
  ]
  for row in wanted:
    assert row in cells
  assert text.index('ape') < text.index('bee <i>|') and '<i>' not in page
  assert 'never predicted' not in text


def test_many_classes_are_folded_and_their_matrix_is_left_out():
  names = [f'class {i}' for i in range(300)]
  counts = np.diag(np.full(300, 2))
  counts[7, 8] = 1
  page, _ = confusion.by_class(counts, names, 'all')
  assert '<details><summary>all 300 classes' in page
  assert text_of(page).index('class 7|') < text_of(page).index('class 0|')
  page, caption = confusion.matrix(counts, names)
  assert '<svg' not in page and caption == ''
  assert '|class 7||class 8||1||33.3' in text_of(page)


def test_confusions_are_drawn_and_listed():
  counts = confusion.counts(LABELS, FOUND, 4)
  page, caption = confusion.matrix(counts, NAMES)
  assert page.startswith('<svg') and 'diagonal is right' in caption
  text = text_of(page)
  assert 'ape taken for bee <i>: 2 of 4' in text and 'cat recognized: 1 of 2' in text
  assert '|ape||bee <i>||2||50.0\u00a0%|' in text
  page, _ = confusion.matrix(np.diag([3, 4]), NAMES[:2])
  assert 'There are none.' in page


def test_cells_are_at_their_classes_and_darken_with_their_share():
  counts = confusion.counts(LABELS, FOUND, 4)
  svg = drawing.matrix(counts, NAMES)
  cell = re.compile(
    r'<title>(?:(\w+) recognized|(\w+) taken for ([\w &;]+)): .*?x="(\d+)" y="(\d+)"'
    r' width="(\d+)".*?fill="(#\w+)"\s+fill-opacity="([\d.]+)"'
  )
  found = {}
  for same, true, other, x, y, side, colour, opacity in cell.findall(svg):
    found[same or true, other] = int(x), int(y), int(side), colour, float(opacity)
  x, y, side, colour, opacity = found['ape', '']
  assert x == y and colour == drawing.RIGHT and opacity == 0.55
  dog = found['cat', 'dog']
  assert dog[:2] == (x + 3 * side, y + 2 * side) and dog[3] == drawing.WRONG
  assert len(re.findall('<rect', svg)) == np.count_nonzero(counts) + 1
  small = drawing.matrix(np.eye(60, dtype=int), [f'c{i}' for i in range(60)])
  assert '<text' not in small and small.count('<rect') == 61
