"""Tests of a report's sections about entities and relations."""

import types

import found_relations
import jax.numpy as jnp
import pytest

from big_vision_like.report import relations as report
from big_vision_like.tasks.task import State
from tools import report as tool


@pytest.fixture(scope='module')
def source():
  task, params = found_relations.learned()
  state = State(step=jnp.int32(1), params=params, opt_state=None)
  config = found_relations.config().to_dict()
  made = report.Source(
    log=types.SimpleNamespace(config=config),
    run=types.SimpleNamespace(
      task=task, state=state, workdir='runs/x', network=task.networks()['model']
    ),
    why='',
    num_examples=4,
    evaluator='',
  )
  made.known = {}
  return made


def test_training_sentences(source):
  content, _ = report.sample_inputs(source)
  assert content.count('<mark>') >= 8
  assert 'every <mark>baker</mark><sub>class</sub> is a' in content


def test_sentences_that_are_read_right(source):
  content, _ = report.predicted(source)
  assert '4 of the first 4 sentences of test' in content
  assert '<mark>anna</mark><sub>person</sub> met <mark>ben</mark>' in content
  assert content.count('rdf:type') == 2 and 'wrong' not in content


def test_mistakes_are_named():
  true = report.Annotated([(0, 0, 'a'), (2, 3, 'b')], [('x', 'r', 'y z')])
  found = report.Annotated([(0, 0, 'a'), (2, 2, 'b')], [('y', 'r', 'x')])
  assert not report.same(true, found) and report.same(true, true)
  content = report._case(['x', '<is>', 'y', 'z'], true, found)
  assert '&lt;is&gt;' in content and 'True entities' in content
  assert content.count('wrong') == content.count('missing') == 1


def test_the_whole_page(tmp_path):
  folder = found_relations.saved(tmp_path / 'run')
  page = tmp_path / 'page.html'
  tool.main([str(folder), '--out', str(page)])
  text = page.read_text()
  assert 'Entities and relations' in text and '<mark>' in text
