import jax
import numpy as np
import pytest

from big_vision_like.errors import UserError
from big_vision_like.ops import windows


def numbered(batch=2, height=6, width=9, channels=2):
  size = batch * height * width * channels
  return np.arange(size, dtype=np.float32).reshape(batch, height, width, channels)


def test_windows_and_their_tokens_go_row_by_row():
  x_BhwC = numbered()
  got_RNC = windows.partition(x_BhwC, 3)
  want = [
    x_BhwC[image, row : row + 3, column : column + 3].reshape(9, 2)
    for image in range(2)
    for row in (0, 3)
    for column in (0, 3, 6)
  ]
  np.testing.assert_array_equal(got_RNC, want)
  np.testing.assert_array_equal(windows.joined(got_RNC, (6, 9)), x_BhwC)


def test_a_partition_is_reshapes_and_a_transpose():
  x_BhwC = numbered()
  jaxpr = jax.make_jaxpr(lambda x: windows.joined(windows.partition(x, 3), (6, 9)))
  operations = [str(equation.primitive) for equation in jaxpr(x_BhwC).eqns]
  assert set(operations) == {'reshape', 'transpose'}
  assert operations.count('transpose') == 2


def test_windows_that_do_not_divide():
  with pytest.raises(UserError, match='windows of 4x4 tokens do not divide .* 6x9'):
    windows.partition(numbered(), 4)
  with pytest.raises(UserError, match='2x2 tokens do not divide a map of 6x9'):
    windows.neighbours(numbered())


def test_tokens_move_around_the_edge_and_back():
  x_BhwC = numbered()
  moved = windows.shifted(x_BhwC, 2)
  np.testing.assert_array_equal(moved[:, 0, 0], x_BhwC[:, 2, 2])
  np.testing.assert_array_equal(moved[:, -1, -1], x_BhwC[:, 1, 1])
  np.testing.assert_array_equal(windows.shifted(moved, -2), x_BhwC)


def test_zeros_complete_a_map():
  x_BhwC = numbered()
  padded = windows.pad(x_BhwC, windows.whole((6, 9), 4))
  assert padded.shape == (2, 8, 12, 2)
  np.testing.assert_array_equal(padded[:, :6, :9], x_BhwC)
  assert not padded[:, 6:].any() and not padded[:, :, 9:].any()
  assert windows.pad(x_BhwC, windows.whole((6, 9), 3)) is x_BhwC


@pytest.mark.parametrize(
  ('grid', 'window', 'shift'), [((6, 9), 3, 1), ((8, 8), 4, 2), ((14, 21), 7, 3)]
)
def test_tokens_see_their_former_neighbours(grid, window, shift):
  """Checks that shifted tokens see each other unless a map's edge was between them."""
  height, width = grid
  place_hw = np.arange(height * width, dtype=np.float32).reshape(1, height, width, 1)
  moved = windows.partition(windows.shifted(place_hw, shift), window)
  row_WN, column_WN = np.divmod(np.asarray(moved)[..., 0].astype(int), width)
  near = (np.abs(row_WN[:, :, None] - row_WN[:, None]) < window) & (
    np.abs(column_WN[:, :, None] - column_WN[:, None]) < window
  )
  np.testing.assert_array_equal(windows.seen(grid, window, shift), near)


def test_regions_of_the_last_windows():
  region_WN = windows.regions((4, 4), 2, 1)
  assert region_WN.tolist() == [[0] * 4, [1, 2, 1, 2], [3, 3, 6, 6], [4, 5, 7, 8]]


def test_a_mask_repeats_for_each_map():
  seen_WNM = windows.seen((4, 4), 2, 1)
  mask_R1NM = windows.of_all(seen_WNM, 3)
  assert mask_R1NM.shape == (12, 1, 4, 4)
  np.testing.assert_array_equal(
    np.asarray(mask_R1NM).reshape(3, 4, 4, 4), np.stack([seen_WNM] * 3)
  )


def test_merged_neighbours_go_by_column():
  x_BhwC = numbered(1, 2, 4, 1)  # 0 1 2 3 above 4 5 6 7
  got_BhwC = windows.neighbours(x_BhwC)
  assert got_BhwC.tolist() == [[[[0, 4, 1, 5], [2, 6, 3, 7]]]]
