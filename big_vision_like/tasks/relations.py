"""Finding entities and their relations in sentences.

Axes: B batch, T tokens, W words, N M entities, C tags, R relations (0: none).
"""

import dataclasses
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp

from big_vision_like.errors import UserError
from big_vision_like.ops import losses
from big_vision_like.tasks import task
from big_vision_like.tasks.task import Arrays, Loss, State

TEXT = ('tokens', 'token_mask', 'first', 'word_mask')
ENTITIES = ('spans', 'kinds')


@dataclasses.dataclass(frozen=True, kw_only=True)
class Relations(task.GradientTask):
  """Cross-entropy of the tags of words, and of the relations of true entities.

  Batches are those of `data.transforms.entities.Tag`. `kinds` and `relations` name the
  kinds of entities, and relations from number 1 on (0 is none). The loss is the mean
  over words plus `weight` times the mean over ordered pairs of different entities.
  """

  predicts = 'relations'

  kinds: Sequence[str]
  relations: Sequence[str] = ()
  weight: float = 1.0

  def __post_init__(self) -> None:
    sizes = self.model.num_kinds, self.model.num_relations
    wanted = len(self.kinds), 1 + len(self.relations)
    if sizes != wanted:
      raise UserError(
        f'the model has num_kinds={sizes[0]} and num_relations={sizes[1]}, and the task'
        f' names {wanted[0]} kinds and {wanted[1]} relations with none: make them equal'
      )

  def model_inputs(self, batch: Arrays) -> tuple[jax.Array, ...]:
    return tuple(batch[name] for name in (*TEXT, *ENTITIES) if name in batch)

  @property
  def images(self) -> None:
    return None

  def prepare(self, batch: Arrays, key: jax.Array, frozen: Any = None) -> Arrays:
    """Adds the weights of words and of pairs, whose means over examples are 1."""
    del key, frozen
    weights = {
      'word_weight': batch['word_mask'],
      'pair_weight': pairs_of(batch['entity_mask']),
    }
    return batch | {
      name: counted * (len(counted) / jnp.maximum(counted.sum(dtype=jnp.float32), 1.0))
      for name, counted in weights.items()
    }

  def loss(self, params: Any, mutable: Any, batch: Arrays, key: jax.Array) -> Loss:
    inputs = self.model_inputs(batch)
    outputs, mutable = self.trained(params, mutable, inputs, dropout=key)

    def means(name: str, weight: jax.Array) -> tuple[jax.Array, jax.Array]:
      """Returns the mean loss and the accuracy of some labels."""
      logits, labels = outputs[name], batch[name]
      target = jax.nn.one_hot(labels, logits.shape[-1])
      loss = losses.softmax_cross_entropy(logits, target)
      hits = logits.argmax(axis=-1) == labels
      return tuple((weight * x).sum() / len(weight) for x in (loss, hits))

    tag_loss, tag_accuracy = means('tags', batch['word_weight'])
    relation_loss, relation_accuracy = means('relations', batch['pair_weight'])
    scalars = {
      'tag_loss': tag_loss,
      'tag_accuracy': tag_accuracy,
      'relation_loss': relation_loss,
      'relation_accuracy': relation_accuracy,
    }
    return tag_loss + self.weight * relation_loss, (mutable, scalars)

  def predict(self, state: State, batch: Arrays, key: jax.Array) -> Arrays:
    """Returns the entities of tags, and `labels` (B, N, M), 0 where nothing relates."""
    del key  # nothing is random in evaluation
    outputs = self.model.apply(state.variables, *(batch[name] for name in TEXT))
    labels_BNM = outputs['relations'].argmax(axis=-1)
    return outputs | {
      'labels': jnp.where(pairs_of(outputs['entity_mask']), labels_BNM, 0)
    }


def pairs_of(there_BN: jax.Array) -> jax.Array:
  """Returns which pairs (B, N, M) are two different entities that exist."""
  other_NM = ~jnp.eye(there_BN.shape[1], dtype=bool)
  return there_BN[:, :, None] & there_BN[:, None] & other_NM[None]
