import collections

import numpy as np
import pytest

from big_vision_like.data.transforms import autoaugment, randaugment, timm_randaugment
from big_vision_like.errors import UserError


@pytest.mark.parametrize('name', autoaugment.POLICIES)
def test_policies_are_tables_of_known_operations(name):
  policy = autoaugment.POLICIES[name]
  assert len(policy) == 25 and all(len(parts) == 2 for parts in policy)
  for operation, probability, magnitude in sum(policy, ()):
    assert operation in timm_randaugment.KNOWN
    assert 0 <= probability <= 1 and 0 <= magnitude <= 10
    assert round(probability * 10, 6) % 1 == 0 and magnitude % 1 == 0


def test_tensorflow_has_the_operations_of_v0():
  assert {name for parts in autoaugment.V0 for name, *_ in parts} <= {
    *randaugment.NAMES
  }


def test_sub_policies_are_drawn_with_their_probabilities():
  policy = (
    (('Invert', 1.0, 3), ('Equalize', 0.0, 4)),
    (('Color', 0.3, 5), ('Rotate', 0.6, 6)),
  )
  rng, counts = np.random.default_rng(0), collections.Counter()
  for _ in range(4000):
    counts[tuple(autoaugment.drawn(policy, rng))] += 1
  color, rotate = ('Color', 5), ('Rotate', 6)
  want = {
    (('Invert', 3),): 0.5,
    (): 0.14,
    (color,): 0.06,
    (rotate,): 0.21,
    (color, rotate): 0.09,
  }
  assert counts.keys() == want.keys()
  for drawn, share in want.items():
    assert abs(counts[drawn] / 4000 - share) < 0.03


@pytest.mark.parametrize('std, spread', [(0.0, False), (0.5, True)])
def test_images_get_sub_policies(std, spread, picture, monkeypatch):
  seen = collections.defaultdict(set)

  def distort(name, image, magnitude, rng, fill, method, translate):
    assert (fill, method, translate) == ((1, 2, 3), 'nearest', 0.3)
    seen[name].add(magnitude)
    return image

  monkeypatch.setattr(timm_randaugment, 'distort', distort)
  augment = autoaugment.AutoAugment('cifar10', std, 'nearest', (1, 2, 3), 0.3)
  rng = np.random.default_rng(0)
  for _ in range(2000):
    example = augment.random_map({'image': picture, 'label': 1}, rng)
    assert example['image'] is picture and example['label'] == 1
  table = {name for parts in autoaugment.CIFAR10 for name, *_ in parts}
  assert seen.keys() == table
  assert (len(seen['TranslateX']) > 2) == spread
  assert all(0 <= magnitude <= 10 for values in seen.values() for magnitude in values)


def test_magnitudes_of_tensorflow_operations(picture, monkeypatch):
  seen = {}

  def distort(name, image, magnitude, rng, at_ten):
    seen[name] = randaugment.argument(name, magnitude, at_ten)
    return image

  monkeypatch.setattr(randaugment, 'distort', distort)
  monkeypatch.setattr(autoaugment, 'V0', ((('TranslateY', 1.0, 9),),))
  augment = autoaugment.EfficientNetAutoAugment()
  augment.random_map({'image': picture}, np.random.default_rng(0))
  assert seen == {'TranslateY': 225.0}


@pytest.mark.parametrize(
  'make',
  [*map(autoaugment.AutoAugment, autoaugment.POLICIES)]
  + [autoaugment.EfficientNetAutoAugment()],
  ids=str,
)
def test_randomness_comes_from_the_generator(make, picture):
  def results(seed):
    rng, before = np.random.default_rng(seed), picture.copy()
    images = [make.random_map({'image': picture}, rng)['image'] for _ in range(20)]
    np.testing.assert_array_equal(picture, before)
    assert all(x.shape == picture.shape and x.dtype == np.uint8 for x in images)
    return np.stack(images)

  first = results(0)
  np.testing.assert_array_equal(first, results(0))
  assert not np.array_equal(first, results(1))
  assert (first != picture).any(axis=(1, 2, 3)).mean() > 0.5


@pytest.mark.parametrize(
  'options, words',
  [
    (dict(policy='svhn'), "policy='svhn' is not one of imagenet, v0, cifar10"),
    (dict(std=-1), 'std=-1 must not be negative'),
    (dict(method='area'), "method='area' is not one of"),
  ],
)
def test_wrong_arguments_are_named(options, words):
  with pytest.raises(UserError, match=words):
    autoaugment.AutoAugment(**options)
