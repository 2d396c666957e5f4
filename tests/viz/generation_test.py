"""Tests of pictures of generated images."""

import numpy as np
import pytest

from big_vision_like.errors import UserError
from big_vision_like.viz import generation, slots

RNG = np.random.default_rng(0)


def test_a_grid_has_every_image_in_order():
  images = np.broadcast_to(
    np.array([10, 90, 170, 250], np.uint8)[:, None, None, None], (4, 8, 8, 1)
  )
  sheet = generation.grid(images, columns=3, side=16)
  assert sheet.shape == (34, 52, 3)
  assert [int(sheet[y, x, 0]) for y, x in ((8, 8), (8, 26), (8, 44), (26, 8))] == [
    10,
    90,
    170,
    250,
  ]
  assert (sheet[18:, 18:] == 255).all()  # no image
  assert generation.grid(np.zeros((8, 4, 4, 3), np.uint8)).shape == (130, 262, 3)
  # Large images are not reduced.
  assert generation.grid(np.zeros((2, 100, 100, 3), np.uint8)).shape == (100, 202, 3)


def test_floats_are_in_minus_one_to_one():
  image = np.array([-1.0, 0.0, 1.0], np.float32).reshape(1, 3, 1)
  assert generation.rgb(image)[0, :, 0].tolist() == [0, 128, 255]
  with pytest.raises(UserError, match='1 or 3 channels'):
    generation.rgb(np.zeros((4, 4, 2), np.uint8))


def test_truncation_has_a_row_for_each_value():
  levels = np.array([[0, 60], [120, 180], [200, 240]], np.uint8)
  images = np.broadcast_to(levels[:, :, None, None, None], (3, 2, 8, 8, 3))
  sheet = generation.by_truncation(images, side=8)
  assert sheet.shape == (28, 18, 3)
  assert sheet[4::10, 4::10, 0].tolist() == levels.tolist()


def test_attention_shows_the_component_of_each_pixel():
  image = np.full((1, 8, 8, 3), 100, np.uint8)
  left = np.zeros((8, 8))
  left[:, :4] = 1
  sheet = generation.attention(image, np.stack([left, 1 - left])[None], side=8)
  assert sheet.shape == (8, 5 * 8 + 4 * 2, 3)
  cells = [sheet[:, i : i + 8] for i in range(0, 48, 10)]
  colours = slots.entity_colours(3)[1:]
  np.testing.assert_array_equal(cells[0], image[0])
  np.testing.assert_array_equal(cells[1][0, [0, 7]], colours)
  mean = np.rint(0.5 * (colours.astype(float) + 100))
  np.testing.assert_array_equal(cells[2][0, [0, 7]], mean)
  np.testing.assert_array_equal(cells[3][0, [0, 7]], [[100] * 3, slots.PALE])
  np.testing.assert_array_equal(cells[4][0, [0, 7]], [slots.PALE, [100] * 3])


def test_small_differences_of_attention_are_visible():
  image = np.full((1, 8, 8, 3), 100, np.uint8)
  left = np.full((8, 8), 0.49)
  left[:, :4] = 0.51
  sheet = generation.attention(image, np.stack([left, 1 - left])[None], side=8)
  np.testing.assert_array_equal(sheet[0, [30, 37]], [[100] * 3, slots.PALE])
  even = generation.attention(image, np.full((1, 2, 8, 8), 0.5), side=8)
  np.testing.assert_array_equal(even[0, [30, 37]], [[100] * 3] * 2)


def test_coarse_maps_keep_their_sum():
  maps = RNG.dirichlet(np.ones(3), (4, 4)).transpose(2, 0, 1)
  large = generation.stretched(maps, (16, 12))
  assert large.shape == (3, 16, 12)
  np.testing.assert_allclose(large.sum(0), 1, atol=1e-6)


def test_swapped_components_show_what_changes():
  own = np.full((8, 8, 1), -1.0, np.float32)
  other = np.full((8, 8, 1), 0.5, np.float32)
  half = own.copy()
  half[:4] = 1.0
  sheet = generation.swapped(own, other, np.stack([own, half]), side=8)
  assert sheet.shape == (18, 4 * 8 + 3 * 2, 3)
  changes = sheet[10:, 20:]
  same, bright = (
    generation.difference(*(np.uint8([[[x]]]) for x in p))[0, 0]
    for p in ((0, 0), (0, 255))
  )
  np.testing.assert_array_equal(changes[:, :8], np.broadcast_to(same, (8, 8, 3)))
  np.testing.assert_array_equal(changes[0, 10], bright)
  np.testing.assert_array_equal(changes[7, 10], same)
  assert bright.sum() > same.sum()


def test_an_interpolation_shows_several_at_once():
  frames = RNG.integers(0, 256, (5, 3, 8, 8, 3), np.uint8)
  sheets = generation.interpolation(frames, columns=3, side=8)
  assert len(sheets) == 5 and sheets[0].shape == (8, 28, 3)
  np.testing.assert_array_equal(sheets[2][:, 10:18], frames[2, 1])
