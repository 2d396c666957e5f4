"""Precision and recall of answers whether triples follow.

Axes: N examples, B batch, R names of the terms, C answers.
"""

import dataclasses
from collections.abc import Mapping
from typing import Any

import numpy as np
from jax.sharding import Mesh

from big_vision_like.data.transforms import terms
from big_vision_like.errors import UserError
from big_vision_like.evals import evaluator
from big_vision_like.evals.evaluator import Arrays, Predict, Results


@dataclasses.dataclass(kw_only=True)
class Entailment(evaluator.Evaluator):
  """Precision, recall and F1 of both answers, accuracy, and recall by depth.

  Labels are 0 for queries that follow ("valid" in arXiv:1811.04132) and 1 for others
  ("invalid"). `f1` is the mean of both F1. `recall_depth_2` is the share of the queries
  that follow after two rounds of reasoning and are recognized. Precision is 0 if an
  answer is never given. With `by_graph`, precision, recall, F1 and accuracy are means
  over graphs, whose numbers are in `graph`, as in the paper; otherwise all queries are
  counted together. Other classes of the model are never right.
  """

  needs = ('label', 'depth')

  by_graph: bool = False

  def __post_init__(self) -> None:
    if self.by_graph:
      self.needs = (*self.needs, 'graph')

  def reports(self) -> Mapping[str, str]:
    kinds = '(valid|invalid)_(precision|recall|f1)'
    return {rf'accuracy|f1|{kinds}|recall_depth_\d+': 'max'}

  def measure(self, outputs: Arrays, batch: Arrays) -> Arrays:
    """Returns the answer of each query, and the facts about it in the batch."""
    known = {name: batch[name] for name in self.needs}
    return known | {'answer': outputs['logits'].argmax(axis=-1)}

  def run(self, predict: Predict, state: Any, mesh: Mesh | None = None) -> Results:
    rows = self.joined(self.measure, predict, state, mesh).values
    label_N, answer_N, depth_N = rows['label'], rows['answer'], rows['depth']
    if not len(label_N):
      raise UserError(f'{self.data.source} has no queries')
    groups_N = rows['graph'] if self.by_graph else np.zeros_like(label_N)
    each = [
      scores(label_N[groups_N == group], answer_N[groups_N == group])
      for group in np.unique(groups_N)
    ]
    found = {name: float(np.mean([one[name] for one in each])) for name in each[0]}
    for depth in np.unique(depth_N[label_N == 0]).tolist():
      right_N = answer_N[(label_N == 0) & (depth_N == depth)] == 0
      found[f'recall_depth_{depth}'] = float(right_N.mean())
    return Results(found)


@dataclasses.dataclass(kw_only=True)
class Renamings(evaluator.Evaluator):
  """Answers to the same queries under several names of the terms.

  The data have the transform `RenameById`, whose `seed` becomes 0, 1 and so on.
  `accuracy` and `f1` are means over all names, and `spread` is the largest less the
  smallest accuracy. `unanimous` is the share of queries whose answer is the same under
  all names. `voted_accuracy` and `voted_f1` are those of the most frequent answers.
  """

  needs = ('label',)

  renamings: int = 10

  def __post_init__(self) -> None:
    if self.renamings < 2:
      raise UserError(f'renamings={self.renamings} must be at least 2')
    if not any(isinstance(x, terms.RenameById) for x in self.data.transforms):
      raise UserError('the data have no transform RenameById, which names the terms')

  def reports(self) -> Mapping[str, str]:
    return {'(voted_)?(accuracy|f1)|unanimous': 'max', 'spread': 'min'}

  def measure(self, outputs: Arrays, batch: Arrays) -> Arrays:
    """Returns the answer and the label of each query."""
    return {'label': batch['label'], 'answer': outputs['logits'].argmax(axis=-1)}

  def run(self, predict: Predict, state: Any, mesh: Mesh | None = None) -> Results:
    found = []
    for seed in range(self.renamings):
      transforms = [
        dataclasses.replace(x, seed=seed) if isinstance(x, terms.RenameById) else x
        for x in self.data.transforms
      ]
      data = dataclasses.replace(self.data, transforms=transforms)
      found.append(self.joined(self.measure, predict, state, mesh, data=data).values)
    answer_RN = np.stack([values['answer'] for values in found])
    label_N = found[0]['label']
    each = [scores(label_N, answer_N) for answer_N in answer_RN]
    accuracies = [one['accuracy'] for one in each]
    counts_CN = (answer_RN[None] == np.arange(answer_RN.max() + 1)[:, None, None]).sum(
      1
    )
    voted = scores(label_N, counts_CN.argmax(axis=0))
    return Results(
      {
        'accuracy': float(np.mean(accuracies)),
        'f1': float(np.mean([one['f1'] for one in each])),
        'spread': float(np.ptp(accuracies)),
        'unanimous': float((answer_RN == answer_RN[0]).all(axis=0).mean()),
        'voted_accuracy': voted['accuracy'],
        'voted_f1': voted['f1'],
      }
    )


def scores(label_N: np.ndarray, answer_N: np.ndarray) -> dict[str, float]:
  """Returns accuracy, and precision, recall and F1 of both answers, in [0, 1]."""
  found = {'accuracy': float((label_N == answer_N).mean())}
  for label, name in enumerate(('valid', 'invalid')):
    right = ((label_N == label) & (answer_N == label)).sum()
    given, true = (answer_N == label).sum(), (label_N == label).sum()
    precision, recall = (float(right / max(count, 1)) for count in (given, true))
    found |= {
      f'{name}_precision': precision,
      f'{name}_recall': recall,
      f'{name}_f1': 2 * precision * recall / max(precision + recall, 1e-12),
    }
  return found | {'f1': (found['valid_f1'] + found['invalid_f1']) / 2}
