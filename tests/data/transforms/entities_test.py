import numpy as np
import pytest

from big_vision_like.data.sources import tagged_words
from big_vision_like.data.text import wordpiece
from big_vision_like.data.transforms import entities
from big_vision_like.errors import BadRecordError, UserError

VOCABULARY = wordpiece.WordPiece(words=('an', 'lives', 'in', '##na', 'rome', '.'))
TAG = entities.Tag(
  vocabulary=VOCABULARY,
  kinds=('person', 'place'),
  relations=('knows', 'lives_in'),
  length=10,
  max_words=6,
  max_entities=3,
)
WORDS = ['Anna', 'lives', 'in', 'Old', 'Rome', '.']
FOUND = [(0, 0, 'person'), (3, 4, 'place')]


def example(words=WORDS, found=FOUND, related=((0, 1, 'lives_in'),)):
  return tagged_words.example(words, found, related, 7)


def test_arrays_of_a_sentence():
  made = TAG.map(example())
  pieces = VOCABULARY.pieces(made['tokens'][made['token_mask']].tolist())
  assert pieces == [
    *('[CLS]', 'an', '##na', 'lives', 'in', '[UNK]', 'rome', '.', '[SEP]')
  ]
  assert made['first'].tolist() == [1, 3, 4, 5, 6, 7]
  assert made['word_mask'].all()
  assert made['tags'].tolist() == [1, 0, 0, 3, 4, 0]
  assert made['spans'].tolist() == [[0, 0], [3, 4], [0, 0]]
  assert made['kinds'].tolist() == [0, 1, 0]
  assert made['entity_mask'].tolist() == [True, True, False]
  assert made['relations'].tolist() == [[0, 2, 0], [0, 0, 0], [0, 0, 0]]


def test_texts_of_tfds_and_texts_are_equal():
  stored = example()
  stored['words'] = [word.encode() for word in stored['words']]
  for name in ('entity_kinds', 'pair_names'):
    stored[name] = np.array([text.encode() for text in stored[name]], object)
  for name, array in TAG.map(example()).items():
    np.testing.assert_array_equal(array, TAG.map(stored)[name])


def test_sentences_without_entities():
  made = TAG.map(entities.unlabelled(WORDS))
  assert not made['tags'].any() and not made['entity_mask'].any()


@pytest.mark.parametrize(
  ('change', 'kind', 'sentence'),
  [
    (dict(words=WORDS * 2), BadRecordError, '12 words, and there is room for 6'),
    (dict(words=['Anna'] * 5), BadRecordError, '12 word pieces .* room for length=10'),
    (dict(words=[], found=[], related=()), BadRecordError, 'no words'),
    (dict(found=FOUND * 2), BadRecordError, '4 entities, and there is room for 3'),
    (
      dict(found=[(0, 0, 'persn')], related=()),
      UserError,
      "kind of entity 'persn', which is not one of kinds=person, place; did you mean"
      " 'person'",
    ),
    (
      dict(related=[(0, 1, 'hates')]),
      UserError,
      "relation 'hates', which is not one of relations=knows, lives_in",
    ),
    (dict(related=[(0, 2, 'knows')]), BadRecordError, 'of entities 0 and 2'),
    (dict(related=[(1, 1, 'knows')]), BadRecordError, 'of entities 1 and 1'),
    (
      dict(found=[(4, 6, 'place')], related=()),
      BadRecordError,
      'entity of words 4 to 6, and 6 words',
    ),
    (
      dict(found=[(3, 4, 'place'), (4, 4, 'person')], related=()),
      BadRecordError,
      'which share a word',
    ),
  ],
)
def test_bad_sentences_are_one_sentence(change, kind, sentence):
  with pytest.raises(kind, match=sentence):
    TAG.map(example(**change))
