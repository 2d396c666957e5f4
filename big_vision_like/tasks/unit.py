"""Classification of texts, with or without an image, for UniT (arXiv:2102.10772).

Axes: B batch, T tokens, C classes.
"""

import dataclasses
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp

from big_vision_like.errors import UserError, check_one_of
from big_vision_like.ops import boxes, images
from big_vision_like.tasks import answering, classification, task
from big_vision_like.tasks.task import Arrays, Frozen, Loss, State

TEXT = ('tokens', 'token_types', 'token_mask')


@dataclasses.dataclass(frozen=True, kw_only=True)
class TextClassification(task.GradientTask):
  """Classification of texts or of texts about images: statements, answers, paraphrases.

  Batches hold `tokens`, `token_types` and `token_mask` (B, T). If the model has a
  backbone, they hold `image` (B, H, W, C), which is valid in the first `size` (B, 2)
  rows and columns (by default all). They have `label` (B,), or `target` (B, C) with
  scores in [0, 1].

  `loss_type` is 'softmax', or 'sigmoid', the sum of binary cross-entropies, for answers
  with scores. `mean` and `std` of images default to ImageNet's; invalid pixels are zero
  after normalization.
  """

  loss_type: str = 'softmax'
  mean: float | Sequence[float] = (0.485, 0.456, 0.406)
  std: float | Sequence[float] = (0.229, 0.224, 0.225)

  def __post_init__(self) -> None:
    check_one_of(classification.LOSSES, loss_type=self.loss_type)

  @property
  def images(self) -> images.Normalization | None:
    if self.model.backbone is None:
      return None
    return images.Normalization(self.mean, self.std)

  def check(self, batch: dict) -> None:
    for name in (*TEXT, *(() if self.images is None else ('image',))):
      if name not in batch:
        raise UserError(
          f'batches have no {name!r}, which the model takes; they have'
          f' {", ".join(batch)}'
        )
    length, most = batch['tokens'].shape[1], self.model.text.max_length
    if length > most:
      raise UserError(
        f'texts have {length} tokens, but the model has positions for {most}: set'
        f' `length` of the data to {most} or less, or max_length of the text encoder'
        f' to {length}'
      )
    if ('label' in batch) == ('target' in batch):
      raise UserError(
        'batches need either `label`, the class, or `target`, the scores of all'
        f' classes; they have {", ".join(batch)}'
      )
    if 'label' in batch:
      classification.check_labels(batch, self.num_classes)
    elif batch['target'].shape[1] != self.num_classes:
      raise UserError(
        f'examples have targets for {batch["target"].shape[1]} classes, but the head'
        f' has {self.num_classes}: set both to the same number'
      )

  def model_inputs(self, batch: Arrays) -> tuple[jax.Array, ...]:
    text = tuple(jnp.asarray(batch[name]) for name in TEXT)
    if self.images is None:
      return text
    image_BHWC = images.normalize(batch['image'], *self.images)
    return (*boxes.only_valid(image_BHWC, boxes.valid_size(batch)), *text)

  def prepare(self, batch: Arrays, key: jax.Array, frozen: Frozen = None) -> Arrays:
    """Returns the model's inputs and `target` (B, C)."""
    names = TEXT if self.images is None else ('image', 'size', *TEXT)
    inputs = dict(zip(names, self.model_inputs(batch), strict=True))
    return inputs | {'target': self._target(batch)}

  def loss(self, params: Any, mutable: Any, batch: Arrays, key: jax.Array) -> Loss:
    inputs = self.model_inputs(batch)
    outputs, mutable = self.trained(params, mutable, inputs, dropout=key)
    logits_BC, target_BC = outputs['logits'], batch['target']
    loss = classification.LOSSES[self.loss_type](logits_BC, target_BC).mean()
    score = answering.score(logits_BC, target_BC).mean(dtype=jnp.float32)
    return loss, (mutable, {'score': score})

  def predict(self, state: State, batch: Arrays, key: jax.Array) -> Arrays:
    """Returns `logits` (B, C), `features`, and `loss` (B,) if the answer is known.

    `memory` holds the encoding of cells and tokens to which the queries attend.
    """
    del key  # nothing is random in evaluation
    outputs = dict(self.model.apply(state.variables, *self.model_inputs(batch)))
    outputs['layer_features'] = jnp.moveaxis(outputs['layer_features'], 0, 1)
    if 'label' not in batch and 'target' not in batch:
      return outputs
    loss = classification.LOSSES[self.loss_type]
    return outputs | {'loss': loss(outputs['logits'], self._target(batch))}

  def _target(self, batch: Arrays) -> jax.Array:
    """Returns the scores of the classes of each example (B, C)."""
    if 'target' in batch:
      return batch['target']
    return jax.nn.one_hot(batch['label'], self.num_classes)
