import json
import pathlib

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
