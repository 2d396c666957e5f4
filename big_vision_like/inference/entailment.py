"""Answers of a memory network whether triples follow from a graph.

Axes: F facts of a graph, W words of a triple, Q queries.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import jax
import numpy as np

from big_vision_like import spec
from big_vision_like.data import rdfs
from big_vision_like.data.procedural import graphs
from big_vision_like.data.sources import memory
from big_vision_like.data.transforms import terms
from big_vision_like.errors import UserError
from big_vision_like.evals import entailment
from big_vision_like.inference.loading import LoadedRun

RENAMINGS = 10


class Reasoner:
  """A run on entailment, asked about graphs of strings.

  The number of facts and the pool of names are those of the run's evaluator. Terms get
  random names of the pool; answers are means over `RENAMINGS` of them.
  """

  def __init__(self, run: LoadedRun):
    self.run = run
    node = next(
      (
        node
        for node in run.config.evals.values()
        if spec.symbol(node) is entailment.Entailment
      ),
      None,
    )
    if node is None:
      raise UserError(f'{run.workdir} is no run on entailment: docs/entailment.md')
    data = spec.build(node['data'], 'config.evals')
    source = data.source
    while isinstance(source, memory.Cached):
      source = source.source
    self.memory = source.memory
    self.pool = next(
      (transform.pool for transform in data.transforms if hasattr(transform, 'pool')),
      None,
    )
    if self.pool is None:
      raise UserError(f'{run.workdir} was not trained with names of a pool')
    self._predict = jax.jit(run.task.predict)

  def probabilities(
    self, triples: Sequence[rdfs.Triple], queries: Sequence[rdfs.Triple]
  ) -> np.ndarray:
    """Returns the probability that each query follows from the graph, (Q,)."""
    if len(triples) > self.memory:
      raise UserError(
        f'the graph has {len(triples)} triples, and the network of {self.run.workdir}'
        f' reads {self.memory}: give it fewer'
      )
    ids: dict[str, int] = dict(graphs.RESERVED)
    for term in (term for triple in (*triples, *queries) for term in triple):
      ids.setdefault(term, graphs.FIRST_TERM + len(ids) - len(graphs.RESERVED))
    facts_FW = np.zeros((self.memory, graphs.WORDS), np.int32)
    if triples:
      facts_FW[: len(triples)] = _numbered(triples, ids)
    sums_Q = np.zeros(len(queries))
    for seed in range(RENAMINGS):
      rename = terms.RenameById(pool=self.pool, seed=seed)
      batch = _stacked(
        rename.map({'facts': facts_FW, 'query': query_W, 'id': number})
        for number, query_W in enumerate(_numbered(queries, ids))
      )
      logits_QC = self._predict(self.run.state, batch, jax.random.key(0))['logits']
      sums_Q += np.asarray(jax.nn.softmax(logits_QC)[:, 0])
    return sums_Q / RENAMINGS


def _numbered(triples: Sequence[rdfs.Triple], ids: Mapping[str, int]) -> np.ndarray:
  return np.array([[ids[term] for term in triple] for triple in triples], np.int32)


def _stacked(examples: Any) -> dict[str, np.ndarray]:
  rows = list(examples)
  return {name: np.stack([row[name] for row in rows]) for name in ('facts', 'query')}
