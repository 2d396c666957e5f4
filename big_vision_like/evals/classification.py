"""Classification accuracy.

Axes: B batch, C classes, K best classes, S labels, V views of a video.
"""

import dataclasses
import functools
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp

from big_vision_like.errors import UserError
from big_vision_like.evals import evaluator
from big_vision_like.evals.evaluator import Arrays, Predict


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
class VideoAccuracy(evaluator.MeanEvaluator):
  """Top-1 and top-5 accuracy of videos, by the sum of the logits of several views.

  `video` (B, V, T, H, W, C) has the views, which are crops of one or more clips
  (arXiv:2102.05095, its published code). `view_mask` (B, V), if there is one, is False
  for views that only pad (`data.transforms.video.CoveringClips`). Each video counts
  once, whatever its number of views. Views pass through the model one after the other.
  """

  needs = ('label', 'video')
  task_labels = True

  def reports(self) -> Mapping[str, str]:
    return {'top1': 'max', 'top5': 'max'}

  def prediction(self, task: Any) -> Predict:
    plain = super().prediction(task)
    if getattr(self, '_of_view', None) is not plain:
      self._of_view = plain
      self._of_views = functools.partial(summed_logits, plain)
    return self._of_views

  def measure(self, outputs: Arrays, batch: Arrays) -> Arrays:
    hits_BK = best_classes(outputs['logits']) == batch['label'][:, None]
    return shares(hits_BK, outputs['logits'])


def summed_logits(
  predict: Predict, state: Any, batch: Arrays, key: jax.Array
) -> Arrays:
  """Returns `logits` (B, C), the sum over the views of `video` that are not masked."""
  video = batch['video']
  if video.ndim != 6:
    raise UserError(
      f'`video` of a batch has shape {video.shape}, not (batch, views, frames, height,'
      ' width, channels): end the transforms with ThreeCrops, or evaluate single clips'
      ' with Accuracy'
    )

  def logits(view: int | jax.Array) -> jax.Array:
    one = jax.lax.dynamic_index_in_dim(video, view, axis=1, keepdims=False)
    outputs = predict(state, batch | {'video': one}, jax.random.fold_in(key, view))
    return outputs['logits']

  logits_VBC = jax.lax.map(logits, jnp.arange(video.shape[1]))
  if 'view_mask' in batch:
    logits_VBC *= batch['view_mask'].T[:, :, None]
  return {'logits': logits_VBC.sum(axis=0)}


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
