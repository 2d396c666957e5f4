"""Difference between an Averager's logits and its labels (made up)."""

import dataclasses
from collections.abc import Mapping

from big_vision_like.evals import evaluator


@dataclasses.dataclass(kw_only=True)
class Error(evaluator.MeanEvaluator):
  """The mean of `error`."""

  def reports(self) -> Mapping[str, str]:
    return {'error': 'min'}

  def measure(
    self, outputs: evaluator.Arrays, batch: evaluator.Arrays
  ) -> evaluator.Arrays:
    return {'error': outputs['error']}
