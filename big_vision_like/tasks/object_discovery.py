"""Unsupervised object discovery: images to slots and back.

Axes: B batch, H W image, C channels, T iterations, S slots, D their size.
"""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp

from big_vision_like.ops import images
from big_vision_like.tasks import task
from big_vision_like.tasks.task import Arrays, Loss, State


@dataclasses.dataclass(frozen=True, kw_only=True)
class ObjectDiscovery(task.GradientTask):
  """Object discovery by reconstruction error (arXiv:2006.15055, section 3.1).

  The loss is the mean squared error of the reconstruction. Batches hold `image` (uint8
  or [-1, 1]). Initial slots are sampled again in each training step, and from the key
  in `predict`.
  """

  predicts = 'slots'

  @property
  def images(self) -> images.Normalization:
    return images.Normalization()

  def loss(self, params: Any, mutable: Any, batch: Arrays, key: jax.Array) -> Loss:
    (image_BHWC,) = self.model_inputs(batch)
    outputs, mutable = self.trained(params, mutable, (image_BHWC,), slots=key)
    return squared_error(image_BHWC, outputs['reconstruction']).mean(), (mutable, {})

  def predict(
    self,
    state: State,
    batch: Arrays,
    key: jax.Array,
    num_slots: int | None = None,
    iterations: int | None = None,
  ) -> Arrays:
    """Returns the model's outputs, optionally for other numbers of slots or iterations.

    It adds `image` as the model sees it, `mse` (B,), and after each iteration
    `iterate_reconstructions` (B, T, H, W, C), `iterate_masks` (B, T, S, H, W) and
    `iterate_contents` (B, T, S, H, W, C).
    """
    variables = state.variables
    (image_BHWC,) = self.model_inputs(batch)
    outputs = self.model.apply(
      variables,
      image_BHWC,
      num_slots=num_slots,
      iterations=iterations,
      rngs={'slots': key},
    )
    *earlier, _ = jnp.unstack(outputs['iterates'], axis=1)
    decoded = [
      self.model.apply(variables, slots_BSD, method='decode') for slots_BSD in earlier
    ]
    decoded.append(outputs)
    names = dict(reconstruction='reconstructions', masks='masks', contents='contents')
    iterates = {
      f'iterate_{plural}': jnp.stack([each[name] for each in decoded], axis=1)
      for name, plural in names.items()
    }
    error_B = squared_error(image_BHWC, outputs['reconstruction'])
    return outputs | iterates | {'image': image_BHWC, 'mse': error_B}


def squared_error(image_BHWC: jax.Array, other_BHWC: jax.Array) -> jax.Array:
  """Returns the squared error averaged over pixels and channels: (B,)."""
  return jnp.square(image_BHWC - other_BHWC).mean(axis=(1, 2, 3))
