import jax.numpy as jnp
import numpy as np
import pytest

from big_vision_like.data.input import pipeline
from big_vision_like.data.procedural import grammar
from big_vision_like.data.text import symbols, trees
from big_vision_like.data.transforms import text
from big_vision_like.evals import brackets

# The example that comes with EVALB: its first sentence, predicted trees, and the number
# of matched, true and predicted brackets that it reports, or None for an error.
TRUE = '(S (A (P this)) (B (Q is) (A (R a) (T test))))'
SAMPLE = [
  (TRUE, (4, 4, 4)),
  ('(S (A (P this)) (B (Q is) (C (R a) (T test))))', (3, 4, 4)),
  ('(S (A (P this)) (B (Q is) (A (R a) (U test))))', (4, 4, 4)),
  ('(S (C (P this)) (B (Q is) (A (R a) (U test))))', (3, 4, 4)),
  ('(S (A (P this)) (B (Q is) (R a) (A (T test))))', (3, 4, 4)),
  ('(S (A (P this) (Q is)) (A (R a) (T test)))', (2, 4, 3)),
  ('(S (P this) (Q is) (R a) (T test))', (1, 4, 1)),
  ('(P this) (Q is) (R a) (T test)', (0, 4, 0)),
  ('(S (A (P this)) (B (Q is) (A (A (R a) (T test)))))', (4, 4, 5)),
  ('(S (A (P this)) (B (Q is) (A (A (A (A (A (R a) (T test))))))))', (4, 4, 8)),
  ('', None),
  ('(S (A (P this)) (B (Q was) (A (A (R a) (T test)))))', None),
  ('(S (A (P this)) (B (Q is) (U not) (A (A (R a) (T test)))))', None),
  ('(TOP (S (A (P this)) (B (Q is) (A (R a) (T test)))))', (4, 4, 4)),
  ('(S (A (P this)) (NONE *) (B (Q is) (A (R a) (T test))))', None),
  ('(S (A (P this)) (B (Q is) (A (R a) (TT test))))', (4, 4, 4)),
  ('(S (A (P This)) (B (Q is) (A (R a) (T test))))', (4, 4, 4)),
  ('(S (A (P That)) (B (Q is) (A (R a) (T test))))', None),
]
RULES = brackets.Rules(
  deleted=frozenset(['TOP', '-NONE-', ',', ':', '``', "''"]),
  equal_labels={'TT': 'T'},
  equal_words={'This': 'this'},
)


@pytest.mark.parametrize('predicted, reported', SAMPLE)
def test_the_example_of_evalb(predicted, reported):
  assert brackets.counts(trees.read(TRUE), trees.read(predicted), RULES) == reported


def test_functions_and_deleted_words_of_true_trees():
  for true in (
    '(S (A-SBJ-1 (P this)) (B-WHATEVER (Q is) (A (R a) (T test))))',
    '(S (A (P this)) (B (Q is) (A (R a) (T test))) (-NONE- *))',
    '(S (A (P this)) (B (Q is) (A (R a) (T test))) (: *))',
  ):
    assert brackets.counts(trees.read(true), trees.read(TRUE), RULES) == (4, 4, 4)


def test_a_mistaken_tag_of_punctuation_is_not_another_sentence():
  true = trees.read('(S (NP (NN a)) (VP (VB b)) (. .))')
  wrong = trees.read('(S (NP (NN a)) (VP (VB b) (NN .)))')
  # The dot counts nowhere, as in the corrected EVALB of 2006.
  assert brackets.counts(true, wrong) == (3, 3, 3)
  assert brackets.counts(true, trees.read('(S (PRT (NN a)) (ADVP (VB b)))')) == (
    1,
    3,
    3,
  )
  assert brackets.counts(
    trees.read('(S (PRT (NN a)))'), trees.read('(S (ADVP (NN a)))')
  ) == (2, 2, 2)


@pytest.mark.parametrize('batch_size', [8, 3])
def test_scores_of_predictions(batch_size):
  """Checks sums over sentences, and that broken predictions have no brackets."""
  vocabulary = symbols.Symbols(symbols=grammar.VOCABULARY)
  source = grammar.Sentences(examples=4, split='train')
  true = [source[i]['tree'] for i in range(4)]
  counted = [brackets.counts(*2 * [[tree(source[i])]]).true for i in range(4)]
  # One is right, one is not closed, one has a wrong label, one ends too late.
  lines = [true[0], true[1][: -len(')S')], true[2].replace('NP', 'PP'), f'{true[3]} NN']
  ids = np.zeros((4, 80), np.int32)
  for i, line in enumerate(lines):
    found = [*vocabulary.encode(line), vocabulary.eos_id]
    ids[i, : len(found)] = found

  def predict(state, batch, key):
    return {'ids': jnp.where(batch['mask'][:, None], jnp.asarray(ids)[batch['id']], 7)}

  data = pipeline.EvalInput(
    source=source,
    batch_size=batch_size,
    transforms=[text.Tokenize(vocabulary, 'words', 'tree'), text.Pad(24, 80)],
  )
  results = brackets.Brackets(data=data, vocabulary=vocabulary).run(predict, None)
  wrong = sum(s in ('(NP', '(PP') for s in true[2].split())
  right = counted[0] + counted[2] - sum(s == '(NP' for s in true[2].split())
  assert wrong > 0
  precision, recall = right / (counted[0] + counted[2]), right / sum(counted)
  assert results.scalars == pytest.approx(
    {
      'precision': precision,
      'recall': recall,
      'f1': 2 * precision * recall / (precision + recall),
      'exact': 1 / 4,
      'no_tree': 2 / 4,
    }
  )
  assert results.texts['trees'][0] == str(tree(source[0]))


def tree(example):
  return trees.from_symbols(example['tree'].split(), example['words'].split())
