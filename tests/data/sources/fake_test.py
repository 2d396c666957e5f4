"""Tests that fake examples have the features of the data sets that they stand for."""

import pickle

import numpy as np
import pytest
import tensorflow_datasets as tfds

from big_vision_like.data.input import pipeline
from big_vision_like.data.procedural import fact_sentences
from big_vision_like.data.sources import fake
from big_vision_like.data.sources import tfds as sources
from big_vision_like.data.transforms import image, objects
from big_vision_like.errors import UserError


def test_examples_of_a_data_set_are_as_tfds_reads_them(data_dir):
  real, made_up = sources.Tfds('digits')[0], fake.Fake('digits')[0]
  assert real.keys() == made_up.keys()
  for name, value in real.items():
    assert type(made_up[name]) is type(value), name
  decode = image.Decode(channels=1)
  assert decode.map(made_up)['image'].shape == decode.map(real)['image'].shape


def test_a_data_set_that_is_not_there_has_the_features_of_the_catalogue():
  example = fake.Fake('clevr', 'train[:90%]+train[95%:]')[3]
  assert image.Decode().map(example)['image'].shape[2] == 3
  assert example['objects'].keys() >= {'pixel_coords', 'color'}
  assert fake.THINGS[0] <= len(example['objects']['color']) <= fake.THINGS[1]
  assert example['objects']['pixel_coords'][0].shape == (3,)
  text = fake.Fake('wmt14_translate/fr-en', 'test')[0]
  assert text.keys() == {'en', 'fr'} and set(text['en'].decode().split()) <= {
    *fake.WORDS
  }


def test_a_segmentation_has_few_ids():
  decode = objects.DecodeSegmentation()
  source = fake.Fake('solids/discovery', 'crowded')
  for example in map(source.__getitem__, range(3)):
    ids = decode.map(example)['segmentation']
    assert ids.shape == (128, 128) and ids.dtype == np.uint8
    assert 3 < len({*ids.flat}) <= 10 and ids.max() <= 9


def test_some_images_of_a_multi_label_data_set_have_no_labels():
  source = fake.Fake('imagenet2012_real', 'validation')
  counts = {len(source[i]['real_label']) for i in range(len(source))}
  assert min(counts) == 0 and max(counts) > 1


def test_labels_go_from_the_lowest_to_the_highest_in_turn():
  def labels(name, **kwargs):
    source = fake.Fake(name, **kwargs)
    return [int(source[i]['label']) for i in range(5)]

  assert labels('oxford_flowers102') == [0, 33, 67, 101, 0]
  assert labels('no_such_data', classes=10) == [0, 3, 6, 9, 0]
  assert labels('i_naturalist2018', classes=10) == [0, 3, 6, 9, 0]


def test_examples_depend_on_name_split_and_index():
  first, again = (fake.Fake('cifar10', 'train')[1] for _ in range(2))
  assert first == again == pickle.loads(pickle.dumps(fake.Fake('cifar10')))[1]
  images = {first['image'], fake.Fake('cifar10', 'test')[1]['image']}
  images |= {fake.Fake('cifar10')[2]['image'], fake.Fake('cifar100')[1]['image']}
  assert len(images) == 4


def test_a_pipeline_reads_fake_examples():
  data = pipeline.EvalInput(
    source=fake.Fake('no_such_data', 'full[100:]', examples=5),
    transforms=[image.Decode(), image.Resize(size=16)],
    batch_size=4,
  )
  batches = list(data.epoch())
  assert [int(batch['mask'].sum()) for batch in batches] == [4, 1]
  assert batches[0]['image'].shape == (4, 16, 16, 3)
  with pytest.raises(IndexError):
    data.source[5]


def test_a_split_that_tfds_cannot_read_is_refused():
  with pytest.raises(UserError, match=r"cifar10 has no split 'train\[:80%'"):
    fake.Fake('cifar10', 'train[:80%')


@pytest.mark.parametrize(
  'feature, shape, dtype',
  [
    (tfds.features.Tensor(shape=(None, 2), dtype=np.float32), (3, 2), np.float32),
    (tfds.features.Scalar(np.bool_), (), np.bool_),
    (tfds.features.Image(shape=(6, 7, 1)), None, bytes),
    (tfds.features.BBoxFeature(), (4,), np.float32),
  ],
)
def test_values_of_a_feature(feature, shape, dtype, monkeypatch):
  features = tfds.features.FeaturesDict({'it': feature})
  monkeypatch.setattr(fake, 'catalogued', lambda name: features)
  value = fake.Fake('some')[0]['it']
  if shape is None:
    assert type(value) is dtype
  else:
    assert np.shape(value) == shape and np.asarray(value).dtype == dtype


def test_a_feature_without_fake_values(monkeypatch):
  feature = tfds.features.Image(shape=(4, 4, 1), dtype=np.uint16)
  features = tfds.features.FeaturesDict({'depth': feature})
  monkeypatch.setattr(fake, 'catalogued', lambda name: features)
  with pytest.raises(
    UserError, match=r'values of some\.depth \(feature Image\) cannot be made up'
  ):
    fake.Fake('some')[0]


def test_a_module_of_ours_may_make_up_examples():
  example = fake.Fake('fact_sentences', 'train')[3]
  drawn = fact_sentences.draw(fact_sentences.FactsConfig(name='any'), 'train', 3)
  assert [word.decode() for word in example['words']] == drawn['words']
  assert example['entities'].tolist() == drawn['entities'].tolist()
