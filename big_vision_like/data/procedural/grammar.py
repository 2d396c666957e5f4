"""Sentences of a small English grammar with their constituency trees.

`the clerk of the bank saw a tall sailor with the lamp .` Where a phrase belongs depends
on words, as in English: `of` belongs to the noun before it; `with` and an instrument to
the verb, `with` and anything else to the noun. `light`, `watch`, `cook` and `guard` are
nouns or verbs, `that` begins a relative clause after a noun and a clause after a verb.
"""

import dataclasses
import random
from collections.abc import Mapping
from typing import Any

import numpy as np

from big_vision_like.data.procedural import sequences
from big_vision_like.data.sources.base import Source
from big_vision_like.data.text import trees
from big_vision_like.data.text.trees import Tree
from big_vision_like.errors import UserError, check_one_of

MAX_DRAWS = 1_000
MOST_WORDS = 20
MOST_SYMBOLS = 64

TOOLS = ('lamp', 'telescope', 'knife', 'rope', 'light', 'watch')
OTHERS = (
  *('clerk', 'sailor', 'bank', 'dog', 'garden', 'child', 'house', 'letter', 'cook'),
  *('guard', 'horse', 'bridge'),
)
WORDS = {
  'DT': ('the', 'a', 'this', 'every'),
  'JJ': ('tall', 'old', 'small', 'green', 'tired'),
  'NN': (*TOOLS, *OTHERS),
  'VBD': ('saw', 'found', 'moved', 'drew'),
  # Verbs in the present, some of which are nouns too.
  'VBP': ('light', 'watch', 'cook', 'guard', 'see'),
  'VBS': ('said', 'knew', 'thought'),
  'PRP': ('they', 'we'),
  'IN': ('of', 'with', 'near', 'that'),
  'WDT': ('that',),
  'CC': ('and', 'or'),
  'RB': ('slowly', 'often', 'again'),
  '.': ('.',),
}
# Verbs of speech and thought are past tense too.
TAGS = {'VBS': 'VBD'}
PHRASES = ('S', 'NP', 'VP', 'PP', 'SBAR', 'ADVP')
# All words, then all symbols of trees.
VOCABULARY = (
  *sorted({word for words in WORDS.values() for word in words}),
  *sorted(f'{bracket}{phrase}' for phrase in PHRASES for bracket in '()'),
  *sorted({TAGS.get(tag, tag) for tag in WORDS} - {'.'}),  # the dot is a word too
)


def draw(rng: np.random.Generator | random.Random) -> Tree:
  """Draws the tree of a sentence with at most `MOST_WORDS` words."""
  while True:
    tree = _Drawing(rng).sentence()
    if len(tree.words()) <= MOST_WORDS:
      return tree


class _Drawing:
  """The rules of the grammar, with random choices; deeper phrases are simpler."""

  def __init__(self, rng: np.random.Generator | random.Random):
    self.rng = rng

  def chance(self, probability: float, depth: int = 0) -> bool:
    return self.rng.random() < probability * 0.7**depth

  def word(self, kind: str, words: tuple[str, ...] | None = None) -> Tree:
    words = WORDS[kind] if words is None else words
    return Tree(TAGS.get(kind, kind), (words[int(self.rng.random() * len(words))],))

  def sentence(self) -> Tree:
    return Tree('S', (*self.clause(0).children, self.word('.')))

  def clause(self, depth: int) -> Tree:
    if self.chance(0.25):
      return Tree('S', (Tree('NP', (self.word('PRP'),)), self.verbs(depth, 'VBP')))
    return Tree('S', (self.nouns(depth), self.verbs(depth, 'VBD')))

  def nouns(self, depth: int) -> Tree:
    """Returns a noun phrase, alone or with what belongs to its noun."""
    base = self.noun()
    if self.chance(0.3, depth):
      return Tree('NP', (base, self.belonging(depth + 1)))
    if self.chance(0.15, depth):
      relative = self.verbs(depth + 1, 'VBD')
      return Tree('NP', (base, Tree('SBAR', (self.word('WDT'), relative))))
    if self.chance(0.2, depth):
      return Tree('NP', (base, self.word('CC'), self.noun()))
    return base

  def noun(self, words: tuple[str, ...] | None = None) -> Tree:
    adjectives = (self.word('JJ'),) if self.chance(0.35) else ()
    return Tree('NP', (self.word('DT'), *adjectives, self.word('NN', words)))

  def belonging(self, depth: int) -> Tree:
    """Returns a phrase that belongs to the noun before it."""
    if self.chance(0.5):
      return Tree('PP', (self.word('IN', ('of',)), self.nouns(depth)))
    return Tree('PP', (self.word('IN', ('with',)), self.noun(OTHERS)))

  def verbs(self, depth: int, kind: str) -> Tree:
    """Returns a verb phrase, alone or with an instrument or an adverb.

    These belong to the last verb, so there is none after an object with a verb.
    """
    if kind == 'VBD' and self.chance(0.2, depth):
      inner = Tree('SBAR', (self.word('IN', ('that',)), self.clause(depth + 1)))
      return Tree('VP', (self.word('VBS'), inner))
    parts = [self.word(kind), self.nouns(depth)]
    if any(tag.label == 'VBD' for tag in parts[1].tags()):
      return Tree('VP', tuple(parts))
    if self.chance(0.4, depth):
      parts.append(Tree('PP', (self.word('IN', ('with',)), self.noun(TOOLS))))
    elif self.chance(0.25, depth):
      parts.append(Tree('ADVP', (self.word('RB'),)))
    return Tree('VP', tuple(parts))


@dataclasses.dataclass(frozen=True, kw_only=True)
class Sentences(Source):
  """Sentences of the grammar: the texts `words` and `tree`, its symbols, and `id`.

  The split of a sentence depends only on its words, so test sentences never occur in
  training, whatever the seeds.
  """

  examples: int
  split: str = dataclasses.field()  # without the default of a source
  seed: int = 0

  tiny = dict(examples=20)

  def __post_init__(self) -> None:
    check_one_of(sequences.SPLITS, split=self.split)

  def __len__(self) -> int:
    return self.examples

  def __getitem__(self, index: int) -> Mapping[str, Any]:
    if not 0 <= index < self.examples:
      raise IndexError(f'example {index} of {self.examples}')
    rng = random.Random(f'{self.seed} {self.split} {index}')
    for _ in range(MAX_DRAWS):
      tree = draw(rng)
      words = ' '.join(tree.words())
      if sequences.split_of(words.encode()) == self.split:
        return {'words': words, 'tree': ' '.join(trees.symbols(tree)), 'id': index}
    raise UserError(f'no sentence of the split {self.split!r} in {MAX_DRAWS} draws')
