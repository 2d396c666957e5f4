"""Line charts as SVG text, without scripts, external fonts or styles.

Hovering shows values: points have their numbers as `<title>`.
"""

import dataclasses
import html
import math
from collections.abc import Sequence

import numpy as np

# Colours of Okabe and Ito, distinct for the colour-blind and in greyscale print.
PALETTE = ('#0072b2', '#d55e00', '#009e73', '#cc79a7', '#e69f00', '#56b4e9', '#666666')
DASHES = ('', '6 3', '2 2', '8 3 2 3')
MARGIN_LEFT, MARGIN_RIGHT, MARGIN_TOP, MARGIN_BOTTOM = 58, 20, 32, 42
# Text and axes have the colour of the page's text, so that they suit dark pages too.
GRID, AXIS, FAINT = (
  'stroke="currentColor" stroke-opacity="0.12"',
  'stroke="currentColor" stroke-opacity="0.5"',
  'fill-opacity="0.7"',
)
LEGEND_ROW = 18
LONGEST = 7  # letters of a tick label that fit beside the axis
LETTER = 6.4  # mean width of a letter at 12 px, for the layout of the legend
MOST_POINTS, MOST_TOOLTIPS, MOST_DOTS, SMOOTH_FROM = 600, 60, 30, 100


@dataclasses.dataclass(frozen=True)
class Curve:
  """One line, or cloud of `points`; non-finite values interrupt it.

  `notes` replace the tooltips, one per value. `colour` and `dash` are indices of the
  palette and the dashes; by default the colour is the index of the curve in the chart.
  """

  label: str
  x: Sequence[float]
  y: Sequence[float]
  colour: int | None = None
  dash: int = 0
  points: bool = False
  notes: Sequence[str] = ()


@dataclasses.dataclass(frozen=True)
class Scale:
  """A map from data in [low, high], linear or logarithmic, to pixels [start, stop].

  `whole` values have no ticks between whole numbers.
  """

  low: float
  high: float
  start: float
  stop: float
  log: bool = False
  whole: bool = False

  def __call__(self, values: np.ndarray) -> np.ndarray:
    """Returns positions in pixels; values without a logarithm become NaN."""
    if self.log:
      values = np.log10(np.where(values > 0, values, np.nan))
      low, high = math.log10(self.low), math.log10(self.high)
    else:
      low, high = self.low, self.high
    return self.start + (values - low) / (high - low) * (self.stop - self.start)

  def ticks(self) -> list[float]:
    """Returns round numbers within the range."""
    if self.log:
      ticks = log_ticks(self.low, self.high)
      if len(ticks) >= 2:
        return ticks
    ticks = linear_ticks(self.low, self.high)
    return [t for t in ticks if t == round(t)] if self.whole else ticks


def chart(
  curves: Sequence[Curve],
  title: str,
  x_label: str = 'step',
  y_label: str = '',
  log: bool = False,
  from_zero: bool = False,
  limits: tuple[float, float] = (-math.inf, math.inf),
  width: int = 540,
  height: int = 290,
) -> str:
  """Draws curves over common axes as an `<svg>` element, `width` by `height` pixels.

  `log` makes the y axis logarithmic; `from_zero` starts it at 0. The y axis never
  leaves the `limits` of the quantity, such as 0 to 100 for percentages. Noisy curves of
  more than 100 values are drawn pale, with their running mean over 2 % of the values on
  top. The legend adds to the height; a single unlabelled curve has none. Raises a
  `ValueError` if there are no finite values to draw.
  """
  curves = [
    dataclasses.replace(c, colour=i if c.colour is None else c.colour)
    for i, c in enumerate(curves)
  ]
  x_all, y_all = (
    np.concatenate([np.asarray(values, np.float64) for values in side])
    for side in ([c.x for c in curves], [c.y for c in curves])
  )
  shown = np.isfinite(x_all) & np.isfinite(y_all) & ((y_all > 0) | (not log))
  if not shown.any():
    raise ValueError(f'chart {title!r} has no finite values to draw')
  whole = bool(np.all(x_all[shown] == np.round(x_all[shown])))
  x_low, x_high = padded(x_all[shown], share=0.0)
  x_scale = Scale(x_low, x_high, MARGIN_LEFT, float(width - MARGIN_RIGHT), whole=whole)
  y_low, y_high = padded(y_all[shown], log=log)
  y_low = 0.0 if from_zero else max(y_low, limits[0])
  y_high = min(y_high, limits[1])
  y_scale = Scale(y_low, y_high, float(height - MARGIN_BOTTOM), MARGIN_TOP, log)
  legend, rows = legend_text(curves, width, height)
  total = height + rows * LEGEND_ROW
  body = axes_text(x_scale, y_scale, x_label, y_label)
  body += ''.join(curve_text(curve, x_scale, y_scale) for curve in curves)
  return (
    f'<svg class="chart" viewBox="0 0 {width} {total}" width="{width}" '
    f'height="{total}" role="img" aria-label="{html.escape(title)}" '
    'font-size="12" fill="currentColor">'
    f'<text x="{MARGIN_LEFT}" y="18" font-size="14" font-weight="600">'
    f'{html.escape(title)}</text>{body}{legend}</svg>'
  )


def curve_text(curve: Curve, x_scale: Scale, y_scale: Scale) -> str:
  """Returns the marks of one curve, and its tooltips."""
  x, y = np.asarray(curve.x, np.float64), np.asarray(curve.y, np.float64)
  colour = PALETTE[curve.colour % len(PALETTE)]
  dash = DASHES[curve.dash % len(DASHES)]
  text = ''
  if not curve.points:
    kept = thinned(y, MOST_POINTS)
    stroke = f'stroke="{colour}" fill="none" stroke-linejoin="round"'
    stroke += f' stroke-dasharray="{dash}"' if dash else ''
    noisy = len(y) > SMOOTH_FROM and is_noisy(y)
    path = path_text(x_scale(x[kept]), y_scale(y[kept]))
    faint = ' stroke-opacity="0.3" stroke-width="1"' if noisy else ' stroke-width="1.8"'
    text += f'<path d="{path}" {stroke}{faint}/>'
    if noisy:
      mean = running_mean(y, len(y) // 50)
      path = path_text(x_scale(x[kept]), y_scale(mean[kept]))
      text += f'<path d="{path}" {stroke} stroke-width="1.8"/>'
  dots = curve.points or len(y) <= MOST_DOTS
  hovered = range(len(y)) if dots else thinned(y, MOST_TOOLTIPS)
  for i in hovered:
    left, top = float(x_scale(x[i])), float(y_scale(y[i]))
    if not (math.isfinite(left) and math.isfinite(top)):
      continue
    note = curve.notes[i] if curve.notes else f'{curve.label} at {x[i]:,g}: {y[i]:.4g}'
    note = f'<title>{html.escape(note)}</title>'
    where = f'cx="{left:.1f}" cy="{top:.1f}"'
    if dots:
      text += f'<circle {where} r="2.6" fill="{colour}" fill-opacity="0.8"/>'
    text += f'<circle {where} r="6" fill-opacity="0">{note}</circle>'
  return text


def axes_text(x_scale: Scale, y_scale: Scale, x_label: str, y_label: str) -> str:
  """Returns grid lines, tick labels and the names of the axes."""
  left, right, bottom, top = x_scale.start, x_scale.stop, y_scale.start, y_scale.stop
  text = ''
  ticks = y_scale.ticks()
  for tick, label in zip(ticks, tick_labels(ticks), strict=True):
    y = float(y_scale(np.asarray(tick)))
    text += f'<path d="M{left} {y:.1f}H{right}" {GRID}/>'
    text += f'<text x="{left - 6}" y="{y + 4:.1f}" text-anchor="end">{label}</text>'
  ticks = x_scale.ticks()
  for tick, label in zip(ticks, tick_labels(ticks), strict=True):
    x = float(x_scale(np.asarray(tick)))
    text += f'<path d="M{x:.1f} {bottom}v4" {AXIS}/>'
    text += f'<text x="{x:.1f}" y="{bottom + 17}" text-anchor="middle">{label}</text>'
  text += f'<path d="M{left} {bottom}H{right}" {AXIS}/>'
  middle = (left + right) / 2
  text += (
    f'<text x="{middle:.1f}" y="{bottom + 34}" text-anchor="middle" {FAINT}>'
    f'{html.escape(x_label)}</text>'
  )
  middle = (top + bottom) / 2
  return text + (
    f'<text transform="translate(12 {middle:.1f}) rotate(-90)" text-anchor="middle" '
    f'{FAINT}>{html.escape(y_label)}</text>'
  )


def legend_text(curves: Sequence[Curve], width: int, height: int) -> tuple[str, int]:
  """Returns the labels below the axes as text, and the number of rows they need."""
  if len(curves) == 1 and not curves[0].label:
    return '', 0
  text, row, left = '', 0, float(MARGIN_LEFT)
  longest = int((width - MARGIN_LEFT - MARGIN_RIGHT) / LETTER) - 5
  for curve in curves:
    label = shortened(curve.label, longest)
    space = 40 + LETTER * len(label)
    if left > MARGIN_LEFT and left + space > width:
      row, left = row + 1, float(MARGIN_LEFT)
    y = height + 6 + row * LEGEND_ROW
    colour = PALETTE[curve.colour % len(PALETTE)]
    if curve.points:
      text += f'<circle cx="{left + 10:.0f}" cy="{y}" r="3.5" fill="{colour}"/>'
    else:
      text += (
        f'<path d="M{left:.0f} {y}h20" stroke="{colour}" stroke-width="2.5" '
        f'stroke-dasharray="{DASHES[curve.dash % len(DASHES)]}"/>'
      )
    text += (
      f'<text x="{left + 26:.0f}" y="{y + 4}">{html.escape(label)}'
      f'<title>{html.escape(curve.label)}</title></text>'
    )
    left += space
  return text, row + 1


def path_text(x: np.ndarray, y: np.ndarray) -> str:
  """Returns an SVG path through the points, interrupted at non-finite ones."""
  text, pen = [], 'M'
  for left, top in zip(x, y, strict=True):
    if math.isfinite(left) and math.isfinite(top):
      text.append(f'{pen}{left:.1f} {top:.1f}')
      pen = 'L'
    else:
      pen = 'M'
  return ''.join(text)


def thinned(y: np.ndarray, most: int) -> list[int]:
  """Returns indices of about `most` values that draw the line with all extremes."""
  if len(y) <= most:
    return list(range(len(y)))
  kept = set()
  for part in np.array_split(np.arange(len(y)), most // 4):
    values, finite = y[part], np.isfinite(y[part])
    kept |= {part[0], part[-1]}
    kept.add(part[np.where(finite, values, np.inf).argmin()])
    kept.add(part[np.where(finite, values, -np.inf).argmax()])
    kept.add(part[finite.argmin()])  # the first gap, if any
  return sorted(int(i) for i in kept)


def is_noisy(y: np.ndarray) -> bool:
  """Returns whether a curve goes up and down much more than its range requires."""
  y = y[np.isfinite(y)]
  return len(y) > 1 and np.abs(np.diff(y)).sum() > 8 * np.ptp(y)


def running_mean(y: np.ndarray, window: int) -> np.ndarray:
  """Returns the mean of finite values in a window around each; NaN where non-finite."""
  finite = np.isfinite(y)
  starts = np.arange(len(y)) - window // 2
  stops = np.clip(starts + max(1, window), 0, len(y))
  starts = np.clip(starts, 0, None)
  sums = np.concatenate([[0.0], np.cumsum(np.where(finite, y, 0.0))])
  counts = np.concatenate([[0], np.cumsum(finite)])
  number = counts[stops] - counts[starts]
  mean = (sums[stops] - sums[starts]) / np.maximum(number, 1)
  return np.where(finite & (number > 0), mean, np.nan)


def padded(
  values: np.ndarray, share: float = 0.05, log: bool = False
) -> tuple[float, float]:
  """Returns the range of the values with a margin; never empty.

  Equal values get half their size on both sides, and zeros the range from 0 to 1.
  """
  low, high = float(values.min()), float(values.max())
  if log:
    factor = (high / low) ** share if high > low else 2.0
    return low / factor, high * factor
  if low == high == 0.0:
    return 0.0, 1.0
  air = share * (high - low) if high > low else abs(low) / 2
  return low - air, high + air


def linear_ticks(low: float, high: float, about: int = 5) -> list[float]:
  """Returns multiples of 1, 2 or 5 times a power of ten within [low, high]."""
  rough = (high - low) / about
  power = 10.0 ** math.floor(math.log10(rough))
  step = min((power * m for m in (1, 2, 5, 10)), key=lambda s: abs(math.log(s / rough)))
  first, last = math.ceil(low / step - 1e-9), math.floor(high / step + 1e-9)
  return [
    round(i * step, 12 - math.floor(math.log10(step))) for i in range(first, last + 1)
  ]


def log_ticks(low: float, high: float) -> list[float]:
  """Returns powers of ten within [low, high], with 2 and 5 times these if few."""
  decades = math.log10(high / low)
  factors = (1, 2, 5) if decades < 3 else (1,)
  powers = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
  stride = max(1, round(decades / 6))
  ticks = [f * 10.0**p for p in powers if p % stride == 0 for f in factors]
  return [tick for tick in ticks if low <= tick <= high]


def tick_labels(ticks: Sequence[float]) -> list[str]:
  """Returns short labels that distinguish the ticks: 0.25, 20k, 1.5M, 1.975e-3."""
  largest = max((abs(tick) for tick in ticks), default=0.0)
  for unit, suffix in ((1e9, 'G'), (1e6, 'M'), (1e4, 'k')):
    if largest >= unit:
      divisor = 1e3 if suffix == 'k' else unit
      return [f'{tick / divisor:.6g}{suffix}' if tick else '0' for tick in ticks]
  if 0.0 < largest < 0.01 and max(len(f'{tick:.7g}') for tick in ticks) > LONGEST:
    power = math.floor(math.log10(largest))
    return [f'{tick / 10.0**power:.5g}e{power}' if tick else '0' for tick in ticks]
  return [f'{tick:.7g}'.replace('e-0', 'e-') for tick in ticks]


def shortened(text: str, most: int) -> str:
  """Shortens a text of more than `most` letters, keeping both ends."""
  if len(text) <= most:
    return text
  half = (most - 1) // 2
  return f'{text[:half]}…{text[-half:]}'
