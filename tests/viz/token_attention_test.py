import math
import re
import xml.etree.ElementTree as ElementTree
from collections.abc import Iterator

import numpy as np
import pages
import pytest

from big_vision_like.report import page
from big_vision_like.viz import token_attention

QUERIES = ['▁le', '▁chat', '"dort"', '</s>']
KEYS = ['▁the', '▁cat', '<b>sleeps & snores</b>']
TRICKY = [
  '',
  ' ',
  '"<&>"',
  '日本語の文章' * 4,
  'W' * 40,
  '▁donaudampfschifffahrt',
  '\n',
]


def probs(heads: int, queries: int, keys: int, seed: int = 0) -> np.ndarray:
  logits = 3 * np.random.default_rng(seed).normal(size=(heads, queries, keys))
  exp = np.exp(logits)
  return exp / exp.sum(axis=-1, keepdims=True)


def parsed(text: str) -> ElementTree.Element:
  """Returns a drawing as a tree; checks that it runs no script and fetches nothing."""
  root = ElementTree.fromstring(text)
  assert not {'script', 'image', 'use', 'a'} & {element.tag for element in root.iter()}
  assert 'url(' not in text and '@import' not in text and 'http' not in text
  return root


def of_class(root: ElementTree.Element, name: str) -> list[ElementTree.Element]:
  return [e for e in root.iter() if name in e.get('class', '').split()]


def labels(root: ElementTree.Element) -> list[tuple[str, str]]:
  """Returns the shown text and the tooltip of each label."""
  return [
    (''.join(e.itertext()).removesuffix(e.findtext('title')), e.findtext('title'))
    for e in root.iter('text')
    if e.find('title') is not None
  ]


def drawn(root: ElementTree.Element) -> Iterator[tuple[tuple, float, str, str]]:
  """Yields (head, query, key), opacity, tooltip and colour of every line."""
  for query, group in enumerate(of_class(root, 'query')):
    [lines] = of_class(group, 'lines')
    for head in lines:
      number = int(head.get('class').removeprefix('h'))
      for line in head:
        place = number, query, int(line.get('class').removeprefix('k'))
        opacity = float(line.get('stroke-opacity'))
        yield place, opacity, line.findtext('title'), head.get('stroke')


def test_there_is_a_line_for_every_weight_that_can_be_seen():
  weights = probs(5, len(QUERIES), len(KEYS))
  root = parsed(token_attention.lines(weights, QUERIES, KEYS))
  found = {place: (opacity, note) for place, opacity, note, _ in drawn(root)}
  expected = {tuple(place) for place in np.argwhere(weights >= 0.02).tolist()}
  assert expected == found.keys() and 0 < len(expected) < weights.size
  for (head, query, key), (opacity, note) in found.items():
    weight = weights[head, query, key]
    assert opacity == pytest.approx(weight, abs=0.005)
    assert note == f'head {head + 1}: "{QUERIES[query]}" -> "{KEYS[key]}" {weight:.2f}'


def test_lines_go_from_their_query_to_their_key():
  weights = np.full((3, 2, 4), 0.25)
  root = parsed(token_attention.lines(weights, ['a', 'b'], list('wxyz')))
  texts = {t.text: t for t in root.iter('text') if t.find('title') is not None}
  seen = {}
  for query, group in enumerate(of_class(root, 'query')):
    for head in of_class(group, 'lines')[0]:
      for key, line in enumerate(head):
        x0, y0, x1, y1 = map(float, re.findall(r'[\d.]+', line.get('d')))
        assert float(texts['ab'[query]].get('x')) < x0 < x1
        assert x1 < float(texts['wxyz'[key]].get('x'))
        for y, name in ((y0, 'ab'[query]), (y1, 'wxyz'[key])):
          # Within the row of 22 pixels, whose baseline is below its middle.
          assert abs(y - (float(texts[name].get('y')) - 4.5)) < 11
        seen[head.get('class'), query, key] = y0, y1
  assert len(seen) == weights.size
  # Heads do not cover each other.
  assert len({y for y, _ in seen.values()}) == 3 * 2
  assert len({y for _, y in seen.values()}) == 3 * 4


def test_tokens_are_named_once_on_each_side_and_escaped():
  text = token_attention.lines(probs(2, 4, 3), QUERIES, KEYS)
  assert '<b>' not in text
  assert [token for _, token in labels(parsed(text))] == [*KEYS, *QUERIES]


def test_long_labels_are_cut_and_blank_ones_visible():
  count = len(TRICKY)
  root = parsed(token_attention.lines(probs(1, count, count), TRICKY, TRICKY))
  shown = [label for label, _ in labels(root)][:count]
  assert shown[:3] == ["''", "' '", '"<&>"'] and shown[-1] == r"'\n'"
  for token, label in zip(TRICKY[3:5], shown[3:5], strict=True):
    assert label.endswith('…') and token.startswith(label[:-1]) and len(label) < 20


def squares_of(root: ElementTree.Element, kind: str) -> dict[tuple, float]:
  """Returns opacity by head and height."""
  [group] = of_class(root, kind)
  return {
    (head.get('class'), float(re.findall(r'[\d.]+', mark.get('d'))[1])): float(
      mark.get('fill-opacity')
    )
    for head in group
    for mark in head
  }


def test_squares_show_the_attention_to_a_key():
  weights = np.zeros((2, 3, 3))
  weights[0] = np.eye(3)  # a third each, on average
  weights[1, :, 2] = [1.0, 0.5, 0.3]
  root = parsed(token_attention.lines(weights, list('abc'), list('xyz')))
  own = of_class(root, 'query')[1]
  first = squares_of(own, 'own')
  assert sorted(first.values()) == [0.5, 1.0]
  assert len({height for _, height in first}) == 2, 'at y and z'
  mean = squares_of(root, 'mean')
  # Head 2 on z is the most opaque: 0.6 on average.
  assert sorted(mean.values()) == [0.56, 0.56, 0.56, 1.0]


@pytest.mark.parametrize('num_heads', [1, 4, 8, 16, 20])
def test_heads_have_their_colours_and_a_legend(num_heads):
  root = parsed(token_attention.lines(np.full((num_heads, 2, 2), 0.5), *['ab'] * 2))
  colours = {place[0]: colour for place, *_, colour in drawn(root)}
  assert len(set(colours.values())) == min(num_heads, 16)
  for head, colour in colours.items():
    [item] = of_class(root, f'head{head}')
    assert item.findtext('text') == str(head + 1)
    assert [r.get('fill') for r in item.iter('rect')][1] == colour


def oklab(colour: str) -> np.ndarray:
  """Converts to Björn Ottosson's perceptual space."""
  rgb = np.array([int(colour[i : i + 2], 16) for i in (1, 3, 5)]) / 255
  rgb = np.where(rgb <= 0.04045, rgb / 12.92, ((rgb + 0.055) / 1.055) ** 2.4)
  lms = np.cbrt(
    np.array(
      [
        [0.4122214708, 0.5363325363, 0.0514459929],
        [0.2119034982, 0.6806995451, 0.1073969566],
        [0.0883024619, 0.2817188376, 0.6299787005],
      ]
    )
    @ rgb
  )
  return (
    np.array(
      [
        [0.2104542553, 0.7936177850, -0.0040720468],
        [1.9779984951, -2.4285922050, 0.4505937099],
        [0.0259040371, 0.7827717662, -0.8086757660],
      ]
    )
    @ lms
  )


def test_colours_are_distinguishable_and_visible_on_white():
  colours = np.array([oklab(colour) for colour in token_attention.COLOURS])
  apart = np.linalg.norm(colours[:, None] - colours[None], axis=-1)
  assert len(colours) == 16
  assert apart[~np.eye(16, dtype=bool)].min() > 0.13
  assert colours[:, 0].max() < 0.78


def test_an_emphasised_query_is_marked():
  weights = probs(2, 4, 3)
  plain = parsed(token_attention.lines(weights, QUERIES, KEYS))
  assert not of_class(plain, 'on') and not of_class(plain, 'one')
  root = parsed(token_attention.lines(weights, QUERIES, KEYS, emphasis=2))
  assert of_class(root, 'on') == [of_class(root, 'query')[2]]
  assert of_class(root, 'one') == of_class(root, 'queries')


def test_styles_stay_within_drawings():
  root = parsed(token_attention.lines(probs(3, 4, 3), QUERIES, KEYS))
  rules = root.findtext('style').split('}')[:-1]
  for selector in (s for rule in rules for s in rule.split('{')[0].split(',')):
    assert selector.startswith('.token-lines ')


def test_the_mouse_fades_the_lines_of_others(tmp_path):
  # Emphasis; the hovered element; visible lines of each query's heads (1: all, 2: a
  # line to one key, -: none); the query whose squares are visible, or the mean.
  cases = [
    (None, 'nothing', '111,111', 'mean'),
    (None, '.query:nth-of-type(2)', '---,111', '1'),
    (None, '.head2', '--1,--1', 'mean'),
    (None, '.key.k1', '222,222', 'mean'),
    (0, 'nothing', '111,---', '0'),
    (0, '.query:nth-of-type(2)', '---,111', '1'),
  ]
  weights = np.full((3, 2, 3), 1 / 3)
  drawings = ''.join(
    f'<div class="case" title="{pointed}">'
    f'{token_attention.lines(weights, ["a", "b"], ["x", "y", "z"], emphasis)}</div>'
    for emphasis, pointed, *_ in cases
  )
  # There is no mouse: a class marks the hovered element instead.
  script = """<script>
    const dim = e => +getComputedStyle(e).opacity < 0.1;
    const seen = e => getComputedStyle(e).visibility == 'visible';
    const state = g => dim(g) || dim(g.parentElement) ? '-'
      : [...g.children].some(dim) ? [...g.children].findIndex(e => !dim(e)) + 1 : 1;
    const data = document.documentElement.dataset;
    const found = [...document.querySelectorAll('.case')].map(root => {
      for (let e = root.querySelector(root.title); e && e != root; e = e.parentElement)
        e.classList.add('hover');
      const queries = [...root.querySelectorAll('.query')];
      return [
        queries.map(q => [...q.querySelectorAll('.lines > g')].map(state).join('')),
        queries.map((q, i) => seen(q.querySelector('.own')) ? i : '').join('')
          + (seen(root.querySelector('.mean')) ? 'mean' : '')];
    });
    data.lines = found.map(([lines, _]) => lines).join(' ');
    data.squares = found.map(([_, squares]) => squares).join(' ');
  </script>"""
  file = tmp_path / 'drawn.html'
  text = drawings.replace(':hover', '.hover') + script
  file.write_text(page.document('t', '', [('A', text)]))
  found = pages.probed(pages.browse(file, tmp_path)[0])
  assert found['lines'].split(' ') == [lines for *_, lines, _ in cases]
  assert found['squares'].split(' ') == [squares for *_, squares in cases]


def test_heat_maps_hold_every_weight():
  weights = probs(3, len(QUERIES), len(KEYS))
  weights[0, 0] = [1.0, 0.0, 0.0]
  text = token_attention.heads(weights, QUERIES, KEYS)
  root = parsed(text)
  *panels, bar = root.iter('svg')
  assert len(panels) == 3 and [t.text for t in bar.iter('text')][1:] == [
    '0',
    '0.5',
    '1',
  ]
  steps = [r.get('fill') for r in bar.iter('rect')]
  assert (steps[0], steps[-1]) == ('#ffffff', '#08306b')
  for head, panel in enumerate(panels):
    assert [t.text for t in panel.iter('text')][0] == f'head {head + 1}'
    assert [token for _, token in labels(panel)] == [*QUERIES, *KEYS]
    assert [r.findtext('title') for r in panel.iter('rect') if len(r)] == [
      f'head {head + 1}: "{query}" -> "{key}" {weights[head, i, j]:.2f}'
      for i, query in enumerate(QUERIES)
      for j, key in enumerate(KEYS)
      if weights[head, i, j] >= 0.005
    ]
  first = next(r for r in panels[0].iter('rect') if len(r))
  assert first.get('fill') == '#08306b'


def test_heat_maps_are_in_order():
  weights = np.full((1, 3, 4), 0.25)
  root = parsed(token_attention.heads(weights, list('abc'), list('wxyz')))
  cells = [r for r in root.iter('rect') if len(r)]
  places = np.array([[float(r.get(n)) for n in ('y', 'x', 'width')] for r in cells])
  side = places[0, 2]
  steps = (places[:, :2] - places[0, :2]) / side
  np.testing.assert_array_equal(steps, np.argwhere(weights[0] > 0))


@pytest.mark.parametrize('draw', [token_attention.lines, token_attention.heads])
@pytest.mark.parametrize(
  ('weights', 'message'),
  [
    (np.full((2, 3, 4), 0.1), r'\(2, 3, 4\) does not fit 4 queries and 3 keys'),
    (np.full((4, 3), 0.1), r'\(4, 3\) does not fit 4 queries and 3 keys'),
    (np.full((0, 4, 3), 0.1), r'\(0, 4, 3\) does not fit'),
    (np.full((2, 4, 3), -0.1), r'\(2, 4, 3\) has values from -0.1 to -0.1'),
    (np.full((2, 4, 3), 1.01), r'\(2, 4, 3\) has values from 1.01 to 1.01'),
    (np.full((2, 4, 3), math.nan), r'\(2, 4, 3\) has values from nan'),
  ],
)
def test_invalid_attention_is_refused(draw, weights, message):
  with pytest.raises(ValueError, match=message):
    draw(weights, QUERIES, KEYS)


@pytest.mark.parametrize('draw', [token_attention.lines, token_attention.heads])
def test_rounding_above_one_is_forgiven(draw):
  parsed(draw(np.full((1, 1, 1), 1.0005, np.float32), ['a'], ['b']))


def test_a_browser_shows_all_names_apart(tmp_path):
  words = ('▁The ▁animal ▁did n t ▁cross ▁the ▁street , ▁because ▁it ▁was </s>').split()
  drawings = []
  for num_heads, num_queries, num_keys in (
    (1, 4, 4),
    (16, 4, 4),
    (8, 14, 12),
    (16, 30, 30),
  ):
    queries, keys = (
      ([*words, *TRICKY, *words])[:count] for count in (num_queries, num_keys)
    )
    weights = probs(num_heads, num_queries, num_keys)
    drawings += [
      token_attention.lines(weights, queries, keys),
      token_attention.heads(weights, queries, keys),
    ]
  sizes = re.findall('font-size="([^"]*)"', ''.join(drawings))
  assert min(map(float, sizes)) >= 10
  file = tmp_path / 'drawn.html'
  file.write_text(page.document('t', '', [('A', ''.join(drawings))]))
  dom, log = pages.browse(file, tmp_path)
  found = pages.probed(dom)
  assert 'CONSOLE' not in log
  assert found['overflowing'] == found['cut'] == found['overlapping'] == ''
