"""Tests of a report's section about the classes that images attend to."""

import types

import jax
import numpy as np

from big_vision_like import optim
from big_vision_like.models import reasoning_rcnn as models
from big_vision_like.report import reasoning_rcnn as report
from big_vision_like.tasks import region_classification as tasks

BATCH = {
  'image': np.random.default_rng(0).integers(0, 256, (2, 32, 32, 3), np.uint8),
  'boxes': np.float32([[[0, 0, 9, 9], [8, 8, 20, 20]]] * 2),
  'box_labels': np.int32([[0, 1], [2, 0]]),
  'box_mask': np.array([[True, True], [True, False]]),
}


def source(enhance):
  task = tasks.RegionClassification(
    model=models.GivenRegions(3, channels=4, hidden=6, enhance=enhance),
    optimizer=optim.momentum(0.1),
  )
  state = jax.jit(task.init)(jax.random.key(0), BATCH)
  if enhance is not None:
    graph = state.mutable['constants']['enhance']['graph']
    state.mutable['constants']['enhance']['graph'] = graph.at[0, 1].set(0.5)
  network = task.networks()['model']
  run = types.SimpleNamespace(network=network, state=state)
  data = types.SimpleNamespace(epoch=lambda: iter([BATCH]))
  return types.SimpleNamespace(
    run=run,
    restored=run,
    evaluator_of=lambda kind, what: ('val', types.SimpleNamespace(data=data)),
    class_names=lambda field: {0: 'cup', 1: 'table', 2: 'cat'},
  )


def test_the_section():
  made = source(models.Reasoning(5, 4))
  assert report.reasons(made)
  content, caption = report.attended(made)
  assert content.count('<img') == 2
  # Three classes and background; the images contain two classes and one class.
  assert content.count('class="bar') == 2 * 4
  assert content.count('class="bar true"') == 3
  assert '<div title="cup, table">' in content and '<div title="cat">' in content
  assert '1 edge between' in caption and '25.0' in caption


def test_attention_sums_to_one():
  made = source(models.Reasoning(5, 4))
  network, state = made.run.network, made.run.state
  share_BC = report.attention(
    network.module, network.variables(state), network.inputs(BATCH)
  )
  assert share_BC.shape == (2, 4)
  np.testing.assert_allclose(share_BC.sum(axis=1), 1.0, rtol=1e-5)


def test_other_heads_have_no_such_section():
  assert not report.reasons(source(None))
  assert not report.reasons(types.SimpleNamespace(run=None))
