"""Action detection: the class of each actor of a clip, whose boxes are given.

Axes: B batch, T H W frames, rows and columns of a clip, I channels, A actors, S slices
of the feature map in time, C classes, L layers, G graphs, t h w feature map.
"""

import dataclasses
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

from big_vision_like.errors import UserError
from big_vision_like.ops import images
from big_vision_like.tasks import task
from big_vision_like.tasks.task import Arrays, Frozen, Loss, State


@dataclasses.dataclass(frozen=True, kw_only=True)
class ActionDetection(task.GradientTask):
  """Classifies actors by the mean cross-entropy over all actors of the global batch.

  Batches hold `video` (B, T, H, W, I), uint8 or normalized, `boxes` (B, A, S, 4) in
  cells of the feature map, `box_labels` (B, A), where 0 is usually the background, and
  `box_mask` (B, A), False for padding. Clips without actors add nothing to the loss. A
  box that is outside of the map has no features (zeros).

  The model is called with the clip, boxes and mask, and returns `logits` (B, A, C).
  """

  predicts = 'actions'
  inputs = ('video',)

  mean: float | Sequence[float] = 0.5
  std: float | Sequence[float] = 0.5

  @property
  def images(self) -> images.Normalization:
    return images.Normalization(self.mean, self.std)

  def check(self, batch: dict) -> None:
    check_actors(batch, self.num_classes)

  def model_inputs(self, batch: Arrays) -> tuple[jax.Array, ...]:
    video_BTHWI = images.normalize(batch['video'], self.mean, self.std)
    return video_BTHWI, batch['boxes'], batch['box_mask'].astype(bool)

  def prepare(self, batch: Arrays, key: jax.Array, frozen: Frozen = None) -> Arrays:
    """Replaces clips by what the model sees."""
    return batch | {'video': self.model_inputs(batch)[0]}

  def loss(self, params: Any, mutable: Any, batch: Arrays, key: jax.Array) -> Loss:
    outputs, mutable = self.trained(
      params, mutable, self.model_inputs(batch), dropout=key
    )
    mask_BA, logits_BAC = batch['box_mask'].astype(bool), outputs['logits']
    label_BA = jnp.where(mask_BA, batch['box_labels'], 0)
    loss_BA = optax.softmax_cross_entropy_with_integer_labels(logits_BAC, label_BA)
    right_BA = logits_BAC.argmax(axis=-1) == label_BA
    count = mask_BA.sum(dtype=loss_BA.dtype)
    several = jnp.maximum(count, 1.0)
    scalars = {'accuracy': (right_BA & mask_BA).sum() / several, 'weight': count}
    if self.accumulate > 1:
      # Without any actor, all parts would have no weight.
      scalars['weight'] = jnp.maximum(count, 1e-6)
    return jnp.where(mask_BA, loss_BA, 0.0).sum() / several, (mutable, scalars)

  def predict(self, state: State, batch: Arrays, key: jax.Array) -> Arrays:
    """Returns `logits` (B, A, C), float32, and `features` (B, A, D) of actors."""
    del key  # nothing is random in evaluation
    return self.model.apply(state.variables, *self.model_inputs(batch))

  def attend(self, state: State, batch: Arrays, key: jax.Array) -> Arrays:
    """Returns `logits`, and what actors attend to: `attention` (B, A, L, G, t, h, w).

    `attention` has the logits of the softmax over all cells. Raises a `UserError` for
    models without a graph.
    """
    del key
    outputs, sown = self.model.apply(
      state.variables, *self.model_inputs(batch), mutable=['intermediates']
    )
    layers = sown.get('intermediates', {}).get('graph', {})
    if not layers:
      raise UserError(
        'this model has no context graph, so its actors attend to nothing: use the'
        " prediction 'predict'"
      )
    found = [layers[f'layer{i + 1}']['logits'][0] for i in range(len(layers))]
    attention_BLGAthw = jnp.stack(found, axis=1)
    return outputs | {'attention': jnp.moveaxis(attention_BLGAthw, 3, 1)}


def check_actors(batch: dict, classes: int | None) -> None:
  """Raises for a host batch whose arrays or labels do not fit the task."""
  needed = ('video', 'boxes', 'box_labels', 'box_mask')
  for name in needed:
    if name not in batch:
      raise UserError(
        f'batches have no `{name}`: they have {", ".join(batch)}; add a transform of'
        ' data.transforms.actors'
      )
  mask_BA, label_BA = batch['box_mask'].astype(bool), batch['box_labels']
  shape = batch['boxes'].shape
  if len(shape) != 4 or shape[3] != 4 or {shape[:2]} != {mask_BA.shape, label_BA.shape}:
    raise UserError(
      f'`boxes` {list(shape)}, `box_labels` {list(label_BA.shape)} and `box_mask`'
      f' {list(mask_BA.shape)} must be [B, A, S, 4], [B, A] and [B, A], for B clips, A'
      ' actors and S slices of the feature map'
    )
  wrong_BA = mask_BA & ((label_BA < 0) | (label_BA >= (classes or np.inf)))
  for row, actor in np.argwhere(wrong_BA)[:1]:
    which = f'the clip with id {batch["id"][row]}' if 'id' in batch else f'row {row}'
    raise UserError(
      f'actor {actor} of {which} has label {label_BA[row, actor]}, which is out of'
      f' range: the model has {classes} classes (0 to {classes - 1}); set'
      ' task.model.num_classes to match the data'
    )
  if not np.isfinite(batch['boxes'][mask_BA]).all():
    raise UserError('`boxes` of actors have values that are no numbers')
