"""Precision and recall of entities and of their relations.

Axes: B batch, N entities found, M true entities, K kinds, R relations.
"""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh

from big_vision_like.errors import UserError
from big_vision_like.evals import evaluator
from big_vision_like.evals.evaluator import Arrays, Predict, Results


@dataclasses.dataclass(kw_only=True)
class Relations(evaluator.Evaluator):
  """Micro-averaged precision, recall and F1 over all sentences.

  An entity counts for `entity_f1` if its first word, its last word and its kind are
  right, as in the evaluation of CoNLL-2003. `relation_f1` is strict: both entities and
  the label must be right, in this direction. `loose_relation_f1` ignores the kinds of
  the entities. `kinds` and `relations` are those of the task, for the F1 of each one.
  `cut` is the number of entities that the tags describe beyond those there is room for.
  """

  needs = ('spans', 'kinds', 'entity_mask', 'relations')

  kinds: Sequence[str]
  relations: Sequence[str] = ()

  def reports(self) -> Mapping[str, str]:
    scores = '(entity|relation|loose_relation)_(precision|recall|f1)'
    return {rf'{scores}|f1_.+': 'max', 'cut': 'min'}

  def measure(self, outputs: Arrays, batch: Arrays) -> Arrays:
    """Returns counts of each sentence: right, found and true, by kind and label."""
    there_BN, true_BM = outputs['entity_mask'], batch['entity_mask']
    same_BNM = (outputs['spans'][:, :, None] == batch['spans'][:, None]).all(axis=-1)
    same_BNM &= there_BN[:, :, None] & true_BM[:, None]
    exact_BNM = same_BNM & (outputs['kinds'][:, :, None] == batch['kinds'][:, None])
    num_kinds, num_labels = len(self.kinds), 1 + len(self.relations)

    def by_kind(kinds_BN: jax.Array, counted_BN: jax.Array) -> jax.Array:
      return _counts(kinds_BN, counted_BN, num_kinds)

    found_BNN, true_BMM = outputs['labels'], batch['relations']

    def by_label(match_BNM: jax.Array) -> jax.Array:
      """Counts the relations found whose entities match those of a true one."""
      # The true relation of each pair found, by the entities that match.
      match_BNM = match_BNM.astype(jnp.float32)
      moved_BNN = jnp.einsum('BNM,BMK,BLK->BNL', match_BNM, true_BMM, match_BNM)
      right_BNN = (found_BNN > 0) & (moved_BNN == found_BNN)
      return _counts(found_BNN, right_BNN, num_labels)

    return {
      'entity_right': by_kind(outputs['kinds'], exact_BNM.any(axis=2)),
      'entity_found': by_kind(outputs['kinds'], there_BN),
      'entity_true': by_kind(batch['kinds'], true_BM),
      'relation_right': by_label(exact_BNM),
      'relation_loose': by_label(same_BNM),
      'relation_found': _counts(found_BNN, found_BNN > 0, num_labels),
      'relation_true': _counts(true_BMM, true_BMM > 0, num_labels),
      'cut': outputs['cut'],
    }

  def run(self, predict: Predict, state: Any, mesh: Mesh | None = None) -> Results:
    rows = self.joined(self.measure, predict, state, mesh).values
    if not len(rows['cut']):
      raise UserError(f'{self.data.source} has no sentences')
    total = {name: counts.sum(axis=0) for name, counts in rows.items()}
    found = {'cut': float(total['cut'])}
    triples = (
      ('entity', 'entity_right', 'entity', self.kinds),
      ('relation', 'relation_right', 'relation', ('', *self.relations)),
      ('loose_relation', 'relation_loose', 'relation', ()),
    )
    for name, right, kind, each in triples:
      counts = total[right], total[f'{kind}_found'], total[f'{kind}_true']
      made = zip(
        ('precision', 'recall', 'f1'), scores(*map(np.sum, counts)), strict=True
      )
      found |= {f'{name}_{score}': value for score, value in made}
      for number, label in enumerate(each):
        if label and counts[2][number]:
          found[f'f1_{label}'] = scores(*(x[number] for x in counts))[2]
    return Results(found)


def _counts(labels: jax.Array, counted: jax.Array, size: int) -> jax.Array:
  """Returns the number of counted entries of each row (B, ...) by label: (B, size)."""
  each = jax.nn.one_hot(labels, size) * counted[..., None]
  return each.sum(axis=tuple(range(1, each.ndim - 1)))


def scores(right: float, found: float, true: float) -> tuple[float, float, float]:
  """Returns precision, recall and F1 from counts; 0 where nothing is found."""
  precision, recall = right / max(found, 1), right / max(true, 1)
  f1 = 2 * precision * recall / max(precision + recall, 1e-12)
  return float(precision), float(recall), float(f1)
