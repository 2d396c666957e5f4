import dataclasses

import numpy as np
import pytest

from big_vision_like.data import pipeline
from big_vision_like.data.transforms import text
from big_vision_like.errors import UserError

PAIR = {'de': 'Der Hund mag den Bär.', 'en': 'The dog likes the bear.'}


@pytest.fixture
def tokenize(vocabulary):
  return text.Tokenize(vocabulary, source='de', target='en')


@pytest.mark.parametrize('as_bytes', [False, True])
def test_texts_become_ids_that_end_with_eos(tokenize, vocabulary, as_bytes):
  pair = {k: v.encode() if as_bytes else v for k, v in PAIR.items()}
  example = tokenize.map(pair)
  assert example.keys() == {'source', 'target'}
  for name, feature in (('source', 'de'), ('target', 'en')):
    assert example[name].dtype == np.int32
    assert example[name].tolist() == [*vocabulary.encode(PAIR[feature]), 2]


def test_id_and_mask_stay_and_nothing_else(tokenize):
  example = tokenize.map(PAIR | {'id': 5, 'mask': np.bool_(True), 'url': 'x'})
  assert example.keys() == {'source', 'target', 'id', 'mask'}
  assert (example['id'], example['mask']) == (5, True)


def test_max_length_keeps_eos(tokenize):
  whole = tokenize.map(PAIR)
  cut = dataclasses.replace(tokenize, max_length=4).map(PAIR)
  for name in 'source', 'target':
    assert cut[name].tolist() == [*whole[name][:3], 2]
  same = dataclasses.replace(tokenize, max_length=len(whole['source'])).map(PAIR)
  assert same['source'].tolist() == whole['source'].tolist()
  with pytest.raises(UserError, match='max_length=1 leaves no room'):
    dataclasses.replace(tokenize, max_length=1)


@pytest.mark.parametrize('empty', ['', '  \n', b''])
def test_an_empty_source_is_told_with_the_example(tokenize, empty):
  with pytest.raises(UserError) as error:
    tokenize.map(PAIR | {'de': empty, 'id': 12})
  assert str(error.value).startswith(
    "the text 'de' of the example with id 12 is empty ('en' is 'The dog likes the bear."
  )


def test_an_empty_target_is_eos(tokenize):
  assert tokenize.map(PAIR | {'en': ''})['target'].tolist() == [2]


def test_features_that_are_no_texts_are_told(tokenize):
  with pytest.raises(UserError, match="no text 'en'; they have de, id"):
    tokenize.map({'de': 'Hund', 'id': 1})
  with pytest.raises(UserError, match="'en' is no text but int"):
    tokenize.map({'de': 'Hund', 'en': 1})


def test_padding_behind_eos():
  example = {'source': np.int32([5, 6, 2]), 'target': np.int32([7, 2]), 'id': 3}
  padded = text.Pad(source_length=5, target_length=2).map(example)
  assert padded['source'].tolist() == [5, 6, 2, 0, 0]
  assert padded['target'].tolist() == [7, 2]
  assert padded['source'].dtype == padded['target'].dtype == np.int32
  assert padded['id'] == 3


def test_a_longer_sequence_is_an_error_or_cut():
  example = {'source': np.int32([5, 2]), 'target': np.int32([7, 8, 9, 2]), 'id': 3}
  with pytest.raises(UserError) as error:
    text.Pad(source_length=3, target_length=3).map(example)
  assert str(error.value) == (
    'the target of the example with id 3 has 4 tokens with EOS: more than'
    ' target_length=3; raise it, or set truncate.'
  )
  cut = text.Pad(source_length=3, target_length=3, truncate=True).map(example)
  assert cut['target'].tolist() == [7, 8, 2]
  assert cut['source'].tolist() == [5, 2, 0]


def test_batches_of_texts_in_workers(tokenize):
  source = [PAIR | {'id': np.int64(i)} for i in range(3)]
  data = pipeline.EvalInput(
    source=source, batch_size=2, transforms=[tokenize, text.Pad(16, 16)], workers=1
  )
  batches = list(data.epoch())
  assert [batch['mask'].tolist() for batch in batches] == [[True, True], [True, False]]
  assert batches[0]['source'].shape == batches[0]['target'].shape == (2, 16)
  want = [*tokenize.map(PAIR)['target'], *[0] * 16][:16]
  assert batches[1]['target'].tolist() == [want, want]
