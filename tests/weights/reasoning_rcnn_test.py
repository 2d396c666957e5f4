"""Axes: C channels, P Q bins."""

import pathlib

import jax
import numpy as np
import pytest

from big_vision_like.errors import UserError
from big_vision_like.models import rcnn as models
from big_vision_like.models import reasoning_rcnn as reasoning
from big_vision_like.models import resnet
from big_vision_like.weights import published, reasoning_rcnn, tree
from big_vision_like.weights.beside import Beside

RNG = np.random.default_rng(0)
FILE = Beside(pathlib.Path('reasoning_rcnn_coco.pth'))


def ours():
  model = models.RCNN(
    num_classes=3,
    channels=8,
    hidden=12,
    stds=models.CASCADE_STDS[:2],
    shared=True,
    agnostic=True,
    enhance=reasoning.Reasoning(5, 6),
    backbone=resnet.ResNet(
      depths=(1, 1, 1, 1), root=4, channels=(4, 4, 4, 4), norm='frozen'
    ),
    rpn=models.RPN(channels=8, candidates=(9, 9), proposals=(9, 9)),
  )
  image = jax.ShapeDtypeStruct((1, 32, 32, 3), np.float32)
  shapes = jax.eval_shape(model.init, jax.random.key(0), image)
  return jax.tree.map(lambda x: RNG.normal(size=x.shape).astype(np.float32), shapes)


def test_published_names_and_back():
  variables = ours()
  theirs = reasoning_rcnn.to_published(variables)
  assert theirs['branch_fcs.0.weight'].shape == (12, 8 * 49)
  assert theirs['bbox_head.1.fc_cls.weight'].shape == (4, 17)
  assert theirs['cmp_attention.0.conv.weight'].shape == (6, 32, 3, 3)
  assert theirs['backbone.layer2.0.bn3.running_var'].shape == (16,)
  # Background is their first class.
  graph = variables['constants']['enhance']['graph']
  np.testing.assert_array_equal(theirs['adj_gt'][1:, 1:], graph[:-1, :-1])
  np.testing.assert_array_equal(
    theirs['bbox_head.0.fc_cls.bias'][0],
    variables['params']['box_heads_0']['classify']['bias'][-1],
  )
  weights = published.of_arrays(theirs, FILE)
  assert weights.family.name == 'reasoning_rcnn' and weights.num_classes == 3
  assert weights.model.enhance == reasoning.Reasoning(5, 6)
  assert weights.model.shared and weights.model.agnostic
  for name, array in tree.flatten(weights.variables).items():
    np.testing.assert_array_equal(array, tree.flatten(variables)[name], err_msg=name)


def test_published_regions_are_flattened_channels_first():
  variables = ours()
  theirs = reasoning_rcnn.to_published(variables)['branch_fcs.0.weight']
  region_PQC = RNG.normal(size=(7, 7, 8))
  kernel = variables['params']['features_0']['fc1']['kernel']
  np.testing.assert_allclose(
    region_PQC.ravel() @ kernel,
    theirs @ region_PQC.transpose(2, 0, 1).ravel(),
    rtol=1e-5,
    atol=1e-5,
  )


@pytest.mark.parametrize(
  'name, shape, message',
  [
    ('adj_gt', (5, 5), r'adj_gt has shape \(5, 5\), but there are 4 classes'),
    ('branch_fcs.0.weight', (12, 8 * 50), 'branch_fcs.0 has 400 inputs, which are not'),
    ('bbox_head.1.fc_cls.weight', (4, 16), r'box_heads_1/classify/kernel has shape'),
    ('bbox_head.0.fc_reg.bias', (8,), '2 boxes of a region belong neither to 3'),
  ],
)
def test_shapes_that_do_not_fit_are_named(name, shape, message):
  theirs = reasoning_rcnn.to_published(ours()) | {name: np.zeros(shape, np.float32)}
  with pytest.raises(UserError, match=message):
    published.of_arrays(theirs, FILE)


def test_missing_names_are_listed():
  theirs = reasoning_rcnn.to_published(ours())
  del theirs['graph_weight_fc.bias']
  with pytest.raises(UserError, match='missing graph_weight_fc.bias'):
    published.of_arrays(theirs, FILE)
