"""Tests of a report's section about the facts that queries attend to."""

import types

import jax
import numpy as np

from big_vision_like import optim
from big_vision_like.data.input import pipeline
from big_vision_like.data.procedural import graphs
from big_vision_like.models import memory_network as models
from big_vision_like.report import memory_network as report
from big_vision_like.tasks import classification


def source():
  data = pipeline.EvalInput(
    source=graphs.RandomGraphs(examples=8, split='test'), batch_size=8
  )
  task = classification.Classification(
    inputs=('facts', 'query'),
    model=models.MemoryNetwork(2, 20, width=4, hops=3, masked=True),
    optimizer=optim.momentum(0.1),
  )
  state = jax.jit(task.init)(jax.random.key(0), next(data.epoch()))
  run = types.SimpleNamespace(network=task.networks()['model'], state=state)
  made = types.SimpleNamespace(data=data)
  return types.SimpleNamespace(
    restored=run, spread_of=lambda kind, what: ('test', made)
  )


def test_the_section():
  content, _ = report.attended(source())
  assert content.count('<h3') == content.count('<table') == report.NUM_QUERIES
  assert content.count('hop 3') == report.NUM_QUERIES
  assert content.count('follow') == report.NUM_QUERIES
  assert 'rdf:type' in content and 'x1' in content


def test_triples_as_text():
  assert report.written(np.array([6, 2, 8])) == 'x1 rdfs:subClassOf x3'
  assert report.written(np.array([6, 0, 0])) == 'x1'
  assert [report.named(label) for label in (0, 2)] == ['follows', 'nil']


def test_attention_sums_to_one():
  made = source()
  network, batch = made.restored.network, next(made.spread_of(0, 0)[1].data.epoch())
  weight_BHF, _ = report.attention(
    network.module, network.variables(made.restored.state), network.inputs(batch)
  )
  assert weight_BHF.shape == (8, 3, 32)
  np.testing.assert_allclose(weight_BHF.sum(axis=-1), 1.0, rtol=1e-5)
