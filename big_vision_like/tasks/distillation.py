"""Training of a student on labels and the outputs of a frozen teacher.

Axes: B batch, C classes.
"""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from big_vision_like.errors import UserError, check_one_of
from big_vision_like.ops import images, losses
from big_vision_like.ops.augmentation import Augment
from big_vision_like.tasks import classification, task
from big_vision_like.tasks.task import Arrays, Frozen, Loss, Network, State

KINDS = ('hard', 'soft')
TEACHER = 'teacher'
# The label of examples that have none and learn from the teacher alone.
UNLABELLED = -1


@dataclasses.dataclass(frozen=True, kw_only=True)
class Distillation(task.GradientTask):
  """(1 - weight) * cross-entropy + weight * distillation (arXiv:2012.12877, section 4).

  The teacher sees the same augmented and mixed images as the student, in evaluation
  mode. With `kind='hard'` the teacher's most likely class is a label; with 'soft' the
  student imitates the teacher's probabilities at `temperature`. The cross-entropy with
  labels uses the model's `class_logits`, the distillation its `distilled_logits` (of a
  distillation token). A model with one head has only `logits`, which both losses use.

  Examples whose `label` is -1 are unlabelled and learn from the teacher alone; the
  cross-entropy is the mean over labelled examples. The transform `labels.Unlabelled`
  hides labels.

  The config names the teacher's weights under `frozen`, as `teacher`. `teacher_images`
  is the normalization of the teacher's images, if it differs from `mean` and `std`.
  Batches and the other fields are the same as in `Classification`.
  """

  predicts = 'classes'

  teacher: nn.Module
  kind: str = 'hard'
  weight: float = 0.5
  temperature: float = 1.0
  teacher_images: images.Normalization | None = None
  inputs: Sequence[str] = ('image',)
  loss_type: str = 'softmax'
  label_smoothing: float = 0.0
  augment: Augment | None = None
  mean: float | Sequence[float] = 0.5
  std: float | Sequence[float] = 0.5

  def __post_init__(self) -> None:
    classification.check_loss(self.loss_type, self.label_smoothing)
    check_one_of(KINDS, kind=self.kind)
    if not 0 <= self.weight <= 1:
      raise UserError(f'weight={self.weight} of the teacher is not in [0, 1]')
    if self.temperature <= 0:
      raise UserError(f'temperature={self.temperature} is not above 0')
    classification.check_teacher(self.teacher, self.model.num_classes)

  @property
  def images(self) -> images.Normalization:
    return images.Normalization(self.mean, self.std)

  def networks(self) -> Mapping[str, Network]:
    teacher = Network(
      self.teacher,
      self.teacher_inputs,
      lambda state: state.frozen[TEACHER],
      self.teacher_images or self.images,
      frozen=True,
    )
    return {**super().networks(), TEACHER: teacher}

  def check(self, batch: dict) -> None:
    # Evaluation batches have a `mask`; all of their examples need a label.
    known = (batch['label'] != UNLABELLED) | ('mask' in batch)
    own = {name: batch[name][known] for name in ('label', 'id') if name in batch}
    classification.check_labels(own, self.num_classes)

  def teacher_inputs(self, batch: Arrays) -> tuple[jax.Array, ...]:
    """Returns the student's inputs, normalized as the teacher expects."""
    inputs = self.model_inputs(batch)
    if self.teacher_images is None:
      return inputs
    first = images.renormalize(inputs[0], self.images, self.teacher_images)
    return (first, *inputs[1:])

  def prepare(self, batch: Arrays, key: jax.Array, frozen: Frozen = None) -> Arrays:
    """Adds `target` (B, C) and, given the teacher, its `teacher_logits` (B, C).

    Each row of targets sums to the weight of its label, which is 0 for unlabelled
    examples and 1 on average over the batch.
    """
    label_B = batch['label']
    target_BC = classification.smoothed(label_B, self.num_classes, self.label_smoothing)
    target_BC *= (label_B != UNLABELLED)[:, None]
    batch = classification.augmented(
      batch, self.inputs, self.model_inputs, target_BC, self.augment, key
    )
    batch['target'] = weighted(batch['target'])
    if frozen is None:
      return batch
    outputs = self.teacher.apply(frozen[TEACHER], *self.teacher_inputs(batch))
    return batch | {'teacher_logits': outputs['logits']}

  def loss(self, params: Any, mutable: Any, batch: Arrays, key: jax.Array) -> Loss:
    _, key_dropout = jax.random.split(key)
    inputs, target_BC = self.model_inputs(batch), batch['target']
    outputs, mutable = self.trained(params, mutable, inputs, dropout=key_dropout)
    logits_BC, teacher_BC = outputs['logits'], batch['teacher_logits']
    class_BC = outputs.get('class_logits', logits_BC)
    imitating_BC = outputs.get('distilled_logits', logits_BC)
    weight_B = target_BC.sum(axis=-1)
    target_BC = target_BC / jnp.where(weight_B > 0, weight_B, 1.0)[:, None]
    each_B = classification.LOSSES[self.loss_type](class_BC, target_BC)
    from_labels = (weight_B * each_B).mean()
    if self.kind == 'hard':
      label_BC = jax.nn.one_hot(teacher_BC.argmax(axis=-1), self.num_classes)
      from_teacher = losses.softmax_cross_entropy(imitating_BC, label_BC).mean()
    else:
      from_teacher = losses.soft_distillation(
        imitating_BC, teacher_BC, self.temperature
      )
    agree_B = logits_BC.argmax(axis=-1) == teacher_BC.argmax(axis=-1)
    hits_B = logits_BC.argmax(axis=-1) == target_BC.argmax(axis=-1)
    scalars = {
      'top1': (weight_B * hits_B).mean(),
      'agreement': agree_B.mean(dtype=jnp.float32),
      'labelled': (weight_B > 0).mean(dtype=jnp.float32),
      'loss_labels': from_labels,
      'loss_teacher': from_teacher,
    }
    loss = (1.0 - self.weight) * from_labels + self.weight * from_teacher
    return loss, (mutable, scalars)

  def predict(self, state: State, batch: Arrays, key: jax.Array) -> Arrays:
    """Returns the student's outputs and, if there are labels, `loss` (B,)."""
    del key  # nothing is random in evaluation
    outputs = self.model.apply(state.variables, *self.model_inputs(batch))
    return outputs | classification.label_loss(self.loss_type, outputs['logits'], batch)


def weighted(target_BC: jax.Array) -> jax.Array:
  """Scales targets so that their rows sum to 1 on average.

  Rows of unlabelled examples are zero; if all rows are zero, they stay zero.
  """
  mean = target_BC.sum(axis=-1).mean()
  return target_BC / jnp.where(mean > 0, mean, 1.0)
