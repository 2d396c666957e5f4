import numpy as np
import PIL.Image
import pytest

from big_vision_like.data.transforms import aspect
from big_vision_like.errors import BadRecordError, UserError


def fitted(image, **arguments):
  return aspect.FitSquare(**arguments).map({'image': image, 'id': 7})['image']


@pytest.mark.parametrize(
  'shape, ratio, content',
  [
    ((320, 480), 0.75, (32, 224)),  # CLEVR
    ((1024, 2048), 0.5, (64, 192)),  # Cityscapes
    ((256, 341), 188 / 256, (34, 222)),  # Bedrooms
    ((100, 100), 1.0, (0, 256)),
  ],
)
def test_content_is_between_equal_rows_of_black(shape, ratio, content):
  image = fitted(np.full((*shape, 3), 200, np.uint8), size=256, ratio=ratio)
  assert image.shape == (256, 256, 3)
  first, last = content
  # The kernel mixes the rows at the border with black.
  np.testing.assert_array_equal(image[first + 4 : last - 4], 200)
  assert image[: max(first - 4, 0)].sum() == image[last + 4 :].sum() == 0


def test_columns_are_cropped_around_the_centre():
  columns = np.broadcast_to(np.arange(480) // 2, (320, 480))[..., None]
  image = fitted(columns.astype(np.uint8), size=426, ratio=0.75)
  # 480 columns become 426 of them, from 27.
  np.testing.assert_array_equal(image[200, :, 0], np.arange(27, 453) // 2)


def test_it_is_pillow_that_resizes():
  image = np.random.default_rng(0).integers(0, 256, (40, 80, 3), np.uint8)
  square = np.zeros((80, 80, 3), np.uint8)
  square[20:60] = image
  picture = PIL.Image.fromarray(square).resize((32, 32), PIL.Image.Resampling.LANCZOS)
  got = fitted(image, size=32, ratio=0.5)
  np.testing.assert_array_equal(got, np.asarray(picture))


def test_other_aspects_are_bad_records():
  with pytest.raises(BadRecordError, match=r'id 7 is 480x100, .* only 76x100 of it'):
    fitted(np.zeros((480, 100, 3), np.uint8), size=64, ratio=0.75)
  with pytest.raises(UserError, match=r'ratio=1.5 of height to width is not in \(0, 1'):
    aspect.FitSquare(64, ratio=1.5)
