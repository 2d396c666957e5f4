import collections
import dataclasses

import numpy as np
import pytest
from scipy import ndimage

from big_vision_like.data.procedural import squares

(CONFIG,) = squares.Squares.BUILDER_CONFIGS


def test_images_are_whole_squares_of_one_colour_on_grey():
  counts = collections.Counter()
  for index in range(300):
    example = squares.draw(CONFIG, 'train', index)
    ids_HW, image_HWC = example['segmentation'][..., 0], example['image']
    assert image_HWC.shape == (16, 16, 3) and image_HWC.dtype == np.uint8
    np.testing.assert_array_equal(image_HWC[ids_HW == 0], squares.GREY)
    counts[int(ids_HW.max())] += 1
    for number in range(1, ids_HW.max() + 1):
      rows, columns = np.nonzero(ids_HW == number)
      side = int(np.ptp(rows)) + 1
      assert np.ptp(columns) + 1 == side and len(rows) == side**2
      assert squares.SIZES[0] <= side <= squares.SIZES[1]
      (color,) = np.unique(image_HWC[rows, columns], axis=0)
      assert np.abs(color.astype(int) - squares.GREY).max() >= 100
    # Squares do not touch, so each is a component of the foreground.
    assert ndimage.label(ids_HW > 0, np.ones((3, 3)))[1] == ids_HW.max()
  assert counts.keys() == {1, 2, 3} and min(counts.values()) > 60


def test_draws_repeat_and_differ():
  first = squares.draw(CONFIG, 'train', 5)
  again = squares.draw(CONFIG, 'train', 5)
  np.testing.assert_array_equal(first['image'], again['image'])
  for other in (
    squares.draw(CONFIG, 'test', 5),
    squares.draw(CONFIG, 'train', 6),
    squares.draw(dataclasses.replace(CONFIG, seed=1), 'train', 5),
  ):
    assert not np.array_equal(first['image'], other['image'])
  with pytest.raises(ValueError, match='split'):
    squares.draw(CONFIG, 'val', 0)
