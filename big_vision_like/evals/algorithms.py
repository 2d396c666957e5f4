"""Evaluators of algorithms that learned engines execute.

Axes: B batch, S states, L slots, N nodes.
"""

import dataclasses
from collections.abc import Mapping

from big_vision_like.evals import evaluator
from big_vision_like.evals.evaluator import Arrays


@dataclasses.dataclass(kw_only=True)
class Steps(evaluator.MeanEvaluator):
  """Accuracy of single steps from true states: `numbers`, `pointers` and `masks`.

  A mask is right if all of its slots are. Data without pointers, such as sums, have
  only `numbers`.
  """

  needs = ('target',)

  def reports(self) -> Mapping[str, str]:
    return {'numbers|pointers|masks': 'max'}

  def measure(self, outputs: Arrays, batch: Arrays) -> Arrays:
    found = {'numbers': (outputs['number'] == batch['target']).mean(axis=1)}
    if 'pointer' in batch:
      right_BS = outputs['pointer'].argmax(axis=-1) == batch['pointer']
      found['pointers'] = right_BS.mean(axis=1)
    if 'mask_logits' in outputs:
      right_BSL = (outputs['mask_logits'] > 0) == batch['next_hidden']
      found['masks'] = right_BSL.all(axis=-1).mean(axis=1)
    return found


@dataclasses.dataclass(kw_only=True)
class Sorting(evaluator.MeanEvaluator):
  """The share of right `elements` of sorted lists, and of right `lists`.

  The paper's accuracy is that of elements at their place. Lists of an evaluator have
  one length.
  """

  needs = ('target',)

  predict: str = 'selection_sort'

  def reports(self) -> Mapping[str, str]:
    return {'elements|lists': 'max'}

  def measure(self, outputs: Arrays, batch: Arrays) -> Arrays:
    right_BL = outputs['sorted'] == batch['target']
    return {'elements': right_BL.mean(axis=1), 'lists': right_BL.all(axis=1)}


@dataclasses.dataclass(kw_only=True)
class ShortestPaths(evaluator.MeanEvaluator):
  """The share of right `distances` from a node, and of `graphs` with no wrong one."""

  needs = ('distance',)

  predict: str = 'dijkstra'

  def reports(self) -> Mapping[str, str]:
    return {'distances|graphs': 'max'}

  def measure(self, outputs: Arrays, batch: Arrays) -> Arrays:
    right_BN = outputs['distance'] == batch['distance']
    return {'distances': right_BN.mean(axis=1), 'graphs': right_BN.all(axis=1)}


@dataclasses.dataclass(kw_only=True)
class SpanningTrees(evaluator.MeanEvaluator):
  """The share of graphs whose spanning tree has the smallest total weight, `totals`."""

  needs = ('total',)

  predict: str = 'prim'

  def reports(self) -> Mapping[str, str]:
    return {'totals': 'max'}

  def measure(self, outputs: Arrays, batch: Arrays) -> Arrays:
    return {'totals': outputs['total'] == batch['total']}
