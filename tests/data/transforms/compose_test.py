import collections
import dataclasses
import json
import pickle

import grain
import numpy as np
import pytest

from big_vision_like.data.transforms import compose, image
from big_vision_like.errors import UserError
from big_vision_like.spec import build, spec


@dataclasses.dataclass(frozen=True)
class Add(grain.transforms.Map):
  value: int

  def map(self, example):
    return example | {'image': example['image'] + np.uint8(self.value)}


@dataclasses.dataclass(frozen=True)
class AddRandom(grain.transforms.RandomMap):
  def random_map(self, example, rng):
    return example | {'image': example['image'] + np.uint8(rng.integers(100))}


def seen(transform, draws=1000):
  rng, example = np.random.default_rng(0), {'image': np.zeros((2, 2, 3), np.uint8)}
  return collections.Counter(
    transform.random_map(example, rng)['image'].flat[0].item() for _ in range(draws)
  )


def test_all_or_nothing():
  counts = seen(compose.Sometimes([Add(1), Add(2)], probability=0.3))
  assert counts.keys() == {0, 3} and 240 < counts[3] < 360
  assert seen(compose.Sometimes([AddRandom()], probability=1.0))[0] < 30
  assert seen(compose.Sometimes([Add(1)], probability=0.0)).keys() == {0}


def test_one_of_several():
  counts = seen(compose.OneOf([Add(1), Add(2), Add(3), AddRandom()]))
  assert all(200 < counts[value] < 310 for value in (1, 2, 3))
  assert len(counts) > 60


@pytest.fixture(scope='module')
def picture():
  return np.random.default_rng(0).integers(0, 256, (60, 80, 3), dtype=np.uint8)


def multi_crop():
  large = [spec(image.InceptionCrop, size=24, area=(0.4, 1.0)), spec(image.Flip)]
  small = [spec(image.InceptionCrop, size=8, area=(0.05, 0.4))]
  return spec(compose.MultiCrop, views=dict(image=[large] * 2, local_image=[small] * 6))


def test_views_of_an_image(picture):
  crop = pickle.loads(pickle.dumps(build(multi_crop())))
  example = {'image': picture, 'label': 4}
  got = crop.random_map(example, np.random.default_rng(0))
  assert got['image'].shape == (2, 24, 24, 3) and got['label'] == 4
  assert got['local_image'].shape == (6, 8, 8, 3)
  assert got['local_image'].dtype == got['image'].dtype == np.uint8
  views = [*got['image'], *got['local_image']]
  assert len({view.tobytes() for view in views}) == 8  # each has its own randomness
  again = crop.random_map(example, np.random.default_rng(0))
  for name in ('image', 'local_image'):
    np.testing.assert_array_equal(got[name], again[name])
  assert example['image'] is picture


def test_views_as_plain_data():
  config = multi_crop()
  json.loads(config.to_json())
  config.views.local_image = config.views.local_image[:1]
  assert len(build(config).views['local_image']) == 1


def test_views_of_several_sizes_are_refused(picture):
  crop = compose.MultiCrop({'image': [[image.CentralCrop(9)], [image.CentralCrop(8)]]})
  with pytest.raises(UserError, match=r"views 'image' have .* \(9x9x3, 8x8x3\)"):
    crop.random_map({'image': picture}, np.random.default_rng(0))


@pytest.mark.parametrize(
  'make, words',
  [
    (lambda: compose.OneOf([]), 'OneOf needs transforms'),
    (lambda: compose.Sometimes([], 1.2), 'probability=1.2 is not'),
    (lambda: compose.MultiCrop({'local_image': []}), "'local_image' needs at least"),
    (lambda: compose.Beside([image.Flip()]), 'Flip is random, but the extra image'),
  ],
)
def test_wrong_arguments_are_named(make, words):
  with pytest.raises(UserError, match=words):
    make()


def test_a_clean_copy_next_to_the_augmented_image(picture):
  made = compose.Beside([image.CentralCrop(4), Add(1)]).map({'image': picture, 'id': 3})
  np.testing.assert_array_equal(made['image'], picture)
  np.testing.assert_array_equal(
    made['teacher_image'], image.CentralCrop(4).map({'image': picture})['image'] + 1
  )
  assert made['id'] == 3
