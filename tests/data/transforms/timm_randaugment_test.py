import collections
import pickle

import numpy as np
import pytest

from big_vision_like.data.transforms import timm_randaugment
from big_vision_like.errors import UserError


def augmented(augment, image, seed=0):
  return augment.random_map({'image': image}, np.random.default_rng(seed))['image']


def test_names():
  assert len(timm_randaugment.NAMES) == len(timm_randaugment.INCREASING) == 15
  both = {*timm_randaugment.NAMES} & {*timm_randaugment.INCREASING}
  assert both == {
    *('AutoContrast', 'Equalize', 'Invert', 'SolarizeAdd', 'Rotate'),
    *('ShearX', 'ShearY', 'TranslateX', 'TranslateY'),
  }


# The published settings of arXiv:2012.12877.
@pytest.mark.parametrize(
  'name, magnitude, sign, want',
  [
    ('PosterizeIncreasing', 9, 1, 1),
    ('PosterizeIncreasing', 0, 1, 4),
    ('Posterize', 9, 1, 3),
    ('PosterizeOriginal', 9, 1, 7),
    ('SolarizeIncreasing', 9, 1, 26),
    ('Solarize', 9, 1, 230),
    ('SolarizeAdd', 9, 1, 99),
    ('ColorIncreasing', 9, 1, 1.81),
    ('BrightnessIncreasing', 9, -1, 0.19),
    ('ContrastIncreasing', 10, -1, 0.1),
    ('SharpnessIncreasing', 0, -1, 1.0),
    ('Sharpness', 0, -1, 0.1),
    ('Rotate', 9, -1, -27.0),
    ('ShearX', 5, 1, 0.15),
    ('ShearY', 5, -1, -0.15),
    ('TranslateX', 10, 1, 0.45),
    ('TranslateY', 10, -1, -0.45),
  ],
)
def test_arguments(name, magnitude, sign, want):
  got = timm_randaugment.argument(name, magnitude, sign)
  assert got == pytest.approx(want) and type(got) is type(want)


@pytest.mark.parametrize('name', timm_randaugment.KNOWN)
@pytest.mark.parametrize('magnitude', [0.3, 9.5])
def test_every_operation_gives_a_new_image(name, magnitude, picture):
  before = picture.copy()
  got = timm_randaugment.distort(
    name, picture, magnitude, np.random.default_rng(1), (1, 2, 3), 'random'
  )
  np.testing.assert_array_equal(picture, before)
  assert got.shape == picture.shape and got.dtype == np.uint8
  assert (got != picture).any()


def test_the_policy_of_deit(picture, monkeypatch):
  drawn, magnitudes, applied = collections.Counter(), [], collections.Counter()

  def distort(name, image, magnitude, rng, fill, method):
    assert (fill, method) == ((124, 116, 104), 'bicubic')
    drawn[name] += 1
    magnitudes.append(magnitude)
    return image + np.uint8(1)

  monkeypatch.setattr(timm_randaugment, 'distort', distort)
  augment, rng = timm_randaugment.RandAugment(), np.random.default_rng(0)
  for _ in range(10_000):
    got = augment.random_map({'image': picture, 'label': 3}, rng)
    assert got['label'] == 3
    applied[int(got['image'][0, 0, 0]) - int(picture[0, 0, 0])] += 1
  # Two operations, each with probability 1/2, all 15 equally likely.
  for times, share in enumerate((0.25, 0.5, 0.25)):
    assert abs(applied[times] / 10_000 - share) < 0.02
  assert abs(len(magnitudes) / 20_000 - 0.5) < 0.015
  assert drawn.keys() == {*timm_randaugment.INCREASING}
  assert 570 < min(drawn.values()) and max(drawn.values()) < 770
  assert max(magnitudes) == 10 and min(magnitudes) > 6.5
  assert abs(np.median(magnitudes) - 9) < 0.03
  assert abs(np.mean(np.array(magnitudes) < 8.5) - 0.159) < 0.015
  assert abs(np.mean(np.array(magnitudes) == 10) - 0.023) < 0.006


def test_both_signs_and_methods_are_drawn(picture):
  def shares(name, method):
    counts = collections.Counter()
    for seed in range(200):
      rng = np.random.default_rng(seed)
      got = timm_randaugment.distort(name, picture, 3, rng, (0, 0, 0), method)
      counts[got.tobytes()] += 1
    return sorted(count / 200 for count in counts.values())

  for name in ('Rotate', 'TranslateX', 'ColorIncreasing'):
    assert shares(name, 'nearest') == pytest.approx([0.5, 0.5], abs=0.1)
  assert shares('Rotate', 'random') == pytest.approx([0.25] * 4, abs=0.1)
  assert shares('Color', 'random') == [1.0]


def test_randomness_comes_from_the_generator(picture):
  augment = pickle.loads(pickle.dumps(timm_randaugment.RandAugment(probability=1.0)))
  first, again, other = (augmented(augment, picture, seed) for seed in (0, 0, 1))
  np.testing.assert_array_equal(first, again)
  assert not np.array_equal(first, other)


def test_nothing_is_done_with_probability_zero(picture):
  augment = timm_randaugment.RandAugment(layers=5, probability=0.0)
  assert augmented(augment, picture) is picture


@pytest.mark.parametrize(
  'options, words',
  [
    (dict(layers=-1), 'layers=-1'),
    (dict(std=-0.5), 'std=-0.5'),
    (dict(probability=1.5), 'probability=1.5'),
    (dict(method='lanczos'), "method='lanczos' is not one of nearest, .*random"),
    (dict(names=('Cutout',)), 'not Cutout'),
  ],
)
def test_wrong_arguments_are_named(options, words):
  with pytest.raises(UserError, match=words):
    timm_randaugment.RandAugment(**options)


def test_grey_images_are_refused():
  with pytest.raises(UserError, match=r'RandAugment takes uint8 \(H, W, 3\), not'):
    augmented(timm_randaugment.RandAugment(), np.zeros((4, 5, 1), np.uint8))
