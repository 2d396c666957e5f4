"""Answers of a memory network with random weights about graphs of strings."""

import jax
import ml_collections as mlc
import numpy as np
import pytest
from random_weights import save_run

from big_vision_like import optim
from big_vision_like.data import rdfs
from big_vision_like.data.input import pipeline
from big_vision_like.data.procedural import graphs
from big_vision_like.data.sources import memory
from big_vision_like.data.transforms import terms
from big_vision_like.errors import BadRecordError, UserError
from big_vision_like.evals import entailment as evals
from big_vision_like.inference import entailment, loading
from big_vision_like.models import memory_network
from big_vision_like.spec import build, spec
from big_vision_like.tasks import classification

POOL = 14
GRAPH = [('ann', rdfs.TYPE, 'cook'), ('cook', rdfs.SUBCLASS, 'worker')]
QUERIES = [('ann', rdfs.TYPE, 'worker'), ('worker', rdfs.TYPE, 'ann')]


def config(evaluated=True):
  data = spec(
    pipeline.EvalInput,
    source=spec(
      memory.Cached, source=spec(graphs.RandomGraphs, examples=8, split='test')
    ),
    transforms=[spec(terms.RenameById, pool=POOL)] if evaluated else [],
    batch_size=8,
  )
  task = spec(
    classification.Classification,
    inputs=('facts', 'query'),
    model=spec(
      memory_network.MemoryNetwork,
      num_classes=2,
      vocab_size=graphs.FIRST_TERM + POOL,
      width=8,
      hops=2,
    ),
    optimizer=spec(optim.momentum, rate=0.1),
  )
  return mlc.ConfigDict(
    dict(
      total_steps=1,
      task=task,
      train_data=data,
      evals=dict(t=spec(evals.Entailment, data=data)),
    )
  )


@pytest.fixture(scope='module')
def reasoner(tmp_path_factory):
  return entailment.Reasoner(run(tmp_path_factory.mktemp('runs') / 'run', config()))


def run(folder, made):
  task = build(made.task.to_dict())
  batch = {'facts': np.zeros((1, 32, 3), 'int32'), 'query': np.zeros((1, 3), 'int32')}
  shapes = jax.eval_shape(task.init, jax.random.key(0), batch).params
  rng = np.random.default_rng(0)
  save_run(
    folder, made, jax.tree.map(lambda x: rng.normal(size=x.shape).astype('f'), shapes)
  )
  return loading.load_run(folder)


def test_probabilities_are_means_over_names(reasoner):
  found = reasoner.probabilities(GRAPH, QUERIES)
  ids = {'ann': 6, rdfs.TYPE: 1, 'cook': 7, rdfs.SUBCLASS: 2, 'worker': 8}
  facts = np.zeros((32, 3), np.int32)
  facts[:2] = [[ids[term] for term in triple] for triple in GRAPH]
  query = np.array([ids[term] for term in QUERIES[0]], np.int32)
  shares = []
  for seed in range(entailment.RENAMINGS):
    named = terms.RenameById(pool=POOL, seed=seed).map(
      {'facts': facts, 'query': query, 'id': 0}
    )
    logits = reasoner.run.task.model.apply(
      reasoner.run.variables, named['facts'][None], named['query'][None]
    )['logits']
    shares.append(float(jax.nn.softmax(logits)[0, 0]))
  assert np.std(shares) > 1e-3
  np.testing.assert_allclose(found[0], np.mean(shares), rtol=1e-5)


def test_other_strings_change_nothing(reasoner):
  def renamed(triples):
    new = {'ann': 'x', 'cook': 'y', 'worker': 'z'}
    return [tuple(new.get(term, term) for term in triple) for triple in triples]

  np.testing.assert_array_equal(
    reasoner.probabilities(GRAPH, QUERIES),
    reasoner.probabilities(renamed(GRAPH), renamed(QUERIES)),
  )


def test_graphs_that_are_too_large_are_refused(reasoner, tmp_path):
  with pytest.raises(UserError, match='33 triples, and the network of .* reads 32'):
    reasoner.probabilities(GRAPH * 16 + GRAPH[:1], QUERIES)
  many = [(f'x{i}', rdfs.TYPE, f'y{i}') for i in range(8)]
  with pytest.raises(BadRecordError, match='16 terms, more than the pool=14'):
    reasoner.probabilities(many, many[:1])
  with pytest.raises(UserError, match='names of a pool'):
    entailment.Reasoner(run(tmp_path / 'raw', config(evaluated=False)))
