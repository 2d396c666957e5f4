import pickle
import sys

import pytest
import sentencepiece
import texts

from big_vision_like.data.text.vocabulary import SentencePiece
from big_vision_like.errors import UserError

TEXT = 'Der Käfer jagt den Bär oft, sehr oft.'


def test_a_text_goes_to_ids_and_back(vocabulary):
  ids = vocabulary.encode(TEXT)
  assert all(type(i) is int and 4 <= i < vocabulary.size == 150 for i in ids)
  assert vocabulary.decode(ids) == TEXT
  assert ''.join(vocabulary.pieces(ids)).replace('▁', ' ').strip() == TEXT
  assert 'Kä' not in vocabulary.pieces(ids)[0] and vocabulary.pieces([0, 1, 2, 3]) == [
    '<pad>',
    '<s>',
    '</s>',
    '<unk>',
  ]


def test_ids_with_a_meaning(vocabulary):
  v = vocabulary
  assert (v.pad_id, v.bos_id, v.eos_id, v.unk_id) == (0, 1, 2, 3)


@pytest.mark.parametrize('copies', [1, 4])  # on one thread, on all threads
def test_many_texts_as_one_by_one(vocabulary, copies):
  several = [pair['de'] for pair in texts.PAIRS] * copies
  assert vocabulary.encode_all(several) == [vocabulary.encode(t) for t in several]


def test_decoding_stops_at_eos_and_drops_special_ids(vocabulary):
  ids = vocabulary.encode(TEXT)
  assert vocabulary.decode([1, 0, *ids, 2, *ids, 0]) == TEXT
  assert vocabulary.decode([2]) == vocabulary.decode([]) == ''


def test_ids_that_are_not_in_the_vocabulary_are_unknown(vocabulary):
  # A model may have more ids than the vocabulary, for efficiency on its hardware.
  assert vocabulary.decode([150, 9999]) == vocabulary.decode([3, 3]) != ''
  assert vocabulary.pieces([9999]) == ['<unk>']


def test_it_is_pickled_without_the_loaded_model(vocabulary):
  ids = vocabulary.encode(TEXT)
  copy = pickle.loads(pickle.dumps(vocabulary))
  assert copy == vocabulary and 'processor' not in copy.__dict__
  assert copy.encode(TEXT) == ids


def test_a_missing_file_is_reported_with_the_command_that_makes_it(tmp_path):
  path = str(tmp_path / 'v.model')
  with pytest.raises(UserError) as error:
    SentencePiece(path, recipe='wmt14_translate/de-en --features de en --size 9').size  # noqa: B018
  assert str(error.value) == (
    f'there is no vocabulary {path}. Make it with: python tools/train_tokenizer.py'
    f' wmt14_translate/de-en --features de en --size 9 --out {path}'
  )


def test_a_file_that_is_not_a_model(tmp_path):
  (tmp_path / 'v.model').write_text('not a model')
  with pytest.raises(UserError, match=r'v\.model is not a sentencepiece model'):
    SentencePiece(str(tmp_path / 'v.model')).encode('a')


def test_padding_must_be_zero(tmp_path):
  sentencepiece.SentencePieceTrainer.train(
    sentence_iterator=iter(['aaa bb', 'bb a']),
    model_prefix=str(tmp_path / 'v'),
    model_type='char',
    vocab_size=6,
    minloglevel=2,
  )
  with pytest.raises(UserError, match='has padding as id -1 and EOS as 2'):
    SentencePiece(str(tmp_path / 'v.model')).encode('a')


def test_a_missing_package_is_named_with_its_extra(vocabulary, monkeypatch):
  monkeypatch.setitem(sys.modules, 'sentencepiece', None)
  with pytest.raises(UserError, match='install the extra `text`'):
    SentencePiece(vocabulary.path).encode('a')
