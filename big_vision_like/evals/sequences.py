"""Evaluators of predicted sequences.  Axes: B batch, N tokens, padded with 0."""

import dataclasses
import math
from collections.abc import Mapping
from typing import Any

import jax.numpy as jnp
from jax.sharding import Mesh

from big_vision_like.evals import evaluator
from big_vision_like.evals.evaluator import Arrays, Predict, Results


@dataclasses.dataclass(kw_only=True)
class ExactMatch(evaluator.MeanEvaluator):
  """Accuracy of whole sequences, `exact`, including EOS, and of `tokens`.

  `tokens` is the share of a target's tokens that are predicted at their place, averaged
  over examples. The prediction has `ids`, int (B, any) with zeros after EOS.
  """

  needs = ('target',)

  predict: str = 'greedy'

  def reports(self) -> Mapping[str, str]:
    return {'exact': 'max', 'tokens': 'max'}

  def measure(self, outputs: Arrays, batch: Arrays) -> Arrays:
    found_BN, target_BN = outputs['ids'], batch['target']
    length = max(found_BN.shape[1], target_BN.shape[1])
    found_BN = jnp.pad(found_BN, ((0, 0), (0, length - found_BN.shape[1])))
    target_BN = jnp.pad(target_BN, ((0, 0), (0, length - target_BN.shape[1])))
    hits_BN, counted_BN = found_BN == target_BN, target_BN != 0
    return {
      'exact': hits_BN.all(axis=1),
      'tokens': (hits_BN & counted_BN).sum(axis=1) / counted_BN.sum(axis=1),
    }


@dataclasses.dataclass(kw_only=True)
class Perplexity(evaluator.Evaluator):
  """Mean negative log-likelihood per token, `nll`, and its exponential, `perplexity`.

  All tokens have equal weight. The prediction has sums over the tokens of each example,
  `nll` (B,), and their number, `tokens` (B,).
  """

  def reports(self) -> Mapping[str, str]:
    return {'nll': 'min', 'perplexity': 'min'}

  def measure(self, outputs: Arrays, batch: Arrays) -> Arrays:
    """Returns the sum and the number of tokens of each example."""
    return {name: outputs[name] for name in ('nll', 'tokens')}

  def run(self, predict: Predict, state: Any, mesh: Mesh | None = None) -> Results:
    mean = evaluator.means(self.rows(self.measure, predict, state, mesh), self.data)
    nll = mean['nll'] / mean['tokens']
    return Results({'nll': nll, 'perplexity': math.exp(min(nll, 700.0))})
