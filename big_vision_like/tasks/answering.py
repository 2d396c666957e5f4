"""Selection among answers, options or regions by models of texts and images.

Axes: B batch, O options or images, T tokens, R regions, F features, C candidates.
"""

import dataclasses
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp

from big_vision_like.errors import UserError, check_one_of
from big_vision_like.ops import images
from big_vision_like.ops.images import Normalization
from big_vision_like.tasks import classification, task
from big_vision_like.tasks.task import Arrays, Frozen, Loss, State

TEXT = ('tokens', 'token_types', 'token_mask')
IMAGE = ('regions', 'locations', 'region_mask')
# Axes of one example in these arrays.
RANKS = dict(tokens=1, token_types=1, token_mask=1, regions=2, locations=2)
RANKS |= dict(region_mask=1, task=0, image=3)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Answering(task.GradientTask):
  """Selects the best of several candidates, by the logits of the model's `head`.

  Candidates are the classes of a vocabulary of answers (B, C), the regions of an image
  (B, R), or options with their own text or image: then `tokens` is (B, O, T) or
  `regions` (B, O, R, F), the model gets each option as an example, and its logits
  (B * O, 1) become (B, O). Inputs without the axis of options are the same for all of
  them. A head that combines the images of an example returns (B, C) itself.

  Batches have `label` (B,), the right candidate, or `target` (B, C), scores in [0, 1].
  `loss_type` is 'softmax', 'sigmoid' (binary cross-entropies, summed over candidates)
  or 'binary' (the mean over candidates, which are right or wrong).

  For a model that sees the pixels of an `image`, name it in `inputs`; uint8 images are
  normalized by `mean` and `std`.
  """

  predicts = 'answers'

  inputs: Sequence[str] = (*TEXT, *IMAGE)
  head: str
  loss_type: str = 'sigmoid'
  mean: float | Sequence[float] = 0.5
  std: float | Sequence[float] = 0.5

  def __post_init__(self) -> None:
    check_one_of(classification.LOSSES, loss_type=self.loss_type)

  @property
  def images(self) -> Normalization | None:
    return Normalization(self.mean, self.std) if 'image' in self.inputs else None

  def check(self, batch: dict) -> None:
    for name in self.inputs:
      if name not in batch:
        raise UserError(
          f'batches have no {name!r}, which the model takes; they have'
          f' {", ".join(batch)}'
        )
    if ('label' in batch) == ('target' in batch):
      raise UserError(
        'batches need either `label`, the right candidate, or `target`, the scores of'
        f' all candidates; they have {", ".join(batch)}'
      )

  def model_inputs(self, batch: Arrays) -> tuple[jax.Array, ...]:
    """Returns the inputs of the model with one row for each option of each example."""
    arrays = {name: jnp.asarray(batch[name]) for name in self.inputs}
    if self.images is not None:
      arrays['image'] = images.normalize(arrays['image'], *self.images)
    options = {
      array.shape[1]
      for name, array in arrays.items()
      if array.ndim == RANKS.get(name, 1) + 2
    }
    if not options:
      return tuple(arrays.values())
    if len(options) > 1:
      raise UserError(f'texts and images have different numbers of options: {options}')
    (count,) = options

    def by_option(name: str, array: jax.Array) -> jax.Array:
      if array.ndim == RANKS.get(name, 1) + 1:
        return jnp.repeat(array, count, axis=0)
      return array.reshape(-1, *array.shape[2:])

    return tuple(by_option(name, array) for name, array in arrays.items())

  def loss(self, params: Any, mutable: Any, batch: Arrays, key: jax.Array) -> Loss:
    outputs, mutable = self.trained(
      params, mutable, self.model_inputs(batch), dropout=key
    )
    logits_BC = self.logits(outputs, batch)
    target_BC = self.target(batch, logits_BC)
    loss = classification.LOSSES[self.loss_type](logits_BC, target_BC).mean()
    return loss, (mutable, {'score': score(logits_BC, target_BC).mean()})

  def prepare(self, batch: Arrays, key: jax.Array, frozen: Frozen = None) -> Arrays:
    """Returns the arrays that `loss` reads."""
    names = (*self.inputs, 'label', 'target')
    return {name: batch[name] for name in names if name in batch}

  def logits(self, outputs: Arrays, batch: Arrays) -> jax.Array:
    """Returns the logits of the candidates of each example (B, C)."""
    if self.head not in outputs:
      raise UserError(
        f'the model has no head {self.head!r}; its outputs are {", ".join(outputs)}'
      )
    return outputs[self.head].reshape(len(batch['tokens']), -1)

  def target(self, batch: Arrays, logits_BC: jax.Array) -> jax.Array:
    """Returns the scores of the candidates of each example (B, C)."""
    if 'target' not in batch:
      return jax.nn.one_hot(batch['label'], logits_BC.shape[1])
    if batch['target'].shape != logits_BC.shape:
      raise UserError(
        f'examples have targets for {batch["target"].shape[1]} candidates, but the head'
        f' {self.head!r} has {logits_BC.shape[1]}: set both to the same number'
      )
    return batch['target']

  def predict(self, state: State, batch: Arrays, key: jax.Array) -> Arrays:
    """Returns the model's outputs, `logits` (B, C) and, with targets, `loss` (B,)."""
    del key  # nothing is random in evaluation
    outputs = self.model.apply(state.variables, *self.model_inputs(batch))
    logits_BC = self.logits(outputs, batch)
    outputs = outputs | {'logits': logits_BC}
    if 'target' not in batch and 'label' not in batch:
      return outputs
    target_BC = self.target(batch, logits_BC)
    loss_B = classification.LOSSES[self.loss_type](logits_BC, target_BC)
    return outputs | {'loss': loss_B}

  def match(self, state: State, batch: Arrays, key: jax.Array) -> Arrays:
    """Returns how well the text and the image of each pair match, `score` (B,).

    It is the logit of a head with one output. A head with two, aligned and not, as in
    pretraining, gives their difference. It ranks pairs as the probability of 'aligned'
    does, but pairs of almost certain probability still differ.
    """
    del key  # nothing is random in evaluation
    outputs = self.model.apply(state.variables, *self.model_inputs(batch))
    logits_BC = self.logits(outputs, batch)
    if logits_BC.shape[1] == 1:
      return {'score': logits_BC[:, 0]}
    return {'score': logits_BC[:, 0] - logits_BC[:, 1]}


def score(logits_BC: jax.Array, target_BC: jax.Array) -> jax.Array:
  """Returns the target of the candidate with the largest logit, (B,)."""
  best_B1 = logits_BC.argmax(axis=1)[:, None]
  return jnp.take_along_axis(target_BC, best_B1, axis=1)[:, 0]
