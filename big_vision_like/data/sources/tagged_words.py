"""Sentences with entities and relations: CoNLL-2003, and the JSON of SciERC.

Examples are those of `data.transforms.entities.Tag`.
"""

import collections
import dataclasses
import os
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from big_vision_like.data.sources import language
from big_vision_like.data.sources.language import Annotations, Example, Read
from big_vision_like.data.text import bio
from big_vision_like.errors import UserError, check_one_of

CONLL_KINDS = ('PER', 'ORG', 'LOC', 'MISC')
SCIERC_KINDS = (
  'Task',
  'Method',
  'Metric',
  'Material',
  'OtherScientificTerm',
  'Generic',
)
SCIERC_RELATIONS = (
  'USED-FOR',
  'FEATURE-OF',
  'HYPONYM-OF',
  'PART-OF',
  'EVALUATE-FOR',
  'COMPARE',
  'CONJUNCTION',
)
NEW_DOCUMENT = '-DOCSTART-'


@dataclasses.dataclass(frozen=True, kw_only=True)
class Conll(Annotations):
  """Sentences of a file of CoNLL-2003, which are separated by empty lines.

  A line has a word first and its tag last, with other columns between them.
  `scheme` is that of the tags: 'bio', or 'iob1' of the original files.
  """

  path: str
  scheme: str = 'bio'

  def __post_init__(self) -> None:
    check_one_of(bio.SCHEMES, scheme=self.scheme)

  @property
  def paths(self) -> Sequence[str]:
    return [self.path]

  def read(self) -> Read:
    examples = []
    for place, words, tags in _sentences(self.path):
      found = bio.entities(tags, self.scheme, place)
      examples.append(example(words, found, [], len(examples)))
    return Read(examples, {})

  def trial(self, index: int, rng: np.random.Generator) -> Example:
    return made_up(index, rng, CONLL_KINDS, ())


@dataclasses.dataclass(frozen=True, kw_only=True)
class Scierc(Annotations):
  """Sentences of a file of SciERC (arXiv:1808.09602): a document of JSON a line.

  A document has `sentences`, lists of words, and for each of them `ner`, lists
  [first, last, kind], and `relations`, lists [first, last, first, last, relation], with
  words counted from the start of the document. Of entities that share a word only the
  longest is kept; the others, and their relations, are counted as left out.
  """

  path: str
  tolerated: float = 0.2

  @property
  def paths(self) -> Sequence[str]:
    return [self.path]

  def read(self) -> Read:
    examples: list[Example] = []
    left_out: collections.Counter[str] = collections.Counter()
    for where, entry in language.lines_of(self.path):
      names = 'sentences', 'ner', 'relations'
      sentences, entities, relations = language.fields(entry, names, where)
      if not len(sentences) == len(entities) == len(relations):
        raise UserError(
          f'{where} has {len(sentences)} sentences, {len(entities)} lists of entities'
          f' and {len(relations)} of relations: give one list for each sentence'
        )
      start = 0
      for number, words in enumerate(sentences):
        place = f'sentence {number + 1} of {where}'
        found = _flat(place, entities[number], start, len(words), left_out)
        related = _relations(place, relations[number], start, found, left_out)
        if words:
          examples.append(example(words, found, related, len(examples)))
        start += len(words)
    return Read(examples, left_out)

  def trial(self, index: int, rng: np.random.Generator) -> Example:
    return made_up(index, rng, SCIERC_KINDS, SCIERC_RELATIONS)


def example(
  words: Sequence[str],
  entities: Sequence[bio.Entity],
  related: Sequence[tuple[int, int, str]],
  number: int,
) -> Example:
  """Returns an example; `related` has numbers of entities, and names of relations."""
  return {
    'words': list(words),
    'entities': np.array([e[:2] for e in entities], np.int32).reshape(-1, 2),
    'entity_kinds': [e[2] for e in entities],
    'pairs': np.array([r[:2] for r in related], np.int32).reshape(-1, 2),
    'pair_names': [r[2] for r in related],
    'id': number,
  }


def made_up(
  index: int, rng: np.random.Generator, kinds: Sequence[str], relations: Sequence[str]
) -> Example:
  """Returns a sentence without meaning, for plans and trials."""
  words = language.words(rng, 8).split()
  ends = [(0, 1, str(rng.choice(kinds))), (4, 4, str(rng.choice(kinds)))]
  related = [(0, 1, str(rng.choice(relations)))] if relations else []
  return example(words, ends, related, index)


def _sentences(path: str) -> Iterator[tuple[str, list[str], list[str]]]:
  """Yields the place, the words and the tags of each sentence of a file."""
  words: list[str] = []
  tags: list[str] = []
  start = 1
  with open(os.path.expanduser(path), encoding='utf-8') as lines:
    for number, line in enumerate([*lines, ''], 1):
      columns = line.split()
      if columns and columns[0] != NEW_DOCUMENT:
        if len(columns) < 2:
          raise UserError(
            f'line {number} of {path} has no tag: a line has a word first and its tag'
            ' last, separated by spaces'
          )
        if not words:
          start = number
        words.append(columns[0])
        tags.append(columns[-1])
      elif words:
        yield f'the sentence at line {start} of {path}', words, tags
        words, tags = [], []


def _flat(
  place: str,
  entries: Sequence[Sequence[Any]],
  start: int,
  count: int,
  left_out: collections.Counter[str],
) -> list[bio.Entity]:
  """Returns entities that share no word, in their order, counted in the sentence."""
  found = []
  for entry in entries:
    if len(entry) != 3:
      raise UserError(f'{place} has the entity {entry}, not [first, last, kind]')
    first, last, kind = int(entry[0]) - start, int(entry[1]) - start, str(entry[2])
    if not 0 <= first <= last < count:
      raise UserError(
        f'{place} has the entity {entry}, and its words are {start} to'
        f' {start + count - 1}: words count from the start of the document'
      )
    found.append((first, last, kind))
  kept: list[bio.Entity] = []
  for entity in sorted(found, key=lambda e: (e[0] - e[1], e)):
    if bio.overlapping([*kept, entity]):
      left_out['entities that share a word with a longer one'] += 1
    else:
      kept.append(entity)
  return sorted(kept)


def _relations(
  place: str,
  entries: Sequence[Sequence[Any]],
  start: int,
  entities: Sequence[bio.Entity],
  left_out: collections.Counter[str],
) -> list[tuple[int, int, str]]:
  """Returns relations between the entities that are kept, as numbers of entities."""
  number: Mapping[tuple[int, int], int] = {e[:2]: i for i, e in enumerate(entities)}
  found: dict[tuple[int, int], str] = {}
  for entry in entries:
    if len(entry) != 5:
      raise UserError(
        f'{place} has the relation {entry}, not [first, last, first, last, relation]'
      )
    ends = [int(place) - start for place in entry[:4]]
    pair = number.get((ends[0], ends[1])), number.get((ends[2], ends[3]))
    if None in pair or pair[0] == pair[1]:
      left_out['relations of entities that are left out or unknown'] += 1
    elif pair in found:
      left_out['further relations of the same entities'] += 1
    else:
      found[pair] = str(entry[4])
  return [(*pair, name) for pair, name in found.items()]
