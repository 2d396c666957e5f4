"""Axes: B batch, N regions, K detections, M pixels of a mask."""

import dataclasses
import functools

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import shapes

from big_vision_like.errors import UserError
from big_vision_like.models import rcnn, resnet, swin
from big_vision_like.ops import boxes

RESNET = resnet.ResNet(
  depths=(1, 1, 1, 1), bottleneck=False, root=4, channels=(4, 6, 8, 10), norm='frozen'
)
SMALL = dict(
  num_classes=3,
  rpn=rcnn.RPN(channels=12, candidates=(30, 20), proposals=(24, 16)),
  channels=12,
  hidden=14,
  detections=9,
  masks=True,
)
IMAGE = np.random.default_rng(0).normal(size=(2, 64, 96, 3)).astype(np.float32)
SIZE = np.int32([[64, 96], [40, 70]])


class Extra(nn.Module):
  """An enhancing module whose features show its inputs."""

  @nn.compact
  def __call__(self, levels, x_BNF, kernel_FC, bias_C, logits_BNC):
    assert len(levels) == 5
    pool_CX = jnp.concatenate([kernel_FC, bias_C[None]]).T
    pool_CX = jax.lax.stop_gradient(pool_CX)
    return nn.Dense(5, name='dense')(jax.nn.softmax(logits_BNC) @ pool_CX)


def model(**changes):
  return rcnn.RCNN(**dict(SMALL, backbone=RESNET) | changes)


@functools.cache
def ran(kind):
  changes = dict(
    mask={},
    enhanced=dict(
      stds=rcnn.CASCADE_STDS[:2], shared=True, agnostic=True, enhance=Extra(),
      masks=False,
    ),
  )[kind]  # fmt: skip
  made = model(**changes)
  variables = jax.jit(made.init)(jax.random.key(0), IMAGE, SIZE)
  outputs = jax.jit(made.apply)(variables, IMAGE, SIZE)
  return made, variables, jax.device_get(outputs)


@pytest.mark.parametrize('kind', ('mask', 'enhanced'))
def test_objects_are_sorted_clipped_and_padded(kind):
  made, _, found = ran(kind)
  boxes_BK4, scores_BK, labels_BK = (
    found[name] for name in ('boxes_xyxy', 'scores', 'labels')
  )
  assert boxes_BK4.shape == (2, 9, 4) and labels_BK.dtype == np.int32
  assert (np.diff(scores_BK, axis=1) <= 0).all()
  there_BK = labels_BK >= 0
  assert there_BK.any() and (labels_BK < 3).all()
  assert (scores_BK[there_BK] > made.least_score).all()
  assert (scores_BK[~there_BK] == 0).all() and (boxes_BK4[~there_BK] == 0).all()
  assert (boxes.area(boxes_BK4)[there_BK] > 0).all()
  assert (boxes_BK4[1, :, [0, 2]] <= 70).all() and (boxes_BK4[1, :, [1, 3]] <= 40).all()
  np.testing.assert_allclose(
    boxes.cxcywh_to_xyxy(found['boxes']) * np.float32([[[96, 64] * 2], [[70, 40] * 2]]),
    boxes_BK4,
    atol=1e-4,
  )
  assert found['proposals'].shape == (2, 16, 4)
  if made.masks:
    assert found['masks'].shape == (2, 9, 28, 28)
    assert (found['masks'] >= 0).all() and (found['masks'] <= 1).all()


def test_array_names_match_their_axes():
  made = model(stds=rcnn.CASCADE_STDS, convs=1, fcs=1)
  variables = jax.eval_shape(made.init, jax.random.key(0), IMAGE, SIZE)
  with shapes.checked('big_vision_like/models/rcnn.py') as seen:
    jax.eval_shape(made.apply, variables, IMAGE, SIZE)
  assert {'boxes_BNG4', 'logits_BNC', 'pooled_BNPQI', 'y_nPrQsO'} <= seen.keys()


def test_an_enhancing_module_reaches_all_heads_but_the_first():
  _, variables, found = ran('enhanced')
  params = variables['params']
  assert params['box_heads_0']['classify']['kernel'].shape == (14, 4)
  assert params['box_heads_1']['classify']['kernel'].shape == (14 + 5, 4)
  assert 'features_1' not in params and 'enhance' in params
  assert params['box_heads_1']['move']['kernel'].shape[1] == 4  # shared by all classes


def test_training_gets_the_regions_that_are_sampled():
  made, variables, _ = ran('mask')
  chosen_BN4 = jnp.asarray([[[4.0, 4, 30, 40], [0, 0, 9, 9]]] * 2)
  seen = []

  def sample(head, boxes_BN4):
    seen.append((head, boxes_BN4.shape))
    return chosen_BN4, chosen_BN4[:, :1]

  learn = functools.partial(made.apply, method=rcnn.RCNN.learn, sample=sample)
  outputs = jax.eval_shape(learn, variables, IMAGE, SIZE)
  assert seen == [(0, (2, 24, 4))]
  [logits], [deltas], [masks] = (
    outputs[name] for name in ('logits', 'deltas', 'mask_logits')
  )
  assert logits.shape == (2, 2, 4) and deltas.shape == (2, 2, 3, 4)
  assert masks.shape == (2, 1, 28, 28, 3)
  count = 3 * sum(h * w for h, w in ((16, 24), (8, 12), (4, 6), (2, 3), (1, 2)))
  assert outputs['anchors'].shape == (count, 4)
  assert outputs['anchor_deltas'].shape == (2, count, 4)


def test_sides_need_not_divide():
  made, variables, _ = ran('mask')
  for height, width in ((61, 75), (33, 200)):
    image = jax.ShapeDtypeStruct((1, height, width, 3), np.float32)
    found = jax.eval_shape(made.apply, variables, image)
    assert found['boxes_xyxy'].shape == (1, 9, 4)


@pytest.mark.parametrize(
  'variant, cascade, parameters',
  [
    ('T', False, 47_794_602),
    ('S', False, 69_112_506),
    ('T', True, 85_629_804),
    ('S', True, 106_947_708),
    ('B', True, 144_977_002),
  ],
)
def test_parameters_of_published_models(variant, cascade, parameters):
  """Checks exact numbers; the paper rounds to 48, 69, 86, 107 and 145 million."""
  heads = dict(stds=rcnn.CASCADE_STDS, convs=4, fcs=1) if cascade else {}
  made = rcnn.RCNN(
    num_classes=80,
    backbone=swin.Swin(**swin.variant(variant), maps=(1, 2, 3, 4), padding='dense'),
    rpn=rcnn.RPN(candidates=(9, 9), proposals=(9, 9)),
    masks=True,
    detections=1,
    **heads,
  )
  image = jax.ShapeDtypeStruct((1, 64, 64, 3), np.float32)
  params = jax.eval_shape(made.init, jax.random.key(0), image)['params']
  assert sum(x.size for x in jax.tree.leaves(params)) == parameters


def test_a_backbone_with_one_map_is_named():
  backbone = dataclasses.replace(RESNET, depths=(1,))
  with pytest.raises(UserError, match=r'returns 1 maps \(features, root, stage1\)'):
    jax.eval_shape(model(backbone=backbone).init, jax.random.key(0), IMAGE)
