import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from big_vision_like.errors import UserError
from big_vision_like.ops import erasing

SIZE = 37, 53
COUNT = 1000


@functools.cache
def compiled(mode: str):
  return jax.jit(functools.partial(erasing.erase, mode=mode))


def erased(probability=1.0, mode='const', count=COUNT) -> np.ndarray:
  image = jnp.full((count, *SIZE, 2), 7.0)
  return np.asarray(compiled(mode)(jax.random.key(0), image, probability))


def holes(images) -> np.ndarray:
  """Returns where pixels were erased: the images contain no 7 by chance."""
  found = images != 7.0
  assert (found.all(axis=-1) == found.any(axis=-1)).all()
  return found.any(axis=-1)


def measured(images) -> list[np.ndarray]:
  """Returns height and width of each hole, after checking that it is a box."""
  mask = holes(images)
  mask = mask[mask.any(axis=(1, 2))]
  height, width = mask.any(axis=2).sum(axis=1), mask.any(axis=1).sum(axis=1)
  np.testing.assert_array_equal(height * width, mask.sum(axis=(1, 2)))
  return [height, width]


def test_boxes_are_within_bounds():
  height, width = measured(erased())
  assert len(height) == COUNT  # ten attempts suffice for a box that fits
  area, aspect = height * width / (SIZE[0] * SIZE[1]), height / width
  # Sides are rounded to pixels.
  assert 0.01 < area.min() < 0.03 and 0.30 < area.max() < 0.35
  assert 0.2 < aspect.min() < 0.35 and 2.8 < aspect.max() < 4.0
  assert height.max() < SIZE[0] and width.max() < SIZE[1]
  assert abs(np.log(aspect).mean()) < 0.1
  # Uniform except for boxes that do not fit, which are large and elongated.
  assert 0.15 < area.mean() < (0.02 + 1 / 3) / 2 + 0.005


def test_boxes_are_anywhere():
  often = holes(erased()).mean(axis=0)
  assert (often > 0).mean() > 0.99 and often.max() < 0.45
  for axis in (0, 1):
    line = often.mean(axis=axis)
    # Most often in the middle, and symmetric.
    np.testing.assert_allclose(line, line[::-1], atol=0.03)
    assert line.argmax() in range(len(line) // 4, 3 * len(line) // 4)


def test_the_share_of_images():
  share = holes(erased(probability=0.25)).any(axis=(1, 2)).mean()
  assert 0.22 < share < 0.28


def test_noise_is_gaussian():
  images = erased(mode='pixel', count=100)
  noise = images[images != 7.0]
  assert abs(noise.mean()) < 0.02 and abs(noise.std() - 1) < 0.02
  assert len(np.unique(noise)) > 0.9 * noise.size
  assert set(np.unique(erased())) == {0, 7}


@pytest.mark.parametrize('mode', ['pixel', 'const'])
def test_the_type_stays(mode):
  image = jnp.zeros((2, 8, 9, 3), jnp.bfloat16)
  got = jax.eval_shape(compiled(mode), jax.random.key(0), image, 0.5)
  assert got.dtype == jnp.bfloat16 and got.shape == image.shape


def test_a_box_that_never_fits_is_left_out():
  *_, height, width = erasing.boxes(jax.random.key(0), 5, *SIZE, (0.9, 1), (3, 3.3))
  np.testing.assert_array_equal([height, width], np.zeros((2, 5)))


def test_an_unknown_mode_is_named():
  with pytest.raises(UserError, match="mode='rand' is not one of pixel, const"):
    erasing.erase(jax.random.key(0), jnp.zeros((1, 4, 4, 3)), 0.5, mode='rand')
