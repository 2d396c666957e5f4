import itertools

import numpy as np
import pytest
from PIL import Image, ImageEnhance, ImageFilter, ImageOps

from big_vision_like.data.transforms import pillow, randaugment


def pictures() -> dict[str, np.ndarray]:
  rng = np.random.default_rng(0)
  small = rng.integers(0, 256, (4, 5, 3), dtype=np.uint8)
  smooth = Image.fromarray(small).resize((37, 24), Image.Resampling.BICUBIC)
  grey = rng.integers(90, 100, (8, 8, 1), dtype=np.uint8).repeat(3, axis=2)
  return {
    'noise': rng.integers(0, 256, (23, 31, 3), dtype=np.uint8),
    'smooth': np.asarray(smooth),
    'narrow': rng.integers(70, 181, (41, 3, 3), dtype=np.uint8),
    'grey': grey,
    'two values': rng.choice(np.array([3, 200], np.uint8), (9, 7, 3)),
    'one value': np.full((6, 5, 3), (0, 128, 255), np.uint8),
    'one pixel': np.full((1, 1, 3), 17, np.uint8),
  }


def enhanced(kind: str):
  return lambda picture, factor: getattr(ImageEnhance, kind)(picture).enhance(factor)


FACTORS = (0.0, 0.1, 0.55, 1.0, 1.003, 1.9, 3.7)
# Our function, Pillow's, and arguments.
COLORS = {
  'autocontrast': (pillow.autocontrast, ImageOps.autocontrast, None),
  'equalize': (randaugment.equalize, ImageOps.equalize, None),
  'invert': (randaugment.invert, ImageOps.invert, None),
  'grayscale': (pillow.grayscale, lambda x: x.convert('L').convert('RGB'), None),
  'posterize': (pillow.posterize, ImageOps.posterize, range(1, 9)),
  'solarize': (pillow.solarize, ImageOps.solarize, (0, 1, 128, 200, 255, 256)),
  'brightness': (randaugment.brightness, enhanced('Brightness'), FACTORS),
  'contrast': (pillow.contrast, enhanced('Contrast'), FACTORS),
  'color': (pillow.color, enhanced('Color'), FACTORS),
  'sharpness': (pillow.sharpness, enhanced('Sharpness'), FACTORS),
  'gaussian_blur': (
    pillow.gaussian_blur,
    lambda x, radius: x.filter(ImageFilter.GaussianBlur(radius)),
    (0.1, 0.77, 2.0),
  ),
}


@pytest.mark.parametrize('name', COLORS)
def test_colours_match_pillow(name):
  ours, theirs, arguments = COLORS[name]
  for kind, image in pictures().items():
    before = image.copy()
    for argument in [()] if arguments is None else [(x,) for x in arguments]:
      got = ours(image, *argument)
      want = np.asarray(theirs(Image.fromarray(image), *argument))
      np.testing.assert_array_equal(got, want, f'{kind} {argument}')
      assert got.dtype == np.uint8
    np.testing.assert_array_equal(image, before)


def test_no_bits_are_black():
  # As before Pillow 13, which refuses it; timm's strongest magnitude keeps no bits.
  assert (pillow.posterize(pictures()['noise'], 0) == 0).all()


def test_hues_wrap_around():
  image = np.array([[[255, 0, 0], [0, 0, 255], [90, 90, 90]]], np.uint8)
  np.testing.assert_array_equal(pillow.hue(image, 0.0), image)
  third = pillow.hue(image, 1 / 3)
  np.testing.assert_array_equal(third, [[[0, 255, 0], [255, 0, 0], [90, 90, 90]]])
  back = pillow.hue(third, -1 / 3)
  np.testing.assert_allclose(back, image, atol=6)  # of 255 hues


FILL = (124, 116, 104)


@pytest.mark.parametrize('method', pillow.METHODS)
def test_moving_uncovers_the_fill(method):
  image = pictures()['noise']
  left = pillow.translate_x(image, 10 / 31, FILL, method)
  np.testing.assert_array_equal(left[:, :21], image[:, 10:])
  assert (left[:, 21:] == FILL).all()
  up = pillow.translate_y(image, 4 / 23, FILL, method)
  np.testing.assert_array_equal(up[:-4], image[4:])
  assert (up[-4:] == FILL).all()
  assert (pillow.translate_x(image, -1.5, FILL, method) == FILL).all()
  np.testing.assert_array_equal(
    pillow.rotate(image, 180, FILL, method), image[::-1, ::-1]
  )
  for turned in (pillow.shear_x, pillow.shear_y, pillow.rotate):
    np.testing.assert_array_equal(turned(image, 0.0, FILL, method), image)
    assert (turned(image, 7.0, FILL, method) != image).any()


def test_shears_go_by_the_distance():
  image = pictures()['noise']
  sheared = pillow.shear_x(image, 1.0, FILL, 'nearest')
  # Sampled in the middle of row 4, which is 4.5 from the top.
  shifts = [s for s in (4, 5) if np.array_equal(sheared[4, :-5], image[4, s : s + 26])]
  assert shifts and (sheared[4, -4:] == FILL).all()
  down = pillow.shear_y(image.swapaxes(0, 1).copy(), 1.0, FILL, 'nearest')
  np.testing.assert_array_equal(down.swapaxes(0, 1), sheared)


def test_methods_differ():
  image = pictures()['smooth']
  results = [pillow.rotate(image, 17.0, FILL, method) for method in pillow.METHODS]
  for first, second in itertools.combinations(results, 2):
    assert not np.array_equal(first, second)
