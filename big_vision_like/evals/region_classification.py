"""Accuracy of classes of given regions.  Axes: B batch, K objects, C classes."""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

from jax.sharding import Mesh

from big_vision_like.errors import UserError
from big_vision_like.evals import evaluator
from big_vision_like.evals.evaluator import Arrays, Predict, Results


@dataclasses.dataclass(kw_only=True)
class RegionAccuracy(evaluator.Evaluator):
  """The share of true boxes whose likeliest class is theirs; background is none.

  `accuracy` is over all objects, and each of `groups` (labels by name) over objects of
  its classes. `first_` precedes the names for the first head of the model.
  """

  needs = ('box_labels', 'box_mask')

  groups: Mapping[str, Sequence[int]] = dataclasses.field(default_factory=dict)

  def reports(self) -> Mapping[str, str]:
    return {
      f'{head}{name}': 'max'
      for head in ('', 'first_')
      for name in ('accuracy', *self.groups)
    }

  def measure(self, outputs: Arrays, batch: Arrays) -> Arrays:
    """Returns labels, and those that both heads together and the first predict."""
    return {
      'label': batch['box_labels'],
      'there': batch['box_mask'],
      'predicted': outputs['logits'][..., :-1].argmax(axis=-1),
      'first_predicted': outputs['first'][..., :-1].argmax(axis=-1),
    }

  def run(self, predict: Predict, state: Any, mesh: Mesh | None = None) -> Results:
    found = self.joined(self.measure, predict, state, mesh).values
    there_BK = found['there'].astype(bool)
    label_N, scalars = found['label'][there_BK], {}
    if not len(label_N):
      raise UserError(f'{self.data.source}: the images have no objects')
    for head in ('', 'first_'):
      right_N = found[f'{head}predicted'][there_BK] == label_N
      scalars[f'{head}accuracy'] = float(right_N.mean())
      for name, labels in self.groups.items():
        own_N = sum(label_N == label for label in labels) > 0
        if own_N.any():
          scalars[f'{head}{name}'] = float(right_N[own_N].mean())
    return Results(scalars)
