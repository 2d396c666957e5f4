"""Triples from texts: sentences, their entities, and the relations between them."""

import re
import urllib.parse
from collections.abc import Iterable, Iterator, Sequence
from typing import NamedTuple

import jax
import numpy as np

from big_vision_like import spec
from big_vision_like.data import rdfs
from big_vision_like.data.transforms import entities
from big_vision_like.errors import UserError
from big_vision_like.inference.loading import LoadedRun
from big_vision_like.tasks import relations

# A word with its apostrophes, hyphens and inner dots, or one other character.
WORD = re.compile(r"\w+(?:['’.-]\w+)*|[^\w\s]")
ENDS = frozenset('.?!')
NAMESPACE = 'urn:text:'
BATCH = 64


class Entity(NamedTuple):
  """The first and the last word of an entity, and its kind."""

  first: int
  last: int
  kind: str


class Sentence(NamedTuple):
  """Words with the entities found, and relations (subject, name, object) by number."""

  words: Sequence[str]
  entities: Sequence[Entity]
  relations: Sequence[tuple[int, str, int]]

  def name(self, number: int) -> str:
    """Returns the words of an entity."""
    first, last, _ = self.entities[number]
    return ' '.join(self.words[first : last + 1])


class Extractor:
  """A run that finds relations, applied to texts."""

  def __init__(self, run: LoadedRun):
    if not isinstance(run.task, relations.Relations):
      raise UserError(
        f'{run.workdir} is a run of {type(run.task).__name__}: give one that finds'
        ' relations, docs/relations.md'
      )
    self.run = run
    for path, node in spec.calls({'evals': run.config.evals.to_dict()}):
      if spec.symbol(node, path) is entities.Tag:
        self.tag = spec.build(node, path)
        break
    else:
      raise UserError(f'no evaluator of {run.workdir} has the transform entities.Tag')
    self._predict = jax.jit(run.task.predict)

  def read(self, sentences: Iterable[Sequence[str]]) -> Iterator[Sentence]:
    """Yields the entities and relations of sentences, which are lists of words."""
    words = list(sentences)
    for start in range(0, len(words), BATCH):
      part = words[start : start + BATCH]
      rows = [self.tag.map(entities.unlabelled(each, i)) for i, each in enumerate(part)]
      rows += [rows[-1]] * (BATCH - len(rows))  # one shape, one compiled program
      batch = {name: np.stack([row[name] for row in rows]) for name in relations.TEXT}
      found = jax.device_get(self._predict(self.run.state, batch, jax.random.key(0)))
      for row, each in enumerate(part):
        yield self._sentence(each, {name: x[row] for name, x in found.items()})

  def _sentence(self, words: Sequence[str], found: dict[str, np.ndarray]) -> Sentence:
    task, count = self.run.task, int(found['entity_mask'].sum())
    spans = found['spans'][:count].tolist()
    kinds = [task.kinds[kind] for kind in found['kinds'][:count].tolist()]
    labels = found['labels'][:count, :count]
    return Sentence(
      words,
      [Entity(*span, kind) for span, kind in zip(spans, kinds, strict=True)],
      [
        (int(subject), task.relations[int(labels[subject, value]) - 1], int(value))
        for subject, value in np.argwhere(labels > 0)
      ],
    )


def sentences_of(text: str) -> list[list[str]]:
  """Splits a text into sentences of words, which end with '.', '?' or '!'."""
  found: list[list[str]] = [[]]
  for word in WORD.findall(text):
    found[-1].append(word)
    if word in ENDS:
      found.append([])
  return [words for words in found if words]


def term(name: str) -> str:
  """Returns the term of a name in a graph; names that differ in case are one."""
  if name in rdfs.PREDICATES:
    return name
  return NAMESPACE + urllib.parse.quote(name.lower().replace(' ', '_'))


def shown(known: str) -> str:
  """Returns a term as text: its name, without the namespace of texts."""
  name = known.removeprefix(NAMESPACE)
  return urllib.parse.unquote(name).replace('_', ' ') if name != known else known


def triples_of(sentences: Iterable[Sentence]) -> list[rdfs.Triple]:
  """Returns the triples of sentences, each once, in their order."""
  found = {
    (term(each.name(subject)), term(name), term(each.name(value))): None
    for each in sentences
    for subject, name, value in each.relations
  }
  return list(found)
