import pickle

import pytest

from big_vision_like.data.text import wordpiece
from big_vision_like.errors import UserError

TEXTS = [
  'A small red disc',
  'two small red discs',
  'the green ring',
  'Ünïcode, red!',
] * 2


@pytest.fixture(scope='module')
def vocabulary(tmp_path_factory):
  path = tmp_path_factory.mktemp('words') / 'vocab.txt'
  path.write_bytes(wordpiece.train(TEXTS, 50))
  return wordpiece.WordPiece(str(path))


def test_the_longest_pieces_are_taken():
  words = wordpiece.WordPiece(words=('red', 're', '##d', 'disc', '##s', 'd'))
  assert words.size == 11 and (words.pad_id, words.mask_id) == (0, 4)
  ids = words.encode('Red  discs reds')
  assert words.pieces(ids) == ['red', 'disc', '##s', 'red', '##s']
  assert words.decode([words.cls_id, *ids, words.sep_id, 5, 0]) == 'red discs reds'
  assert words.pieces(words.encode('reé')) == ['[UNK]']  # a word without its pieces
  assert words.pieces(words.encode('réd')) == ['red']  # accents are removed
  assert words.encode('') == words.encode(' \t ') == []
  assert words.encode_all(['red', 'd']) == [[5], [10]]


def test_a_text_has_no_special_tokens():
  words = wordpiece.WordPiece(words=('[', ']', 'mask'))
  assert words.pieces(words.encode('[MASK]')) == ['[', 'mask', ']']


def test_capitals_are_kept_on_demand():
  words = wordpiece.WordPiece(words=('Red', 'red'), lower=False)
  assert words.pieces(words.encode('Red red')) == ['Red', 'red']


def test_training_is_deterministic_and_covers_its_texts(vocabulary):
  assert wordpiece.train(TEXTS, 50) == wordpiece.train(iter(TEXTS), 50)
  assert vocabulary.size == 50
  for text in TEXTS:
    assert vocabulary.unk_id not in vocabulary.encode(text)
  # Only frequent words are one piece.
  assert 'red' in vocabulary.table and 'green' not in vocabulary.table


def test_fingerprint_is_of_the_content(vocabulary, tmp_path):
  moved = tmp_path / 'other.txt'
  moved.write_bytes(wordpiece.train(TEXTS, 50))
  assert wordpiece.WordPiece(str(moved)).fingerprint() == vocabulary.fingerprint()
  other = wordpiece.WordPiece(str(moved), lower=False).fingerprint()
  assert other != vocabulary.fingerprint()


def test_workers_get_a_copy(vocabulary):
  ids = vocabulary.encode('small ring')
  assert pickle.loads(pickle.dumps(vocabulary)).encode('small ring') == ids


def test_bad_vocabularies(tmp_path):
  path = tmp_path / 'vocab.txt'
  [told] = wordpiece.WordPiece(str(path)).problems()
  assert 'there is no vocabulary' in told and '--model-type wordpiece' in told
  path.write_text('[PAD]\n[UNK]\n[CLS]\nred\n')
  [told] = wordpiece.WordPiece(str(path)).problems()
  assert f'{path} lacks [SEP], [MASK]' in told
  with pytest.raises(UserError, match="the piece 'red' more than once"):
    wordpiece.WordPiece(words=('red', 'red')).encode('red')
  with pytest.raises(UserError, match='either the path of a vocab.txt or words'):
    wordpiece.WordPiece()
  with pytest.raises(UserError, match='use at least'):
    wordpiece.train(TEXTS, 10)
  with pytest.raises(UserError, match='no text to learn from'):
    wordpiece.train([' '], 10)
