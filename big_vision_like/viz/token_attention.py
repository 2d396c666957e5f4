"""Attention between the tokens of two sequences, head by head, as SVG text.

The design follows the visualisation of tensor2tensor (arXiv:1803.07416) and The
Illustrated Transformer. There are no scripts or external files; hovering shows values.
Axes: H heads, N queries, M keys.
"""

import dataclasses
import html
import unicodedata
from collections.abc import Sequence

import numpy as np

# The first five of Okabe and Ito, then always the colour farthest from those before it,
# as seen in OKLab by normal eyes and by eyes without green or red cones.
COLOURS = (
  '#0072b2 #d55e00 #009e73 #cc79a7 #e69f00 #6c0030 #0000a8 #7800fc '
  '#54b4fc #605400 #b40c78 #b460fc #54cc78 #480c78 #e400cc #483cb4'
).split()
WHITE_TO_BLUE = np.array(
  [[255, 255, 255], [198, 219, 239], [107, 174, 214], [33, 113, 181], [8, 48, 107]]
)
DRAWN_FROM = 0.02  # weaker lines would be almost invisible
SHADED_FROM = 0.005  # weights shown as 0.00 stay white
TOLERANCE = 1e-3  # excess over 1 that rounding may cause

FONT, ROW, MARGIN = 13, 22, 6
LANES = 13  # part of a row's height over which lines and squares of heads are spread
LEGEND_ROW, LEGEND_ITEM = 18, 38
LONGEST, LONGEST_SMALL = 150, 80  # pixels of a label


@dataclasses.dataclass(frozen=True)
class Places:
  """Positions of the parts of a drawing of lines, in pixels.

  Lines go from x `left` to `right`. The squares of key m begin at `strip`, with `pitch`
  for each head. Tokens are at heights `y_N` and `y_M`, with offset `y_H` for the lines
  of a head.
  """

  left: int
  right: int
  strip: int
  pitch: int
  y_N: np.ndarray
  y_M: np.ndarray
  y_H: np.ndarray

  @property
  def words(self) -> int:
    """The x at which the names of keys begin."""
    return self.strip + self.pitch * len(self.y_H) + MARGIN


def lines(
  probs_HNM: np.ndarray,
  queries: Sequence[str],
  keys: Sequence[str],
  emphasis: int | None = None,
) -> str:
  """Draws queries on the left, keys on the right, and a line for each weight of a head.

  `probs_HNM` are the weights, in [0, 1], with which queries read keys. A line has the
  colour of its head, and its weight as opacity; weights below 0.02 have no line.
  Squares next to a key, one per head, show the weight of the key. By default this is
  the average over queries, scaled so that the largest is opaque; with the mouse on a
  query it is the weight for that query. The mouse on a query, a key or a head of the
  legend fades all other lines. Without the mouse, lines of queries other than
  `emphasis` are faint. Raises a `ValueError` for arrays that are not probabilities or
  do not match the tokens.
  """
  probs_HNM = checked(probs_HNM, queries, keys)
  query_labels, key_labels = fitted(queries, FONT, LONGEST), fitted(keys, FONT, LONGEST)
  num_heads, rows = len(probs_HNM), max(len(queries), len(keys))
  left = round(widest(query_labels, FONT)) + 2 * MARGIN
  right = left + min(max(16 * rows, 240), 360)
  pitch = 10 if num_heads <= 8 else 7
  words = right + 2 * MARGIN + pitch * num_heads
  width = words + round(widest(key_labels, FONT)) + MARGIN
  legend, top = legend_text(num_heads, width)
  places = Places(
    left=left,
    right=right,
    strip=right + MARGIN,
    pitch=pitch,
    y_N=top + ROW * (np.arange(len(queries)) + 0.5),
    y_M=top + ROW * (np.arange(len(keys)) + 0.5),
    y_H=spread(num_heads),
  )
  keys_text = ''.join(
    f'<g class="key k{key}">'
    + box(right, y - ROW / 2, width - right, ROW, 'fill-opacity="0"')
    + box(places.strip - 1, y - 8, pitch * num_heads + 1, 16, 'fill="#f1f1f1"')
    + label_text(label, keys[key], places.words, y, 'start', FONT)
    + '</g>'
    for key, (label, y) in enumerate(zip(key_labels, places.y_M, strict=True))
  )
  queries_text = ''.join(
    f'<g class="query{" on" * (query == emphasis)}">'
    + box(0, y - ROW / 2, left, ROW, 'fill-opacity="0"')
    + label_text(label, queries[query], left - MARGIN, y, 'end', FONT)
    + lines_of(query, probs_HNM[:, query], queries, keys, places)
    + squares(probs_HNM[:, query], places, 'own')
    + '</g>'
    for query, (label, y) in enumerate(zip(query_labels, places.y_N, strict=True))
  )
  mean_HM = probs_HNM.mean(axis=1)
  mean_HM /= mean_HM.max() or 1.0
  title = f'{num_heads} heads, {len(queries)} queries, {len(keys)} keys'
  kind = 'queries' if emphasis is None else 'queries one'
  return (
    svg_start(width, top + ROW * rows + MARGIN, title, 'token-lines', FONT)
    + f'<style>{hover_style(num_heads, len(keys))}</style>{legend}{keys_text}'
    + f'<g class="{kind}">{queries_text}</g>'
    + squares(mean_HM, places, 'mean')
    + '</svg>'
  )


def heads(probs_HNM: np.ndarray, queries: Sequence[str], keys: Sequence[str]) -> str:
  """Draws a heat map for each head, with a row per query and a column per key.

  All have one scale, from 0 (white) to 1 (dark blue). Raises `ValueError` as `lines`.
  """
  probs_HNM = checked(probs_HNM, queries, keys)
  cell = min(max(240 // max(len(queries), len(keys)), 11), 20)
  size = min(cell - 1, 11)
  row_labels, column_labels = (
    fitted(tokens, size, LONGEST_SMALL) for tokens in (queries, keys)
  )
  turned = widest(column_labels, size) > cell - 1
  left = round(widest(row_labels, size)) + 2 * MARGIN
  top = 24 + (round(widest(column_labels, size)) if turned else size)
  right, bottom = left + cell * len(keys), top + cell * len(queries)
  labels = ''.join(
    label_text(label, token, left - 4, top + cell * (row + 0.5), 'end', size)
    for row, (label, token) in enumerate(zip(row_labels, queries, strict=True))
  )
  for column, (label, token) in enumerate(zip(column_labels, keys, strict=True)):
    x = left + cell * (column + 0.5)
    if turned:
      labels += f'<g transform="translate({x:g} {top - 4}) rotate(-90)">'
      labels += label_text(label, token, 0, 0, 'start', size) + '</g>'
    else:
      labels += label_text(label, token, x, top - size / 2 - 2, 'middle', size)
  grid = ''.join(f'M{x} {top}V{bottom}' for x in range(left, right + 1, cell))
  grid += ''.join(f'M{left} {y}H{right}' for y in range(top, bottom + 1, cell))
  panels = ''
  for head, probs_NM in enumerate(probs_HNM):
    title = f'head {head + 1}'
    cells = ''.join(
      f'<rect x="{left + cell * key}" y="{top + cell * query}" width="{cell}" '
      f'height="{cell}" fill="{shade(probs_NM[query, key])}">'
      f'{note(head, queries[query], keys[key], probs_NM[query, key])}</rect>'
      for query, key in np.argwhere(probs_NM >= SHADED_FROM)
    )
    panels += (
      svg_start(right + MARGIN, bottom + MARGIN, title, 'token-heads', size)
      + box(MARGIN, 2, 10, 10, f'fill="{colour(head)}"')
      + f'<text x="21" y="12" font-size="12" font-weight="600">{title}</text>'
      + f'{labels}{cells}<path d="{grid}" stroke="#000" stroke-opacity="0.1"/></svg>'
    )
  return (
    '<div style="display:flex;flex-wrap:wrap;gap:12px 20px;align-items:flex-end">'
    f'{panels}{colour_bar()}</div>'
  )


def checked(
  probs_HNM: np.ndarray, queries: Sequence[str], keys: Sequence[str]
) -> np.ndarray:
  """Returns the weights; `ValueError` unless these are probabilities and fit tokens."""
  probs_HNM = np.asarray(probs_HNM, np.float64)
  shape = probs_HNM.shape
  if len(shape) != 3 or shape[1:] != (len(queries), len(keys)) or 0 in shape:
    raise ValueError(
      f'attention of shape {shape} does not fit {len(queries)} queries and '
      f'{len(keys)} keys: it must be (heads, queries, keys), all above 0'
    )
  low, high = probs_HNM.min(), probs_HNM.max()
  if not (low >= 0 and high <= 1 + TOLERANCE):  # also false for NaN
    raise ValueError(
      f'attention of shape {shape} has values from {low:.4g} to {high:.4g}: '
      'probabilities must be in [0, 1]'
    )
  return np.minimum(probs_HNM, 1.0)


def lines_of(
  query: int,
  probs_HM: np.ndarray,
  queries: Sequence[str],
  keys: Sequence[str],
  places: Places,
) -> str:
  """Returns the lines of one query, grouped by head."""
  text = ''
  for head, probs_M in enumerate(probs_HM):
    drawn = np.flatnonzero(probs_M >= DRAWN_FROM)
    y_M = places.y_M + places.y_H[head]
    start = f'M{places.left} {places.y_N[query] + places.y_H[head]:.1f}'
    marks = ''.join(
      f'<path class="k{key}" d="{start}L{places.right} {y_M[key]:.1f}" '
      f'stroke-opacity="{probs_M[key]:.2f}">'
      f'{note(head, queries[query], keys[key], probs_M[key])}</path>'
      for key in drawn
    )
    text += f'<g class="h{head}" stroke="{colour(head)}">{marks}</g>'
  thickness = 1.8 if len(probs_HM) <= 8 else 1.2
  return f'<g class="lines" stroke-width="{thickness}">{text}</g>'


def squares(shade_HM: np.ndarray, places: Places, kind: str) -> str:
  """Returns a square per key and head, next to the key, with opacities `shade_HM`."""
  text = ''
  for head, shade_M in enumerate(shade_HM):
    x = places.strip + places.pitch * head
    side = places.pitch - 1
    marks = ''.join(
      f'<path d="M{x} {places.y_M[key] - 7:g}h{side}v14h-{side}z" '
      f'fill-opacity="{shade_M[key]:.2f}"/>'
      for key in np.flatnonzero(shade_M >= DRAWN_FROM)
    )
    text += f'<g class="h{head}" fill="{colour(head)}">{marks}</g>'
  return f'<g class="squares {kind}">{text}</g>'


def hover_style(num_heads: int, num_keys: int) -> str:
  """Returns the CSS for hovering, which fades or shows later parts of a drawing.

  A style applies to the whole page, so it has to distinguish places within a drawing
  but cannot distinguish drawings.
  """
  rules = [
    'text,.token-lines rect{cursor:default}',
    '.own{visibility:hidden}',
    '.query:hover .own,.token-lines .one:not(:hover) .on .own{visibility:visible}',
    '.queries:hover~.mean,.token-lines .one~.mean{visibility:hidden}',
  ]
  for others in '.queries:hover .query:not(:hover)', '.one:not(:hover) .query:not(.on)':
    rules += [f'{others} text{{opacity:.4}}', f'{others} .lines{{opacity:.04}}']
  rules += [
    f'.head{head}:hover~* [class^=h]:not(.h{head}){{opacity:.04}}'
    for head in range(num_heads)
  ]
  rules += [
    f'.k{key}:hover~* .lines path:not(.k{key}){{opacity:.04}}'
    for key in range(num_keys)
  ]
  return ''.join(f'.token-lines {rule}' for rule in rules)


def legend_text(num_heads: int, width: int) -> tuple[str, int]:
  """Returns the legend of heads, in as many rows as needed, and its height."""
  first = 2 * MARGIN + 38
  per_row = max(1, (width - first) // LEGEND_ITEM)
  text = f'<text x="{MARGIN}" y="16" fill="#666">head</text>'
  for head in range(num_heads):
    row, place = divmod(head, per_row)
    x, y = first + LEGEND_ITEM * place, 5 + LEGEND_ROW * row
    text += (
      f'<g class="head{head}">'
      + box(x - 3, y - 3, LEGEND_ITEM, LEGEND_ROW, 'fill-opacity="0"')
      + box(x, y, 12, 12, f'fill="{colour(head)}"')
      + f'<text x="{x + 16}" y="{y + 11}">{head + 1}</text></g>'
    )
  return text, LEGEND_ROW * -(-num_heads // per_row) + 2 * MARGIN


def colour_bar() -> str:
  """Returns the scale of the heat maps."""
  steps = ''.join(
    box(6 + 6 * i, 14, 6, 10, f'fill="{shade(i / 20)}"') for i in range(21)
  )
  ticks = ''.join(
    f'<text x="{9 + 120 * value:g}" y="36" text-anchor="middle">{value:g}</text>'
    for value in (0, 0.5, 1)
  )
  return (
    svg_start(144, 42, 'scale of the weights', 'token-heads', 11)
    + f'<text x="6" y="10">weight</text>{steps}{ticks}</svg>'
  )


def svg_start(width: int, height: int, title: str, kind: str, size: int) -> str:
  """Returns the opening tag of a drawing that shrinks with the page."""
  return (
    f'<svg class="{kind}" viewBox="0 0 {width} {height}" width="{width}" '
    f'height="{height}" role="img" aria-label="{title}" font-size="{size}" '
    'fill="#222" style="max-width:100%;height:auto">'
  )


def box(left: float, top: float, width: float, height: float, fill: str) -> str:
  return (
    f'<rect x="{left:g}" y="{top:g}" width="{width:g}" height="{height:g}" {fill}/>'
  )


def label_text(
  label: str, token: str, x: float, middle: float, anchor: str, size: int
) -> str:
  """Returns a label at a height; hovering shows the whole token."""
  # sentencepiece marks the start of a word by a bar that is darker than letters.
  text = html.escape(label).replace('▁', '<tspan fill-opacity="0.25">▁</tspan>')
  return (
    f'<text x="{x:g}" y="{middle + 0.35 * size:.1f}" text-anchor="{anchor}">'
    f'{text}<title>{html.escape(token)}</title></text>'
  )


def note(head: int, query: str, key: str, weight: float) -> str:
  """Returns the tooltip of a weight."""
  text = f'head {head + 1}: "{query}" -> "{key}" {weight:.2f}'
  return f'<title>{html.escape(text)}</title>'


def colour(head: int) -> str:
  return COLOURS[head % len(COLOURS)]


def shade(weight: float) -> str:
  """Returns the colour of a weight in the heat maps."""
  stops = np.linspace(0.0, 1.0, len(WHITE_TO_BLUE))
  channels = [np.interp(weight, stops, channel) for channel in WHITE_TO_BLUE.T]
  return '#' + ''.join(f'{round(channel):02x}' for channel in channels)


def spread(num_heads: int) -> np.ndarray:
  """Returns the vertical offset of each head's lines from the middle of a token."""
  step = min(2.5, LANES / max(num_heads - 1, 1))
  return step * (np.arange(num_heads) - (num_heads - 1) / 2)


def fitted(tokens: Sequence[str], size: int, most: int) -> list[str]:
  """Returns labels of at most `most` pixels; blank tokens are shown as their `repr`."""
  labels = []
  for token in tokens:
    token = token if token.strip() else repr(token)
    kept = token
    while text_width(kept, size) > most:
      kept = kept.removesuffix('…')[:-1] + '…'
    labels.append(kept)
  return labels


def widest(labels: Sequence[str], size: int) -> float:
  """Returns the width of the longest label in pixels."""
  return max(text_width(label, size) for label in labels)


def text_width(text: str, size: int) -> float:
  """Returns an upper estimate of the width of a text in pixels, since fonts differ."""

  def em(letter: str) -> float:
    if unicodedata.east_asian_width(letter) in 'WF' or letter in 'mwMW@%…':
      return 1.0
    if letter in "fijlrtI.,:;'!|()[] -":
      return 0.42
    return 0.8 if letter.isupper() or letter in '▁<>+=&#' else 0.65

  return size * sum(map(em, text))
