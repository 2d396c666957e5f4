"""A confusion matrix as a drawing.  Axes: C true classes, then predicted ones."""

import html
from collections.abc import Sequence

import numpy as np

from big_vision_like.viz.curves import shortened

RIGHT, WRONG = '#1d8f57', '#d2601a'
SIZE, GAP = 11, 6  # of letters, and between them and the cells
LETTERS = 18  # of the name of a class, at most
WIDTH = 0.6 * SIZE  # of a letter, about
MOST_NAMED = 40  # classes whose names and counts fit
FAINTEST = 0.1  # opacity of a cell that holds one of many examples


def matrix(counts_CC: np.ndarray, names: Sequence[str]) -> str:
  """Returns an SVG: a row for each true class, a column for each predicted one.

  A cell is the darker the larger its share of the row; green on the diagonal, orange
  elsewhere. Counts and names are written where there is room, and all are shown when
  the mouse is over a cell.
  """
  classes = len(names)
  named = classes <= MOST_NAMED
  longest = max((len(shortened(name, LETTERS)) for name in names), default=0)
  margin = round(longest * WIDTH) + 2 * GAP if named else 2 * GAP
  side = max(6, min(34, 640 // max(classes, 1)))
  wide = margin + classes * side + (round(0.7 * margin) if named else 0)
  high = margin + classes * side + GAP
  parts = [
    f'<svg class="chart" viewBox="0 0 {wide} {high}" width="{wide}" height="{high}"'
    f' role="img" aria-label="confusion matrix" font-size="{SIZE}"'
    ' fill="currentColor">'
  ]
  total_C = np.maximum(counts_CC.sum(axis=1), 1)
  for row, name in enumerate(names if named else ()):
    middle = (row + 0.5) * side
    label = html.escape(shortened(name, LETTERS))
    title = f'<title>{html.escape(name)}</title>'
    parts.append(
      f'<text x="{margin - GAP}" y="{margin + middle + 0.35 * SIZE:.1f}"'
      f' text-anchor="end">{label}{title}</text>'
    )
    x, y = margin + middle, margin - GAP
    parts.append(
      f'<text x="{x:.1f}" y="{y}" transform="rotate(-45 {x:.1f} {y})">{label}{title}'
      '</text>'
    )
  for row, column in zip(*np.nonzero(counts_CC), strict=True):
    count = int(counts_CC[row, column])
    share = count / total_C[row]
    x, y = margin + column * side, margin + row * side
    told = f'{names[row]} taken for {names[column]}: {count:,} of {total_C[row]:,}'
    if row == column:
      told = f'{names[row]} recognized: {count:,} of {total_C[row]:,}'
    opacity = FAINTEST + (1 - FAINTEST) * share
    text = ''
    if named and side > len(str(count)) * WIDTH:
      ink = ' fill="#fff"' if opacity > 0.6 else ''
      text = (
        f'<text x="{x + side / 2:g}" y="{y + side / 2 + 0.35 * SIZE:.1f}"'
        f' text-anchor="middle"{ink}>{count}</text>'
      )
    parts.append(
      f'<g><title>{html.escape(told)}</title><rect x="{x}" y="{y}" width="{side}"'
      f' height="{side}" fill="{RIGHT if row == column else WRONG}"'
      f' fill-opacity="{opacity:.2f}"/>{text}</g>'
    )
  edge = classes * side
  parts.append(
    f'<rect x="{margin}" y="{margin}" width="{edge}" height="{edge}" fill="none"'
    ' stroke="currentColor" stroke-opacity="0.4"/></svg>'
  )
  return ''.join(parts)
