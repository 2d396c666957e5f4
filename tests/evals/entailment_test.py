import re

import numpy as np
import pytest

from big_vision_like.data.input import pipeline
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
