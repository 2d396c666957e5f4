"""Tests of two-stage detectors against torchvision's with random weights.

torchvision's compiled operators need its own build of PyTorch. Its RoIAlign also exists
in Python, which is used here; its suppression is written out below.

Axes: N boxes, B batch, h w map, C channels.
"""

import importlib
import pathlib

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
import torchvision
from torchvision.models import detection

from big_vision_like.ops import nms, regions, roi
from big_vision_like.tasks import two_stage_detection
from big_vision_like.weights import published
from big_vision_like.weights.beside import Beside

RNG = np.random.default_rng(0)
highest = jax.default_matmul_precision('highest')


def greedy(boxes, scores, threshold):
  """Returns the indices of boxes that remain, by falling score."""
  left, result = torch.argsort(scores, descending=True, stable=True), []
  while len(left):
    result.append(left[0])
    iou = torchvision.ops.box_iou(boxes[left[0]][None], boxes[left])[0]
    left = left[(iou <= threshold) & (left != left[0])]
  return torch.stack(result) if result else torch.zeros(0, dtype=torch.int64)


@pytest.fixture(autouse=True)
def operators(monkeypatch):
  module = importlib.import_module('torchvision.ops.roi_align')
  plain = getattr(module._roi_align, '__wrapped__', module._roi_align)
  monkeypatch.setattr(module, '_roi_align', plain)
  monkeypatch.setattr(torchvision.ops.boxes, 'nms', greedy)


def random_boxes(count, side):
  low = RNG.uniform(0, 0.8 * side, (count, 2))
  high = np.minimum(low + RNG.uniform(1, 0.6 * side, (count, 2)), side)
  return np.concatenate([low, high], 1).astype(np.float32)


@pytest.mark.parametrize(
  'samples, aligned', [(2, False), (2, True), (0, True), (0, False)]
)
def test_roi_align(samples, aligned):
  x_BhwC = RNG.normal(size=(2, 13, 17, 3)).astype(np.float32)
  boxes_BN4 = np.stack([random_boxes(20, 52), random_boxes(20, 52)])
  rois = np.concatenate([np.repeat([[0.0], [1.0]], 20, 0), boxes_BN4.reshape(-1, 4)], 1)
  theirs = torchvision.ops.roi_align(
    torch.tensor(x_BhwC.transpose(0, 3, 1, 2)),
    torch.tensor(rois, dtype=torch.float32),
    5, 0.25, samples, aligned,
  )  # fmt: skip
  ours = roi.align([x_BhwC], boxes_BN4, (4,), 5, samples, aligned)
  theirs = theirs.numpy().reshape(2, 20, 3, 5, 5).transpose(0, 1, 3, 4, 2)
  np.testing.assert_allclose(ours, theirs, atol=1e-5)


def test_pyramid_of_regions():
  maps = [RNG.normal(size=(1, s, s, 2)).astype(np.float32) for s in (64, 32, 16, 8)]
  boxes_BN4 = np.concatenate([random_boxes(15, s) for s in (256, 60, 20)])[None]
  pooler = torchvision.ops.MultiScaleRoIAlign(['0', '1', '2', '3'], 7, 2)
  theirs = pooler(
    {str(i): torch.tensor(x.transpose(0, 3, 1, 2)) for i, x in enumerate(maps)},
    [torch.tensor(boxes_BN4[0])],
    [(256, 256)],
  )
  ours = roi.align(maps, boxes_BN4, (4, 8, 16, 32), 7, 2, aligned=False)
  theirs = theirs.numpy().transpose(0, 2, 3, 1)
  np.testing.assert_allclose(ours[0], theirs, atol=1e-5)


def test_deltas_anchors_and_assignment():
  utils = detection._utils
  boxes_N4, true_N4 = random_boxes(30, 90), random_boxes(30, 90)
  coder = utils.BoxCoder((10.0, 10.0, 5.0, 5.0))
  theirs = coder.encode_single(torch.tensor(true_N4), torch.tensor(boxes_N4))
  stds = (0.1, 0.1, 0.2, 0.2)
  ours = regions.encode(boxes_N4, jnp.asarray(true_N4), stds)
  np.testing.assert_allclose(ours, theirs, rtol=1e-4, atol=1e-4)
  deltas_N4 = RNG.normal(0, 12, (30, 4)).astype(np.float32)
  theirs = coder.decode_single(torch.tensor(deltas_N4), torch.tensor(boxes_N4))
  ours = regions.decode(jnp.asarray(boxes_N4), jnp.asarray(deltas_N4), stds)
  np.testing.assert_allclose(ours, theirs, rtol=1e-4, atol=1e-3)

  maker = detection.anchor_utils.AnchorGenerator(((32,), (64,)), ((0.5, 1.0, 2.0),) * 2)
  images = detection.image_list.ImageList(torch.zeros(1, 3, 32, 48), [(32, 48)])
  maps = [torch.zeros(1, 1, 8, 12), torch.zeros(1, 1, 4, 6)]
  [theirs] = maker(images, maps)
  ours = [
    regions.anchors(grid, stride, (size,), rounded=True)
    for grid, stride, size in (((8, 12), 4, 32), ((4, 6), 8, 64))
  ]
  np.testing.assert_allclose(np.concatenate(ours), theirs)

  matcher = utils.Matcher(0.7, 0.3, allow_low_quality_matches=True)
  # Every object overlaps an anchor: otherwise torchvision takes all anchors as its
  # best.
  near_N4 = boxes_N4[:6] + np.float32([0, 0, 1, 1]) * np.float32(RNG.uniform(1, 9))
  iou = torchvision.ops.box_iou(torch.tensor(near_N4), torch.tensor(boxes_N4))
  theirs = matcher(iou).numpy()
  ours = regions.assign(
    jnp.asarray(boxes_N4), jnp.asarray(near_N4), jnp.ones(6, bool), 0.7, 0.3, 0.0
  )
  np.testing.assert_array_equal(ours.positive_N, theirs >= 0)
  np.testing.assert_array_equal(ours.negative_N, theirs == -1)
  positive = theirs >= 0
  assert positive.any()
  np.testing.assert_array_equal(np.asarray(ours.object_N)[positive], theirs[positive])


def test_suppression():
  boxes_N4, scores_N = random_boxes(80, 60), RNG.permutation(80).astype(np.float32)
  groups_N = RNG.integers(3, size=80)
  arrays = torch.tensor(boxes_N4), torch.tensor(scores_N)
  theirs = greedy(*arrays, 0.5).numpy()
  ours = nms.kept(boxes_N4, scores_N, np.ones(80, bool), 0.5)
  assert sorted(theirs) == np.flatnonzero(ours).tolist()
  theirs = torchvision.ops.batched_nms(*arrays, torch.tensor(groups_N), 0.5).numpy()
  found = nms.select(*map(jnp.asarray, (boxes_N4, scores_N + 1, groups_N)), 80, 0.5)
  assert found.index_K[found.valid_K].tolist() == theirs.tolist()


def random_torch(model, key=0):
  """Gives random values to all weights and statistics, so that scores differ."""
  generator = torch.Generator().manual_seed(key)
  with torch.no_grad():
    for name, x in model.state_dict().items():
      if name.endswith('running_var'):
        x.copy_(torch.rand(x.shape, generator=generator) + 0.5)
      elif x.ndim > 1:
        scale = (2 / x[0].numel()) ** 0.5
        scale *= 3 if 'cls_score' in name else 0.1 if 'bbox_pred' in name else 1
        x.copy_(torch.randn(x.shape, generator=generator) * scale)
      elif x.ndim == 1:
        noise = torch.randn(x.shape, generator=generator) * 0.1
        start = 0.35 if 'bn3' in name or 'downsample.1' in name else 0.8
        is_scale = name.endswith('weight')
        x.copy_(noise + (start if is_scale else 0.0))
  return model.eval()


def test_mask_rcnn_end_to_end():
  """Compares boxes, scores and masks of an image that is not square and not resized."""
  made = detection.maskrcnn_resnet50_fpn(
    weights=None, weights_backbone=None, num_classes=6, min_size=160, max_size=224,
    box_score_thresh=0.05, rpn_pre_nms_top_n_test=200, rpn_post_nms_top_n_test=150,
  )  # fmt: skip
  theirs = random_torch(made)
  state = {name: x.numpy() for name, x in theirs.state_dict().items()}
  weights = published.of_arrays(state, Beside(pathlib.Path('random.pth')))
  assert weights.family.name == 'rcnn' and weights.num_classes == 5
  base = weights.model
  model = base.clone(rpn=base.rpn.clone(candidates=(200, 200), proposals=(150, 150)))
  image_HWC = RNG.uniform(0, 1, (160, 224, 3)).astype(np.float32)
  captured = {}

  def capture(module, inputs, outputs):
    captured['boxes'] = outputs[0][0].numpy()

  theirs.rpn.register_forward_hook(capture)
  kept = {}
  post = theirs.transform.postprocess

  def keep(result, *sizes):
    kept['masks'] = result[0]['masks'].numpy()
    return post(result, *sizes)

  theirs.transform.postprocess = keep
  with torch.no_grad():
    [found] = theirs([torch.tensor(image_HWC.transpose(2, 0, 1))])
  told = theirs.transform
  mean, std = np.float32(told.image_mean), np.float32(told.image_std)
  with highest:
    ours = jax.jit(model.apply)(weights.variables, ((image_HWC - mean) / std)[None])
  count = len(captured['boxes'])
  np.testing.assert_allclose(ours['proposals'][0, :count], captured['boxes'], atol=1e-3)
  number = len(found['scores'])
  assert number >= 20 and len({*found['labels'].tolist()}) > 1
  assert int((ours['labels'][0] >= 0).sum()) == number
  np.testing.assert_array_equal(ours['labels'][0, :number], found['labels'] - 1)
  np.testing.assert_allclose(ours['scores'][0, :number], found['scores'], atol=1e-3)
  np.testing.assert_allclose(ours['boxes_xyxy'][0, :number], found['boxes'], atol=1e-3)
  masks = ours['masks'][0, :number]
  np.testing.assert_allclose(masks, kept['masks'][:, 0], atol=1e-3)
  assert masks.std() > 0.1


def test_losses():
  """Compares losses of regions that torchvision samples: all of them."""
  logits = RNG.normal(size=(40, 4)).astype(np.float32)
  deltas = RNG.normal(size=(40, 3, 4)).astype(np.float32)
  labels = RNG.integers(0, 4, 40)  # 0 is the background
  boxes_N4, true_N4 = random_boxes(40, 90), random_boxes(40, 90)
  coder = detection._utils.BoxCoder((10.0, 10.0, 5.0, 5.0))
  wanted = coder.encode_single(torch.tensor(true_N4), torch.tensor(boxes_N4))
  their_deltas = np.concatenate([np.zeros((40, 1, 4), np.float32), deltas], 1)
  theirs = detection.roi_heads.fastrcnn_loss(
    torch.tensor(logits),
    torch.tensor(their_deltas.reshape(40, -1)),
    [torch.tensor(labels)],
    [wanted],
  )
  task = object.__new__(two_stage_detection.TwoStageDetection)
  for name, value in dict(
    model=type('Model', (), {'stds': ((0.1, 0.1, 0.2, 0.2),)}),
    box_loss='smooth_l1',
    box_beta=1 / 9,
  ).items():
    object.__setattr__(task, name, value)
  positive = labels > 0
  targets = two_stage_detection.Targets(
    *(
      jnp.asarray(x)[None]
      for x in (
        boxes_N4, np.maximum(labels - 1, 0), np.arange(40), positive, ~positive,
        np.zeros(40, bool),
      )
    )
  )  # fmt: skip
  ours = task.head_losses(
    0,
    dict(
      logits=[jnp.asarray(np.roll(logits, -1, 1))[None]],
      deltas=[jnp.asarray(deltas)[None]],
      mask_logits=[],
    ),
    targets,
    two_stage_detection.TrueObjects(
      jnp.asarray(true_N4)[None], None, jnp.ones((1, 40), bool)
    ),
    {},
  )
  for name, value in zip(('class', 'box'), theirs, strict=True):
    np.testing.assert_allclose(ours[name], value, rtol=1e-4)
