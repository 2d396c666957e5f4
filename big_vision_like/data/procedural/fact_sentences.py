"""Made-up sentences that state facts, as the TFDS data set `fact_sentences`.

Sentences are about people, groups, places and classes, with names of random syllables.
Names tell nothing about the kind of an entity; only the words around them do. Some
sentences relate none of their entities. Relations are named as predicates of a graph of
knowledge, so that graphs can be made of them: `rdf:type` and `rdfs:subClassOf` too.
"""

import dataclasses
import random
import re
from collections.abc import Sequence
from typing import Any

import numpy as np
import tensorflow_datasets as tfds

from big_vision_like.data.procedural import drawing, sequences
from big_vision_like.errors import check_one_of

KINDS = ('person', 'group', 'place', 'class')
RELATIONS = (
  'leads',
  'member_of',
  'lives_in',
  'located_in',
  'rdf:type',
  'rdfs:subClassOf',
)
SYLLABLES = tuple('bal dor fen gil kam lun mir nov pel ras sor tal vim zet'.split())
# Names of other letters are unknown words to the vocabulary below, as in real texts.
LETTERS, OTHER = ('bcdfghjklmnprstvwz', 'aeiou'), 0.15

# Slots have the first letter of their kind; the same slot twice is the same entity.
# Each clause is followed by its relations, 'leads P G' with the names of slots.
CLAUSES = (
  ('{P} leads {G}', 'leads P G'),
  ('{G} is led by {P}', 'leads P G'),
  ('{P} is the head of {G}', 'leads P G'),
  ('{P} is a member of {G}', 'member_of P G'),
  ('{P} and {P2} belong to {G}', 'member_of P G', 'member_of P2 G'),
  ('{G} has the members {P} and {P2}', 'member_of P G', 'member_of P2 G'),
  ('{P} lives in {L}', 'lives_in P L'),
  ('{L} is the home of {P}', 'lives_in P L'),
  ('{P} of {L} leads {G}', 'lives_in P L', 'leads P G'),
  ('{P} , who lives in {L} , is a member of {G}', 'lives_in P L', 'member_of P G'),
  ('{G} is based in {L}', 'located_in G L'),
  ('{L} is a town in {L2}', 'located_in L L2'),
  ('{G} , led by {P} , is based in {L}', 'leads P G', 'located_in G L'),
  ('{P} is a {C}', 'rdf:type P C'),
  ('the {C} {P} lives in {L}', 'rdf:type P C', 'lives_in P L'),
  ('{G} is one of the {C}', 'rdf:type G C'),
  ('every {C} is a {C2}', 'rdfs:subClassOf C C2'),
  ('a {C} is a kind of {C2}', 'rdfs:subClassOf C C2'),
  ('among the {C2} is the {C}', 'rdfs:subClassOf C C2'),
  ('no {C} is a {C2}',),
  ('{P} met {P2} in {L}',),
  ('{P} left {G}',),
  ('{G} is older than {G2}',),
  ('the road from {L} to {L2} is long',),
)
JOINTS = (' , and ', ' while ', ' ; ', ' , but ')
ENTITY = {'P': 'person', 'G': 'group', 'L': 'place', 'C': 'class'}
SLOT = re.compile(r'\{([PGLC]\d?)\}')


def _plain_words() -> tuple[str, ...]:
  texts = [SLOT.sub(' ', clause[0]) for clause in CLAUSES]
  return tuple(sorted({word for text in (*texts, *JOINTS) for word in text.split()}))


# Words of a vocabulary for these sentences: names are pieces of syllables.
WORDS = (*_plain_words(), '.', *SYLLABLES, *(f'##{each}' for each in SYLLABLES))


@dataclasses.dataclass
class FactsConfig(tfds.core.BuilderConfig):
  """The number of sentences by split, and the share with two clauses."""

  counts: tuple[int, int] = (20_000, 1_000)
  joined: float = 0.5
  seed: int = 0


def draw(config: FactsConfig, split: str, index: int) -> dict[str, Any]:
  """Draws sentence `index` of a split, as `data.transforms.entities.Tag` reads it.

  No name, and no pair of clauses, of the test split occurs in the training split. One
  in ten of them belongs to the test split (`sequences.split_of`).
  """
  check_one_of(sequences.SPLITS, split=split)
  rng = random.Random(f'{config.seed} {split} {index}')
  texts, relations = _clauses(rng, split, rng.random() < config.joined)
  words: list[str] = []
  entities: dict[str, tuple[int, int]] = {}
  names: set[str] = set()
  for word in texts.split():
    slot = SLOT.fullmatch(word)
    if slot is None:
      words.append(word)
      continue
    name = _name(rng, split, names, most=1 if slot[1][0] == 'C' else 2)
    entities[slot[1]] = len(words), len(words) + len(name) - 1
    words += name
  order = list(entities)
  pairs = [relation.split() for relation in relations]
  return {
    'words': [*words, '.'],
    'entities': np.array([*entities.values()], np.int32).reshape(-1, 2),
    'entity_kinds': [ENTITY[slot[0]] for slot in order],
    'pairs': np.array(
      [[order.index(one), order.index(other)] for _, one, other in pairs], np.int32
    ).reshape(-1, 2),
    'pair_names': [name for name, _, _ in pairs],
    'id': index,
  }


def made_up(index: int) -> dict[str, Any]:
  """Returns a sentence for trials of configs without the data set."""
  return draw(FactsConfig(name='made_up'), sequences.SPLITS[0], index)


def _clauses(rng: random.Random, split: str, joined: bool) -> tuple[str, Sequence[str]]:
  """Returns the text of one clause or two, with slots, and its relations."""
  if not joined:
    text, *relations = rng.choice(CLAUSES)
    return text, relations
  while True:
    (one, *first), (other, *second) = rng.choices(CLAUSES, k=2)
    if sequences.split_of(f'{one} {other}'.encode()) == split:
      break
  # The entities of the second clause are other ones.
  other = SLOT.sub(lambda slot: f'{{{_second(slot[1])}}}', other)
  moved = [
    ' '.join([name, _second(subject), _second(value)])
    for name, subject, value in map(str.split, second)
  ]
  return one + rng.choice(JOINTS) + other, [*first, *moved]


def _second(slot: str) -> str:
  return slot[0] + str(int(slot[1:] or 1) + 4)


def _name(rng: random.Random, split: str, used: set[str], most: int) -> list[str]:
  """Returns the words of a new name of the split, and adds it to `used`."""
  while True:
    words = [_word(rng) for _ in range(rng.randint(1, most))]
    own = [w for w in words if sequences.split_of(w.encode()) == split]
    if own == words and used.isdisjoint(words):
      used.update(words)
      return [word.title() for word in words] if most > 1 else words


def _word(rng: random.Random) -> str:
  if rng.random() < OTHER:
    return ''.join(rng.choice(letters) for _ in range(3) for letters in LETTERS)
  return ''.join(rng.choices(SYLLABLES, k=rng.choice((2, 3))))


class FactSentences(drawing.Pictures):
  """20,000 training and 1,000 test sentences with their entities and relations."""

  BUILDER_CONFIGS = [
    FactsConfig(name='fact_sentences', description='Facts about made-up names.')
  ]

  def _info(self) -> tfds.core.DatasetInfo:
    texts = tfds.features.Sequence(tfds.features.Text())
    pairs = tfds.features.Tensor(shape=(None, 2), dtype=np.int32)
    return self.described(
      'Sentences with marked entities and the relations between them.',
      {
        'words': texts,
        'entities': pairs,
        'entity_kinds': texts,
        'pairs': pairs,
        'pair_names': texts,
      },
    )

  def _split_generators(self, dl_manager: Any) -> dict[str, drawing.Counted]:
    config = self.builder_config
    counts = dict(zip(sequences.SPLITS, config.counts, strict=True))
    return drawing.by_split(draw, config, counts)
