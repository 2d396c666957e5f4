"""Evaluators of selected answers, options and regions.  Axes: B batch, C candidates."""

import dataclasses
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
from jax.sharding import Mesh

from big_vision_like.data.input import pipeline
from big_vision_like.errors import UserError
from big_vision_like.evals import evaluator
from big_vision_like.evals.evaluator import Arrays, Predict, Results


@dataclasses.dataclass(kw_only=True)
class AnswerScore(evaluator.MeanEvaluator):
  """The mean score of the best answer, `accuracy`, and the mean loss.

  For VQA, `target` (B, C) has the scores of `data.sources.vqa`, so that this is the
  official accuracy, except that answers outside of the vocabulary have no score. For
  GQA it is the share of right answers.
  """

  needs = ('target',)

  def reports(self) -> Mapping[str, str]:
    return {'accuracy': 'max', 'loss': 'min'}

  def measure(self, outputs: Arrays, batch: Arrays) -> Arrays:
    return {'accuracy': best(outputs, batch), 'loss': outputs['loss']}


@dataclasses.dataclass(kw_only=True)
class RegionHits(evaluator.MeanEvaluator):
  """The share of expressions whose best region overlaps the true box, `accuracy`.

  `target` (B, C) has the IoU of each region; it must exceed `overlap`. An expression
  whose object no region covers counts as wrong.
  """

  needs = ('target',)

  overlap: float = 0.5

  def reports(self) -> Mapping[str, str]:
    return {'accuracy': 'max'}

  def measure(self, outputs: Arrays, batch: Arrays) -> Arrays:
    return {'accuracy': best(outputs, batch) > self.overlap}


@dataclasses.dataclass(kw_only=True)
class Vcr(evaluator.Evaluator):
  """Accuracies of VCR: `answer` (Q->A), `rationale` (QA->R) and `both` (Q->AR).

  `data` and `rationales` are the two stages of the same questions, in the same order.
  A question counts for `both` if answer and rationale are right, where the rationale
  is chosen given the right answer. `rationale_predict` names the prediction for the
  second stage, if it is another one.
  """

  needs = ('label',)

  rationales: pipeline.EvalInput
  rationale_predict: str = ''

  def reports(self) -> Mapping[str, str]:
    return {'answer|rationale|both': 'max'}

  def prediction(self, task: Any) -> Predict:
    second = task.prediction(self.rationale_predict or self.predict)
    if getattr(self, '_second_of', None) is not task:
      self._second_of, self._second = task, second
    return super().prediction(task)

  def measure(self, outputs: Arrays, batch: Arrays) -> Arrays:
    """Returns whether the best option of each question is right."""
    return {'right': outputs['logits'].argmax(axis=1) == batch['label']}

  def run(self, predict: Predict, state: Any, mesh: Mesh | None = None) -> Results:
    counts = [len(data.source) for data in (self.data, self.rationales)]
    if counts[0] != counts[1]:
      raise UserError(
        f'there are {counts[0]:,} questions with answers, but {counts[1]:,} with'
        ' rationales: both must be stages of the same file'
      )
    second = getattr(self, '_second', predict)
    answer_N = self.joined(self.measure, predict, state, mesh).values['right']
    found = self.joined(self.measure, second, state, mesh, data=self.rationales)
    rationale_N = found.values['right']
    return Results(
      {
        'answer': float(answer_N.mean()),
        'rationale': float(rationale_N.mean()),
        'both': float((answer_N & rationale_N).mean()),
      }
    )


def best(outputs: Arrays, batch: Arrays) -> jax.Array:
  """Returns the target of the candidate with the largest logit, (B,)."""
  best_B1 = outputs['logits'].argmax(axis=1)[:, None]
  return jnp.take_along_axis(batch['target'], best_B1, axis=1)[:, 0]
