"""Accuracy of models with a separate head that learns from a teacher.

Axes: B batch, K best classes.
"""

import dataclasses
from collections.abc import Mapping

from big_vision_like.errors import UserError
from big_vision_like.evals import classification
from big_vision_like.evals.evaluator import Arrays

HEADS = ('class', 'distilled')


@dataclasses.dataclass(kw_only=True)
class HeadsAccuracy(classification.Accuracy):
  """`Accuracy` of the mean of both heads, and top-1 of each (arXiv:2012.12877 table 3).

  `heads_agree` is the share of examples for which both heads choose the same class. The
  model returns `class_logits` and `distilled_logits`.
  """

  def reports(self) -> Mapping[str, str]:
    heads = {f'{head}_top1': 'max' for head in HEADS}
    return {**super().reports(), **heads, 'heads_agree': 'max'}

  def measure(self, outputs: Arrays, batch: Arrays) -> Arrays:
    chosen = {}
    for head in HEADS:
      if f'{head}_logits' not in outputs:
        raise UserError(
          f'the model returns no `{head}_logits`: use classification.Accuracy for'
          ' models without a distillation token'
        )
      chosen[head] = classification.best_classes(outputs[f'{head}_logits'])[:, 0]
    hits = {f'{head}_top1': best_B == batch['label'] for head, best_B in chosen.items()}
    agree_B = chosen['class'] == chosen['distilled']
    return super().measure(outputs, batch) | hits | {'heads_agree': agree_B}
