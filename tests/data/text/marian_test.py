import json
import pickle

import marian_folder
import pytest
import texts

from big_vision_like.data.text import marian
from big_vision_like.data.text.marian import MarianVocabulary
from big_vision_like.errors import UserError


@pytest.fixture(scope='module')
def folder(tmp_path_factory):
  return str(marian_folder.write(tmp_path_factory.mktemp('marian')))


@pytest.mark.parametrize('side, language', [('source', 'en'), ('target', 'de')])
def test_texts_come_back(folder, side, language):
  vocabulary = MarianVocabulary(folder, side)
  again = pickle.loads(pickle.dumps(vocabulary))
  for pair in texts.PAIRS[::20]:
    ids = vocabulary.encode(pair[language])
    assert vocabulary.eos_id not in ids and vocabulary.pad_id not in ids
    padded = [*ids, vocabulary.eos_id, vocabulary.pad_id]
    assert vocabulary.decode(padded) == pair[language]
    assert again.encode(pair[language]) == ids


def test_both_sides_share_ids(folder):
  source, target = (MarianVocabulary(folder, side) for side in ('source', 'target'))
  assert (source.eos_id, source.bos_id) == (0, source.pad_id)
  assert source.pad_id == len(source.ids) - 1
  german = target.encode('Der Hund jagt den Kater.')
  assert source.decode(german) == 'Der Hund jagt den Kater.'


def test_languages_are_one_token(folder):
  vocabulary = MarianVocabulary(folder)
  assert vocabulary.languages == marian_folder.LANGUAGES
  code, *rest = vocabulary.encode('>>nds<< The dog')
  assert code == vocabulary.ids['>>nds<<']
  assert rest == vocabulary.encode('The dog')
  assert vocabulary.encode('>>xyz<< The dog') == [vocabulary.ids['<unk>'], *rest]


@pytest.mark.parametrize(
  'text, parts',
  [
    ('>>fra<< a', ('>>fra<<', ' a')),
    ('a >>fra<<', ('', 'a >>fra<<')),
    ('>> a', ('', '>> a')),
    ('<< a', ('', '<< a')),
    ('', ('', '')),
  ],
)
def test_split_language(text, parts):
  assert marian.split_language(text) == parts


def test_unknown_languages_and_characters(folder):
  vocabulary = MarianVocabulary(folder)
  assert vocabulary.ids['<unk>'] in vocabulary.encode('ж')
  assert vocabulary.decode([vocabulary.ids['<unk>']]) == '⁇'
  assert vocabulary.decode([10**6]) == '⁇'
  # Text that looks like a special token is still text.
  assert vocabulary.eos_id not in vocabulary.encode('the </s> dog')


def test_folders_that_do_not_fit(folder, tmp_path):
  with pytest.raises(UserError, match="side='both' is not one of 'source', 'target'"):
    MarianVocabulary(folder, 'both')
  with pytest.raises(UserError, match='vocab.json cannot be read: No such file'):
    MarianVocabulary(str(tmp_path))
  file = tmp_path / 'vocab.json'
  file.write_text('[')
  with pytest.raises(UserError, match='vocab.json is not JSON'):
    MarianVocabulary(str(tmp_path))
  file.write_text('["a"]')
  with pytest.raises(UserError, match='does not have a number for each'):
    MarianVocabulary(str(tmp_path))
  for ids, words in (
    ({'a': -1}, 'not have a number'),
    ({'a': 1, 'b': 1}, 'with number 1'),
  ):
    file.write_text(json.dumps(ids))
    with pytest.raises(UserError, match=words):
      MarianVocabulary(str(tmp_path))
  file.write_text(json.dumps({'</s>': 0, '<unk>': 1}))
  with pytest.raises(UserError, match="has no '<pad>'"):
    MarianVocabulary(str(tmp_path))
  file.write_text(json.dumps({'</s>': 0, '<unk>': 1, '<pad>': 2}))
  with pytest.raises(UserError, match='has no source.spm'):
    MarianVocabulary(str(tmp_path)).encode('a')
  (tmp_path / 'source.spm').write_bytes(b'no model')
  with pytest.raises(UserError, match='source.spm is not a sentencepiece model'):
    MarianVocabulary(str(tmp_path)).encode('a')
