import jax.numpy as jnp
import numpy as np
import pytest
import scipy.ndimage
from hypothesis import given, settings
from hypothesis import strategies as st

from big_vision_like.ops import positions


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
    (((2, 3), (3, 3), 1, 'area'), "'area'.*cubic_torch.*linear"),
  ],
)
def test_resize_names_arguments_that_do_not_fit(arguments, words):
  with pytest.raises(ValueError, match=words):
    positions.resize(np.zeros((1, 7, 4)), *arguments)


def test_resize_wants_a_batch_of_one():
  with pytest.raises(ValueError, match=r'\(1, N, D\), got \(7, 4\)'):
    positions.resize(np.zeros((7, 4)), (2, 3), (4, 4), 1)


def test_sincos2d_smallest_width_and_type():
  got = positions.sincos2d(2, 3, 4, dtype='bfloat16')
  assert got.shape == (1, 6, 4) and got.dtype == 'bfloat16'
  got = np.asarray(positions.sincos2d(2, 3, 4))[0, 5]  # y = 1, x = 2
  np.testing.assert_allclose(got, [np.sin(2), np.cos(2), np.sin(1), np.cos(1)], 1e-6)


def test_sincos2d_names_a_width_that_does_not_divide():
  with pytest.raises(ValueError, match='divisible by 4, got 30'):
    positions.sincos2d(2, 2, 30)


@pytest.mark.parametrize(
  'count, grid_to, want',
  [
    (16, (4, 4), (4, 4)),
    (16, (6, 6), (4, 4)),
    (16, (4, 8), (4, 4)),  # twice a square is never a square
    (1, (4, 4), (1, 1)),
    (196, (14, 28), (14, 14)),
  ],
)
def test_a_grid_is_assumed_to_be_square(count, grid_to, want):
  assert positions.infer_grid(count, grid_to) == want


@pytest.mark.parametrize('count', [0, 8, 15])
def test_a_grid_that_cannot_be_inferred(count):
  with pytest.raises(ValueError, match=f'{count} positions are not a square.*source'):
    positions.infer_grid(count, (4, 8))


@pytest.mark.parametrize('grid_to', [(2, 8), (4, 16), (8, 2)])
def test_an_ambiguous_grid_is_not_guessed(grid_to):
  with pytest.raises(ValueError, match=r'16 positions may be a grid of \dx\d or \dx\d'):
    positions.infer_grid(16, grid_to)
  table, count = random_table(1, 17, 2), 1 + grid_to[0] * grid_to[1]
  with pytest.raises(ValueError, match=r'16 positions may be .*source_grid=\(rows'):
    positions.resize_grid(table, (1, count, 2), None, grid_to)


def test_leading_tokens_where_nothing_tells_the_grid():
  table = random_table(1, 17, 2)
  for count, grid_to in ((37, (6, 6)), (16, (4, 4)), (17, (4, 4)), (18, (4, 4))):
    got = positions.resize_grid(table, (1, count, 2), None, grid_to)
    want = positions.resize_grid(table, (1, count, 2), (4, 4), grid_to)
    np.testing.assert_array_equal(got, want)
  with pytest.raises(ValueError, match='17 positions are not a square'):
    positions.resize_grid(table, (1, 36, 2), None, (6, 6))


GRID = st.tuples(st.integers(1, 6), st.integers(1, 6))
METHOD = st.sampled_from(sorted(positions.METHODS))


def random_table(*shape):
  return np.random.default_rng(0).normal(size=shape).astype(np.float32)


@settings(max_examples=60, deadline=None)
@given(grid_from=GRID, grid_to=GRID, prefix=st.tuples(*[st.integers(0, 2)] * 2))
def test_grids_are_resized_after_any_leading_tokens(grid_from, grid_to, prefix):
  old = prefix[0] + grid_from[0] * grid_from[1]
  new = prefix[1] + grid_to[0] * grid_to[1]
  table, kept = random_table(2, old, 3), min(prefix)
  got = positions.resize_grid(table, (2, new, 3), grid_from, grid_to)
  np.testing.assert_array_equal(got[:, :kept], table[:, :kept])
  assert not got[:, kept : prefix[1]].any()
  want = positions.resize(table[:, prefix[0] :], grid_from, grid_to)
  np.testing.assert_array_equal(got[:, prefix[1] :], want)


@settings(max_examples=60, deadline=None)
@given(grid=GRID, prefix=st.integers(0, 2), method=METHOD)
def test_equal_grids_are_unchanged(grid, prefix, method):
  count = prefix + grid[0] * grid[1]
  table = random_table(1, count, 2)
  got = positions.resize_grid(table, table.shape, grid, grid, method)
  np.testing.assert_array_equal(got, table)
  for resize, side in ((positions.resize_rows, 0), (positions.resize_columns, 1)):
    table = random_table(1, grid[side], 2)
    got = resize(table, table.shape, grid, grid, method)
    np.testing.assert_array_equal(got, table)


@settings(max_examples=60, deadline=None)
@given(sides=st.tuples(st.integers(1, 4), st.integers(1, 4), st.integers(2, 4)))
def test_other_grids_with_equally_many_tokens_are_never_copied(sides):
  a, b, c = sides
  grid_from, grid_to = (a, b * c), (a * c, b)
  table = random_table(1, a * b * c, 2)
  got = positions.resize_grid(table, table.shape, grid_from, grid_to)
  np.testing.assert_array_equal(got, positions.resize(table, grid_from, grid_to))
  if min(a * c, b * c) > 1 and a * b > 1:
    assert not np.array_equal(got, table)
  with pytest.raises(ValueError, match='resizing is turned off'):
    positions.resize_grid(table, table.shape, grid_from, grid_to, None)
  keys = random_table(1, 2 * a * b * c - 1, 2, 3)
  with pytest.raises(ValueError, match='relative positions cannot be resized'):
    positions.keep_relative(keys, keys.shape, grid_from, grid_to)
  kept = positions.keep_relative(keys, keys.shape, grid_to, grid_to)
  np.testing.assert_array_equal(kept, keys)


def test_tables_of_other_grids_are_reported():
  table = random_table(1, 17, 2)
  with pytest.raises(ValueError, match='17 positions are not a grid of 4x3 with 0'):
    positions.resize_grid(table, (1, 37, 2), (4, 3), (6, 6))
  with pytest.raises(ValueError, match='the model has 9 positions, too few for .* 6x6'):
    positions.resize_grid(table, (1, 9, 2), (4, 4), (6, 6))
  with pytest.raises(ValueError, match='of 17 rows do not belong to a grid of 4x4'):
    positions.resize_rows(table, (1, 6, 2), (4, 4), (6, 6))
  with pytest.raises(ValueError, match='17 relative positions do not belong to a squ'):
    positions.resize_window(table[0], (16, 2))


@pytest.mark.parametrize('window, new', [(2, 3), (4, 2), (7, 12), (3, 3)])
def test_windows_are_resized_as_squares_of_offsets(window, new):
  size, new_size = 2 * window - 1, 2 * new - 1
  table = random_table(size**2, 3)
  got = positions.resize_window(table, (new_size**2, 3), (1, 2), (3, 4))
  assert got.shape == (new_size**2, 3)
  want = positions.resize(table[None], (size,) * 2, (new_size,) * 2, 0, 'cubic_torch')
  np.testing.assert_array_equal(got, want[0])
  if window == new:
    np.testing.assert_array_equal(got, table)
  # The offset of a token from itself stays in the middle.
  flat = positions.resize_window(np.ones_like(table), (new_size**2, 3))
  np.testing.assert_allclose(flat, 1, atol=1e-6)


@pytest.mark.parametrize('frames, new', [(8, 16), (8, 3), (4, 6), (1, 5), (5, 1)])
def test_times_are_resized_along_one_axis(frames, new):
  table = random_table(1, frames, 3)
  places = np.linspace(0, frames - 1, new) if new > 1 else np.zeros(1)
  want = [np.interp(places, np.arange(frames), column) for column in table[0].T]
  got = positions.resize_time(table, (1, new, 3))
  np.testing.assert_allclose(got[0].T, want, rtol=0, atol=1e-6)
  nearest = positions.resize_time(table, (1, new, 3), method='nearest')
  taken = np.floor(np.arange(new) * frames / new).astype(int)
  np.testing.assert_array_equal(nearest, table[:, taken])
  np.testing.assert_array_equal(positions.resize_time(table, table.shape), table)


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
def test_impossible_sinusoids_are_reported(dim, layout, words):
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
  with pytest.raises(ValueError, match=r'up to 34, but the table \(20, 2\) has 20'):
    positions.relative_bias(table[:20], index)
