"""Classification accuracy.  Axes: B batch, C classes, K best classes, S labels."""

import dataclasses
from collections.abc import Mapping

import jax

from big_vision_like.evals import evaluator
from big_vision_like.evals.evaluator import Arrays


@dataclasses.dataclass(kw_only=True)
class Accuracy(evaluator.MeanEvaluator):
  """Top-1 and top-5 accuracy, and mean loss."""

  needs = ('label',)
  task_labels = True

  def reports(self) -> Mapping[str, str]:
    return {'top1': 'max', 'top5': 'max', 'loss': 'min'}

  def measure(self, outputs: Arrays, batch: Arrays) -> Arrays:
    hits_BK = best_classes(outputs['logits']) == batch['label'][:, None]
    return shares(hits_BK, outputs['logits']) | {'loss': outputs['loss']}


@dataclasses.dataclass(kw_only=True)
class RealAccuracy(evaluator.MeanEvaluator):
  """Top-1 and top-5 accuracy with several correct labels per image.

  For ImageNet-ReaL (arXiv:2006.07159): `labels` (B, S) has all classes that fit an
  image, padded with -1 (`data.transforms.labels.RealLabels`). Images without labels are
  ignored.
  """

  needs = ('labels',)

  def reports(self) -> Mapping[str, str]:
    return {'top1': 'max', 'top5': 'max'}

  def measure(self, outputs: Arrays, batch: Arrays) -> Arrays:
    labels_BS = batch['labels']
    best_BK = best_classes(outputs['logits'])
    hits_BK = (best_BK[:, :, None] == labels_BS[:, None, :]).any(axis=-1)
    count = (labels_BS >= 0).any(axis=-1)
    return shares(hits_BK, outputs['logits']) | {'count': count}


def shares(hits_BK: jax.Array, logits_BC: jax.Array) -> dict[str, jax.Array]:
  """Returns hits of the first class, and of the first five if there are more."""
  hits = {'top1': hits_BK[:, 0]}
  if logits_BC.shape[-1] > hits_BK.shape[-1]:  # else every example is a hit
    hits['top5'] = hits_BK.any(axis=-1)
  return hits


def best_classes(logits_BC: jax.Array) -> jax.Array:
  """Returns the five best classes, or all if there are fewer, (B, K), best first."""
  _, best_BK = jax.lax.top_k(logits_BC, min(5, logits_BC.shape[-1]))
  return best_BK
