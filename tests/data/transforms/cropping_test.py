import functools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from big_vision_like.data.transforms import cropping

SIDE = st.integers(1, 300)
SEED = st.integers(0, 2**32 - 1)
ASPECT = (3 / 4, 4 / 3)


@settings(max_examples=200, deadline=None)
@given(height=SIDE, width=SIDE, seed=SEED, low=st.floats(0.01, 0.9))
def test_boxes_are_inside_and_have_the_requested_size(height, width, seed, low):
  rng = np.random.default_rng(seed)
  inception = cropping.inception_box(height, width, rng, (low, 1.0), ASPECT, 10)
  torch = cropping.torch_box(height, width, rng, (low, 1.0), ASPECT)
  for top, left, h, w in filter(None, (inception, torch)):
    assert 0 <= top <= height - h and 0 <= left <= width - w and h > 0 and w > 0
    assert h * 3 / 4 - 0.5 <= w + 0.75 and w - 0.75 <= h * 4 / 3 + 0.5
  if inception is not None:
    assert low * height * width <= inception[2] * inception[3]


INCEPTION = functools.partial(
  cropping.inception_box, area=(0.05, 1.0), aspect=(0.75, 1.33), attempts=100
)
EFFICIENTNET = functools.partial(
  cropping.inception_box, area=(0.08, 1.0), aspect=ASPECT, attempts=10, covered=0.1
)
# Statistics of 20,000 boxes of tf.image.sample_distorted_bounding_box (TensorFlow
# 2.21): the mean area, and the 10, 50 and 90 % quantiles of height, width, top and
# left, as shares.
TENSORFLOW = [
  (INCEPTION, 375, 500, 0.344, [(0.331, 0.629, 0.931), (0.25, 0.476, 0.752)]),
  (INCEPTION, 100, 400, 0.141, [(0.5, 0.72, 0.95), (0.125, 0.18, 0.26)]),
  (EFFICIENTNET, 500, 333, 0.339, [(0.29, 0.444, 0.648), (0.456, 0.7, 0.94)]),
  (EFFICIENTNET, 32, 32, 0.433, [(0.375, 0.625, 0.906), (0.375, 0.625, 0.906)]),
]


@pytest.mark.parametrize('draw, height, width, mean, sides', TENSORFLOW)
def test_boxes_are_distributed_as_in_tensorflow(draw, height, width, mean, sides):
  rng = np.random.default_rng(0)
  boxes = [draw(height, width, rng) or (0, 0, height, width) for _ in range(3000)]
  top, left, h, w = np.array(boxes).T
  assert abs((h * w).mean() / (height * width) - mean) < 0.015
  for shares, want in zip((h / height, w / width), sides, strict=True):
    np.testing.assert_allclose(np.quantile(shares, [0.1, 0.5, 0.9]), want, atol=0.04)
  # The last row and column are left out unless the box includes all of them.
  room = (height - h) * (width - w) > 0
  assert (top + h < height)[room].all() and (left + w < width)[room].all()
  assert (top == 0).any() and (top + h == height - 1).any()


def test_efficientnet_takes_no_small_boxes():
  rng = np.random.default_rng(0)
  draw = functools.partial(cropping.inception_box, 60, 60, rng, aspect=ASPECT)
  assert draw(area=(0.05, 0.09), attempts=50, covered=0.1) is None
  assert draw(area=(0.05, 0.09), attempts=50) is not None


def test_area_and_logarithm_of_the_aspect_are_uniform_for_torch():
  rng = np.random.default_rng(0)
  boxes = [
    cropping.torch_box(1000, 1000, rng, (0.1, 0.5), (1 / 4, 1)) for _ in range(3000)
  ]
  top, _, h, w = np.array(boxes).T
  quantiles = np.array([0.1, 0.5, 0.9])
  # Boxes that are too long to fit, mostly large and elongated ones, are drawn again.
  fits = (h * w / 1e6 < 0.25) & (h < 1000)
  area = np.quantile((h * w / 1e6)[fits], quantiles)
  np.testing.assert_allclose(area, 0.1 + 0.15 * quantiles, atol=0.01)
  aspect = np.quantile(np.log(w / h)[fits], quantiles)
  np.testing.assert_allclose(aspect, np.log(4) * (quantiles - 1), atol=0.08)
  assert 0 < (top + h == 1000).mean() < 0.2


@pytest.mark.parametrize(
  'height, width, want',
  [
    (100, 800, (0, 333, 100, 133)),
    (801, 100, (334, 0, 133, 100)),
    (30, 31, (0, 0, 30, 31)),
  ],
)
def test_without_a_box_torch_takes_the_middle(height, width, want):
  rng = np.random.default_rng(0)
  # No area above that of the image fits.
  assert cropping.torch_box(height, width, rng, (1.5, 2.0), ASPECT) == want


@pytest.mark.parametrize(
  'height, width, size, want',
  [
    (375, 500, 224, (24, 86, 328, 328)),  # 375 * 224 / 256 = 328.1
    (500, 335, 380, (96, 14, 308, 308)),  # 335 * 380 / 412 = 308.98
    (10, 11, 600, (1, 1, 9, 9)),
  ],
)
def test_the_middle_of_efficientnet(height, width, size, want):
  assert cropping.efficientnet_box(height, width, size) == want


def test_one_generator_one_box():
  for draw in (INCEPTION, EFFICIENTNET):
    first, again = (draw(50, 70, np.random.default_rng(4)) for _ in range(2))
    assert first == again and all(type(x) is int for x in first)
