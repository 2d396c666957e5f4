"""Images to classes.  Axes: B batch, H W image, C channels or classes."""

import dataclasses
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp

from big_vision_like.errors import UserError
from big_vision_like.ops import erasing, images, losses, mixing
from big_vision_like.tasks import task
from big_vision_like.tasks.task import Arrays, State

LOSSES = {
  'softmax': losses.softmax_cross_entropy,
  'sigmoid': losses.sigmoid_cross_entropy,
}


@dataclasses.dataclass(frozen=True, kw_only=True)
class Classification(task.GradientTask):
  """Cross-entropy over classes; batches hold `image` (uint8 or [-1, 1]) and `label`.

  `loss_type` is 'softmax' or 'sigmoid' (summed over classes: how the ViTs were
  pre-trained on ImageNet-21k and JFT). `mean` and `std` of values in [0, 1] (one, or
  one for each channel) are those that pre-trained weights know; those of ours and of
  Google's see [-1, 1].

  The device augments: `flip` mirrors every other image, `erasing` is the probability
  that one loses a box (`ops.erasing`), `mixup` the alpha of arXiv:1710.09412 and
  `cutmix` that of arXiv:1905.04899. With both, a batch has CutMix with probability
  `switch`. `mixup_partner`, one of `ops.mixing.PARTNERS`, is for either.
  """

  loss_type: str = 'softmax'
  label_smoothing: float = 0.0
  flip: bool = False
  erasing: float = 0.0
  mixup: float = 0.0
  cutmix: float = 0.0
  switch: float = 0.5
  mixup_partner: str = 'rolled'
  mean: float | Sequence[float] = 0.5
  std: float | Sequence[float] = 0.5

  def __post_init__(self) -> None:
    for name in ('erasing', 'switch'):
      if not 0 <= getattr(self, name) <= 1:
        raise UserError(f'{name}={getattr(self, name)} is not a probability, 0 to 1')
    if self.mixup_partner not in mixing.PARTNERS:
      known = ', '.join(mixing.PARTNERS)
      raise UserError(f'mixup_partner={self.mixup_partner!r} is not one of {known}')
    if self.loss_type not in LOSSES:
      raise UserError(f'loss_type={self.loss_type!r} is not one of {", ".join(LOSSES)}')

  def check(self, batch: dict) -> None:
    labels, classes = batch['label'], self.model.num_classes
    for i in ((labels < 0) | (labels >= classes)).nonzero()[0]:
      which = f' of the example with id {batch["id"][i]}' if 'id' in batch else ''
      raise UserError(
        f'label {labels[i]}{which} is out of range: the model has {classes} classes'
        f' (0 to {classes - 1}); set task.model.num_classes to what the data has.'
      )

  def model_inputs(self, batch: Arrays) -> tuple[jax.Array, ...]:
    return (images.normalize(batch['image'], self.mean, self.std),)

  def augmented(self, batch: Arrays, key: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Images and targets (B, C) as the model gets them in the step of that key."""
    # The second key is dropout's.
    key_mixing, _, key_flip, key_erasing = jax.random.split(key, 4)
    (image_BHWC,) = self.model_inputs(batch)
    if self.flip:
      image_BHWC = images.flip(key_flip, image_BHWC)
    if self.erasing:
      image_BHWC = erasing.erase(key_erasing, image_BHWC, self.erasing)
    target_BC = jax.nn.one_hot(batch['label'], self.model.num_classes)
    if self.label_smoothing:
      smooth = self.label_smoothing
      target_BC = target_BC * (1.0 - smooth) + smooth / self.model.num_classes
    mixed = key_mixing, image_BHWC, target_BC
    partner = self.mixup_partner
    if self.mixup and self.cutmix:
      return mixing.mixup_or_cutmix(
        *mixed, self.mixup, self.cutmix, self.switch, partner
      )
    if self.mixup:
      return mixing.mixup(*mixed, self.mixup, partner)
    if self.cutmix:
      return mixing.cutmix(*mixed, self.cutmix, partner)
    return image_BHWC, target_BC

  def loss(
    self, params: Any, mutable: Any, batch: Arrays, key: jax.Array
  ) -> tuple[jax.Array, tuple[Any, Arrays]]:
    _, key_dropout = jax.random.split(key)
    image_BHWC, target_BC = self.augmented(batch, key)
    outputs, mutable = self.trained(params, mutable, (image_BHWC,), dropout=key_dropout)
    logits_BC = outputs['logits']
    loss = LOSSES[self.loss_type](logits_BC, target_BC).mean()
    hits_B = logits_BC.argmax(axis=-1) == target_BC.argmax(axis=-1)
    return loss, (mutable, {'top1': hits_B.mean(dtype=jnp.float32)})

  def predict(self, state: State, batch: Arrays, key: jax.Array) -> Arrays:
    del key  # nothing is random in evaluation
    outputs = self.model.apply(state.variables, *self.model_inputs(batch))
    if 'label' in batch:
      target_BC = jax.nn.one_hot(batch['label'], self.model.num_classes)
      outputs['loss'] = LOSSES[self.loss_type](outputs['logits'], target_BC)
    return outputs
