import numpy as np
import pytest
import tensorflow_datasets as tfds
from sklearn import datasets, model_selection

from big_vision_like.data.procedural import digits


@pytest.fixture(scope='module')
def builder(tmp_path_factory):
  tfds.disable_progress_bar()
  builder = digits.Digits(data_dir=tmp_path_factory.mktemp('digits'))
  builder.download_and_prepare(file_format='array_record')
  return builder


def test_the_split_is_the_one_of_the_published_numbers(builder):
  scans = datasets.load_digits()
  train, test = model_selection.train_test_split(
    np.arange(1797), test_size=450, random_state=0, stratify=scans.target
  )
  for split, ids in [('train', train), ('test', test)]:
    records = list(builder.as_data_source(split=split))
    assert [record['id'] for record in records] == ids.tolist()
    assert [record['label'] for record in records] == scans.target[ids].tolist()
  assert (len(train), len(test)) == (1347, 450)


def test_grey_levels_spread_over_a_byte(builder):
  scans = datasets.load_digits().images
  levels = set()
  for record in builder.as_data_source(split='test'):
    image = record['image']
    assert image.shape == (8, 8, 1)
    assert image.dtype == np.uint8
    exact = scans[record['id']] * 255 / 16
    assert np.abs(image[..., 0] - exact).max() <= 0.5
    levels |= set(image.ravel().tolist())
  assert len(levels) == 17
  assert (min(levels), max(levels)) == (0, 255)


def test_features_name_the_classes(builder):
  features = builder.info.features
  assert features['label'].names == list('0123456789')
  assert features['id'].np_dtype == np.int64
  assert features['image'].encoding_format == 'png'
