import itertools

import numpy as np
import pytest

from big_vision_like.errors import UserError
from big_vision_like.viz import visual_tokens


def test_mean_cosine_covers_all_pairs():
  map_BLhw = np.random.default_rng(0).random((2, 4, 3, 5))
  cosines = []
  for map_LP in map_BLhw.reshape(2, 4, 15):
    for a_P, b_P in itertools.combinations(map_LP, 2):
      cosines.append(a_P @ b_P / np.linalg.norm(a_P) / np.linalg.norm(b_P))
  np.testing.assert_allclose(visual_tokens.mean_cosine(map_BLhw), np.mean(cosines))
  np.testing.assert_allclose(visual_tokens.mean_cosine(np.ones((1, 3, 2, 2))), 1.0)
  apart_BLhw = np.eye(6).reshape(1, 6, 2, 3)
  assert visual_tokens.mean_cosine(apart_BLhw) == 0.0
  with pytest.raises(UserError, match='needs at least 2 tokens'):
    visual_tokens.mean_cosine(map_BLhw[:, :1])


def test_heads_are_averaged_and_pixels_get_their_places():
  probs_BGLP = np.random.default_rng(1).random((2, 3, 4, 15))
  map_BLhw = visual_tokens.maps_of(probs_BGLP, (3, 5))
  np.testing.assert_allclose(
    map_BLhw[1, 2, 1, 4], probs_BGLP[1, :, 2, 9].mean(), rtol=1e-6
  )
  with pytest.raises(UserError, match='attention to 15 pixels does not fit .* 4x4'):
    visual_tokens.maps_of(probs_BGLP, (4, 4))


def test_a_token_is_lit_where_it_looks():
  image_HWC = np.full((4, 8, 3), 200, np.uint8)
  map_Lhw = np.zeros((2, 2, 4))
  map_Lhw[0, :, :2] = map_Lhw[1, :, 2:] = 1.0
  drawn = visual_tokens.sheet(image_HWC, map_Lhw, columns=3)
  side = visual_tokens.SIDE
  image, left, right = (drawn[:, i * (side + 2) :][:, :side] for i in range(3))
  assert (image == 200).all()
  for one, other in (left, right[:, ::-1]), (right, left[:, ::-1]):
    np.testing.assert_array_equal(one, other)
  assert (left[:, : side // 4] == 200).all() and not left[:, -side // 4 :].any()
