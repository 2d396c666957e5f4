import json
import pathlib

import jax.numpy as jnp
import numpy as np
import pytest
import scipy.ndimage

from big_vision_like.ops import positions

GOLDEN = pathlib.Path(__file__).parents[1] / 'golden'


def golden_cases(name, prefix_key):
  cases = json.loads((GOLDEN / f'{name}.json').read_text())['config']
  with np.load(GOLDEN / f'{name}.npz') as arrays:
    for case in cases:
      side, new_side = case['grid_from'], case['grid_to']
      grids = (side, side), (new_side, new_side)
      i = case['case']
      yield (
        arrays[f'input/posemb_{i}'],
        *grids,
        int(case[prefix_key]),
        arrays[f'output/posemb_{i}'],
      )


def test_linear_resize_matches_the_published_code():
  for pos, grid_from, grid_to, prefix, want in golden_cases(
    'posemb_resize', 'has_class_token'
  ):
    got = positions.resize(pos, grid_from, grid_to, prefix)
    np.testing.assert_allclose(got, want, rtol=0, atol=1e-6)


def test_cubic_resize_matches_torch():
  for pos, grid_from, grid_to, prefix, want in golden_cases(
    'posemb_resize_bicubic', 'extra_tokens'
  ):
    got = positions.resize(pos, grid_from, grid_to, prefix, method='cubic_torch')
    # Torch's own float32 result is 2e-6 away from its float64 one here.
    np.testing.assert_allclose(got, want, rtol=0, atol=5e-6)


@pytest.mark.parametrize('grid_to', [(5, 9), (2, 3), (1, 1), (3, 11)])
def test_linear_resize_of_non_square_grids_is_scipy_zoom(grid_to):
  grid = np.random.default_rng(0).normal(size=(3, 5, 4)).astype(np.float32)
  zoom = (grid_to[0] / 3, grid_to[1] / 5, 1)
  want = scipy.ndimage.zoom(grid, zoom, order=1).reshape(1, -1, 4)
  got = positions.resize(grid.reshape(1, 15, 4), (3, 5), grid_to)
  np.testing.assert_allclose(got, want, rtol=0, atol=1e-6)


@pytest.mark.parametrize('method', ['linear', 'cubic_torch'])
def test_resize_to_the_own_size_is_the_identity(method):
  pos = np.random.default_rng(0).normal(size=(1, 7, 4)).astype(np.float32)
  got = positions.resize(pos, (2, 3), (2, 3), num_prefix=1, method=method)
  assert got.dtype == np.float32
  np.testing.assert_array_equal(got, pos)


@pytest.mark.parametrize('method', ['linear', 'cubic_torch'])
def test_resize_keeps_constants_and_prefix(method):
  pos = np.full((1, 2 + 6, 3), 0.5, np.float32)
  pos[:, :2] = [[1, 2, 3], [4, 5, 6]]
  got = positions.resize(pos, (2, 3), (4, 7), num_prefix=2, method=method)
  assert got.shape == (1, 2 + 28, 3)
  np.testing.assert_array_equal(got[:, :2], pos[:, :2])
  np.testing.assert_allclose(got[:, 2:], 0.5, atol=1e-6)


@pytest.mark.parametrize(
  'arguments, words',
  [
    (((2, 2), (3, 3)), '7 positions do not fit a 2x2 grid with 0 prefix'),
    (((2, 3), (0, 3), 1), 'at least 1'),
    (((2, 3), (3, 3), 1, 'nearest'), "'nearest'.*cubic_torch.*linear"),
  ],
)
def test_resize_names_what_does_not_fit(arguments, words):
  with pytest.raises(ValueError, match=words):
    positions.resize(np.zeros((1, 7, 4)), *arguments)


def test_resize_wants_a_batch_of_one():
  with pytest.raises(ValueError, match=r'\(1, N, D\), got \(7, 4\)'):
    positions.resize(np.zeros((7, 4)), (2, 3), (4, 4), 1)


def test_sincos2d_matches_big_vision():
  with np.load(GOLDEN / 'vit_bv_gap_sincos_rep.npz') as arrays:
    want = arrays['output/posemb_sincos_2d']
  np.testing.assert_allclose(positions.sincos2d(4, 6, 48), want, rtol=0, atol=1e-6)


def test_sincos2d_smallest_width_and_type():
  got = positions.sincos2d(2, 3, 4, dtype='bfloat16')
  assert got.shape == (1, 6, 4) and got.dtype == 'bfloat16'
  got = np.asarray(positions.sincos2d(2, 3, 4))[0, 5]  # y = 1, x = 2
  np.testing.assert_allclose(got, [np.sin(2), np.cos(2), np.sin(1), np.cos(1)], 1e-6)


def test_sincos2d_names_a_width_that_does_not_divide():
  with pytest.raises(ValueError, match='divisible by 4, got 30'):
    positions.sincos2d(2, 2, 30)


def test_square_grid():
  assert positions.square_grid(16) == ((4, 4), 0)
  assert positions.square_grid(17) == ((4, 4), 1)
  assert positions.square_grid(1) == ((1, 1), 0)
  for count in (0, 15, 18):
    with pytest.raises(ValueError, match=f'{count} positions'):
      positions.square_grid(count)


# Sequences


@pytest.mark.parametrize('layout', positions.SINUSOIDS)
def test_sinusoids_are_the_formula(layout):
  count, dim = 40, 12
  p, i = np.arange(count)[:, None], np.arange(dim // 2)[None]
  exponent = i / (dim // 2 - 1) if layout == 't2t' else 2 * i / dim
  angle = p / 10_000.0**exponent
  want = np.zeros((count, dim))
  if layout == 'interleaved':
    want[:, ::2], want[:, 1::2] = np.sin(angle), np.cos(angle)
  else:
    want[:, : dim // 2], want[:, dim // 2 :] = np.sin(angle), np.cos(angle)
  got = positions.sinusoid(jnp.arange(count), dim, layout)
  np.testing.assert_allclose(got, want, rtol=0, atol=1e-5)
  again = positions.sinusoid(jnp.array([[3, 0], [7, 39]]), dim, layout)
  np.testing.assert_array_equal(again, got[np.array([[3, 0], [7, 39]])])


@pytest.mark.parametrize(
  'dim, layout, words',
  [(5, 'halves', 'even width, not 5'), (4, 'tape', "layout='tape'")],
)
def test_impossible_sinusoids_are_told(dim, layout, words):
  with pytest.raises(ValueError, match=words):
    positions.sinusoid(jnp.arange(3), dim, layout)


def test_learned_positions_are_looked_up():
  table = jnp.asarray(np.random.default_rng(0).normal(size=(5, 3)))
  position = jnp.array([[0, 4, 1]])
  np.testing.assert_array_equal(positions.lookup(table, position)[0, 1], table[4])
  with pytest.raises(ValueError, match=r'6 tokens.*\(1, 6\).*5 learned.*\(5, 3\)'):
    positions.lookup(table, jnp.zeros((1, 6), int))


def test_a_grid_of_rows_and_columns():
  rows, columns = jnp.arange(6.0).reshape(2, 3), 10 + jnp.arange(12.0).reshape(4, 3)
  grid = positions.grid2d(rows, columns).reshape(2, 4, 6)
  for y in range(2):
    for x in range(4):
      np.testing.assert_array_equal(grid[y, x], np.r_[columns[x], rows[y]])


def test_masked_sines_count_the_valid_cells():
  valid_Bhw = np.zeros((2, 4, 5), bool)
  valid_Bhw[0, :3, :2] = True
  valid_Bhw[1] = True
  got_BhwD = positions.masked_sine2d(jnp.asarray(valid_Bhw), 8)
  assert got_BhwD.shape == (2, 4, 5, 8)
  for (height, width), grid_hwD in zip([(3, 2), (4, 5)], got_BhwD, strict=True):
    for i, j in np.ndindex(height, width):
      y, x = ((n + 1) / size * 2 * np.pi for n, size in ((i, height), (j, width)))
      want = [
        f(z / 10_000**e) for z in (y, x) for e in (0, 0.5) for f in (np.sin, np.cos)
      ]
      np.testing.assert_allclose(grid_hwD[i, j], want, atol=1e-5)
  with pytest.raises(
    ValueError, match='masked_sine2d needs a width divisible by 4, got 6'
  ):
    positions.masked_sine2d(jnp.asarray(valid_Bhw), 6)


def test_relative_positions_depend_on_the_difference_alone():
  height, width = 3, 4
  index = positions.relative_index(height, width)
  places = [(y, x) for y in range(height) for x in range(width)]
  entries = {}
  for n, (y, x) in enumerate(places):
    for m, (v, u) in enumerate(places):
      entries.setdefault((y - v, x - u), set()).add(int(index[n, m]))
  assert all(len(found) == 1 for found in entries.values())
  found = sorted(entry.pop() for entry in entries.values())
  assert found == list(range((2 * height - 1) * (2 * width - 1)))
  assert index[0, 0] == (height - 1) * (2 * width - 1) + width - 1

  table = jnp.asarray(np.random.default_rng(0).normal(size=(35, 2)))
  bias = positions.relative_bias(table, index)
  assert bias.shape == (1, 2, 12, 12)
  np.testing.assert_array_equal(bias[0, 1, 3, 7], table[index[3, 7], 1])
  with pytest.raises(ValueError, match=r'up to 34, the table \(20, 2\) has 20'):
    positions.relative_bias(table[:20], index)
