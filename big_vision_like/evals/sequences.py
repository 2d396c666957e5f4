"""Sequences of tokens, found or foretold.  Axes: B batch, N tokens, padded with 0."""

import dataclasses
import math
from typing import Any

import jax
import jax.numpy as jnp
from jax.sharding import Mesh

from big_vision_like.evals import evaluator
from big_vision_like.evals.evaluator import Arrays, Predict, Results


@dataclasses.dataclass(kw_only=True)
class ExactMatch(evaluator.MeanEvaluator):
  """`exact`: the share of targets that are found without a mistake, EOS included.

  `tokens` is the share of a target's tokens that are found in their place, averaged
  over examples. `output` names what `predict` found, int ids (B, any) with zeros behind
  EOS.
  """

  needs = ('target',)

  output: str = 'greedy'

  def measure(self, outputs: Arrays, batch: Arrays) -> Arrays:
    found_BN, target_BN = outputs[self.output], batch['target']
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
  """Mean negative log-likelihood of a token, all alike, and its exponential.

  `predict` gives sums over an example's tokens, `nll` (B,), and their number, `tokens`
  (B,).
  """

  def run(self, predict: Predict, state: Any, mesh: Mesh) -> Results:
    def sums(state: Any, batch: Arrays) -> Arrays:
      outputs = predict(state, batch, jax.random.key(0))
      return {
        name: jnp.where(batch['mask'], outputs[name], 0).sum()
        for name in ('nll', 'tokens')
      }

    step = self.compiled(sums, predict, mesh)
    nll = tokens = 0.0
    for batch in evaluator.batches(self.data, mesh):
      found = jax.device_get(step(state, batch))
      nll, tokens = nll + float(found['nll']), tokens + float(found['tokens'])
    mean = nll / tokens
    return {'nll': mean, 'perplexity': math.exp(min(mean, 700.0))}
