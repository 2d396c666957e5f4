import re

import numpy as np
import pytest

from big_vision_like.data.input import pipeline
from big_vision_like.errors import UserError
from big_vision_like.evals import relations

KINDS, NAMES = ('person', 'place'), ('knows', 'lives_in')


def arrays(entities, related, prefix='', labels='relations'):
  """Returns arrays of entities (first, last, kind) and (subject, object, label)."""
  spans, kinds = np.zeros((3, 2), np.int32), np.zeros(3, np.int32)
  label = np.zeros((3, 3), np.int32)
  for number, (first, last, kind) in enumerate(entities):
    spans[number], kinds[number] = (first, last), kind
  for subject, value, name in related:
    label[subject, value] = name
  made = {'spans': spans, 'kinds': kinds, 'entity_mask': np.arange(3) < len(entities)}
  return {f'{prefix}{key}': x for key, x in (made | {labels: label}).items()}


def predict(state, batch, key):
  del state, key
  found = {k.removeprefix('f_'): x for k, x in batch.items() if k.startswith('f_')}
  return found | {'cut': found['cut']}


def example(true, found, cut=0):
  both = arrays(*true) | arrays(*found, prefix='f_', labels='labels')
  return both | {'f_cut': np.int32(cut)}


TRUE = [(0, 0, 0), (2, 3, 1), (5, 5, 0)], [(0, 1, 2), (0, 2, 1)]
EXAMPLES = [
  example(TRUE, TRUE),
  # The place has another kind; its relation counts only without the kinds.
  example(TRUE, ([(0, 0, 0), (2, 3, 0), (5, 5, 0)], [(0, 1, 2), (2, 0, 1)])),
  # One entity ends too early, another one is listed in another order.
  example(TRUE, ([(0, 0, 0), (5, 5, 0), (2, 2, 1)], [(0, 1, 1)]), cut=2),
  example(([], []), ([], [])),
]


def run(examples=EXAMPLES):
  data = pipeline.EvalInput(source=examples, batch_size=4)
  evaluator = relations.Relations(data=data, kinds=KINDS, relations=NAMES)
  return evaluator.run(predict, None).scalars


def test_scores_by_hand():
  found = run()
  # Right entities: 3 + 2 + 2 of 9 found and 9 true.
  for score in ('precision', 'recall', 'f1'):
    assert found[f'entity_{score}'] == pytest.approx(7 / 9)
  # Right relations: 2 + 0 + 1 of 5 found and 6 true; one more without kinds.
  assert found['relation_precision'] == pytest.approx(3 / 5)
  assert found['relation_recall'] == pytest.approx(3 / 6)
  assert found['loose_relation_precision'] == pytest.approx(4 / 5)
  # Persons: 2 + 2 + 2 right of 2 + 3 + 2 found and 6 true; places: 1 right.
  assert found['f1_person'] == pytest.approx(2 * 6 / (7 + 6))
  assert found['f1_place'] == pytest.approx(2 * 1 / (2 + 3))
  assert found['f1_knows'] == pytest.approx(2 * 2 / (3 + 3))
  assert found['f1_lives_in'] == pytest.approx(2 * 1 / (2 + 3))
  assert found['cut'] == 2


def test_nothing_found_has_no_score():
  found = run([example(TRUE, ([], []))])
  assert found['entity_f1'] == found['relation_f1'] == found['f1_person'] == 0.0


def test_names_are_reported():
  data = pipeline.EvalInput(source=EXAMPLES, batch_size=4)
  patterns = relations.Relations(data=data, kinds=KINDS, relations=NAMES).reports()
  for name in run():
    assert any(re.fullmatch(pattern, name) for pattern in patterns), name


def test_data_without_sentences_are_refused():
  with pytest.raises(UserError):
    run([])
