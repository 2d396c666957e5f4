"""Transforms that name the terms of graphs, arXiv:1811.04132 ("normalization")."""

import dataclasses
import random
from typing import Any

import grain
import numpy as np

from big_vision_like.data.procedural.graphs import FIRST_TERM
from big_vision_like.errors import BadRecordError

Example = dict[str, Any]
FIELDS = ('facts', 'query')


@dataclasses.dataclass(frozen=True, kw_only=True)
class Rename(grain.transforms.RandomMap):
  """Gives each term of a graph a random name of a pool, another one in each epoch.

  `facts` and `query` keep the ids of nil and of RDFS; other ids become FIRST_TERM to
  FIRST_TERM + pool - 1, two terms never the same. A network can thus learn the rules
  only, and not the terms.
  """

  pool: int

  def random_map(self, example: Example, rng: np.random.Generator) -> Example:
    return renamed(example, lambda count: rng.permutation(self.pool)[:count], self.pool)


@dataclasses.dataclass(frozen=True, kw_only=True)
class RenameById(grain.transforms.Map):
  """Gives terms random names of a pool that depend on `seed` and the example's id."""

  pool: int
  seed: int = 0

  def map(self, example: Example) -> Example:
    drawn = random.Random(f'{self.seed} {example["id"]}')
    return renamed(
      example, lambda count: drawn.sample(range(self.pool), count), self.pool
    )


@dataclasses.dataclass(frozen=True, kw_only=True)
class NameByPlace(grain.transforms.Map):
  """Gives terms fixed names: those of a pool from `first` on, in the order of ids.

  This is the control without normalization: equal terms have equal names in all graphs,
  and graphs with another `first` have no name in common.
  """

  pool: int
  first: int = 0

  def map(self, example: Example) -> Example:
    return renamed(
      example, lambda count: range(self.first, self.first + count), self.pool
    )


def renamed(example: Example, draw: Any, pool: int) -> Example:
  """Returns an example whose terms have the names that `draw(count)` returns."""
  count = max(int(example[name].max()) for name in FIELDS) - FIRST_TERM + 1
  names = np.asarray(list(draw(max(count, 0))) if count <= pool else [], np.int64)
  if count > len(names) or (len(names) and names.max() >= pool):
    raise BadRecordError(
      f'the graph of example {example.get("id", "?")} has {count} terms, more than the'
      f' pool={pool} has names for: raise pool, or ask about smaller graphs.'
    )
  to_new = np.concatenate([np.arange(FIRST_TERM), FIRST_TERM + names])
  return example | {name: to_new[example[name]].astype(np.int32) for name in FIELDS}
