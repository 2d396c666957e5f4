"""Axes: B batch, K objects, N regions, S samples, M side of a mask, C classes."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import shapes

from big_vision_like import optim
from big_vision_like.errors import UserError
from big_vision_like.models import rcnn, resnet
from big_vision_like.ops import boxes, regions
from big_vision_like.tasks import two_stage_detection
from big_vision_like.tasks.two_stage_detection import Targets, TwoStageDetection

RNG = np.random.default_rng(0)
MODEL = rcnn.RCNN(
  num_classes=3,
  backbone=resnet.ResNet(
    depths=(1, 1, 1, 1), bottleneck=False, root=4, channels=(4, 6, 8, 10), norm='frozen'
  ),
  rpn=rcnn.RPN(channels=8, candidates=(20, 20), proposals=(16, 16)),
  channels=8,
  hidden=16,
  detections=5,
  masks=True,
)


def task(model=MODEL, **changes):
  return TwoStageDetection(
    model=model, optimizer=optim.adamw(1e-3), anchors=1024, regions=8, **changes
  )


CASCADE = task(
  MODEL.clone(stds=rcnn.CASCADE_STDS, convs=1, fcs=1),
  head_weights=(1.0, 0.5, 0.25),
  ious=(0.5, 0.6, 0.7),
  box_loss='giou',
)


def batch(objects=(2, 0)):
  """Returns images with these numbers of objects."""
  rows, count = 3, len(objects)
  low = RNG.uniform(0, 20, (count, rows, 2))
  result = {
    'image': RNG.integers(0, 256, (count, 64, 64, 3)).astype(np.uint8),
    'size': np.int32([[64, 64]] * count),
    'boxes': np.concatenate([low, low + RNG.uniform(8, 40, low.shape)], -1),
    'box_labels': RNG.integers(0, 3, (count, rows)).astype(np.int32),
    'box_mask': np.arange(rows)[None] < np.array(objects)[:, None],
    'box_masks': RNG.integers(0, 256, (count, rows, 14, 14)).astype(np.uint8),
  }
  result['boxes'] = result['boxes'].astype(np.float32)
  # Rows of padding may contain anything.
  result['boxes'][~result['box_mask']] = np.nan
  result['box_labels'][~result['box_mask']] = -7
  return result


@functools.cache
def stepped(kind):
  made = {'mask': task(), 'cascade': CASCADE}[kind]
  example = batch()
  state = jax.jit(made.init)(jax.random.key(0), example)
  step = jax.jit(made.train_step)
  return made, state, step, example, step(state, example, jax.random.key(1))


@pytest.mark.parametrize('kind', ('mask', 'cascade'))
def test_a_step_is_finite_and_reaches_all_parameters(kind):
  made, state, _, example, (after, scalars) = stepped(kind)
  names = ('class', 'box', 'mask')
  heads = [''] if kind == 'mask' else ['_1', '_2', '_3']
  assert {f'loss_{n}{h}' for n in names for h in heads} <= scalars.keys()
  assert {'loss_objectness', 'loss_proposal', 'positives'} <= scalars.keys()
  assert all(np.isfinite(x) for x in scalars.values())
  assert float(scalars['positives']) > 0
  moved = jax.tree.map(
    lambda a, b: float(np.abs(a - b).max()), state.params, after.params
  )
  flat = jax.tree.leaves_with_path(moved)
  assert all(change > 0 for _, change in flat), flat
  if kind == 'cascade':
    mean = after.mutable['batch_stats']['features_0']['conv1']['norm']['mean']
    assert np.any(mean)


def test_the_loss_is_the_weighted_sum_of_losses():
  made, state, _, example, (_, scalars) = stepped('cascade')
  values = {name: float(x) for name, x in scalars.items()}
  total = values['loss_objectness'] + values['loss_proposal']
  for head, weight in enumerate((1.0, 0.5, 0.25), start=1):
    total += weight * sum(values[f'loss_{n}_{head}'] for n in ('class', 'box', 'mask'))
  np.testing.assert_allclose(values['loss'], total, rtol=1e-5)


def test_a_step_has_no_host_call_and_compiles_once_a_shape():
  _, state, step, example, _ = stepped('mask')
  text = step.lower(state, example, jax.random.key(0)).as_text()
  assert 'callback' not in text and 'infeed' not in text
  step(state, batch((3, 1)), jax.random.key(2))
  assert step._cache_size() == 1


def test_images_without_objects_have_negatives_only():
  _, state, step, _, _ = stepped('mask')
  after, scalars = step(state, batch((0, 0)), jax.random.key(1))
  assert all(np.isfinite(x) for x in scalars.values())
  for name in ('loss_box', 'loss_mask', 'loss_proposal', 'positives'):
    assert scalars[name] == 0, name
  assert scalars['loss_class'] > 0 and scalars['loss_objectness'] > 0
  assert all(np.isfinite(x).all() for x in jax.tree.leaves(after.params))


def test_predictions_are_in_pixels_of_the_original_image():
  made, state, _, example, _ = stepped('mask')
  predict = jax.jit(made.predict)
  found = predict(state, example, jax.random.key(0))
  other = predict(
    state,
    example | {'original_size': np.int32([[128, 64], [32, 96]])},
    jax.random.key(0),
  )
  ratio_B14 = np.float32([[[1, 2, 1, 2]], [[1.5, 0.5, 1.5, 0.5]]])
  for name in ('boxes_xyxy', 'proposals'):
    np.testing.assert_allclose(found[name] * ratio_B14, other[name], rtol=1e-5)
  assert all(len(x) == 2 for x in found.values())


def test_regions_are_sampled_with_their_targets():
  true_K4 = jnp.asarray([[0.0, 0, 10, 10], [20, 20, 40, 40], [0, 0, 0, 0]])
  regions_N4 = jnp.asarray(
    [[0.0, 0, 10, 9], [50, 50, 60, 60], [20, 22, 40, 40], [1, 1, 1, 1]]
  )
  with shapes.checked('big_vision_like/tasks/two_stage_detection.py') as seen:
    found = two_stage_detection.chosen_regions(
      0.5, 7, 3, jax.random.key(0), regions_N4, boxes.area(regions_N4) > 0,
      true_K4, jnp.asarray([2, 1, 0]), jnp.asarray([True, True, False]),
    )  # fmt: skip
  assert {'all_R4', 'used_S'} <= seen.keys()
  assert isinstance(found, Targets)
  # Two regions and the two true boxes are positive, and three of them are taken.
  assert found.positive_S.tolist() == [True] * 3 + [False] * 4
  assert found.negative_S.tolist() == [False] * 3 + [True] + [False] * 3
  for box, label, own in zip(
    found.boxes_S4[:3], found.label_S[:3], found.object_S[:3], strict=True
  ):
    assert label == (2, 1)[own]
    assert boxes.iou(box, true_K4[own]) >= 0.5
  assert found.boxes_S4[3].tolist() == [50, 50, 60, 60]
  assert not found.boxes_S4[4:].any()
  assert 1 <= found.added_S[:3].sum() <= 2 and not found.added_S[3]


def test_losses_of_a_head_by_hand():
  made = task()
  true = two_stage_detection.TrueObjects(
    jnp.asarray([[[0.0, 0, 20, 20]]]), jnp.asarray([[2]]), jnp.asarray([[True]])
  )
  region = jnp.asarray([[[0.0, 0, 16, 20], [40, 40, 60, 60], [0, 0, 0, 0]]])
  targets = Targets(
    region,
    jnp.asarray([[2, 0, 0]]),
    jnp.zeros((1, 3), int),
    jnp.asarray([[True, False, False]]),
    jnp.asarray([[False, True, False]]),
    jnp.zeros((1, 3), bool),
  )
  deltas = RNG.normal(size=(1, 3, 3, 4)).astype(np.float32)
  mask_MM = np.zeros((4, 4), np.uint8)
  mask_MM[:, :2] = 255
  logits = np.full((1, 1, 2, 2, 3), 3.0, np.float32)
  found = made.head_losses(
    0,
    dict(
      logits=[jnp.asarray([[[0.0, 0, 0, 0], [0, 0, 0, 2], [9, 9, 9, 9]]])],
      deltas=[jnp.asarray(deltas)],
      mask_logits=[jnp.asarray(logits)],
    ),
    targets,
    true,
    {'box_masks': mask_MM[None, None]},
  )
  wrong = np.log(4), np.log(3 + np.exp(2)) - 2
  np.testing.assert_allclose(found['class'], np.mean(wrong), rtol=1e-6)
  wanted = regions.encode(region[0, 0], true.boxes_BK4[0, 0], (0.1, 0.1, 0.2, 0.2))
  np.testing.assert_allclose(
    found['box'], np.abs(deltas[0, 0, 2] - wanted).sum() / 2, rtol=1e-5
  )
  # The left part of the region, up to 10 of 16 pixels, is covered: of the columns of 8
  # pixels one is covered entirely, the other by a quarter.
  sure, unsure = np.log1p(np.exp(-3)), np.log1p(np.exp(3))
  np.testing.assert_allclose(found['mask'], (sure + unsure) / 2, rtol=1e-5)


@pytest.mark.parametrize('beta', (0.0, 1 / 9))
def test_smooth_l1(beta):
  x = jnp.asarray([-2.0, -0.05, 0.0, 0.05, 3.0])
  found = two_stage_detection.smooth_l1(x, beta)
  small = 0.05 if not beta else 0.05**2 * 4.5
  cut = beta / 2
  np.testing.assert_allclose(found, [2 - cut, small, 0, small, 3 - cut], rtol=1e-5)


@pytest.mark.parametrize(
  'changes, words',
  [
    (dict(box_masks=None), 'batches have no `box_masks`'),
    (dict(box_masks=np.zeros((2, 4, 14, 14))), r'must be \[2, 3\] and twice'),
    (dict(boxes=np.float32([[[0, 0, 0, 9]] * 3] * 2)), 'has no area'),
    (dict(boxes=np.float32([[[0, 0, 9, 99]] * 3] * 2)), 'leaves its image of 64 x 64'),
    (dict(box_labels=np.full((2, 3), 3)), 'label 3, which is out of range'),
  ],
)
def test_batches_that_cannot_be_learned_from(changes, words):
  given = batch() | changes
  given = {name: x for name, x in given.items() if x is not None}
  with pytest.raises(UserError, match=words):
    task().check(given)


@pytest.mark.parametrize(
  'changes, words',
  [
    (dict(ious=(0.5, 0.6)), r'ious=\(0.5, 0.6\) must have 1 entries'),
    (dict(weights=dict(giou=1.0)), "weights: 'giou' is not one of"),
    (dict(box_loss='l2'), "box_loss='l2'"),
  ],
)
def test_arguments_that_contradict(changes, words):
  with pytest.raises(UserError, match=words):
    task(**changes)
