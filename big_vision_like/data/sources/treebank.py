"""Sentences with constituency trees: files in the format of the Penn Treebank."""

import collections
import dataclasses
import functools
from collections.abc import Sequence

import numpy as np

from big_vision_like import files
from big_vision_like.data.procedural import grammar
from big_vision_like.data.sources import shards
from big_vision_like.data.sources.base import Source
from big_vision_like.data.sources.language import Annotations, Example, Read
from big_vision_like.data.text import trees


@dataclasses.dataclass(frozen=True, kw_only=True)
class Treebank(Annotations):
  """The trees of the files that match `patterns`, such as `wsj/{02..21}/*.mrg`.

  Examples have the texts `words`, separated by spaces, and `tree`, the symbols of the
  tree (`data.text.trees`), without functions and traces. Trees with more than
  `most_words` words, and trees without words, are left out and counted.
  """

  patterns: shards.Pattern
  most_words: int | None = None
  tolerated: float = 1.0

  @functools.cached_property
  def paths(self) -> Sequence[str]:
    return shards.found(self.patterns)

  @property
  def title(self) -> str:
    """The pattern of the files."""
    return shards.title(self, self.patterns)

  def planned(self) -> Source:
    """Returns this source, or a stand-in for planning if files are missing."""
    if self.made_up or not self.problems() or self.examples is None:
      return self
    return dataclasses.replace(self, made_up=self.examples)

  def read(self) -> Read:
    examples, left_out = [], collections.Counter()
    for path in self.paths:
      for tree in trees.read(files.read_bytes(path).decode(errors='replace'), path):
        kept = trees.cleaned(tree)
        words = [] if kept is None else kept.words()
        if not words or kept.is_tag:
          left_out['trees without words or brackets'] += 1
        elif self.most_words is not None and len(words) > self.most_words:
          left_out[f'trees with more than {self.most_words} words'] += 1
        else:
          text = {'words': ' '.join(words), 'tree': ' '.join(trees.symbols(kept))}
          examples.append({**text, 'id': len(examples)})
    return Read(examples, left_out)

  def trial(self, index: int, rng: np.random.Generator) -> Example:
    del index  # the generator depends on it
    tree = grammar.draw(rng)
    return {'words': ' '.join(tree.words()), 'tree': ' '.join(trees.symbols(tree))}
