import random

import pytest

from big_vision_like.data.procedural import grammar
from big_vision_like.data.text import trees
from big_vision_like.errors import UserError


def drawn(count, split='train', seed=0):
  source = grammar.Sentences(examples=count, split=split, seed=seed)
  return [source[i] for i in range(count)]


def test_no_test_sentence_occurs_in_training():
  train = {x['words'] for seed in (0, 1) for x in drawn(400, seed=seed)}
  test = {x['words'] for x in drawn(60, 'test')}
  assert len(train) > 700 and len(test) > 50 and not train & test
  assert drawn(20) == drawn(20) != drawn(20, seed=3)


def test_words_determine_the_tree():
  # As far as the tree goes, words differ by their tags, prepositions and instruments.
  def kind(tag):
    (word,) = tag.children
    return {'NN': word in grammar.TOOLS, 'IN': word}.get(tag.label)

  rng, found, repeated = random.Random(0), {}, 0
  for _ in range(6000):
    tree = grammar.draw(rng)
    classes = tuple((tag.label, kind(tag)) for tag in tree.tags())
    shape = trees.symbols(tree)
    assert len(classes) <= grammar.MOST_WORDS and len(shape) <= grammar.MOST_SYMBOLS
    repeated += classes in found
    assert found.setdefault(classes, shape) == shape
  assert repeated > 1000


def test_the_vocabulary_has_every_symbol_once():
  assert len(set(grammar.VOCABULARY)) == len(grammar.VOCABULARY)
  used = {s for x in drawn(500) for s in f'{x["words"]} {x["tree"]}'.split()}
  assert used <= set(grammar.VOCABULARY)
  assert len(used) > 0.9 * len(grammar.VOCABULARY)


def test_bad_arguments():
  with pytest.raises(UserError, match='split'):
    grammar.Sentences(examples=1, split='validation')
  with pytest.raises(IndexError):
    grammar.Sentences(examples=1, split='test')[1]
