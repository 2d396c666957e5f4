"""Classification of images or other named arrays.  Axes: B batch, C classes."""

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from big_vision_like.errors import UserError, check_one_of
from big_vision_like.ops import images, losses
from big_vision_like.ops.augmentation import Augment
from big_vision_like.tasks import task
from big_vision_like.tasks.task import Arrays, Frozen, Loss, State

LOSSES = {
  'softmax': losses.softmax_cross_entropy,
  'sigmoid': losses.sigmoid_cross_entropy,
  'binary': losses.binarized_cross_entropy,
}
# Losses that treat each class as a separate binary decision.
BY_CLASS = ('sigmoid', 'binary')


@dataclasses.dataclass(frozen=True, kw_only=True)
class Classification(task.GradientTask):
  """Classification by cross-entropy; batches hold `label` (B,) and the model's inputs.

  `inputs` names the arrays that the model is called with, in order: `image`, `video`,
  `nodes`, `edges` and `node_mask` of graphs, or tokens. uint8 arrays are normalized by
  `mean` and `std` (of values in [0, 1]: one number, or one per channel); the default
  gives [-1, 1], as our own and Google's weights expect. Other arrays are passed to the
  model unchanged.

  `augment` changes the targets and the first input, which must be normalized images or
  clips. `loss_type` is 'softmax', 'sigmoid' (summed over classes, as in the
  pre-training of ViTs on ImageNet-21k and JFT) or 'binary' (mean over classes, where
  every target above 0 counts as 1, as in DeiT III).
  """

  predicts = 'classes'

  inputs: Sequence[str] = ('image',)
  loss_type: str = 'softmax'
  label_smoothing: float = 0.0
  augment: Augment | None = None
  mean: float | Sequence[float] = 0.5
  std: float | Sequence[float] = 0.5

  def __post_init__(self) -> None:
    check_loss(self.loss_type, self.label_smoothing)
    if isinstance(self.inputs, str) or not self.inputs:
      raise UserError(
        f"inputs={self.inputs!r} must list names of arrays, such as ('image',)"
      )

  @property
  def images(self) -> images.Normalization:
    return images.Normalization(self.mean, self.std)

  def check(self, batch: dict) -> None:
    for name in self.inputs:
      if name not in batch:
        raise UserError(
          f'batches have no {name!r}, which task.inputs names; they have'
          f' {", ".join(batch)}'
        )
    check_labels(batch, self.num_classes)

  def prepare(self, batch: Arrays, key: jax.Array, frozen: Frozen = None) -> Arrays:
    """Adds `target` (B, C) and replaces the inputs by what the model sees."""
    target_BC = smoothed(batch['label'], self.num_classes, self.label_smoothing)
    return augmented(
      batch, self.inputs, self.model_inputs, target_BC, self.augment, key
    )

  def loss(self, params: Any, mutable: Any, batch: Arrays, key: jax.Array) -> Loss:
    _, key_dropout = jax.random.split(key)
    inputs, target_BC = self.model_inputs(batch), batch['target']
    outputs, mutable = self.trained(params, mutable, inputs, dropout=key_dropout)
    logits_BC = outputs['logits']
    loss = LOSSES[self.loss_type](logits_BC, target_BC).mean()
    hits_B = logits_BC.argmax(axis=-1) == target_BC.argmax(axis=-1)
    return loss, (mutable, {'top1': hits_B.mean(dtype=jnp.float32)})

  def predict(self, state: State, batch: Arrays, key: jax.Array) -> Arrays:
    """Returns the model's outputs and, if there are labels, `loss` (B,)."""
    del key  # nothing is random in evaluation
    outputs = self.model.apply(state.variables, *self.model_inputs(batch))
    return outputs | label_loss(self.loss_type, outputs['logits'], batch)


def check_loss(loss_type: str, label_smoothing: float) -> None:
  """Raises for an unknown loss, and for smoothing that would make all targets 1."""
  check_one_of(LOSSES, loss_type=loss_type)
  if loss_type == 'binary' and label_smoothing:
    raise UserError(
      f"loss_type='binary' takes every target above 0 as 1, and label_smoothing="
      f'{label_smoothing} makes all of them so: set label_smoothing=0.0'
    )


def check_teacher(teacher: nn.Module, num_classes: int) -> None:
  """Raises unless a teacher has the same number of classes as its student."""
  theirs = getattr(teacher, 'num_classes', 0)
  if theirs != num_classes:
    raise UserError(
      f'the teacher has {theirs} classes and the model {num_classes}: a teacher must'
      ' know the classes of its student'
    )


def check_labels(batch: dict, classes: int) -> None:
  """Raises for the first label of a host batch that is not in [0, classes)."""
  labels = batch['label']
  for i in ((labels < 0) | (labels >= classes)).nonzero()[0]:
    which = f' of the example with id {batch["id"][i]}' if 'id' in batch else ''
    raise UserError(
      f'label {labels[i]}{which} is out of range: the model has {classes} classes'
      f' (0 to {classes - 1}); set task.model.num_classes to match the data.'
    )


def smoothed(label_B: jax.Array, classes: int, smoothing: float) -> jax.Array:
  """Returns one-hot targets (B, C) with `smoothing` of each spread over all classes."""
  target_BC = jax.nn.one_hot(label_B, classes)
  return target_BC * (1.0 - smoothing) + smoothing / classes if smoothing else target_BC


def augmented(
  batch: Arrays,
  names: Sequence[str],
  model_inputs: Callable[[Arrays], Sequence[jax.Array]],
  target_BC: jax.Array,
  augment: Augment | None,
  key: jax.Array,
) -> Arrays:
  """Returns the batch with `target` and the inputs, the first of them augmented."""
  inputs = dict(zip(names, model_inputs(batch), strict=True))
  if augment is not None:
    inputs[names[0]], target_BC = augment(key, inputs[names[0]], target_BC)
  return batch | inputs | {'target': target_BC}


def label_loss(loss_type: str, logits_BC: jax.Array, batch: Arrays) -> Arrays:
  """Returns `loss` (B,) for labels without smoothing; an empty dict without labels."""
  if 'label' not in batch:
    return {}
  target_BC = jax.nn.one_hot(batch['label'], logits_BC.shape[-1])
  return {'loss': LOSSES[loss_type](logits_BC, target_BC)}
