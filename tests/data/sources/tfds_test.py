import dataclasses
import pickle
import sys

import numpy as np
import pytest
import texts

from big_vision_like.data.sources import catalogue, tfds
from big_vision_like.data.transforms import image, text
from big_vision_like.errors import UserError


@pytest.fixture(scope='module')
def digits(data_dir):
  return tfds.Tfds('digits', 'train', data_dir=str(data_dir))


def test_examples_of_a_data_set(digits):
  source = dataclasses.replace(digits, split='test')
  assert len(source) == 450
  example = source[3]
  assert example.keys() == {'image', 'label', 'id'}
  assert isinstance(example['image'], bytes)
  decoded = image.Decode(channels=1).map(example)['image']
  assert decoded.shape == (8, 8, 1) and decoded.dtype == np.uint8
  assert source[3] == example and source[4] != example


def test_label_names(digits, data_dir):
  assert digits.label_names == list('0123456789')
  names = tfds.Tfds('glyphs/32', data_dir=str(data_dir)).label_names
  assert len(names) == len(set(names)) == 62


def test_a_source_can_be_pickled(digits):
  before = digits[7]
  copy = pickle.loads(pickle.dumps(digits))
  assert copy == digits and 'records' not in copy.__dict__
  assert copy[7] == before


def test_a_data_set_that_is_not_prepared_is_named_with_the_command(tmp_path):
  source = tfds.Tfds('digits', data_dir=str(tmp_path))
  with pytest.raises(UserError) as error:
    len(source)
  assert str(error.value) == (
    f"data set 'digits' is not at {tmp_path}/digits/1.0.0. Prepare it with:"
    f' python tools/prepare_data.py digits --data-dir {tmp_path}'
  )


def test_the_default_folder_is_not_part_of_the_command():
  wanted = [tfds.Tfds('digits'), tfds.Tfds('glyphs/32')]
  command = 'Prepare it with: python tools/prepare_data.py digits glyphs/32'
  assert tfds.remedy(wanted) == command


def test_the_error_of_an_unknown_split_lists_the_known_ones(digits):
  with pytest.raises(UserError) as error:
    len(dataclasses.replace(digits, split='validation'))
  message, _, splits = str(error.value).partition('; it has ')
  assert message == "digits has no split 'validation'"
  assert sorted(splits.removesuffix('.').split(', ')) == ['test', 'train']


@pytest.mark.parametrize('name', ['digitz', 'glyphs/33'])
def test_an_unknown_data_set_is_named(name, data_dir):
  with pytest.raises(UserError, match=f"TFDS knows no data set '{name}'"):
    len(tfds.Tfds(name, data_dir=str(data_dir)))


@pytest.fixture(scope='module')
def pairs(tmp_path_factory):
  folder = str(tmp_path_factory.mktemp('texts'))
  return tfds.Tfds(texts.prepared(texts.TinyTranslation, folder), data_dir=folder)


def test_translations_are_read_without_tensorflow(pairs, vocabulary):
  assert len(pairs) == len(texts.PAIRS)
  assert pairs[5] == {k: v.encode() for k, v in texts.PAIRS[5].items()}
  assert pairs.label_names is None
  example = text.Tokenize(vocabulary, source='de', target='en').map(pairs[5])
  for name, feature in (('source', 'de'), ('target', 'en')):
    assert vocabulary.decode(example[name].tolist()) == texts.PAIRS[5][feature]
  assert 'tensorflow' not in sys.modules


def test_texts_are_read_beside_other_features(tmp_path, vocabulary):
  name = texts.prepared(texts.TinyTexts, tmp_path)
  source = tfds.Tfds(name, data_dir=str(tmp_path))
  example = text.Tokenize(vocabulary, source='en', target='de').map(source[8])
  assert example['id'] == 108
  assert vocabulary.decode(example['target'].tolist()) == texts.PAIRS[8]['de']


def test_translations_of_the_catalogue_are_found_without_tensorflow(tmp_path):
  # Without TensorFlow, TFDS itself would not find them.
  with pytest.raises(UserError, match='prepare_data.py wmt14_translate/de-en '):
    len(tfds.Tfds('wmt14_translate/de-en', data_dir=str(tmp_path)))


def test_data_sets_of_this_package_are_found_by_their_files(tmp_path, monkeypatch):
  assert {'digits', 'multi_object'} <= {*catalogue.ours()}
  (tmp_path / 'procedural').mkdir()
  for name in ('some_set', 'helper'):
    file = tmp_path / 'procedural' / f'{name}.py'
    file.write_text('class SomeSet(drawing.Pictures):\n  pass\n')
  monkeypatch.setattr(catalogue, 'DATA', tmp_path)
  assert catalogue.ours() == ['some_set']
