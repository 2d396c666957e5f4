import pytest

from big_vision_like.data.text import bio
from big_vision_like.errors import UserError


def test_entities_of_tags():
  tags = ['B-PER', 'I-PER', 'O', 'B-LOC', 'B-LOC', 'I-LOC']
  true = [(0, 1, 'PER'), (3, 3, 'LOC'), (4, 5, 'LOC')]
  assert bio.entities(tags) == true
  # The original files begin an entity with B only after another one of its kind.
  tags = ['I-PER', 'I-PER', 'O', 'I-LOC', 'B-LOC', 'I-LOC']
  assert bio.entities(tags, scheme='iob1') == true
  assert bio.entities([]) == bio.entities(['O', 'O']) == []


@pytest.mark.parametrize(
  ('tags', 'sentence'),
  [
    (['O', 'I-PER'], "line 7: word 2 has the tag 'I-PER' and the word before is not"),
    (['B-LOC', 'I-PER'], "set scheme='iob1'"),
    (['B-LOC', 'E-LOC'], "word 2 has the tag 'E-LOC', not O, B-kind or I-kind"),
    (['B'], "word 1 has the tag 'B', not"),
    (['B-'], "word 1 has the tag 'B-', not"),
  ],
)
def test_broken_tags_are_one_sentence(tags, sentence):
  with pytest.raises(UserError, match=sentence):
    bio.entities(tags, place='line 7')


def test_overlap():
  assert bio.overlapping([(3, 4, 'a'), (0, 1, 'b'), (2, 2, 'c')]) is None
  assert bio.overlapping([(0, 4, 'a'), (5, 5, 'b'), (2, 3, 'c')]) == (
    (0, 4, 'a'),
    (2, 3, 'c'),
  )
