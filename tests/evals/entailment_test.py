import re

import numpy as np
import pytest

from big_vision_like.data.input import pipeline
from big_vision_like.data.transforms import terms
from big_vision_like.errors import UserError
from big_vision_like.evals import entailment

LABEL_N = np.array([0, 0, 0, 0, 1, 1, 1])
ANSWER_N = np.array([0, 0, 1, 0, 1, 0, 1])
DEPTH_N = np.array([1, 2, 2, 3, 0, 0, 0])
GRAPH_N = np.array([0, 0, 0, 1, 0, 1, 1])


def predict(state, batch, key):
  del state, key
  return {'logits': one_hot(batch['answer'])}


def one_hot(answer_B):
  return (answer_B[:, None] == np.arange(3)[None]).astype(np.float32)


def run(**options):
  examples = [
    dict(zip(('label', 'answer', 'depth', 'graph'), map(np.int64, row), strict=True))
    for row in zip(LABEL_N, ANSWER_N, DEPTH_N, GRAPH_N, strict=True)
  ]
  data = pipeline.EvalInput(source=examples, batch_size=4)
  return entailment.Entailment(data=data, **options).run(predict, None).scalars


def test_scores_by_hand():
  found = run()
  assert found['accuracy'] == pytest.approx(5 / 7)
  assert found['valid_precision'] == pytest.approx(3 / 4)
  assert found['valid_recall'] == pytest.approx(3 / 4)
  assert found['invalid_precision'] == pytest.approx(2 / 3)
  assert found['f1'] == pytest.approx((3 / 4 + 2 / 3) / 2)
  depths = [found[f'recall_depth_{depth}'] for depth in (1, 2, 3)]
  assert depths == [1.0, 0.5, 1.0]


def test_means_over_graphs():
  found = run(by_graph=True)
  assert found['accuracy'] == pytest.approx((3 / 4 + 2 / 3) / 2)
  assert found['invalid_precision'] == pytest.approx((1 / 2 + 1) / 2)


def test_an_answer_that_is_never_given_has_no_precision():
  found = entailment.scores(np.array([0, 1]), np.array([2, 2]))
  assert found['valid_precision'] == found['invalid_f1'] == found['accuracy'] == 0.0


def test_names_are_reported():
  data = pipeline.EvalInput(source=[{'label': 0}], batch_size=1)
  patterns = entailment.Entailment(data=data).reports()
  for name in run():
    assert any(re.fullmatch(pattern, name) for pattern in patterns), name


def test_the_same_queries_under_several_names():
  facts, query = np.zeros((2, 3), np.int32), np.array([6, 1, 7], np.int32)
  source = [
    {'facts': facts, 'query': query, 'label': np.int64(i % 2), 'id': np.int64(i)}
    for i in range(40)
  ]
  data = pipeline.EvalInput(
    source=source, transforms=[terms.RenameById(pool=9)], batch_size=8
  )

  def by_name(state, batch, key):
    del state, key
    return {'logits': one_hot(batch['query'][:, 0] % 2)}

  def by_label(state, batch, key):
    del state, key
    return {'logits': one_hot(batch['label'])}

  made = entailment.Renamings(data=data, renamings=4)
  found = made.run(by_label, None).scalars
  assert found == {
    'accuracy': 1.0,
    'f1': 1.0,
    'spread': 0.0,
    'unanimous': 1.0,
    'voted_accuracy': 1.0,
    'voted_f1': 1.0,
  }
  patterns = made.reports()
  assert all(any(re.fullmatch(x, name) for x in patterns) for name in found)
  found = made.run(by_name, None).scalars
  rows = [
    [terms.RenameById(pool=9, seed=seed).map(x)['query'][0] % 2 for x in source]
    for seed in range(4)
  ]
  answer_RN, label_N = np.array(rows), np.arange(40) % 2
  each = (answer_RN == label_N).mean(axis=1)
  assert found['spread'] == pytest.approx(each.max() - each.min()) and found['spread']
  assert found['accuracy'] == pytest.approx(each.mean())
  assert found['unanimous'] == pytest.approx(
    np.isin(answer_RN.sum(axis=0), (0, 4)).mean()
  )
  voted_N = answer_RN.sum(axis=0) > 2
  of_each = [entailment.scores(label_N, x)['f1'] for x in answer_RN]
  assert found['f1'] == pytest.approx(np.mean(of_each))
  assert found['voted_f1'] == entailment.scores(label_N, voted_N.astype(int))['f1']
  assert found['voted_accuracy'] == pytest.approx((voted_N == label_N).mean())
  with pytest.raises(UserError, match='RenameById'):
    entailment.Renamings(data=pipeline.EvalInput(source=source, batch_size=8))
