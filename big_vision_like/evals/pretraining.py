"""Evaluators of pretraining on pairs of texts and images.  Axes: B batch."""

import dataclasses
from collections.abc import Mapping
from typing import Any

import jax.numpy as jnp
import optax
from jax.sharding import Mesh

from big_vision_like.evals import evaluator
from big_vision_like.evals.evaluator import Arrays, Predict, Results


@dataclasses.dataclass(kw_only=True)
class Alignment(evaluator.MeanEvaluator):
  """The share of pairs told right, `accuracy`, aligned or not, and the mean `loss`.

  The prediction has `logits` (B, 2), whose class 0 is aligned, as `aligned` (B,) says.
  """

  needs = ('aligned',)

  def reports(self) -> Mapping[str, str]:
    return {'accuracy': 'max', 'loss': 'min'}

  def measure(self, outputs: Arrays, batch: Arrays) -> Arrays:
    label_B = 1 - batch['aligned'].astype(jnp.int32)
    loss_B = optax.softmax_cross_entropy_with_integer_labels(outputs['logits'], label_B)
    return {'accuracy': outputs['logits'].argmax(axis=1) == label_B, 'loss': loss_B}


@dataclasses.dataclass(kw_only=True)
class Filling(evaluator.Evaluator):
  """The shares of masked `words`, `regions` or `patches` that are filled in right.

  All masks have equal weight. The prediction has their numbers by kind, such as `words`
  (B,), and those of the right ones, `right_words`. The masks are the same in every
  evaluation.
  """

  predict: str = 'fill'

  def reports(self) -> Mapping[str, str]:
    return {'words|regions|patches': 'max'}

  def measure(self, outputs: Arrays, batch: Arrays) -> Arrays:
    """Returns the numbers of masks of each example."""
    kinds = [name for name in outputs if f'right_{name}' in outputs]
    return {name: outputs[name] for kind in kinds for name in (kind, f'right_{kind}')}

  def run(self, predict: Predict, state: Any, mesh: Mesh | None = None) -> Results:
    mean = evaluator.means(self.rows(self.measure, predict, state, mesh), self.data)
    return Results(
      {
        kind: mean[f'right_{kind}'] / mean[kind]
        for kind in mean
        if f'right_{kind}' in mean and mean[kind]
      }
    )
