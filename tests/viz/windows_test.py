import numpy as np
import pytest

from big_vision_like.errors import UserError
from big_vision_like.viz import windows

STILL, SHIFTED = windows.Windows((4, 8), 4), windows.Windows((4, 8), 4, 2)


def test_attention_returns_to_its_place_on_the_map():
  rng = np.random.default_rng(0)
  probs_RGNM = rng.random((4, 3, 16, 16)).astype(np.float32)  # 2 images of 2 windows
  map_hw = windows.of_token(probs_RGNM, STILL, 1, (2, 5))
  mean_M = probs_RGNM[3, :, 2 * 4 + 1].mean(axis=0)
  np.testing.assert_allclose(map_hw[:, 4:], mean_M.reshape(4, 4))
  assert not map_hw[:, :4].any()
  map_hw = windows.of_token(
    probs_RGNM, SHIFTED, 1, (2, 5)
  )  # the first row and column 3
  mean_M = probs_RGNM[2, :, 3].mean(axis=0).reshape(4, 4)
  np.testing.assert_allclose(map_hw[:, 2:6], np.roll(mean_M, 2, axis=0))
  assert not map_hw[:, :2].any() and not map_hw[:, 6:].any()
  with pytest.raises(UserError, match='does not fit windows of 4 tokens'):
    windows.of_token(probs_RGNM[:3], STILL, 1, (2, 5))


def test_tokens_on_both_sides_of_a_border():
  image_HWC = np.zeros((16, 32, 3), np.uint8)
  image_HWC[8:12, 16:20] = 255
  assert windows.across(image_HWC, STILL) == [(2, 3), (2, 4)]
  with pytest.raises(UserError, match='one window wide'):
    windows.across(image_HWC, windows.Windows((4, 4), 4))


def test_borders_follow_the_shift_and_light_stays_inside():
  image_HWC = np.full((4, 8, 3), 100, np.uint8)
  cell = windows.SIDE // 8
  for cut, border in (STILL, 4), (SHIFTED, 2):
    drawn = windows.picture(image_HWC, cut)
    white = (drawn == 255).all(axis=(0, 2))
    assert white[border * cell] and not white[(border + 1) * cell]
  weights_hw = np.zeros((4, 8))
  weights_hw[:, 4:] = 1
  drawn = windows.picture(image_HWC, STILL, [(0, 0)], weights_hw)
  assert not drawn[2 * cell, : 4 * cell - 2].any()
  assert drawn[2 * cell, 5 * cell].tolist() == [100] * 3
  assert tuple(drawn[0, 0]) == windows.MARKS[0]
