import random

import pytest

from big_vision_like.data.procedural import grammar
from big_vision_like.data.text import trees
from big_vision_like.errors import UserError

WSJ = """
( (S
    (NP-SBJ-1 (NNP Ms.) (NNP Haag) )
    (VP (VBZ plays)
      (NP (NNP Elianti) )
      (S (NP-SBJ (-NONE- *-1) ) (VP=2 (TO to))))
    (. .) ))
( (X (-NONE- *)))
"""


def test_trees_of_the_penn_treebank_are_cleaned():
  tree, empty = trees.read(WSJ)
  assert trees.cleaned(empty) is None
  tree = trees.cleaned(tree)
  assert tree.words() == 'Ms. Haag plays Elianti to .'.split()
  assert str(tree) == (
    '(S (NP (NNP Ms.) (NNP Haag)) (VP (VBZ plays) (NP (NNP Elianti)) (S (VP (TO to))))'
    ' (. .))'
  )
  # The example of arXiv:1412.7449 has these symbols too.
  assert ' '.join(trees.symbols(tree)) == (
    '(S (NP NNP NNP )NP (VP VBZ (NP NNP )NP (S (VP TO )VP )S )VP . )S'
  )


def test_symbols_and_brackets_can_be_read_back():
  rng = random.Random(0)
  for _ in range(200):
    tree = grammar.draw(rng)
    assert trees.from_symbols(trees.symbols(tree), tree.words()) == tree
    assert trees.read(str(tree)) == [tree]


@pytest.mark.parametrize(
  'symbols',
  [
    '',
    '(S A B',  # not closed
    '(S A )S )S',  # closed twice
    '(S (NP A )S B )NP',  # closed by another label
    '(S A )S B',  # two trees
    '(S A )S',  # a word is left
    '(S A B C )S',  # a word is missing
    '(S A B (NP )NP )S',  # nothing inside
    ')S (S A B',
  ],
)
def test_symbols_that_are_not_a_tree(symbols):
  assert trees.from_symbols('(S A B )S'.split(), ['a', 'b']) is not None
  assert trees.from_symbols(symbols.split(), ['a', 'b']) is None


@pytest.mark.parametrize(
  'text, sentence',
  [
    ('(S (A a)\n(B b)', r'file: 1 brackets are not closed at the end, after 0 trees'),
    ('(S (A a)))', r"file: '\)' in line 1 closes a tree that is not open"),
    ('(A a)\nb', r"file: 'b' in line 2 is outside of all trees"),
    ('(S (A a) b)', r"file: the tree that ends in '\)' in line 1 must have a label"),
    ('(S ())', r'must have a label and either parts in brackets or one word'),
  ],
)
def test_trees_that_do_not_close(text, sentence):
  with pytest.raises(UserError, match=sentence):
    trees.read(text, 'file')
