"""Detection of objects in images: boxes, classes and masks.

Axes: B batch, H W image, h w mask logits of the model, L layers of the decoder, Q
queries, C classes with "no object" last, K rows of targets, N all masks, or attributes
of an object, P pixels, A classes of attributes, D width.
"""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax

from big_vision_like.errors import UserError
from big_vision_like.ops import boxes, images, losses, matching, precision, resampling
from big_vision_like.tasks import task
from big_vision_like.tasks.task import Arrays, Frozen, Loss, State

COSTS = {'class': 1.0, 'l1': 5.0, 'giou': 2.0}
WEIGHTS = {'class': 1.0, 'l1': 5.0, 'giou': 2.0, 'focal': 1.0, 'dice': 1.0}
WEIGHTS |= {'attributes': 1.0}
# Tolerance in pixels for boxes that rounding puts outside of their image.
OUTSIDE = 0.5


class Objects(NamedTuple):
  """The target objects: cxcywh boxes in [0, 1] of the valid image, and classes.

  Rows where `valid_BK` is False are padding.
  """

  boxes_BK4: jax.Array
  label_BK: jax.Array
  valid_BK: jax.Array


@dataclasses.dataclass(frozen=True, kw_only=True)
class Detection(task.GradientTask):
  """Detection as set prediction (arXiv:2005.12872), with masks if the model has them.

  Batches hold `image` (B, H, W, C), uint8 or normalised, which is valid in the first
  `size` (B, 2) rows and columns (by default all); `boxes` (B, K, 4), xyxy in pixels;
  `box_labels` (B, K) and `box_mask` (B, K), False for padding. For models with masks
  they also hold `segment_map` (B, H, W), the row of each pixel's object counted from 1,
  or `masks` (B, K, H, W) if objects overlap. For models with attributes they hold
  `attributes` (B, K, N), of which -1 is padding.

  In each decoder layer separately, objects are matched one-to-one to queries at minimum
  cost. `costs` and `weights` override entries of the paper's `COSTS` and `WEIGHTS` by
  name. Unmatched queries learn "no object" with `no_object_weight`. The cross-entropy
  is one weighted mean over the whole batch; losses of boxes and masks are summed and
  divided by the number of objects in the whole batch. They do not depend on the number
  of devices or parts (`accumulate`) that share a batch. With `auxiliary`, earlier
  layers count like the last; only the last layer has masks.

  `mean` and `std` default to ImageNet's; invalid pixels are zero after normalization.
  """

  predicts = 'objects'

  costs: Mapping[str, float] = dataclasses.field(default_factory=dict)
  weights: Mapping[str, float] = dataclasses.field(default_factory=dict)
  no_object_weight: float = 0.1
  auxiliary: bool = True
  mean: float | Sequence[float] = (0.485, 0.456, 0.406)
  std: float | Sequence[float] = (0.229, 0.224, 0.225)

  def __post_init__(self) -> None:
    for field, known in ('costs', COSTS), ('weights', WEIGHTS):
      for name in getattr(self, field).keys() - known.keys():
        raise UserError(f'{field}: {name!r} is not one of {", ".join(known)}')
    if self.no_object_weight <= 0:
      raise UserError(f'no_object_weight={self.no_object_weight} is not positive')

  @property
  def images(self) -> images.Normalization:
    return images.Normalization(self.mean, self.std)

  def check(self, batch: dict) -> None:
    check_shapes(batch, self.model.num_queries)
    check_objects(batch, self.num_classes)
    check_attributes(batch, num_attributes(self.model))

  def model_inputs(self, batch: Arrays) -> tuple[jax.Array, ...]:
    image_BHWC = images.normalize(batch['image'], self.mean, self.std)
    return boxes.only_valid(image_BHWC, boxes.valid_size(batch))

  def prepare(self, batch: Arrays, key: jax.Array, frozen: Frozen = None) -> Arrays:
    """Adds `num_objects`, the number of objects in the batch over `accumulate`."""
    image_BHWC, size_B2 = self.model_inputs(batch)
    num_objects = batch['box_mask'].sum(dtype=jnp.float32) / self.accumulate
    return batch | {
      'image': image_BHWC,
      'size': size_B2,
      'num_objects': num_objects,
    }

  def loss(self, params: Any, mutable: Any, batch: Arrays, key: jax.Array) -> Loss:
    inputs = self.model_inputs(batch)
    outputs, mutable = self.trained(params, mutable, inputs, dropout=key)
    objects, num_objects = objects_of(batch), batch['num_objects']
    logits_LBQC, boxes_LBQ4 = outputs['layer_logits'], outputs['layer_boxes']
    if not self.auxiliary:
      logits_LBQC, boxes_LBQ4 = logits_LBQC[-1:], boxes_LBQ4[-1:]
    found, query_LBK = set_losses(
      logits_LBQC,
      boxes_LBQ4,
      objects,
      num_objects,
      COSTS | self.costs,
      self.no_object_weight,
    )
    if 'mask_logits' in outputs:
      of_masks = mask_losses(
        outputs['mask_logits'], masks_of(batch), objects, query_LBK[-1], num_objects
      )
      found |= {name: loss[None] for name, loss in of_masks.items()}
    if num_attributes(self.model):
      found['attributes'] = self._attribute_losses(params, outputs, batch, query_LBK)
    weights = WEIGHTS | self.weights
    last = sum(weights[name] * loss_L[-1] for name, loss_L in found.items())
    earlier = sum(weights[name] * loss_L[:-1].sum() for name, loss_L in found.items())
    scalars = {f'loss_{name}': loss_L[-1] for name, loss_L in found.items()}
    scalars['loss_auxiliary'] = earlier
    scalars |= errors(outputs['logits'], objects, query_LBK[-1])
    return last + earlier, (mutable, scalars)

  def _attribute_losses(
    self, params: Any, outputs: Arrays, batch: Arrays, query_LBK: jax.Array
  ) -> jax.Array:
    """Returns the loss of attributes in each matched layer, (L,) float32.

    The model predicts the attributes of an object given its true class.
    """
    if 'attributes' not in batch:
      raise UserError(
        'the model predicts attributes, but batches have no `attributes`: they have'
        f' {", ".join(batch)}; set num_attributes=0, or add attributes to the data.'
      )
    attribute_BKN = jnp.where(batch['box_mask'][..., None], batch['attributes'], -1)

    def of_layer(x_BQD: jax.Array, query_BK: jax.Array) -> jax.Array:
      place_BK1 = jnp.maximum(query_BK, 0)[..., None]
      x_BKD = jnp.take_along_axis(x_BQD, place_BK1, axis=1)
      logits_BKA = self.model.apply(
        {'params': params}, x_BKD, batch['box_labels'], method='attributes'
      )
      return losses.attributes(logits_BKA, attribute_BKN)

    return jax.vmap(of_layer)(outputs['layer_features'][-len(query_LBK) :], query_LBK)

  def predict(self, state: State, batch: Arrays, key: jax.Array) -> Arrays:
    """Returns the model's outputs, with layers (L) after the batch, and detections.

    For every query these are the most likely class except "no object", `labels` (B, Q)
    int32, its probability `scores` (B, Q), and `boxes_xyxy` (B, Q, 4), not clipped, in
    pixels of the image of `original_size` (B, 2: height, width), or of `size` if
    batches do not have it.
    """
    del key  # nothing is random in evaluation
    outputs = self.model.apply(state.variables, *self.model_inputs(batch))
    for name in outputs.keys() & {'layer_logits', 'layer_boxes', 'layer_features'}:
      outputs[name] = jnp.moveaxis(outputs[name], 0, 1)
    logits, found_BQ4 = (
      precision.at_least_float32(outputs[name]) for name in ('logits', 'boxes')
    )
    probability_BQC = jax.nn.softmax(logits)[..., :-1]
    size_B2 = batch.get('original_size', boxes.valid_size(batch))
    corners_BQ4 = boxes.cxcywh_to_xyxy(found_BQ4)
    return outputs | {
      'scores': probability_BQC.max(axis=-1),
      'labels': probability_BQC.argmax(axis=-1).astype(jnp.int32),
      'boxes_xyxy': corners_BQ4 * boxes.corner_scale(size_B2),
    }


def check_shapes(batch: dict, num_queries: int) -> None:
  """Raises unless shapes agree and there is a query for each row of targets."""
  shape = list(batch['boxes'].shape)
  if len(shape) != 3 or shape[2] != 4:
    raise UserError(
      f'`boxes` is {shape}: it must be (batch, rows, 4), left, top, right, bottom.'
    )
  wanted = {name: shape[:2] for name in ('box_labels', 'box_mask')}
  height_width = list(batch['image'].shape[1:3])
  if 'masks' in batch:
    wanted['masks'] = shape[:2] + height_width
  if 'segment_map' in batch:
    wanted['segment_map'] = shape[:1] + height_width
  for name, want in wanted.items():
    if list(batch[name].shape) != want:
      raise UserError(
        f'`{name}` is {list(batch[name].shape)}, but with `boxes` {shape} it must be'
        f' {want}.'
      )
  if shape[1] > num_queries:
    most = int(np.asarray(batch['box_mask'], bool).sum(axis=1).max(initial=0))
    raise UserError(
      f'`boxes` is {shape}: {shape[1]} rows an image, up to {most} of them objects, but'
      f' the model has {num_queries} queries; set task.model.num_queries to'
      f' {shape[1]} or more, or the rows of the data to {num_queries} or fewer.'
    )


def check_objects(batch: dict, classes: int) -> None:
  """Raises for the first object, except padding, that cannot be learned from."""
  boxes_BK4, label_BK = batch['boxes'], batch['box_labels']
  low_BK2, high_BK2 = boxes_BK4[..., :2], boxes_BK4[..., 2:]
  size_B2 = boxes.valid_size(batch)
  outside_BK2 = (low_BK2 < -OUTSIDE) | (high_BK2 > size_B2[:, None, ::-1] + OUTSIDE)
  wrongs = [
    (
      (label_BK < 0) | (label_BK >= classes),
      'has label {label}, which is out of range: the model has {classes} classes (0 to'
      ' {last}); set task.model.num_classes to match the data.',
    ),
    (
      ~np.isfinite(boxes_BK4).all(axis=-1),
      'has box {box}, which is not finite; leave it out of the data.',
    ),
    (
      (high_BK2 <= low_BK2).any(axis=-1),
      'has box {box}, which has no area: boxes are left, top, right, bottom; leave'
      ' boxes without area out of the data.',
    ),
    (
      outside_BK2.any(axis=-1),
      'has box {box}, which leaves its image of {height} x {width} (height x width):'
      ' clip boxes to the image, and leave out boxes outside.',
    ),
  ]
  for wrong_BK, message in wrongs:
    for i, k in np.argwhere(wrong_BK & np.asarray(batch['box_mask'], bool)):
      name = next((name for name in ('id', 'image_id') if name in batch), None)
      which = f'row {i}' if name is None else f'the example with id {batch[name][i]}'
      details = message.format(
        label=label_BK[i, k],
        classes=classes,
        last=classes - 1,
        box=[round(float(x), 2) for x in boxes_BK4[i, k]],
        height=size_B2[i, 0],
        width=size_B2[i, 1],
      )
      raise UserError(f'object {k} of {which} {details}')


def num_attributes(model: nn.Module) -> int:
  """Returns the number of attributes that a model predicts; 0 if it predicts none."""
  return getattr(model, 'num_attributes', 0)


def check_attributes(batch: dict, count: int) -> None:
  """Raises for the first attribute that the model does not have."""
  if not count or 'attributes' not in batch:
    return
  attribute_BKN = np.where(batch['box_mask'][..., None], batch['attributes'], -1)
  for i, k, n in np.argwhere((attribute_BKN < -1) | (attribute_BKN >= count)):
    raise UserError(
      f'object {k} of row {i} has the attribute {attribute_BKN[i, k, n]}, but the model'
      f' has {count} (0 to {count - 1}; -1 is padding): set num_attributes of its head'
      ' to match the data.'
    )


def objects_of(batch: Arrays) -> Objects:
  """Returns the objects of a batch, relative to the valid images."""
  valid_BK = batch['box_mask'].astype(bool)
  corners_BK4 = batch['boxes'] / boxes.corner_scale(boxes.valid_size(batch))
  # Values in padding must reach neither costs nor, as 0 * NaN, gradients.
  whole_114 = jnp.array([[[0.0, 0.0, 1.0, 1.0]]])
  corners_BK4 = jnp.where(valid_BK[..., None], corners_BK4, whole_114)
  label_BK = jnp.where(valid_BK, batch['box_labels'], 0)
  return Objects(boxes.xyxy_to_cxcywh(corners_BK4), label_BK, valid_BK)


def masks_of(batch: Arrays) -> jax.Array:
  """Returns masks of 0 and 1 (B, K, H, W), which may overlap."""
  if 'masks' in batch:
    return batch['masks']
  if 'segment_map' not in batch:
    raise UserError(
      'the model predicts masks, but batches have no `segment_map` and no `masks`: they'
      f' have {", ".join(batch)}; set task.model.masks=False, or add masks to the data.'
    )
  number_1K11 = jnp.arange(1, batch['boxes'].shape[1] + 1)[None, :, None, None]
  return batch['segment_map'][:, None] == number_1K11


def pair_costs(
  logits_BQC: jax.Array,
  boxes_BQ4: jax.Array,
  objects: Objects,
  costs: Mapping[str, float],
) -> jax.Array:
  """Returns the cost of each pair of object and query, float32: (B, K, Q).

  It is -class p(its class) + l1 |difference of boxes| - giou gIoU(boxes), with `costs`.
  """
  logits_BQC, found_BQ4 = map(precision.at_least_float32, (logits_BQC, boxes_BQ4))
  true_BK4 = objects.boxes_BK4
  probability_BCQ = jax.nn.softmax(logits_BQC).swapaxes(1, 2)
  p_BKQ = jnp.take_along_axis(probability_BCQ, objects.label_BK[..., None], axis=1)
  l1_BKQ = jnp.abs(true_BK4[:, :, None] - found_BQ4[:, None]).sum(axis=-1)
  giou_BKQ = boxes.pairwise_generalized_iou(
    boxes.cxcywh_to_xyxy(true_BK4), boxes.cxcywh_to_xyxy(found_BQ4)
  )
  return costs['l1'] * l1_BKQ - costs['class'] * p_BKQ - costs['giou'] * giou_BKQ


def match_layers(
  logits_LBQC: jax.Array,
  boxes_LBQ4: jax.Array,
  objects: Objects,
  costs: Mapping[str, float],
) -> jax.Array:
  """Returns the query of each object in each layer: int32 (L, B, K), -1 for none.

  Layers are matched separately, and no gradient flows through the result.
  """

  def costs_of(logits_BQC: jax.Array, boxes_BQ4: jax.Array) -> jax.Array:
    return pair_costs(logits_BQC, boxes_BQ4, objects, costs)

  logits_LBQC, boxes_LBQ4 = jax.lax.stop_gradient((logits_LBQC, boxes_LBQ4))
  cost_BLKQ = jax.vmap(costs_of, out_axes=1)(logits_LBQC, boxes_LBQ4)
  batch, layers, rows, queries = cost_BLKQ.shape
  # One search for all layers; images come first, so that they stay on their devices.
  query_NK = matching.match(
    cost_BLKQ.reshape(batch * layers, rows, queries),
    jnp.repeat(objects.valid_BK, layers, axis=0),
  )
  return query_NK.reshape(batch, layers, rows).swapaxes(0, 1)


def set_losses(
  logits_LBQC: jax.Array,
  boxes_LBQ4: jax.Array,
  objects: Objects,
  num_objects: jax.Array,
  costs: Mapping[str, float],
  no_object_weight: float,
) -> tuple[Arrays, jax.Array]:
  """Returns `box_losses` of all layers, (L,) each, and the matching they are for."""
  query_LBK = match_layers(logits_LBQC, boxes_LBQ4, objects, costs)

  def losses_of(
    logits_BQC: jax.Array, boxes_BQ4: jax.Array, query_BK: jax.Array
  ) -> Arrays:
    return box_losses(
      logits_BQC, boxes_BQ4, objects, query_BK, num_objects, no_object_weight
    )

  return jax.vmap(losses_of)(logits_LBQC, boxes_LBQ4, query_LBK), query_LBK


def box_losses(
  logits_BQC: jax.Array,
  boxes_BQ4: jax.Array,
  objects: Objects,
  query_BK: jax.Array,
  num_objects: jax.Array,
  no_object_weight: float,
) -> Arrays:
  """Returns the losses `class`, `l1` and `giou` of one layer, float32 scalars.

  `num_objects` is the number of objects in the batch; for a part of a batch, it is the
  number in the whole batch divided by the number of parts.
  """
  logits_BQC, boxes_BQ4 = map(precision.at_least_float32, (logits_BQC, boxes_BQ4))
  _, queries, classes = logits_BQC.shape
  pairs_BKQ = query_BK[..., None] == jnp.arange(queries)[None, None]
  matched_BQ = pairs_BKQ.any(axis=1)
  label_BQ = (pairs_BKQ * objects.label_BK[..., None]).sum(axis=1)
  label_BQ = jnp.where(matched_BQ, label_BQ, classes - 1)
  loss_BQ = optax.softmax_cross_entropy_with_integer_labels(logits_BQC, label_BQ)
  loss_BQ *= jnp.where(matched_BQ, 1.0, no_object_weight)
  total = num_objects + no_object_weight * (matched_BQ.size - num_objects)
  found_BK4 = jnp.take_along_axis(
    boxes_BQ4, jnp.maximum(query_BK, 0)[..., None], axis=1
  )
  giou_BK = boxes.generalized_iou(
    boxes.cxcywh_to_xyxy(found_BK4), boxes.cxcywh_to_xyxy(objects.boxes_BK4)
  )
  l1_BK = jnp.abs(found_BK4 - objects.boxes_BK4).sum(axis=-1)
  return {
    'class': loss_BQ.sum() / total,
    'l1': mean_of_objects(l1_BK, objects, num_objects),
    'giou': mean_of_objects(1.0 - giou_BK, objects, num_objects),
  }


def mask_losses(
  mask_logits_BQhw: jax.Array,
  masks_BKHW: jax.Array,
  objects: Objects,
  query_BK: jax.Array,
  num_objects: jax.Array,
) -> Arrays:
  """Returns `focal` (mean over pixels) and `dice` of matched masks, float32 scalars.

  Masks are resized to the images, and the mean includes their padding.
  """
  matched_BK11 = jnp.maximum(query_BK, 0)[..., None, None]
  logits_BKhw = jnp.take_along_axis(mask_logits_BQhw, matched_BK11, axis=1)
  batch, rows, height, width = masks_BKHW.shape
  small_Nhw1 = logits_BKhw.reshape(batch * rows, *logits_BKhw.shape[2:], 1)
  logits_NHW1 = resampling.resize(
    precision.at_least_float32(small_Nhw1), (height, width), 'bilinear'
  )
  logits_NP = logits_NHW1.reshape(batch * rows, height * width)
  target_NP = masks_BKHW.reshape(logits_NP.shape)
  found = {
    'focal': losses.sigmoid_focal(logits_NP, target_NP).mean(axis=-1),
    'dice': losses.dice(logits_NP, target_NP),
  }
  return {
    name: mean_of_objects(loss_N.reshape(batch, rows), objects, num_objects)
    for name, loss_N in found.items()
  }


def mean_of_objects(
  loss_BK: jax.Array, objects: Objects, num_objects: jax.Array
) -> jax.Array:
  """Returns the sum over valid rows divided by the number of objects; 0 without any."""
  total = jnp.where(objects.valid_BK, loss_BK, 0.0).sum()
  return total / jnp.where(num_objects > 0, num_objects, 1.0)


def errors(logits_BQC: jax.Array, objects: Objects, query_BK: jax.Array) -> Arrays:
  """Returns errors of classes and of object counts, which are not losses.

  `class_error` is the percentage of matched queries whose most likely class, including
  "no object", is wrong; 100 if there are no objects. `cardinality_error` is the
  difference between the number of queries whose most likely class is an object and the
  number of objects, as a mean of absolute values over images.
  """
  best_BQ = logits_BQC.argmax(axis=-1)
  best_BK = jnp.take_along_axis(best_BQ, jnp.maximum(query_BK, 0), axis=1)
  hits = ((best_BK == objects.label_BK) & objects.valid_BK).sum(dtype=jnp.float32)
  count_B = objects.valid_BK.sum(axis=1)
  found_B = (best_BQ != logits_BQC.shape[-1] - 1).sum(axis=1)
  return {
    'class_error': 100.0 - 100.0 * hits / jnp.maximum(count_B.sum(), 1),
    'cardinality_error': jnp.abs(found_B - count_B).mean(dtype=jnp.float32),
  }
