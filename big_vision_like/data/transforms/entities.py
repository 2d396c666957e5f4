"""Transforms of sentences with entities and relations to arrays.

Axes: T tokens, W words, N entities; 2 is the first and the last word, or two entities.
"""

import dataclasses
from collections.abc import Sequence
from typing import Any

import grain
import numpy as np

from big_vision_like.data.text import bio, wordpiece
from big_vision_like.data.transforms import labels
from big_vision_like.errors import BadRecordError, UserError, nearest

Example = dict[str, Any]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Tag(grain.transforms.Map):
  """Word pieces, tags, entities and relations of a sentence, as in `tasks.relations`.

  Examples have `words`, a list of texts, `entities` (entities, 2), the first and the
  last word of each one, `entity_kinds`, their names, `pairs` (relations, 2), subject
  and object as numbers of entities, and `pair_names`, the names of the relations.

  The results are `tokens` and `token_mask` (length,), [CLS] words [SEP]; `first`, the
  place of the first piece of each word, `word_mask` and `tags` (max_words,); `spans`
  (max_entities, 2), `kinds` and `entity_mask` (max_entities,); and `relations`
  (max_entities, max_entities), numbers from 1 in the order of `relations`, 0 for none.

  A sentence with more pieces, words or entities than there is room for is a bad record.
  """

  vocabulary: wordpiece.WordPiece
  kinds: Sequence[str]
  relations: Sequence[str] = ()
  length: int = 128
  max_words: int = 64
  max_entities: int = 16

  def map(self, example: Example) -> Example:
    where = f'the sentence of example {example.get("id", "?")}'
    words = [text_of(word) for word in labels.feature(example, 'words')]
    found = np.asarray(labels.feature(example, 'entities')).reshape(-1, 2)
    kinds = [text_of(kind) for kind in labels.feature(example, 'entity_kinds')]
    self._check(where, words, found, kinds)
    number = {kind: place for place, kind in enumerate(self.kinds)}
    tags_W = np.zeros(self.max_words, np.int32)
    for (first, last), kind in zip(found.tolist(), kinds, strict=True):
      tags_W[first : last + 1] = 2 + 2 * number[kind]
      tags_W[first] -= 1
    made = self._pieces(where, words) | {
      'word_mask': np.arange(self.max_words) < len(words),
      'tags': tags_W,
      'spans': _padded(found, self.max_entities),
      'kinds': _padded(np.array([number[kind] for kind in kinds]), self.max_entities),
      'entity_mask': np.arange(self.max_entities) < len(found),
      'relations': self._related(where, example, len(found)),
    }
    kept = {name: example[name] for name in ('id', 'mask') if name in example}
    return made | kept

  def _check(
    self, where: str, words: Sequence[str], found: np.ndarray, kinds: Sequence[str]
  ) -> None:
    for what, count, most, field in (
      ('words', len(words), self.max_words, 'max_words'),
      ('entities', len(found), self.max_entities, 'max_entities'),
    ):
      if count > most:
        raise BadRecordError(
          f'{where} has {count} {what}, and there is room for {most}: raise {field}, or'
          ' split the sentence'
        )
    if not words:
      raise BadRecordError(f'{where} has no words')
    for kind in kinds:
      _check_known(where, 'kind of entity', kind, self.kinds, 'kinds')
    for first, last in found.tolist():
      if not 0 <= first <= last < len(words):
        raise BadRecordError(
          f'{where} has an entity of words {first} to {last}, and {len(words)} words'
        )
    spans = [(*span, kind) for span, kind in zip(found.tolist(), kinds, strict=True)]
    if overlap := bio.overlapping(spans):
      raise BadRecordError(
        f'{where} has the entities {overlap[0]} and {overlap[1]}, which share a word:'
        ' tags describe entities without overlap'
      )

  def _pieces(self, where: str, words: Sequence[str]) -> Example:
    """Returns the arrays of tokens, and the place of each word's first piece."""
    vocabulary = self.vocabulary
    ids, first = [vocabulary.cls_id], []
    for word in words:
      first.append(len(ids))
      ids += vocabulary.encode(word) or [vocabulary.unk_id]
    ids.append(vocabulary.sep_id)
    if len(ids) > self.length:
      raise BadRecordError(
        f'{where} has {len(ids)} word pieces with [CLS] and [SEP], and there is room'
        f' for length={self.length}: raise it up to the positions of the model, or'
        ' split the sentence'
      )
    tokens_T = np.full(self.length, vocabulary.pad_id, np.int32)
    tokens_T[: len(ids)] = ids
    return {
      'tokens': tokens_T,
      'token_mask': np.arange(self.length) < len(ids),
      'first': _padded(np.array(first), self.max_words),
    }

  def _related(self, where: str, example: Example, entities: int) -> np.ndarray:
    label_NN = np.zeros((self.max_entities, self.max_entities), np.int32)
    pairs = np.asarray(labels.feature(example, 'pairs')).reshape(-1, 2).tolist()
    names = [text_of(name) for name in labels.feature(example, 'pair_names')]
    for (subject, value), name in zip(pairs, names, strict=True):
      _check_known(where, 'relation', name, self.relations, 'relations')
      if (
        subject == value
        or not 0 <= min(subject, value) <= max(subject, value) < entities
      ):
        raise BadRecordError(
          f'{where} has a relation {name!r} of entities {subject} and {value}: give two'
          f' different ones of its {entities}, counted from 0'
        )
      label_NN[subject, value] = 1 + list(self.relations).index(name)
    return label_NN


def text_of(value: str | bytes) -> str:
  """Returns a text, which TFDS stores as bytes."""
  return value.decode() if isinstance(value, bytes) else str(value)


def unlabelled(words: Sequence[str], number: int = 0) -> Example:
  """Returns an example of a sentence whose entities are not known."""
  none = np.zeros((0, 2), np.int32)
  return {
    'words': list(words),
    'entities': none,
    'entity_kinds': [],
    'pairs': none,
    'pair_names': [],
    'id': number,
  }


def _check_known(
  where: str, what: str, name: str, known: Sequence[str], field: str
) -> None:
  if name not in known:
    near = ''.join(f'; did you mean {other!r}?' for other in nearest(name, known))
    raise UserError(
      f'{where} has the {what} {name!r}, which is not one of {field}='
      f'{", ".join(known) or "()"}{near}'
    )


def _padded(array: np.ndarray, rows: int) -> np.ndarray:
  room = [(0, rows - len(array)), *[(0, 0)] * (array.ndim - 1)]
  return np.pad(array.astype(np.int32), room)
