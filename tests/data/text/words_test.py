import json

import pytest

from big_vision_like.data.text import words
from big_vision_like.errors import UserError


@pytest.mark.parametrize(
  ('text', 'want'),
  [
    ("A man's dog doesn't bark.", "a man 's dog does n't bark"),
    ('Two T-shirts, "one" (red) & 3.5 cats!', 'two t-shirts one red & 3.5 cats'),
    ('They\u2019re here...', "they 're here"),
    (' .,! ', ''),
    ("it can't", "it ca n't"),
  ],
)
def test_words_of_the_coco_evaluation(text, want):
  assert words.split_words(text) == want.split()


def test_frequent_words():
  texts = ['a dog a cat', 'A dog.', 'a bird']
  kept, unknown = words.frequent(texts, least=2)
  assert kept == ['a', 'dog']
  assert unknown == 2 / 8
  assert words.frequent([], 2) == ([], 0.0)


def test_given_words_and_a_file_are_the_same_vocabulary(tmp_path):
  given = words.Words(words=('a', 'dog'))
  file = tmp_path / 'words.json'
  file.write_text(json.dumps(words.numbered(['a', 'dog'])))
  read = words.Words(path=str(file))
  assert read.fingerprint() == given.fingerprint() and read.size == 6
  ids = given.encode('A dog sees a cat')
  assert ids == [4, 5, 3, 4, 3]
  assert given.decode([1, *ids, 2, 5, 0]) == 'a dog <unk> a <unk>'
  assert given.pieces([5, 99]) == ['dog', '<unk>']


def test_the_word_map_of_the_tutorial(tmp_path):
  file = tmp_path / 'WORDMAP.json'
  file.write_text(
    '{"a": 1, "dog": 2, "<unk>": 3, "<start>": 4, "<end>": 5, "<pad>": 0}'
  )
  read = words.Words(path=str(file))
  assert (read.bos_id, read.eos_id, read.unk_id, read.size) == (4, 5, 3, 6)
  assert read.decode([4, 1, 2, 5, 1]) == 'a dog'


@pytest.mark.parametrize(
  ('content', 'message'),
  [
    ('[]', 'is not a vocabulary'),
    ('{"a": 1}', 'a different id for each word, 0 and up without gaps'),
    ('{"a": 0, "b": 1}', 'lacks <pad>, <start>, <end>, <unk>'),
    ('{"a": 0, "<pad>": 1, "<start>": 2, "<end>": 3, "<unk>": 4}', 'has <pad> as 1'),
    ('{"a": "b"}', 'a different id for each word'),
  ],
)
def test_files_that_are_no_vocabulary(content, message, tmp_path):
  file = tmp_path / 'words.json'
  file.write_text(content)
  (problem,) = words.Words(path=str(file)).problems()
  assert message in problem and 'words.json' in problem


def test_a_missing_vocabulary_names_the_command_that_makes_it(tmp_path):
  (problem,) = words.Words(path=str(tmp_path / 'w.json')).problems()
  assert 'tools/count_words.py' in problem
  with pytest.raises(UserError, match='either the path of a vocabulary or its words'):
    words.Words()
