"""Few-shot linear probes on frozen features, arXiv:2010.11929 section 4.1.

Axes: N training examples, M test examples, D features, C classes.
"""

import dataclasses
import sys
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh

from big_vision_like.data.input import pipeline
from big_vision_like.data.sources import fewshot as sources
from big_vision_like.data.transforms import labels
from big_vision_like.errors import listed
from big_vision_like.evals import evaluator
from big_vision_like.evals.evaluator import Arrays, Predict, Results
from big_vision_like.ops import ridge


@dataclasses.dataclass(kw_only=True)
class FewShot(evaluator.Evaluator):
  """Accuracy on `data` of ridge regression fitted to k examples per class of `train`.

  A class with fewer than k examples contributes all of them, as published; the texts
  `rare classes` list these classes. Features are the model's `pre_logits`. The mean
  over `seeds` draws of examples is reported for each k in `shots` as 'K-shot', and its
  standard deviation as 'K-shot std'.
  """

  needs = ('label',)
  classes_of = 'train'
  tiny = dict(shots=5)

  train: pipeline.EvalInput
  shots: Sequence[int] = (1, 5, 10, 25)
  seeds: int = 3
  l2: float = 2.0**10

  def __post_init__(self) -> None:
    self._told = False

  def reports(self) -> Mapping[str, str]:
    return {f'{k}-shot': 'max' for k in self.shots}

  def run(self, predict: Predict, state: Any, mesh: Mesh | None = None) -> Results:
    def features(data: pipeline.EvalInput) -> tuple[np.ndarray, np.ndarray]:
      found = self.joined(self.measure, predict, state, mesh, data).values
      return found['features'].astype(np.float32), found['label']

    x_ND, y_N = features(self.train)
    x_MD, y_M = features(self.data)
    num_classes = int(max(y_N.max(), y_M.max())) + 1
    results = {}
    for k in self.shots:
      accuracies = []
      for seed in range(self.seeds):
        drawn = ridge.fewshot_indices(y_N, k, seed)
        scores_MC = ridge.ridge_scores(
          x_ND[drawn], y_N[drawn], x_MD, num_classes, self.l2
        )
        accuracies.append(np.mean(np.asarray(scores_MC).argmax(axis=-1) == y_M))
      results[f'{k}-shot'] = float(np.mean(accuracies))
      results[f'{k}-shot std'] = float(np.std(accuracies))
    names = labels.class_names(self.train.source, self.train.transforms)
    rare = sources.rare(y_N, max(self.shots), names.get('label', {}))
    if rare and not self._told and jax.process_index() == 0:
      print(f'few-shot examples: {listed(rare)}', file=sys.stderr, flush=True)
      self._told = True
    return Results(results, texts={'rare classes': rare} if rare else {})

  def measure(self, outputs: Arrays, batch: Arrays) -> Arrays:
    """Returns the features and the label of each example."""
    return {'features': outputs['pre_logits'], 'label': batch['label']}
