"""Training of a student on labels and pseudo labels, mixed in each batch.

Axes: B batch, L labelled and U unlabelled examples, C classes; G groups that contain
both in proportion, l and u the numbers of each in a group.
"""

import dataclasses
import math
from collections.abc import Mapping, Sequence
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from big_vision_like.errors import UserError, check_one_of, listed, shape_text
from big_vision_like.ops import images, losses
from big_vision_like.ops.augmentation import Augment
from big_vision_like.tasks import classification, task
from big_vision_like.tasks.task import Arrays, Frozen, Loss, Network, State

KINDS = ('soft', 'hard')
# The parts of a batch, named as the inputs that `joined.Joined` joins.
LABELLED, UNLABELLED = 'labelled', 'unlabelled'
TEACHER = 'teacher'
# Prefix of the inputs of a teacher that predicts during training.
CLEAN = 'teacher_'

Parts = Mapping[str, Arrays]


@dataclasses.dataclass(frozen=True, kw_only=True)
class SelfTraining(task.GradientTask):
  """Cross-entropy with labels + ratio * cross-entropy with a teacher's predictions.

  This is Noisy Student (arXiv:1911.04252, section 2). A batch has two parts
  (`joined.Joined`): `labelled` with `label` (L,), and `unlabelled` with the teacher's
  `probabilities` (U, C) (`pseudo_labels.PseudoLabelled` adds them to images). The ratio
  is U / L: the mean loss of pseudo labels is multiplied by it, so that each pseudo
  label counts as much as a label. The model sees both parts as one batch, and so does
  batch norm.

  With `kind='soft'` the targets of unlabelled examples are the probabilities at
  `temperature`, without smoothing. With 'hard' they are the most likely class, smoothed
  by `label_smoothing` like labels.

  With a `teacher` network, batches need no probabilities: in each step the teacher
  predicts them, in evaluation mode, from `teacher_image` of the unlabelled part, the
  clean image at the teacher's own resolution (made by `compose.Beside`). The config
  names its weights under `frozen`, as `teacher`. `teacher_images` is the normalization
  of its images, if it differs from `mean` and `std`.

  `augment` mixes images and targets within each part. Only the student sees noise: the
  input's transforms, `augment`, dropout and drop path.

  `mean`, `std` and evaluation batches are the same as in `Classification`.
  """

  predicts = 'classes'

  kind: str = 'soft'
  temperature: float = 1.0
  label_smoothing: float = 0.1
  teacher: nn.Module | None = None
  teacher_images: images.Normalization | None = None
  inputs: Sequence[str] = ('image',)
  augment: Augment | None = None
  mean: float | Sequence[float] = 0.5
  std: float | Sequence[float] = 0.5

  def __post_init__(self) -> None:
    check_one_of(KINDS, kind=self.kind)
    if self.temperature <= 0:
      raise UserError(f'temperature={self.temperature} is not above 0')
    if self.teacher is None and self.teacher_images is not None:
      raise UserError(
        'teacher_images needs a teacher network, and there is none: stored predictions'
        ' need no images'
      )
    if self.teacher is not None:
      classification.check_teacher(self.teacher, self.num_classes)

  @property
  def images(self) -> images.Normalization:
    return images.Normalization(self.mean, self.std)

  @property
  def labelled(self) -> classification.Classification:
    """The task of labelled examples alone, for checks and evaluation."""
    return classification.Classification(
      model=self.model,
      optimizer=self.optimizer,
      inputs=self.inputs,
      label_smoothing=self.label_smoothing,
      mean=self.mean,
      std=self.std,
    )

  def part(self, name: str) -> task.Task | None:
    parts = {'': self, LABELLED: self.labelled, UNLABELLED: None}
    if name not in parts:
      raise UserError(
        f'there are batches of {name!r}, but the parts of a batch are {LABELLED!r} and'
        f' {UNLABELLED!r}'
      )
    return parts[name]

  def networks(self) -> Mapping[str, Network]:
    found = dict(super().networks())
    if self.teacher is not None:
      found[TEACHER] = Network(
        self.teacher,
        self.teacher_inputs,
        lambda state: state.frozen[TEACHER],
        self.teacher_images or self.images,
        frozen=True,
      )
    return found

  def model_inputs(self, batch: Parts | Arrays) -> tuple[jax.Array, ...]:
    """Returns both parts of a training batch as one, or the inputs of a plain batch."""
    if LABELLED not in batch:
      return self.labelled.model_inputs(batch)
    parts = [self.labelled.model_inputs(batch[n]) for n in (LABELLED, UNLABELLED)]
    return tuple(interleaved(*pair) for pair in zip(*parts, strict=True))

  def teacher_inputs(self, batch: Parts | Arrays) -> tuple[jax.Array, ...]:
    """Returns clean inputs of the unlabelled part, or the inputs of a plain batch."""
    prefix = CLEAN if UNLABELLED in batch else ''
    own = batch.get(UNLABELLED, batch)
    wanted = self.teacher_images or self.images
    return tuple(images.normalize(own[f'{prefix}{n}'], *wanted) for n in self.inputs)

  def check(self, batch: Mapping[str, Any]) -> None:
    if 'label' in batch:  # a batch of an evaluator
      self.labelled.check(batch)
      return
    for name in (LABELLED, UNLABELLED):
      if name not in batch:
        raise UserError(
          f'batches have no part {name!r}; they have {listed(batch)}: train_data is a'
          f' joined.Joined of inputs named {LABELLED!r} and {UNLABELLED!r}'
        )
    labelled, unlabelled = batch[LABELLED], batch[UNLABELLED]
    self.labelled.check(labelled)
    self._check_unlabelled(unlabelled)
    for name in self.inputs:
      ours, theirs = labelled[name].shape[1:], unlabelled[name].shape[1:]
      if ours != theirs:
        raise UserError(
          f'{name} of the labelled part is {shape_text(ours)} and of the unlabelled one'
          f' {shape_text(theirs)}: the model takes both as one batch, so give them one'
          ' size'
        )

  def _check_unlabelled(self, batch: Arrays) -> None:
    wanted = list(self.inputs)
    if self.teacher is not None:
      wanted += [f'{CLEAN}{name}' for name in self.inputs]
    for name in wanted:
      if name not in batch:
        raise UserError(
          f'the unlabelled part of batches has no {name!r}; it has {listed(batch)}:'
          ' compose.Beside makes clean images for a teacher'
        )
    if self.teacher is not None:
      return
    if 'probabilities' not in batch:
      raise UserError(
        'the unlabelled part of batches has no `probabilities`: read it with'
        ' pseudo_labels.PseudoLabelled, or give the task a teacher'
      )
    classes = batch['probabilities'].shape[-1]
    if classes != self.num_classes:
      raise UserError(
        f'the pseudo labels have {classes} classes and the model has'
        f' {self.num_classes}: a teacher must know the classes of its student'
      )

  def prepare(self, batch: Parts, key: jax.Array, frozen: Frozen = None) -> Parts:
    """Adds `target` to each part and augments its first input."""
    prepared = {}
    for number, name in enumerate(sorted(batch)):
      if name == LABELLED:
        target_BC = classification.smoothed(
          batch[name]['label'], self.num_classes, self.label_smoothing
        )
      else:
        target_BC = self.pseudo_targets(self.predicted(batch, frozen))
      prepared[name] = classification.augmented(
        batch[name],
        self.inputs,
        self.labelled.model_inputs,
        target_BC,
        self.augment,
        jax.random.fold_in(key, number),
      )
    return prepared

  def predicted(self, batch: Parts, frozen: Frozen) -> jax.Array:
    """Returns the teacher's probabilities (U, C), stored in the batch or computed."""
    own = batch[UNLABELLED]
    if self.teacher is None:
      return own['probabilities']
    if frozen is None:  # for tools that show images without the teacher's weights
      shape = len(own[self.inputs[0]]), self.num_classes
      return jnp.full(shape, 1.0 / self.num_classes)
    outputs = self.teacher.apply(frozen[TEACHER], *self.teacher_inputs(batch))
    return jax.nn.softmax(outputs['logits'].astype(jnp.float32))

  def pseudo_targets(self, probability_UC: jax.Array) -> jax.Array:
    """Returns the student's targets for the probabilities of a teacher."""
    if self.kind == 'hard':
      label_U = probability_UC.argmax(axis=-1)
      return classification.smoothed(label_U, self.num_classes, self.label_smoothing)
    # This is softmax(logits / t), computed from the probabilities softmax(logits).
    powered_UC = probability_UC ** (1.0 / self.temperature)
    return powered_UC / powered_UC.sum(axis=-1, keepdims=True)

  def loss(self, params: Any, mutable: Any, batch: Parts, key: jax.Array) -> Loss:
    _, key_dropout = jax.random.split(key)
    target_LC, target_UC = (batch[n]['target'] for n in (LABELLED, UNLABELLED))
    sizes = len(target_LC), len(target_UC)
    check_groups(*sizes, getattr(self.model, 'norm_groups', 1))
    inputs = self.model_inputs(batch)
    outputs, mutable = self.trained(params, mutable, inputs, dropout=key_dropout)
    logits_LC, logits_UC = separated(outputs['logits'], *sizes)
    from_labels = losses.softmax_cross_entropy(logits_LC, target_LC).mean()
    from_pseudo = losses.softmax_cross_entropy(logits_UC, target_UC).mean()

    def agreeing(logits_BC: jax.Array, target_BC: jax.Array) -> jax.Array:
      same_B = logits_BC.argmax(axis=-1) == target_BC.argmax(axis=-1)
      return same_B.mean(dtype=jnp.float32)

    scalars = {
      'top1': agreeing(logits_LC, target_LC),
      'agreement': agreeing(logits_UC, target_UC),
      'loss_labels': from_labels,
      'loss_pseudo': from_pseudo,
    }
    ratio = sizes[1] / sizes[0]
    return from_labels + ratio * from_pseudo, (mutable, scalars)

  def predict(self, state: State, batch: Arrays, key: jax.Array) -> Arrays:
    """Returns the student's outputs and, if there are labels, `loss` (B,)."""
    return self.labelled.predict(state, batch, key)


def check_groups(labelled: int, unlabelled: int, groups: int) -> None:
  """Raises unless both parts of a batch divide into the groups of batch norm."""
  if math.gcd(labelled, unlabelled) % groups:
    raise UserError(
      f'{labelled} labelled and {unlabelled} unlabelled examples do not divide into'
      f' {groups} groups for batch norm that have both in proportion: make the batch'
      ' sizes of both inputs, over task.accumulate, multiples of the norm_groups of the'
      ' model'
    )


def interleaved(x_L: jax.Array, x_U: jax.Array) -> jax.Array:
  """Interleaves two parts into one batch (B, ...) with uniform proportions.

  The batch alternates runs of l labelled and u unlabelled rows, as short as the sizes
  allow. If each part is sharded over all devices, every device then has both, and
  joining moves no rows between devices.
  """
  groups = math.gcd(len(x_L), len(x_U))
  x_Gl, x_Gu = (x.reshape(groups, -1, *x.shape[1:]) for x in (x_L, x_U))
  joined = jnp.concatenate([x_Gl, x_Gu], axis=1)
  return joined.reshape(-1, *x_L.shape[1:])


def separated(
  x_B: jax.Array, labelled: int, unlabelled: int
) -> tuple[jax.Array, jax.Array]:
  """Returns the two parts, of these numbers of rows, that `interleaved` joined."""
  groups = math.gcd(labelled, unlabelled)
  x_GB = x_B.reshape(groups, -1, *x_B.shape[1:])
  x_Gl, x_Gu = jnp.split(x_GB, np.array([labelled // groups]), axis=1)
  return tuple(x.reshape(-1, *x_B.shape[1:]) for x in (x_Gl, x_Gu))
