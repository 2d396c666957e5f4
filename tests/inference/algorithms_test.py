"""Tests of algorithms on your own numbers, with an engine that is not trained."""

import types

import jax
import numpy as np
import pytest

from big_vision_like import optim
from big_vision_like.errors import UserError
from big_vision_like.inference import algorithms
from big_vision_like.models import neural_execution as models
from big_vision_like.tasks import algorithm_execution

ENGINE = models.Engine(
  models.Subroutine(10, width=8, depth=1, hidden=8), models.MaskNetwork(filters=4)
)
TASK = algorithm_execution.AlgorithmExecution(
  model=ENGINE, optimizer=optim.adamw(0.1), adder=ENGINE.clone(mask=None)
)
GRAPH = np.array([[0, 4, 0], [4, 0, 9], [0, 9, 0]])


@pytest.fixture(scope='module')
def made():
  """Returns the programs of a run that was just started."""
  slots_112 = np.zeros((1, 1, 2), np.int32)
  batch = dict(numbers=slots_112, hidden=slots_112 > 0, pointer=slots_112[..., 0])
  state = jax.jit(TASK.init)(jax.random.key(0), batch)
  run = types.SimpleNamespace(task=TASK, state=state, workdir='run')
  with pytest.MonkeyPatch.context() as patch:
    patch.setattr(algorithms.loading, 'load_run', lambda workdir: run)
    patch.setattr(algorithms.loading, 'frozen', lambda run, batch: state.frozen)
    return algorithms.Algorithms('run')


def test_programs_return_plain_numbers(made):
  assert len(made.sort([5, 2, 9])) == 3
  assert len(made.distances(GRAPH)) == 3
  assert all(0 <= node < 3 for node, _ in made.spanning_tree(GRAPH))


@pytest.mark.parametrize(
  ('items', 'sentence'),
  [
    ([3, 256], '256 is out of range: engines sort numbers from 0 to 255'),
    ([-1], '-1 is out of range'),
    ([], 'is not a list of integers'),
    ([0.5], 'is not a list of integers'),
  ],
)
def test_other_numbers_are_refused(items, sentence):
  with pytest.raises(UserError, match=sentence):
    algorithms.checked_numbers(items)


def test_negative_weights_are_refused(made):
  for program in (made.distances, made.spanning_tree):
    with pytest.raises(UserError, match='the weight -4 of the edge 0-1'):
      program(-GRAPH)


def test_there_are_no_images(made):
  prepare = algorithms.of_run(types.SimpleNamespace(workdir='run'))
  assert str(prepare) == 'none: the model takes numbers'
  with pytest.raises(UserError, match='the model takes numbers, not images'):
    prepare('cat.jpg')
