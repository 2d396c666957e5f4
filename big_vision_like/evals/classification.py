"""Accuracy of single-label classification."""

import dataclasses

import jax

from big_vision_like.evals import evaluator
from big_vision_like.evals.evaluator import Arrays


@dataclasses.dataclass(kw_only=True)
class Accuracy(evaluator.MeanEvaluator):
  """Shares of examples whose label is the first, or among the first five; mean loss."""

  def measure(self, outputs: Arrays, batch: Arrays) -> Arrays:
    logits_BC, label_B = outputs['logits'], batch['label']
    k = min(5, logits_BC.shape[-1])
    _, best_Bk = jax.lax.top_k(logits_BC, k)
    hits_Bk = best_Bk == label_B[:, None]
    return {
      'top1': hits_Bk[:, 0],
      'top5': hits_Bk.any(axis=-1),
      'loss': outputs['loss'],
    }
