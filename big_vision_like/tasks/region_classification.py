"""Training of heads on given regions, the true boxes of objects.

Axes: B batch, H W image, C channels or classes, K objects.
"""

import dataclasses
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import optax

from big_vision_like.ops import boxes, images
from big_vision_like.tasks import set_detection, task
from big_vision_like.tasks.task import Arrays, Frozen, Loss, State


@dataclasses.dataclass(frozen=True, kw_only=True)
class RegionClassification(task.GradientTask):
  """Classifies true boxes, which shows what heads of a detector know about classes.

  Batches are those of `TwoStageDetection` without masks. The model takes images and
  boxes in pixels, and returns `first` and `second`, class logits of its two heads
  (B, K, C), and `logits`. The loss is the cross-entropy of each head, weighted by
  `head_weights`, as a mean over objects.
  """

  head_weights: Sequence[float] = (1.0, 1.0)
  mean: float | Sequence[float] = 0.5
  std: float | Sequence[float] = 0.5

  @property
  def images(self) -> images.Normalization:
    return images.Normalization(self.mean, self.std)

  def check(self, batch: dict) -> None:
    set_detection.check_shapes(batch, batch['boxes'].shape[1])
    set_detection.check_objects(batch, self.num_classes)

  def model_inputs(self, batch: Arrays) -> tuple[jax.Array, ...]:
    image_BHWC = images.normalize(batch['image'], self.mean, self.std)
    image_BHWC, _ = boxes.only_valid(image_BHWC, boxes.valid_size(batch))
    there_BK1 = batch['box_mask'].astype(bool)[..., None]
    return image_BHWC, jnp.where(there_BK1, batch['boxes'], 0.0)

  def prepare(self, batch: Arrays, key: jax.Array, frozen: Frozen = None) -> Arrays:
    image_BHWC, boxes_BK4 = self.model_inputs(batch)
    return batch | {'image': image_BHWC, 'boxes': boxes_BK4}

  def loss(self, params: Any, mutable: Any, batch: Arrays, key: jax.Array) -> Loss:
    del key
    outputs, mutable = self.trained(params, mutable, (batch['image'], batch['boxes']))
    there_BK = batch['box_mask'].astype(bool)
    label_BK = jnp.where(there_BK, batch['box_labels'], 0)
    count = jnp.maximum(there_BK.sum(dtype=jnp.float32), 1.0)
    total, scalars = jnp.zeros(()), {}
    for name, weight in zip(('first', 'second'), self.head_weights, strict=True):
      loss_BK = optax.softmax_cross_entropy_with_integer_labels(outputs[name], label_BK)
      scalars[f'loss_{name}'] = jnp.where(there_BK, loss_BK, 0.0).sum() / count
      total += weight * scalars[f'loss_{name}']
    return total, (mutable, scalars)

  def predict(self, state: State, batch: Arrays, key: jax.Array) -> Arrays:
    """Returns `logits`, `first` and `second`, (B, K, C), of the true boxes."""
    del key  # nothing is random in evaluation
    return self.model.apply(state.variables, *self.model_inputs(batch))
