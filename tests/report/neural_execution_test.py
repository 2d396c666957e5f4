"""Tests of a report's section about the steps of algorithms."""

import types

import jax
import ml_collections as mlc
import pytest

from big_vision_like import optim
from big_vision_like.data.input import pipeline
from big_vision_like.data.procedural import number_lists, weighted_graphs
from big_vision_like.evals import algorithms
from big_vision_like.models import neural_execution as models
from big_vision_like.report import neural_execution as report
from big_vision_like.report.source import Source
from big_vision_like.spec import spec
from big_vision_like.tasks import algorithm_execution


@pytest.fixture(scope='module')
def trained():
  """Returns a task and its first state."""
  task = algorithm_execution.AlgorithmExecution(
    model=models.Engine(
      models.Subroutine(10, width=8, depth=1, hidden=8), models.MaskNetwork(filters=4)
    ),
    optimizer=optim.adamw(0.1),
  )
  data = pipeline.EvalInput(
    source=number_lists.SortSteps(examples=8, split='train'), batch_size=8
  )
  return task, jax.jit(task.init)(jax.random.key(0), next(data.epoch()))


def source(trained, kind, examples):
  made = kind(data=pipeline.EvalInput(source=examples, batch_size=2))
  run = types.SimpleNamespace(task=trained[0], state=trained[1])
  found = types.SimpleNamespace(
    restored=run, num_examples=2, spread_of=lambda kinds, what: ('test', made)
  )
  found.joined = lambda made, measure: Source.joined(found, made, measure)
  return found


def test_a_sort_is_drawn_and_played(trained):
  lists = number_lists.NumberLists(length=5, examples=2, split='test')
  content, caption = report.executed(source(trained, algorithms.Sorting, lists))
  assert content.count('<h3') == content.count('image/gif') == 2
  assert content.count('image/png') == 4 and content.count('found: ') == 2
  assert 'Examples of test' in caption


def test_graphs_are_drawn(trained):
  graphs = weighted_graphs.WeightedGraphs(
    nodes=4, algorithm='prim', examples=2, split='test'
  )
  content, _ = report.executed(source(trained, algorithms.SpanningTrees, graphs))
  assert content.count('image/png') == 4 and 'image/gif' not in content


def test_runs_without_a_program_have_no_section():
  def log(kind):
    evals = dict(one=spec(kind, data=None, every=0))
    return types.SimpleNamespace(
      log=types.SimpleNamespace(config=mlc.ConfigDict(dict(evals=evals)))
    )

  [section] = report.OF_MODELS[models.Engine]
  assert section.fits(log(algorithms.Sorting))
  assert not section.fits(log(algorithms.Steps))
