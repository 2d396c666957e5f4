"""Random RDFS graphs, each with a triple that may follow from it.

Axes: F facts of a graph, W words of a triple.
"""

import dataclasses
import random
from typing import Any

import numpy as np

from big_vision_like.data import rdfs
from big_vision_like.data.sources.base import Source
from big_vision_like.errors import UserError, check_one_of

SPLITS = ('train', 'test')
WORDS = 3
# Ids of words: nil, the predicates of RDFS, then terms.
FIRST_TERM = 1 + len(rdfs.PREDICATES)
RESERVED = {name: i + 1 for i, name in enumerate(rdfs.PREDICATES)}
LABELS = ('follows', 'does not follow')
# Share of classes and properties that have a wider one, and of properties that have a
# domain, and a range.
WIDER, SIDES = 0.8, 0.6
MAX_DRAWS = 1000


@dataclasses.dataclass(frozen=True, kw_only=True)
class RandomGraphs(Source):
  """Graphs of random axioms and facts, and a query that follows from half of them.

  Examples have `facts` int32 (memory, 3) in random order, filled with zeros, `query`
  (3,), `label` 0 if the query follows under RDFS and 1 otherwise, `depth`, the rounds
  of reasoning that it takes (0 if it does not follow), and `id`. Ids 1 to 5 are the
  predicates of RDFS (`data.rdfs`), 6 and above the terms of the graph: properties,
  classes and individuals, in random order.

  Queries that do not follow have the same form as ones that do: they relate terms of
  the same kinds. `chain` is the probability that a class has the class before it as its
  wider one, and not any of the earlier ones: chains make reasoning deep.
  """

  examples: int
  split: str = dataclasses.field()  # without the default of a source
  seed: int = 0
  classes: int = 5
  properties: int = 3
  individuals: int = 4
  relations: int = 4
  memory: int = 32
  chain: float = 0.5

  tiny = dict(examples=20)

  def __post_init__(self) -> None:
    check_one_of(SPLITS, split=self.split)
    for name in ('classes', 'properties', 'individuals', 'relations'):
      if getattr(self, name) < 2:
        raise UserError(f'{name}={getattr(self, name)} must be at least 2')
    most = self.classes + 4 * self.properties + self.individuals + self.relations
    if self.memory < most:
      raise UserError(
        f'memory={self.memory} has no room for graphs of up to {most} triples'
      )

  def __len__(self) -> int:
    return self.examples

  @property
  def label_names(self) -> tuple[str, ...]:
    """The names of the labels."""
    return LABELS

  @property
  def terms(self) -> int:
    """The number of terms of a graph."""
    return self.properties + self.classes + self.individuals

  def __getitem__(self, index: int) -> dict[str, Any]:
    if not 0 <= index < self.examples:
      raise IndexError(f'example {index} of {self.examples}')
    rng = random.Random(f'{self.seed} {self.split} {index}')
    for _ in range(MAX_DRAWS):
      triples = self._drawn(rng)
      depth = rdfs.closure(triples)
      query, label = self._query(rng, depth), index % 2
      if label and query is not None:
        query = self._wrong(rng, depth, query)
      if query is not None:
        break
    else:
      raise UserError('no random graph has a triple to ask for: draw larger graphs')
    names = [*'pci']
    counts = (self.properties, self.classes, self.individuals)
    terms = [f'{n}{i}' for n, k in zip(names, counts, strict=True) for i in range(k)]
    rng.shuffle(terms)
    ids = RESERVED | {term: FIRST_TERM + i for i, term in enumerate(terms)}
    rng.shuffle(triples)
    facts_FW = np.zeros((self.memory, WORDS), np.int32)
    facts_FW[: len(triples)] = [[ids[term] for term in triple] for triple in triples]
    return {
      'facts': facts_FW,
      'query': np.array([ids[term] for term in query], np.int32),
      'label': np.int64(label),
      'depth': np.int64(0 if label else depth[query]),
      'id': np.int64(index),
    }

  def _drawn(self, rng: random.Random) -> list[rdfs.Triple]:
    """Returns the triples of a random graph, each once."""
    found: dict[rdfs.Triple, None] = {}
    kinds = (
      ('c', self.classes, rdfs.SUBCLASS),
      ('p', self.properties, rdfs.SUBPROPERTY),
    )
    for letter, count, wider in kinds:
      for i in range(1, count):
        if rng.random() < WIDER:
          j = i - 1 if rng.random() < self.chain else rng.randrange(i)
          found[f'{letter}{i}', wider, f'{letter}{j}'] = None
    for i in range(self.properties):
      for side in (rdfs.DOMAIN, rdfs.RANGE):
        if rng.random() < SIDES:
          found[f'p{i}', side, self._any(rng, 'c')] = None
    for i in range(self.individuals):
      found[f'i{i}', rdfs.TYPE, self._any(rng, 'c')] = None
    for _ in range(self.relations):
      one, other = rng.sample(range(self.individuals), 2)
      found[f'i{one}', self._any(rng, 'p'), f'i{other}'] = None
    return list(found)

  def _any(self, rng: random.Random, letter: str) -> str:
    count = {'c': self.classes, 'p': self.properties, 'i': self.individuals}[letter]
    return f'{letter}{rng.randrange(count)}'

  def _query(self, rng: random.Random, depth: dict) -> rdfs.Triple | None:
    """Returns a triple that follows and is not given, None if there is none."""
    found = sorted(triple for triple, rounds in depth.items() if rounds)
    return rng.choice(found) if found else None

  def _wrong(
    self, rng: random.Random, depth: dict, right: rdfs.Triple
  ) -> rdfs.Triple | None:
    """Returns a triple of the same form that does not follow, None if none is found."""
    for _ in range(20):
      triple = tuple(
        term if term in RESERVED else self._any(rng, term[0]) for term in right
      )
      if triple not in depth and triple[0] != triple[2]:
        return triple
    return None
