import cv2
import numpy as np
import pytest

from big_vision_like.viz import images


def picture(height: int, width: int, seed: int = 0) -> np.ndarray:
  shape = (height, width, 3)
  return np.random.default_rng(seed).integers(0, 256, shape).astype(np.uint8)


def test_png_decodes_to_the_same_colours():
  image = picture(5, 7)
  image[0, 0] = [255, 0, 0]
  decoded_bgr = cv2.imdecode(
    np.frombuffer(images.png(image), np.uint8), cv2.IMREAD_COLOR
  )
  np.testing.assert_array_equal(decoded_bgr[..., ::-1], image)


def test_to_rgb_repeats_grey_and_scales_floats():
  grey = np.array([[[0], [7]]], np.uint8)
  np.testing.assert_array_equal(images.to_rgb(grey), [[[0, 0, 0], [7, 7, 7]]])
  floats = np.array([[[-0.5], [0.5], [1.5]]])
  np.testing.assert_array_equal(images.to_rgb(floats)[0, :, 0], [0, 128, 255])


@pytest.mark.parametrize(
  ('image', 'message'),
  [
    (np.zeros((2, 2, 4), np.uint8), 'channels'),
    (np.zeros((2, 2), np.uint8), 'channels'),
    (np.zeros((2, 2, 3), np.int32), 'int32'),
  ],
)
def test_to_rgb_refuses_arrays_that_are_not_pictures(image, message):
  with pytest.raises(ValueError, match=message):
    images.to_rgb(image)


def test_fit_repeats_whole_pixels_or_shrinks():
  image = picture(3, 5)
  large = images.fit(image, 23)
  assert large.shape == (12, 20, 3)
  np.testing.assert_array_equal(large[::4, ::4], image)
  assert images.fit(picture(40, 80), 20).shape == (10, 20, 3)
  assert images.fit(np.full((40, 80, 3), 9, np.uint8), 20).max() == 9


def test_stretch_keeps_colours_and_gives_each_pixel_its_share():
  image = picture(2, 3)
  stretched = images.stretch(image, (6, 12))
  np.testing.assert_array_equal(stretched, image.repeat(3, axis=0).repeat(4, axis=1))
  assert images.stretch(image, (5, 7)).shape == (5, 7, 3)


def test_tile_places_pictures_row_by_row():
  pictures = np.stack([np.full((2, 3, 3), value, np.uint8) for value in (10, 20, 30)])
  sheet = images.tile(pictures, columns=2, gap=1, background=255)
  assert sheet.shape == (5, 7, 3)
  expected = [[10, 10, 10, 255, 20, 20, 20], [30, 30, 30, 255, 255, 255, 255]]
  np.testing.assert_array_equal(sheet[[0, -1], :, 0], expected)
  assert np.all(sheet[2] == 255)


def test_colormap_is_viridis_in_rgb_and_clips():
  found = images.colormap(np.array([[-1.0, 0.0, 1.0, 5.0]]), 0.0, 1.0)[0]
  np.testing.assert_allclose(found[0], [68, 1, 84], atol=1)
  np.testing.assert_allclose(found[-1], [253, 231, 37], atol=3)
  np.testing.assert_array_equal(found[0], found[1])
  np.testing.assert_array_equal(found[2], found[3])
  with pytest.raises(ValueError, match='jet'):
    images.colormap(np.zeros((1, 1)), 0.0, 1.0, 'jet')


def test_highlight_keeps_the_most_attended_and_darkens_the_least():
  image = np.full((8, 8, 3), 200, np.uint8)
  weights = np.array([[0.1, 0.2], [0.3, 0.5]])
  shown = images.highlight(image, weights)
  assert np.all(shown[0, 0] == 0) and np.all(shown[-1, -1] == 200)
  assert np.all(np.diff(shown[-1, :, 0].astype(int)) >= 0)
  np.testing.assert_array_equal(images.highlight(image, np.ones((2, 2))), image)
