import re

import numpy as np
import pytest

from big_vision_like.data.input import pipeline
from big_vision_like.evals import algorithms


def run(kind, examples):
  """Evaluates a prediction that returns fields of the examples under other names."""

  def predict(state, batch, key):
    return {
      name.removeprefix('found_'): x
      for name, x in batch.items()
      if name.startswith('found_')
    }

  data = pipeline.EvalInput(source=examples, batch_size=2)
  evaluator = kind(data=data)
  found = evaluator.run(predict, None).scalars
  for name in found:
    assert any(re.fullmatch(p, name) for p in evaluator.reports()), name
  return found


def test_sorting():
  target = np.array([1, 2, 3, 4])
  lists = ([1, 2, 3, 4], [1, 2, 4, 3], [4, 3, 2, 1])
  examples = [{'target': target, 'found_sorted': np.array(x)} for x in lists]
  found = run(algorithms.Sorting, examples)
  assert found == {'elements': pytest.approx(6 / 12), 'lists': pytest.approx(1 / 3)}


def test_shortest_paths():
  examples = [
    {'distance': np.array([0, 4, 256]), 'found_distance': np.array(x)}
    for x in ([0, 4, 256], [0, 5, 256])
  ]
  found = run(algorithms.ShortestPaths, examples)
  assert found == {'distances': pytest.approx(5 / 6), 'graphs': 0.5}


def test_spanning_trees():
  examples = [{'total': np.int32(7), 'found_total': np.int32(x)} for x in (7, 7, 8)]
  assert run(algorithms.SpanningTrees, examples) == {'totals': pytest.approx(2 / 3)}


def test_steps():
  example = {
    'target': np.array([3, 9]),
    'pointer': np.array([1, 0]),
    'next_hidden': np.array([[0, 1], [1, 1]], bool),
    'found_number': np.array([3, 8]),
    'found_pointer': np.array([[0.2, 0.8], [0.9, 0.1]]),
    'found_mask_logits': np.array([[-1.0, 2.0], [-1.0, 2.0]]),
  }
  found = run(algorithms.Steps, [example])
  assert found == {'numbers': 0.5, 'pointers': 1.0, 'masks': 0.5}
  few = {k: example[k] for k in ('target', 'found_number')}
  assert run(algorithms.Steps, [few]) == {'numbers': 0.5}
