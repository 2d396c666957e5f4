import pytest

from big_vision_like.data.procedural import fact_sentences as facts
from big_vision_like.data.text import wordpiece
from big_vision_like.data.transforms import entities
from big_vision_like.errors import UserError

CONFIG = facts.FactsConfig(name='small')
PLAIN = {*facts._plain_words(), '.'}


def drawn(split, count=400):
  return [facts.draw(CONFIG, split, index) for index in range(count)]


def names(examples):
  return {
    word.lower()
    for example in examples
    for first, last in example['entities'].tolist()
    for word in example['words'][first : last + 1]
  }


def test_entities_are_all_words_that_are_no_plain_ones():
  for example in drawn('train'):
    named = set()
    for first, last in example['entities'].tolist():
      assert first <= last
      named |= {*range(first, last + 1)}
    for place, word in enumerate(example['words']):
      assert (place in named) == (word not in PLAIN)


def test_kinds_of_relations():
  kinds = {
    'leads': {('person', 'group')},
    'member_of': {('person', 'group')},
    'lives_in': {('person', 'place')},
    'located_in': {('group', 'place'), ('place', 'place')},
    'rdf:type': {('person', 'class'), ('group', 'class')},
    'rdfs:subClassOf': {('class', 'class')},
  }
  seen = {name: set() for name in kinds}
  for example in drawn('train'):
    for (one, other), name in zip(
      example['pairs'].tolist(), example['pair_names'], strict=True
    ):
      seen[name].add((example['entity_kinds'][one], example['entity_kinds'][other]))
  assert seen == kinds


def test_splits_share_no_name_and_no_pair_of_clauses():
  train, test = drawn('train'), drawn('test')
  assert names(train).isdisjoint(names(test))

  def forms(examples):
    found = set()
    for example in examples:
      words = list(example['words'])
      for first, last in example['entities'].tolist():
        words[first : last + 1] = ['X'] * (last - first + 1)
      # The joint between two clauses does not matter.
      text = ' '.join(word for word in words if word != 'X')
      if any(f' {joint.strip()} ' in f' {text} ' for joint in facts.JOINTS):
        found.add(text)
    return found

  assert len(forms(test) - forms(train)) > 50


def test_all_sentences_fit_the_config_and_names_may_be_unknown():
  tag = entities.Tag(
    vocabulary=wordpiece.WordPiece(words=facts.WORDS),
    kinds=facts.KINDS,
    relations=facts.RELATIONS,
    length=64,
    max_words=32,
    max_entities=8,
  )
  unknown = 0
  for example in drawn('train') + drawn('test'):
    made = tag.map(example)
    unknown += (made['tokens'] == tag.vocabulary.unk_id).any()
    assert made['entity_mask'].sum() == len(example['entities'])
  assert 100 < unknown < 700


def test_equal_arguments_give_equal_sentences():
  assert (
    facts.draw(CONFIG, 'test', 3)['words'] == facts.draw(CONFIG, 'test', 3)['words']
  )
  with pytest.raises(UserError, match='split'):
    facts.draw(CONFIG, 'val', 0)
