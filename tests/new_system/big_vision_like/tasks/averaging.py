"""Classification of images by the squared error of one-hot labels (made up)."""

import dataclasses
from typing import Any

import jax

from big_vision_like.ops import images
from big_vision_like.tasks import task


@dataclasses.dataclass(frozen=True, kw_only=True)
class Averaging(task.GradientTask):
  """Batches hold `image` (uint8) and `label`."""

  predicts = 'averages'

  @property
  def images(self) -> images.Normalization:
    return images.Normalization()

  def loss(
    self, params: Any, mutable: Any, batch: task.Arrays, key: jax.Array
  ) -> task.Loss:
    outputs, mutable = self.trained(params, mutable, self.model_inputs(batch))
    return squared(outputs['logits'], batch['label']).mean(), (mutable, {})

  def predict(
    self, state: task.State, batch: task.Arrays, key: jax.Array
  ) -> task.Arrays:
    """Returns the outputs of the model, and the error (B,)."""
    outputs = self.model.apply(state.variables, *self.model_inputs(batch))
    return outputs | {'error': squared(outputs['logits'], batch['label'])}


def squared(logits_BK: jax.Array, label_B: jax.Array) -> jax.Array:
  """Returns the squared error of each example: (B,)."""
  target_BK = jax.nn.one_hot(label_B, logits_BK.shape[1])
  return ((logits_BK - target_BK) ** 2).mean(axis=1)
