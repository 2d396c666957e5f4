"""Whole words as tokens, for captions."""

import collections
import dataclasses
import functools
import os
import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from big_vision_like import files
from big_vision_like.data.sources import fake
from big_vision_like.data.sources.base import Identified, digest
from big_vision_like.errors import Checked, UserError, listed
from big_vision_like.spec import spec

# Tokens that are not words, in the order of their ids in our files.
PADDING, START, END, UNKNOWN = SPECIAL = '<pad>', '<start>', '<end>', '<unk>'

# A part of a text: the end of a contraction, a number, a word, which may be hyphenated,
# or one other character.
_PART = re.compile(
  r"""n't\b | '(?:s|re|ve|ll|d|m)\b | \d+(?:[.,:]\d+)+ | \w+?(?=n't\b)
  | \w+(?:[-/&]\w+)* | [^\w\s]""",
  re.VERBOSE,
)
_PUNCTUATION = frozenset('.?!,:;-"\'`()[]{}')


def split_words(text: str) -> list[str]:
  """Returns the words of a text in lower case, without punctuation.

  It follows the tokenizer of the COCO caption evaluation, Stanford's PTBTokenizer:
  contractions are split (`do n't`, `man 's`) and hyphenated words are not. Unlike it,
  the dots of abbreviations are removed.
  """
  parts = _PART.findall(text.lower().replace('\u2019', "'"))
  return [part for part in parts if part not in _PUNCTUATION]


@dataclasses.dataclass(frozen=True)
class Words(Identified, Checked):
  """The ids of words, from a file or given by `words`; id 0 is padding.

  The file is a JSON object of ids by word, with ids also for `<start>`, `<end>` and
  `<unk>`, as tools/count_words.py and the captioning tutorial write it (its WORDMAP).
  Given words have the ids from 4; the start is 1, the end 2 and unknown words 3.
  """

  path: str = ''
  words: Sequence[str] = ()

  def __post_init__(self) -> None:
    if bool(self.path) == bool(self.words):
      raise UserError('give either the path of a vocabulary or its words')

  @staticmethod
  def stand_in(node: Mapping[str, Any]) -> Mapping[str, Any]:
    """Returns the recorded call of a vocabulary that needs no file, for trials."""
    return node if node.get('words') else spec(Words, words=tuple(fake.WORDS))

  @functools.cached_property
  def ids(self) -> Mapping[str, int]:
    """The id of each word, also of those that are not words."""
    if self.words:
      return checked(numbered(self.words), 'words')
    path = os.path.expanduser(self.path)
    if not os.path.isfile(path):
      raise UserError(
        f'there is no vocabulary {self.path}: make it from the captions with python'
        f' tools/count_words.py CAPTIONS.json --out {self.path}'
      )
    return checked(files.read_json(path), self.path)

  @functools.cached_property
  def _word_of(self) -> dict[int, str]:
    return {i: word for word, i in self.ids.items()}

  def problems(self) -> list[str]:
    """Returns sentences about why the vocabulary cannot be used, or an empty list."""
    try:
      self.ids  # noqa: B018 - reads the file
    except UserError as error:
      return [str(error)]
    return []

  def fingerprint(self) -> str:
    """Returns a digest of all words with their ids."""
    return digest('Words', dict(self.ids))

  @property
  def size(self) -> int:
    """The number of ids."""
    return len(self.ids)

  @property
  def bos_id(self) -> int:
    return self.ids[START]

  @property
  def eos_id(self) -> int:
    return self.ids[END]

  @property
  def unk_id(self) -> int:
    return self.ids[UNKNOWN]

  def encode(self, text: str) -> list[int]:
    """Returns the ids of a text's words, without start and end."""
    return [self.ids.get(word, self.unk_id) for word in split_words(text)]

  def decode(self, ids: Sequence[int]) -> str:
    """Returns the words of ids before the end, without padding and start."""
    kept = []
    for i in ids:
      if i == self.eos_id:
        break
      if i not in (0, self.bos_id):
        kept.append(self._word_of.get(int(i), UNKNOWN))
    return ' '.join(kept)

  def pieces(self, ids: Sequence[int]) -> list[str]:
    """Returns the word of each id."""
    return [self._word_of.get(int(i), UNKNOWN) for i in ids]


def numbered(words: Sequence[str]) -> dict[str, int]:
  """Returns ids for words: first those of `SPECIAL`, then the words in order."""
  return {word: i for i, word in enumerate((*SPECIAL, *words))}


def checked(ids: Any, source: str) -> dict[str, int]:
  """Returns ids by word; a `UserError` names `source` and the problem."""
  sound = isinstance(ids, dict) and all(type(i) is int for i in ids.values())
  if not sound or sorted(ids.values()) != [*range(len(ids))]:
    raise UserError(
      f'{source} is not a vocabulary: it must have a different id for each word, 0 and'
      ' up without gaps'
    )
  missing = [name for name in SPECIAL if name not in ids]
  if missing or ids[PADDING] != 0:
    what = f'lacks {listed(missing)}' if missing else f'has {PADDING} as {ids[PADDING]}'
    raise UserError(
      f'{source} {what}: a vocabulary has {PADDING} as 0, and ids for'
      f' {START}, {END} and {UNKNOWN}'
    )
  return ids


def frequent(texts: Iterable[str], least: int = 5) -> tuple[list[str], float]:
  """Returns the words that occur `least` times or more, and the share of other words.

  Frequent words come first, those of equal frequency in alphabetical order. The share
  is of all occurrences of words.
  """
  counts = collections.Counter(word for text in texts for word in split_words(text))
  order = sorted(counts, key=lambda word: (-counts[word], word))
  kept = [word for word in order if counts[word] >= least]
  unknown = counts.total() - sum(counts[word] for word in kept)
  return kept, unknown / max(counts.total(), 1)
