import math
import xml.etree.ElementTree as ET

import numpy as np
import pytest

from big_vision_like.viz import curves
from big_vision_like.viz.curves import Curve


def parsed(text: str) -> ET.Element:
  return ET.fromstring(text)


def texts(svg: ET.Element) -> list[str]:
  return [element.text for element in svg.iter('text') if element.text]


def titles(svg: ET.Element) -> list[str]:
  return [element.text for element in svg.iter('title')]


def test_chart_has_title_axes_legend_and_values():
  svg = parsed(
    curves.chart(
      [Curve('run <a>', [0, 100], [2.0, 1.0]), Curve('b & c', [0, 100], [3.0, 0.5])],
      title='loss & more',
      y_label='nats',
    )
  )
  assert {'loss & more', 'step', 'nats', 'run <a>', 'b & c'} <= set(texts(svg))
  assert {'0', '20', '100', '0.5', '3'} <= set(texts(svg))
  assert 'run <a> at 100: 1' in titles(svg) and 'b & c at 0: 3' in titles(svg)
  colours = {e.get('stroke') for e in svg.iter('path') if e.get('stroke-width')}
  assert len(colours) == 2


def test_every_mark_is_within_the_axes():
  random = np.random.default_rng(0)
  svg = parsed(
    curves.chart(
      [Curve('a', random.normal(size=25) * 1e6, random.lognormal(size=25) * 1e-5)],
      title='t',
      log=True,
      width=400,
      height=200,
    )
  )
  circles = [(float(c.get('cx')), float(c.get('cy'))) for c in svg.iter('circle')]
  assert len(circles) == 2 * 25
  assert all(curves.MARGIN_LEFT <= x <= 400 - curves.MARGIN_RIGHT for x, _ in circles)
  assert all(curves.MARGIN_TOP <= y <= 200 - curves.MARGIN_BOTTOM for _, y in circles)


def test_values_that_are_not_finite_interrupt_the_line():
  gap = [1.0, 2.0, math.nan, 3.0, math.inf, 4.0]
  text = curves.chart([Curve('a', range(6), gap)], title='t')
  line = next(p for p in parsed(text).iter('path') if p.get('stroke-width'))
  assert line.get('d').count('M') == 3 and line.get('d').count('L') == 1
  assert 'nan' not in text and 'inf' not in text


def test_long_curves_are_thinned_but_keep_their_extremes():
  y = np.sin(np.arange(100_000) / 5000)
  y[54_321], y[12_345], y[77_777] = 9.0, -9.0, math.nan
  kept = curves.thinned(y, 600)
  assert len(kept) <= 1.3 * 600 and kept == sorted(set(kept))
  assert {0, 99_999, 54_321, 12_345, 77_777} <= set(kept)
  svg = curves.chart([Curve('a', np.arange(100_000), y)], title='t')
  assert len(svg) < 60_000


def test_only_noisy_curves_are_smoothed():
  x = np.arange(300)
  smooth, noisy = np.minimum(x / 30, 2 - x / 300), (x % 2) + x / 300
  for y, paths in ((smooth, 1), (noisy, 2)):
    svg = parsed(curves.chart([Curve('', x, y)], title='t'))
    lines = [p for p in svg.iter('path') if p.get('stroke-width')]
    assert len(lines) == paths


def test_notes_replace_tooltips():
  notes = ['layer 1 & head 1', 'layer 1 & head 2']
  svg = parsed(
    curves.chart([Curve('a', [1, 1], [2, 3], points=True, notes=notes)], title='t')
  )
  assert set(notes) <= set(titles(svg))
  assert not [p for p in svg.iter('path') if p.get('stroke-width')]


def test_whole_numbers_have_whole_ticks():
  svg = parsed(curves.chart([Curve('', [1, 2, 3], [1.0, 2.0, 3.0])], title='t'))
  bottom = [e.text for e in svg.iter('text') if e.get('text-anchor') == 'middle']
  assert [text for text in bottom if text and text[0].isdigit()] == ['1', '2', '3']


def test_running_mean_ignores_gaps():
  y = np.array([1.0, 3.0, math.nan, 5.0, 7.0])
  np.testing.assert_allclose(
    curves.running_mean(y, 3), [2.0, 2.0, math.nan, 6.0, 6.0], equal_nan=True
  )
  np.testing.assert_allclose(curves.running_mean(np.arange(9.0), 3)[1:-1], range(1, 8))


@pytest.mark.parametrize(
  ('low', 'high', 'expected'),
  [
    (0, 100, [0, 20, 40, 60, 80, 100]),
    (0.12, 0.31, [0.15, 0.2, 0.25, 0.3]),
    (-3e-5, 1e-5, [-3e-5, -2e-5, -1e-5, 0, 1e-5]),
    (5, 5.0001, [5, 5.00002, 5.00004, 5.00006, 5.00008, 5.0001]),
  ],
)
def test_linear_ticks_are_round(low, high, expected):
  np.testing.assert_allclose(curves.linear_ticks(low, high), expected, atol=1e-12)


def test_log_ticks_are_powers_of_ten():
  np.testing.assert_allclose(curves.log_ticks(0.5, 30), [0.5, 1, 2, 5, 10, 20])
  np.testing.assert_allclose(curves.log_ticks(1e-4, 1), [1e-4, 1e-3, 1e-2, 1e-1, 1])
  assert len(curves.log_ticks(1e-30, 1)) < 9


@pytest.mark.parametrize(
  ('ticks', 'labels'),
  [
    ([0, 5000, 10_000], ['0', '5k', '10k']),
    ([0, 5e5, 1e6], ['0', '0.5M', '1M']),
    ([0.0, 0.25, 0.5], ['0', '0.25', '0.5']),
    ([0.0, 1e-5, 2e-5], ['0', '1e-5', '2e-5']),
    ([5.00002, 5.00004], ['5.00002', '5.00004']),
    ([0.0, 0.001975, 0.00198], ['0', '1.975e-3', '1.98e-3']),
  ],
)
def test_tick_labels_are_short(ticks, labels):
  assert curves.tick_labels(ticks) == labels


@pytest.mark.parametrize('log', [False, True])
def test_one_value_and_constant_values_can_be_drawn(log):
  for y in ([3.0], [2.0, 2.0]):
    svg = parsed(curves.chart([Curve('', range(len(y)), y)], title='t', log=log))
    assert len(list(svg.iter('circle'))) == 2 * len(y)


@pytest.mark.parametrize(
  ('values', 'low', 'high'),
  [([5e-4, 5e-4], 2.5e-4, 7.5e-4), ([0.0], 0, 1), ([-2.0, -2.0], -3, -1)],
)
def test_equal_values_get_an_axis_of_their_size(values, low, high):
  assert curves.padded(np.array(values)) == pytest.approx((low, high))


def test_axes_keep_the_limits_of_a_quantity():
  text = curves.chart([Curve('', [1, 2], [90.0, 100.0])], title='t', limits=(0, 100))
  svg = parsed(text)
  high = max(float(x) for x in texts(svg) if x.isdigit() and int(x) > 2)
  top = min(float(c.get('cy')) for c in svg.iter('circle'))
  assert high == 100 and top == curves.MARGIN_TOP


def test_a_chart_from_zero_shows_zero():
  text = curves.chart([Curve('', [1, 2], [50.0, 60.0])], title='t', from_zero=True)
  assert '0' in texts(parsed(text))


def test_nothing_to_draw_is_an_error():
  with pytest.raises(ValueError, match="'rate' has no finite values"):
    curves.chart([Curve('a', [1], [math.nan])], title='rate')
  with pytest.raises(ValueError, match='no finite'):
    curves.chart([Curve('a', [1], [-1.0])], title='rate', log=True)


def test_legend_wraps_and_shortens_long_labels():
  labels = [f'runs/a_rather_long_name_of_a_run_{i} · validation' for i in range(5)]
  svg = parsed(
    curves.chart(
      [Curve(label, [0], [1.0]) for label in [*labels, 'x' * 300]], title='t'
    )
  )
  height = float(svg.get('height'))
  legend = [e for e in svg.iter('text') if e.find('title') is not None]
  assert len(legend) == 6
  assert max(len(e.text) for e in legend) < 80
  assert all(float(e.get('y')) < height for e in legend)
  assert {e.find('title').text for e in legend} == {*labels, 'x' * 300}
