"""Detection by regions: losses of proposals, of boxes and of masks.

Axes: B batch, H W image, N anchors or regions of an image, R regions and true boxes, S
sampled ones, P those that may be positive, K rows of true objects, L heads, C classes
(logits: and background, last), G groups of deltas, M pixels of a side of a mask.
"""

import dataclasses
import functools
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
import optax

from big_vision_like.errors import UserError, check_one_of
from big_vision_like.ops import boxes, images, precision, regions, roi
from big_vision_like.tasks import set_detection, task
from big_vision_like.tasks.task import Arrays, Frozen, Loss, State

WEIGHTS = {'objectness': 1.0, 'proposal': 1.0, 'class': 1.0, 'box': 1.0, 'mask': 1.0}
BOX_LOSSES = ('smooth_l1', 'giou')


class Targets(NamedTuple):
  """The sampled regions of an image, positives first, and their targets.

  `added_S` marks true boxes that were added to the proposals.
  """

  boxes_S4: jax.Array
  label_S: jax.Array
  object_S: jax.Array
  positive_S: jax.Array
  negative_S: jax.Array
  added_S: jax.Array


@dataclasses.dataclass(frozen=True, kw_only=True)
class TwoStageDetection(task.GradientTask):
  """Training of `models.rcnn` (arXiv:1506.01497, 1703.06870, 1712.00726).

  Batches hold `image` (B, H, W, C), uint8 or normalised, which is valid in the first
  `size` (B, 2) rows and columns (by default all); `boxes` (B, K, 4), xyxy in pixels;
  `box_labels` (B, K) and `box_mask` (B, K), False for padding. For models with masks
  they also hold `box_masks` (B, K, M, M), the mask of each object within its box, 0 to
  1 or as uint8 0 to 255 (`instance_masks.BoxMasks`).

  Anchors are positive if their IoU with an object is at least `anchor_iou[0]`, or if
  none overlaps that object more and it is at least `anchor_iou[1]`, and negative below
  `anchor_iou[1]`; those whose cells are outside of the picture are ignored. `anchors`
  of them are sampled, up to half of them positives. Each head learns from `regions`
  proposals and true boxes, up to a quarter of them positives, with an IoU of at least
  its entry of `ious`; its losses count `head_weights`.

  The losses are `objectness` (sigmoid cross-entropy) and `proposal` (deltas) of
  anchors, and `class` (cross-entropy), `box` and `mask` (cross-entropy of the pixels of
  positives, at the true class) of each head; `weights` overrides `WEIGHTS` by name.
  Each is a mean over all samples of the batch, although only positives have `proposal`
  and `box`; `mask` is a mean over positives. Deltas have a smooth L1 loss, quadratic
  below `proposal_beta` and `box_beta`; 0 is L1. With `box_loss='giou'` heads compare
  decoded boxes instead, 1 - gIoU (arXiv:1902.09630). With `accumulate`, means are over
  the parts.

  Nothing is computed on the host. `mean` and `std` default to ImageNet's; invalid
  pixels are zero after normalization.
  """

  predicts = 'objects'

  weights: Mapping[str, float] = dataclasses.field(default_factory=dict)
  head_weights: Sequence[float] = (1.0,)
  ious: Sequence[float] = (0.5,)
  anchor_iou: tuple[float, float] = (0.7, 0.3)
  anchors: int = 256
  regions: int = 512
  box_loss: str = 'smooth_l1'
  box_beta: float = 0.0
  proposal_beta: float = 0.0
  mean: float | Sequence[float] = (0.485, 0.456, 0.406)
  std: float | Sequence[float] = (0.229, 0.224, 0.225)

  tiny = dict(anchors=32, regions=32)

  def __post_init__(self) -> None:
    check_one_of(BOX_LOSSES, box_loss=self.box_loss)
    for name in self.weights.keys() - WEIGHTS.keys():
      raise UserError(f'weights: {name!r} is not one of {", ".join(WEIGHTS)}')
    heads = len(self.model.stds)
    for field in ('head_weights', 'ious'):
      if len(getattr(self, field)) != heads:
        raise UserError(
          f'{field}={tuple(getattr(self, field))} must have {heads} entries, one for'
          ' each head of the model (its `stds`)'
        )
    if min(self.anchors, self.regions) < 4:
      raise UserError(
        f'anchors={self.anchors} and regions={self.regions} must be at least 4'
      )

  @property
  def images(self) -> images.Normalization:
    return images.Normalization(self.mean, self.std)

  def check(self, batch: dict) -> None:
    set_detection.check_shapes(batch, batch['boxes'].shape[1])
    set_detection.check_objects(batch, self.num_classes)
    if not self.model.masks:
      return
    if 'box_masks' not in batch:
      raise UserError(
        'the model predicts masks, but batches have no `box_masks`: they have'
        f' {", ".join(batch)}; add instance_masks.BoxMasks to the transforms, or set'
        ' task.model.masks=False.'
      )
    shape, rows = list(batch['box_masks'].shape), list(batch['boxes'].shape[:2])
    if len(shape) != 4 or shape[:2] != rows or shape[2] != shape[3]:
      raise UserError(
        f'`box_masks` is {shape}, but with `boxes` {list(batch["boxes"].shape)} it must'
        f' be {rows} and twice the side of a mask.'
      )

  def model_inputs(self, batch: Arrays) -> tuple[jax.Array, ...]:
    image_BHWC = images.normalize(batch['image'], self.mean, self.std)
    return boxes.only_valid(image_BHWC, boxes.valid_size(batch))

  def prepare(self, batch: Arrays, key: jax.Array, frozen: Frozen = None) -> Arrays:
    image_BHWC, size_B2 = self.model_inputs(batch)
    return batch | {'image': image_BHWC, 'size': size_B2}

  def loss(self, params: Any, mutable: Any, batch: Arrays, key: jax.Array) -> Loss:
    key_anchors, key_regions, key_model = jax.random.split(key, 3)
    true = objects_of(batch)
    sampler = _Sampler(self, true, key_regions)

    def learn(model: nn.Module, image_BHWC: jax.Array, size_B2: jax.Array) -> Any:
      outputs = model.learn(image_BHWC, size_B2, sampler)
      # Arrays made in there stay in there, unless they are returned.
      return outputs, sampler.chosen

    (outputs, chosen), mutable = self.model.apply(
      {'params': params, **mutable},
      batch['image'],
      batch['size'],
      method=learn,
      rngs={'dropout': key_model},
      mutable=list(mutable),
    )
    found = anchor_losses(
      outputs, true, batch['size'], key_anchors, self.anchors,
      self.anchor_iou, self.proposal_beta,
    )  # fmt: skip
    weights = WEIGHTS | self.weights
    total = sum(weights[name] * loss for name, loss in found.items())
    scalars = {f'loss_{name}': loss for name, loss in found.items()}
    for head, targets in enumerate(chosen):
      own = self.head_losses(head, outputs, targets, true, batch)
      number = f'_{head + 1}' if len(chosen) > 1 else ''
      scalars |= {f'loss_{name}{number}': loss for name, loss in own.items()}
      weighted = sum(weights[name] * loss for name, loss in own.items())
      total += self.head_weights[head] * weighted
    scalars['positives'] = chosen[0].positive_S.sum(dtype=jnp.float32) / len(
      chosen[0].positive_S
    )
    return total, (mutable, scalars)

  def head_losses(
    self,
    head: int,
    outputs: Mapping[str, Any],
    targets: Targets,
    true: 'TrueObjects',
    batch: Arrays,
  ) -> Arrays:
    """Returns the losses `class`, `box` and `mask` of a head."""
    stds = self.model.stds[head]
    boxes_BS4 = targets.boxes_S4
    logits_BSC, deltas_BSG4 = outputs['logits'][head], outputs['deltas'][head]
    background = logits_BSC.shape[-1] - 1
    positive_BS = targets.positive_S
    used_BS = positive_BS | targets.negative_S
    label_BS = jnp.where(positive_BS, targets.label_S, background)
    loss_BS = optax.softmax_cross_entropy_with_integer_labels(logits_BSC, label_BS)
    count = jnp.maximum(used_BS.sum(dtype=jnp.float32), 1.0)
    found = {'class': jnp.where(used_BS, loss_BS, 0.0).sum() / count}
    if deltas_BSG4.shape[2] > 1:
      label_BS11 = targets.label_S[..., None, None]
      deltas_BSG4 = jnp.take_along_axis(deltas_BSG4, label_BS11, axis=2)
    deltas_BS4 = deltas_BSG4[:, :, 0]
    true_BS4 = jnp.take_along_axis(true.boxes_BK4, targets.object_S[..., None], axis=1)
    # Values in padding must not reach gradients, as 0 * NaN.
    true_BS4 = jnp.where(positive_BS[..., None], true_BS4, boxes_BS4)
    if self.box_loss == 'giou':
      decoded_BS4 = regions.decode(boxes_BS4, deltas_BS4, stds)
      loss_BS = 1.0 - boxes.generalized_iou(decoded_BS4, true_BS4)
    else:
      wanted_BS4 = regions.encode(boxes_BS4, true_BS4, stds)
      loss_BS = smooth_l1(deltas_BS4 - wanted_BS4, self.box_beta).sum(axis=-1)
    found['box'] = jnp.where(positive_BS, loss_BS, 0.0).sum() / count
    if outputs['mask_logits']:
      found['mask'] = mask_loss(
        outputs['mask_logits'][head], targets, true_BS4, batch['box_masks']
      )
    return found

  def predict(self, state: State, batch: Arrays, key: jax.Array) -> Arrays:
    """Returns the model's outputs, with boxes in pixels of the original images.

    `boxes_xyxy` (B, K, 4), `scores` and `labels` (B, K), and with masks `masks`
    (B, K, M, M), are the objects; rows with the label -1 are empty. Boxes are in pixels
    of images of `original_size` (B, 2: height, width), or of `size` if batches do not
    have it. `proposals` are too.
    """
    del key  # nothing is random in evaluation
    outputs = self.model.apply(state.variables, *self.model_inputs(batch))
    size_B2 = boxes.valid_size(batch)
    original_B2 = batch.get('original_size', size_B2)
    ratio_B14 = boxes.corner_scale(original_B2) / boxes.corner_scale(size_B2)
    names = [n for n in outputs if n.startswith('anchor')]  # are not by image
    outputs = {n: x for n, x in outputs.items() if n not in names}
    return outputs | {
      name: outputs[name] * ratio_B14 for name in ('boxes_xyxy', 'proposals')
    }


class TrueObjects(NamedTuple):
  """The true objects of a batch; rows where `valid_BK` is False are padding."""

  boxes_BK4: jax.Array
  label_BK: jax.Array
  valid_BK: jax.Array


def objects_of(batch: Arrays) -> TrueObjects:
  """Returns the objects of a batch; boxes of padding are zeros."""
  valid_BK = batch['box_mask'].astype(bool)
  boxes_BK4 = precision.at_least_float32(jnp.asarray(batch['boxes']))
  return TrueObjects(
    jnp.where(valid_BK[..., None], boxes_BK4, 0.0),
    jnp.where(valid_BK, batch['box_labels'], 0),
    valid_BK,
  )


class _Sampler:
  """Chooses the regions that each head learns from; `chosen` has their targets.

  The first head gets proposals, and each further head the regions of the one before,
  refined, except true boxes, which are added to those of each head.
  """

  def __init__(
    self, owner: TwoStageDetection, true: TrueObjects, key: jax.Array
  ) -> None:
    self.owner, self.true, self.key = owner, true, key
    self.chosen: list[Targets] = []

  def __call__(self, head: int, boxes_BN4: jax.Array) -> tuple[jax.Array, jax.Array]:
    usable_BN = boxes.area(boxes_BN4) > 0
    if head:
      before = self.chosen[-1]
      usable_BN &= (before.positive_S | before.negative_S) & ~before.added_S
    count, most = self.owner.regions, self.owner.regions // 4
    keys_B = jax.random.split(jax.random.fold_in(self.key, head), len(boxes_BN4))
    choose = functools.partial(chosen_regions, self.owner.ious[head], count, most)
    targets = jax.vmap(choose)(keys_B, boxes_BN4, usable_BN, *self.true)
    self.chosen.append(targets)
    return targets.boxes_S4, targets.boxes_S4[:, :most]


def chosen_regions(
  iou: float,
  count: int,
  most_positive: int,
  key: jax.Array,
  boxes_N4: jax.Array,
  usable_N: jax.Array,
  true_K4: jax.Array,
  label_K: jax.Array,
  valid_K: jax.Array,
) -> Targets:
  """Returns a sample of an image's regions and of its true boxes."""
  all_R4 = jnp.concatenate([boxes_N4, true_K4])
  usable_R = jnp.concatenate([usable_N, valid_K])
  found = regions.assign(all_R4, true_K4, valid_K, iou, iou)
  picked = regions.sample(
    key,
    found.positive_N & usable_R,
    found.negative_N & usable_R,
    count,
    most_positive,
  )
  used_S = picked.positive_S | picked.negative_S
  object_S = found.object_N[picked.index_S]
  return Targets(
    jnp.where(used_S[:, None], all_R4[picked.index_S], 0.0),
    label_K[object_S],
    object_S,
    picked.positive_S,
    picked.negative_S,
    picked.index_S >= len(boxes_N4),
  )


def anchor_losses(
  outputs: Mapping[str, Any],
  true: TrueObjects,
  size_B2: jax.Array,
  key: jax.Array,
  count: int,
  anchor_iou: tuple[float, float],
  beta: float,
) -> Arrays:
  """Returns the losses `objectness` and `proposal` of sampled anchors."""
  anchors_N4 = outputs['anchors']
  high, low = anchor_iou

  def choose(
    key: jax.Array, size_2: jax.Array, true_K4: jax.Array, valid_K: jax.Array
  ) -> tuple[regions.Sampled, jax.Array]:
    centre_N2 = (anchors_N4[:, :2] + anchors_N4[:, 2:]) / 2
    inside_N = (centre_N2 < size_2[None, ::-1]).all(axis=-1)
    found = regions.assign(anchors_N4, true_K4, valid_K, high, low, low_quality=low)
    picked = regions.sample(
      key, found.positive_N & inside_N, found.negative_N & inside_N, count, count // 2
    )
    return picked, true_K4[found.object_N[picked.index_S]]

  keys_B = jax.random.split(key, len(size_B2))
  picked, true_BS4 = jax.vmap(choose)(keys_B, size_B2, true.boxes_BK4, true.valid_BK)
  positive_BS = picked.positive_S
  used_BS = positive_BS | picked.negative_S
  logits_BS = jnp.take_along_axis(outputs['anchor_logits'], picked.index_S, axis=1)
  deltas_BS4 = jnp.take_along_axis(
    outputs['anchor_deltas'], picked.index_S[..., None], axis=1
  )
  total = jnp.maximum(used_BS.sum(dtype=jnp.float32), 1.0)
  loss_BS = optax.sigmoid_binary_cross_entropy(
    logits_BS, positive_BS.astype(logits_BS.dtype)
  )
  boxes_BS4 = anchors_N4[picked.index_S]
  true_BS4 = jnp.where(positive_BS[..., None], true_BS4, boxes_BS4)
  far_BS4 = deltas_BS4 - regions.encode(boxes_BS4, true_BS4)
  far_BS = smooth_l1(far_BS4, beta).sum(axis=-1)
  return {
    'objectness': jnp.where(used_BS, loss_BS, 0.0).sum() / total,
    'proposal': jnp.where(positive_BS, far_BS, 0.0).sum() / total,
  }


def mask_loss(
  logits_BPMMC: jax.Array,
  targets: Targets,
  true_BS4: jax.Array,
  masks_BKMM: jax.Array,
) -> jax.Array:
  """Returns the mean cross-entropy of the pixels of positive regions, 0 without any.

  The target of a pixel is whether the object covers at least half of it.
  """
  rows, side = logits_BPMMC.shape[1:3]
  object_BP = targets.object_S[:, :rows]
  positive_BP = targets.positive_S[:, :rows]
  own = jax.vmap(lambda masks_KMM, object_P: masks_KMM[object_P])(
    jnp.asarray(masks_BKMM), object_BP
  )
  share_BPMM = roi.mask_targets(
    own, true_BS4[:, :rows], targets.boxes_S4[:, :rows], side
  )
  label_BP111 = targets.label_S[:, :rows, None, None, None]
  logits_BPMM = jnp.take_along_axis(logits_BPMMC, label_BP111, axis=-1)[..., 0]
  wanted_BPMM = (share_BPMM >= 0.5).astype(logits_BPMM.dtype)
  loss_BPMM = optax.sigmoid_binary_cross_entropy(logits_BPMM, wanted_BPMM)
  loss_BP = loss_BPMM.mean(axis=(2, 3))
  count = jnp.maximum(positive_BP.sum(dtype=jnp.float32), 1.0)
  return jnp.where(positive_BP, loss_BP, 0.0).sum() / count


def smooth_l1(x: jax.Array, beta: float) -> jax.Array:
  """Returns |x| - beta / 2, or x^2 / (2 beta) where |x| < beta; for 0 this is |x|."""
  far = jnp.abs(x)
  if not beta:
    return far
  return jnp.where(far < beta, 0.5 * jnp.square(x) / beta, far - 0.5 * beta)
