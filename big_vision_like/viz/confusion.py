"""Drawing of a confusion matrix.  Axes: C true classes, then C predicted classes."""

import html
from collections.abc import Sequence

import numpy as np

from big_vision_like.viz.curves import shortened

RIGHT, WRONG = '#1d8f57', '#d2601a'
SIZE, GAP = 11, 6  # font size, and gap between names and cells
LETTERS = 18  # of a class name; longer names are shortened
WIDTH = 0.6 * SIZE  # approximate width of a letter
MOST_NAMED = 40  # largest number of classes with names and counts
FAINTEST = 0.1  # opacity of a cell with a tiny share of its row


def matrix(counts_CC: np.ndarray, names: Sequence[str]) -> str:
  """Returns an SVG: a row for each true class, a column for each predicted one.

  Cells with a larger share of their row are darker; they are green on the diagonal and
  orange elsewhere. Names and counts are written where there is room, and always shown
  when the mouse is over a cell.
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
