"""Tests of a report's section about superpixels.  N nodes, E edges, S sources."""

import types

import jax
import numpy as np
import pytest

from big_vision_like import optim
from big_vision_like.data.input import pipeline
from big_vision_like.data.procedural import five_shapes
from big_vision_like.data.sources import memory
from big_vision_like.data.sources.base import InMemory
from big_vision_like.data.transforms import superpixels
from big_vision_like.errors import UserError
from big_vision_like.evals import classification as evals
from big_vision_like.models import superpixel_gat as models
from big_vision_like.report import superpixel_gat as report
from big_vision_like.tasks import classification

pytest.importorskip('skimage')
INPUTS = ('nodes', 'edges', 'weights', 'node_mask')
CONFIG = five_shapes.FiveShapesConfig(name='few')
EXAMPLES = [five_shapes.draw(CONFIG, 'test', i) for i in range(8)]
DATA = pipeline.EvalInput(
  source=memory.Cached(InMemory(EXAMPLES), [superpixels.Superpixels(max_nodes=72)]),
  batch_size=8,
)
MODELS = {
  'sicgat': models.SuperpixelGAT(5, (4, 4), 2, (4,), 'exact', form='segments'),
  'gat': models.GAT(5, (4, 4), 2, form='segments'),
}


def source(name, data=DATA):
  task = classification.Classification(
    inputs=INPUTS, model=MODELS[name], optimizer=optim.adamw(1e-3)
  )
  state = jax.jit(task.init)(jax.random.key(0), next(DATA.epoch()))
  run = types.SimpleNamespace(network=task.networks()['model'], state=state, task=task)
  made = evals.Accuracy(data=data)
  return types.SimpleNamespace(
    restored=run,
    evaluator_of=lambda kind, what: ('test', made),
    class_names=lambda field: dict(enumerate(five_shapes.SHAPES)),
  )


@pytest.mark.parametrize('name', MODELS)
def test_the_section(name):
  content, _ = report.shown(source(name))
  assert content.count('<img') == 2 * report.NUM_IMAGES
  assert content.count('class="bar') == report.NUM_IMAGES * report.NUM_CLASSES


def test_shares_of_two_layers_by_hand():
  edges_E2 = np.array([[0, 0], [1, 0], [1, 1], [2, 2], [0, 0]])
  first, second = np.array([[0.25, 0.75, 1, 1, 0], [0.5, 0.5, 1, 1, 0]])
  mask_N = np.array([True, True, True, False])
  share_N = report.rollout([first, second], [edges_E2] * 2, mask_N)
  # Of the nodes' thirds, node 0 keeps half, and a quarter of that in the first layer.
  np.testing.assert_allclose(share_N, np.array([0.125, 1.875, 1, 0]) / 3)
  assert share_N.sum() == pytest.approx(1)


def test_colours_of_superpixels():
  label_HW = np.array([[0, 1], [1, 1]])
  picture_HWC = report.coloured(np.array([0.9, 0.0]), label_HW)
  assert (picture_HWC[0, 1] == picture_HWC[1, 0]).all()
  assert picture_HWC[0, 0].sum() > picture_HWC[0, 1].sum()


def test_other_data_are_refused():
  with pytest.raises(UserError, match='no cached graphs'):
    report.shown(source('gat', pipeline.EvalInput(source=EXAMPLES, batch_size=8)))
