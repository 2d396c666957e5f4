import itertools

import numpy as np
import pytest

from big_vision_like.data.transforms import color, pillow, randaugment
from big_vision_like.errors import UserError


def test_jitter_takes_every_order_and_factors_in_range(picture, monkeypatch):
  calls = []

  def recording(name):
    return lambda image, value: calls.append((name, value)) or image

  monkeypatch.setattr(randaugment, 'brightness', recording('brightness'))
  monkeypatch.setattr(pillow, 'contrast', recording('contrast'))
  monkeypatch.setattr(pillow, 'color', recording('saturation'))
  monkeypatch.setattr(pillow, 'hue', recording('hue'))
  jitter, rng = color.ColorJitter(0.4, 1.5, 0.3, 0.1), np.random.default_rng(0)
  orders, values = set(), {}
  for _ in range(600):
    calls.clear()
    assert jitter.random_map({'image': picture, 'label': 2}, rng)['label'] == 2
    orders.add(tuple(name for name, _ in calls))
    for name, value in calls:
      values.setdefault(name, []).append(value)
  assert orders == {*itertools.permutations(values)}
  ranges = dict(
    brightness=(0.6, 1.4), contrast=(0, 2.5), saturation=(0.7, 1.3), hue=(-0.1, 0.1)
  )
  for name, (low, high) in ranges.items():
    found, width = np.array(values[name]), high - low
    assert low <= found.min() < low + 0.02 * width
    assert high - 0.02 * width < found.max() <= high
    assert abs(found.mean() - (low + high) / 2) < 0.04 * width


def test_jitter_of_one_kind(picture):
  rng = np.random.default_rng(0)
  got = color.ColorJitter(saturation=0.5).random_map({'image': picture}, rng)['image']
  # Greys stay the same, except where values are clipped.
  grey = pillow.luma(picture).astype(int)
  assert abs(pillow.luma(got).astype(int) - grey).mean() < 2
  assert not np.array_equal(got, picture)
  assert color.ColorJitter().random_map({'image': picture}, rng)['image'] is picture


def test_grayscale(picture):
  got = color.Grayscale().map({'image': picture})['image']
  assert got.shape == picture.shape and (got == got[..., :1]).all()
  np.testing.assert_array_equal(color.Grayscale().map({'image': got})['image'], got)


def test_lighting_shifts_all_pixels_by_one_color():
  grey, rng = np.full((6, 5, 3), 128, np.uint8), np.random.default_rng(0)
  shifts = []
  for _ in range(4000):
    got = color.Lighting(std=0.4).random_map({'image': grey}, rng)['image']
    assert got.dtype == np.uint8 and (got == got[:1, :1]).all()
    shifts.append(got[0, 0].astype(float) - 128)
  vectors = color.EIGENVECTORS
  np.testing.assert_allclose(vectors.T @ vectors, np.eye(3), atol=2e-3)
  scaled = 255 * 0.4 * vectors * color.EIGENVALUES
  covariance = scaled @ scaled.T
  largest = covariance.max()
  np.testing.assert_allclose(
    np.cov(np.transpose(shifts)), covariance, atol=0.1 * largest
  )
  np.testing.assert_allclose(np.mean(shifts, 0), 0, atol=4 * (largest / 4000) ** 0.5)


def test_lighting_clips_and_may_be_off(picture):
  rng = np.random.default_rng(0)
  same = color.Lighting(std=0.0).random_map({'image': picture}, rng)['image']
  np.testing.assert_array_equal(same, picture)
  white = np.full((2, 2, 3), 255, np.uint8)
  got = [
    color.Lighting(9.0).random_map({'image': white}, rng)['image'] for _ in range(9)
  ]
  assert {0, 255} <= {*np.unique(got)}
  with pytest.raises(UserError, match='std=-1 of the lighting is negative'):
    color.Lighting(-1)


def test_solarize(picture):
  got = color.Solarize().map({'image': picture})['image']
  np.testing.assert_array_equal(got, np.where(picture < 128, picture, 255 - picture))
  dark = np.full((3, 4, 1), 60, np.uint8)
  got = color.Solarize(threshold=60).map({'image': dark})['image']
  assert got.shape == dark.shape and (got == 195).all()


def test_blur_is_drawn(picture):
  blur, rng = color.GaussianBlur((0.1, 2.0)), np.random.default_rng(0)
  deviations = [
    float(blur.random_map({'image': picture}, rng)['image'].std()) for _ in range(30)
  ]
  assert len(set(deviations)) > 25
  assert min(deviations) < 0.5 * picture.std() < 0.9 * picture.std() < max(deviations)
  kept = color.GaussianBlur((0.0, 0.0)).random_map({'image': picture}, rng)
  np.testing.assert_array_equal(kept['image'], picture)


@pytest.mark.parametrize('transform', [color.ColorJitter(0.1), color.GaussianBlur()])
def test_grey_images_are_refused(transform):
  grey = {'image': np.zeros((4, 5, 1), np.uint8), 'id': 3}
  with pytest.raises(UserError, match=r'takes uint8 \(H, W, 3\).*\(id 3\)'):
    transform.random_map(grey, np.random.default_rng(0))


@pytest.mark.parametrize(
  'make, words',
  [
    (lambda: color.ColorJitter(contrast=-0.1), 'none of these may be negative'),
    (lambda: color.ColorJitter(hue=0.6), 'hue=0.6 is more than 0.5'),
    (lambda: color.GaussianBlur((2.0, 0.1)), 'radius'),
  ],
)
def test_wrong_arguments_are_named(make, words):
  with pytest.raises(UserError, match=words):
    make()
