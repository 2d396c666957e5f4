"""Queries about RDF graphs in files: whether a triple follows under RDFS.

Axes: F facts of a graph, W words of a triple.
"""

import dataclasses
import functools
import glob
import os
import random
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from big_vision_like.data import rdfs
from big_vision_like.data.procedural.graphs import FIRST_TERM, LABELS, RESERVED, WORDS
from big_vision_like.data.sources.base import Source
from big_vision_like.errors import UserError
from big_vision_like.spec import spec

ATTEMPTS = 100  # random triples that are tried for each one that does not follow


class Graph(NamedTuple):
  """The facts of a file as ids, and queries: triples of ids, labels and depths."""

  facts_FW: np.ndarray
  queries: list[tuple[list[int], int, int]]
  terms: int


@dataclasses.dataclass(frozen=True, kw_only=True)
class KnowledgeGraphs(Source):
  """Queries about the graphs in N-Triples or Turtle files, arXiv:1811.04132.

  `files` is a pattern, such as `data/graphs/train/*.nt`. Of each graph, the first
  `memory` triples are used. Up to `queries` of its queries are triples that follow and
  are not given, and as many are random combinations of its terms that do not follow.
  Graphs from which nothing follows are left out.

  Examples are those of `data.procedural.graphs`, and have `graph`, the number of the
  file. Terms other than the predicates of RDFS have ids in the order of their first
  occurrence; `transforms.terms.Rename` gives them names of a pool.
  """

  pattern: str
  memory: int = 1000
  queries: int = 500
  seed: int = 0

  def __post_init__(self) -> None:
    for name in ('memory', 'queries'):
      if getattr(self, name) < 1:
        raise UserError(f'{name}={getattr(self, name)} must be at least 1')

  @staticmethod
  def stand_in(node: Mapping[str, Any]) -> Mapping[str, Any]:
    """Returns the recorded call of a source that needs no files, for trials."""
    del node
    return spec(RandomStandIn, **RandomStandIn.tiny)

  @functools.cached_property
  def _read(self) -> tuple[list[Graph], dict[str, int]]:
    """The graphs, and the number of items that are left out by kind."""
    graphs, cut, silent = [], 0, 0
    for path in self.files:
      triples = rdfs.read(path)
      cut += max(len(triples) - self.memory, 0)
      graph = self._graph(triples[: self.memory], os.path.basename(path))
      if graph is None:
        silent += 1
      else:
        graphs.append(graph)
    if not graphs:
      raise UserError(
        f'no triple follows from any of the {len(self.files)} graphs of {self.pattern}'
      )
    kinds = {
      f'triples beyond memory={self.memory}': cut,
      'graphs from which nothing follows': silent,
    }
    return graphs, kinds

  def _graph(self, triples: list[rdfs.Triple], name: str) -> Graph | None:
    rng = random.Random(f'{self.seed} {name}')
    depth = rdfs.closure(triples)
    right = sorted(triple for triple, rounds in depth.items() if rounds)
    if not right:
      return None
    right = rng.sample(right, min(self.queries, len(right)))
    ids = dict(RESERVED)
    for term in (term for triple in triples for term in triple):
      ids.setdefault(term, FIRST_TERM + len(ids) - len(RESERVED))
    terms = list(ids)
    wrong: dict[rdfs.Triple, None] = {}
    for _ in range(ATTEMPTS * len(right)):
      triple = tuple(rng.choices(terms, k=WORDS))
      if triple not in depth:
        wrong[triple] = None
      if len(wrong) == len(right):
        break
    queries = [
      ([ids[term] for term in triple], label, 0 if label else depth[triple])
      for label, found in enumerate((right, wrong))
      for triple in found
    ]
    facts_FW = np.zeros((self.memory, WORDS), np.int32)
    facts_FW[: len(triples)] = [[ids[term] for term in triple] for triple in triples]
    return Graph(facts_FW, queries, len(ids) - len(RESERVED))

  @functools.cached_property
  def _starts(self) -> np.ndarray:
    return np.cumsum([0, *(len(graph.queries) for graph in self._read[0])])

  def __len__(self) -> int:
    return int(self._starts[-1])

  def __getitem__(self, index: int) -> dict[str, Any]:
    if not 0 <= index < len(self):
      raise IndexError(f'example {index} of {len(self)}')
    number = int(np.searchsorted(self._starts, index, side='right')) - 1
    graph = self._read[0][number]
    query, label, depth = graph.queries[index - int(self._starts[number])]
    return {
      'facts': graph.facts_FW,
      'query': np.array(query, np.int32),
      'label': np.int64(label),
      'depth': np.int64(depth),
      'graph': np.int64(number),
      'id': np.int64(index),
    }

  @functools.cached_property
  def files(self) -> Sequence[str]:
    """The paths of the graphs, in alphabetical order."""
    found = sorted(glob.glob(self.pattern))
    if not found:
      raise UserError(
        f'there are no graphs in {self.pattern!r}: give a pattern of files'
      )
    return found

  @property
  def label_names(self) -> Sequence[str]:
    """The names of the labels."""
    return LABELS

  @property
  def left_out(self) -> Mapping[str, int]:
    """The number of triples and of graphs that are not used."""
    return self._read[1]

  def planned(self) -> Source:
    """Returns this source, or random graphs of its size if there are no files."""
    if glob.glob(self.pattern):
      return self
    return RandomStandIn(examples=1000, memory=self.memory)


@dataclasses.dataclass(frozen=True, kw_only=True)
class RandomStandIn(Source):
  """Random triples in place of missing graphs, for plans and trials."""

  examples: int
  memory: int

  tiny = dict(examples=20, memory=12)

  def __len__(self) -> int:
    return self.examples

  def __getitem__(self, index: int) -> dict[str, Any]:
    if not 0 <= index < self.examples:
      raise IndexError(f'example {index} of {self.examples}')
    rng = np.random.default_rng(index)
    facts_FW = rng.integers(1, FIRST_TERM + 20, (self.memory, WORDS)).astype(np.int32)
    known = {'label': index % 2, 'depth': 1 - index % 2, 'graph': 0, 'id': index}
    numbers = {name: np.int64(number) for name, number in known.items()}
    return {'facts': facts_FW, 'query': facts_FW[0], **numbers}
