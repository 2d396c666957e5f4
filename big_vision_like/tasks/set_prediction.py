"""Prediction of sets of objects from images.

Axes: B batch, H W image, C channels, O objects (rows of targets), S slots, P properties
of an object.
"""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

from big_vision_like.errors import UserError
from big_vision_like.ops import images, matching, precision
from big_vision_like.tasks import task
from big_vision_like.tasks.task import Arrays, Loss, State


@dataclasses.dataclass(frozen=True, kw_only=True)
class SetPrediction(task.GradientTask):
  """Set prediction (arXiv:2006.15055): slots learn the properties of matched objects.

  Batches hold `image` (uint8 or [-1, 1]) and `targets` (B, O, P), values in [0, 1];
  rows of zeros are padding and are matched like objects. Initial slots are sampled from
  the key, in `predict` too.
  """

  predicts = 'sets'

  def check(self, batch: dict) -> None:
    targets_BOP = batch['targets']
    slots, properties = self.model.num_slots, self.model.num_properties
    shape = list(targets_BOP.shape)
    if len(shape) != 3 or shape[2] != properties:
      raise UserError(
        f'`targets` is {shape}, but the model predicts {properties} properties: it must'
        f' be (batch, objects, {properties}); set task.model.num_properties to match'
        ' the data.'
      )
    if shape[1] > slots:
      raise UserError(
        f'`targets` is {shape}: {shape[1]} objects an image, but the model has {slots}'
        f' slots; set task.model.num_slots to {shape[1]} or more, or leave out images'
        ' with more objects and their rows.'
      )
    for i in (~np.isfinite(targets_BOP).all(axis=(1, 2))).nonzero()[0]:
      which = f'the example with id {batch["id"][i]}' if 'id' in batch else f'row {i}'
      raise UserError(
        f'`targets` of {which} hold NaN or infinity; leave it out of the data.'
      )

  @property
  def images(self) -> images.Normalization:
    return images.Normalization()

  def loss(self, params: Any, mutable: Any, batch: Arrays, key: jax.Array) -> Loss:
    inputs = self.model_inputs(batch)
    outputs, mutable = self.trained(params, mutable, inputs, slots=key)
    loss_B = hungarian_huber(outputs['predictions'], batch['targets'])
    return loss_B.mean(), (mutable, {})

  def predict(
    self,
    state: State,
    batch: Arrays,
    key: jax.Array,
    num_slots: int | None = None,
    iterations: int | None = None,
  ) -> Arrays:
    """Returns the model's outputs, its `image` and, if there are targets, `huber` (B,).

    `num_slots` and `iterations` override the model's own.
    """
    (image_BHWC,) = self.model_inputs(batch)
    outputs = self.model.apply(
      state.variables,
      image_BHWC,
      num_slots=num_slots,
      iterations=iterations,
      rngs={'slots': key},
    )
    outputs = {**outputs, 'image': image_BHWC}
    if 'targets' in batch:
      outputs['huber'] = hungarian_huber(outputs['predictions'], batch['targets'])
    return outputs


def hungarian_huber(predictions_BSP: jax.Array, targets_BOP: jax.Array) -> jax.Array:
  """Returns the sum over objects of the loss between each and its slot: (B,).

  Slots are matched to objects at minimum total loss. Raises `UserError` if O > S.
  """
  cost_BOS = pairwise_huber(predictions_BSP, targets_BOP)
  slot_BO1 = matching.match(cost_BOS)[..., None]
  matched_BO1 = jnp.take_along_axis(cost_BOS, slot_BO1, axis=2)
  # Slots that are NaN are not matched to anything; the result must still show them.
  return jnp.where(slot_BO1 < 0, jnp.nan, matched_BO1).sum(axis=(1, 2))


def pairwise_huber(predictions_BSP: jax.Array, targets_BOP: jax.Array) -> jax.Array:
  """Returns Huber losses (delta 1) of all pairs, averaged over properties: (B, O, S).

  They are float32.
  """
  predictions_B1SP = precision.at_least_float32(predictions_BSP[:, None])
  targets_BO1P = precision.at_least_float32(targets_BOP[:, :, None])
  return optax.huber_loss(predictions_B1SP, targets_BO1P, delta=1.0).mean(axis=-1)
