"""Word pieces of BERT (arXiv:1810.04805 section 3), by the library tokenizers.

Texts are lower-cased, stripped of accents, split at spaces and punctuation, and each
word is cut into the longest known pieces; pieces within a word start with '##'.
"""

import collections
import dataclasses
import functools
import hashlib
import heapq
import itertools
import pathlib
from collections.abc import Iterable, Sequence
from typing import Any

from big_vision_like.data.sources.base import Identified, digest
from big_vision_like.errors import Checked, UserError, listed

PAD, UNK, CLS, SEP, MASK = SPECIAL = ('[PAD]', '[UNK]', '[CLS]', '[SEP]', '[MASK]')
PREFIX = '##'
# Longer words are unknown, as published.
LONGEST = 100
# Words with which small vocabularies replace files in plans and trials of configs.
TRIAL = tuple('abcdefghijklmnopqrstuvwxyz') + tuple(
  f'{PREFIX}{letter}' for letter in 'abcdefghijklmnopqrstuvwxyz'
)


def library() -> Any:
  """Returns the package tokenizers; raises `UserError` if it is not installed."""
  try:
    import tokenizers
  except ImportError as error:
    raise UserError(
      'word pieces need the package tokenizers: install the extra `text`: pip install'
      " -e '.[text]'"
    ) from error
  return tokenizers


@dataclasses.dataclass(frozen=True)
class WordPiece(Identified, Checked):
  """A vocabulary of word pieces: a `vocab.txt` at `path`, or the given `words`.

  The file has one piece a line, whose number is its id, as published with BERT or made
  by tools/train_tokenizer.py. With `words`, the five special tokens have the ids 0 to
  4, and the words follow. `lower=False` keeps capitals and accents, for the cased
  vocabularies. Texts contain no special tokens: '[MASK]' in a text is three pieces.
  """

  path: str = ''
  words: Sequence[str] = ()
  lower: bool = True

  tiny = dict(
    path=lambda arguments, _: '',
    words=lambda arguments, _: arguments.get('words') or TRIAL,
  )

  def __post_init__(self) -> None:
    if bool(self.path) == bool(self.words):
      raise UserError('give WordPiece either the path of a vocab.txt or words')

  @functools.cached_property
  def table(self) -> dict[str, int]:
    """The id of each piece."""
    if self.words:
      pieces, name = [*SPECIAL, *self.words], 'words'
    else:
      # Not splitlines, which also splits at characters that are pieces.
      lines = self._content.decode(errors='replace').removesuffix('\n').split('\n')
      pieces, name = [line.removesuffix('\r') for line in lines], self.path
    if missing := [piece for piece in SPECIAL if piece not in pieces]:
      raise UserError(
        f'{name} lacks {listed(missing)}: a vocabulary of BERT has one piece a line,'
        f' {listed(SPECIAL)} among them'
      )
    if len({*pieces}) < len(pieces):
      twice = next(piece for piece in pieces if pieces.count(piece) > 1)
      raise UserError(f'{name} has the piece {twice!r} more than once')
    return {piece: number for number, piece in enumerate(pieces)}

  @functools.cached_property
  def _names(self) -> list[str]:
    return [*self.table]

  @functools.cached_property
  def processor(self) -> Any:
    """The tokenizer of the library."""
    tokenizers = library()
    made = tokenizers.Tokenizer(
      tokenizers.models.WordPiece(
        vocab=self.table,
        unk_token=UNK,
        max_input_chars_per_word=LONGEST,
        continuing_subword_prefix=PREFIX,
      )
    )
    made.normalizer = normalizer(self.lower)
    made.pre_tokenizer = tokenizers.pre_tokenizers.BertPreTokenizer()
    made.decoder = tokenizers.decoders.WordPiece(prefix=PREFIX)
    return made

  def problems(self) -> list[str]:
    """Returns sentences about why the vocabulary cannot be used, or an empty list."""
    try:
      self.processor  # noqa: B018 - looks for package and file
    except UserError as error:
      return [str(error)]
    return []

  def planned(self) -> 'WordPiece':
    """Returns this vocabulary, or letters as a stand-in for a missing file in plans."""
    if self.words or pathlib.Path(self.path).expanduser().is_file():
      return self
    return dataclasses.replace(self, path='', words=TRIAL)

  @property
  def _content(self) -> bytes:
    file = pathlib.Path(self.path).expanduser()
    if not file.is_file():
      raise UserError(
        f'there is no vocabulary {self.path}: take vocab.txt of bert-base-uncased, or'
        ' make one with: python tools/train_tokenizer.py --text FILE --model-type'
        f' wordpiece --size N --out {self.path}'
      )
    return file.read_bytes()

  def fingerprint(self) -> str:
    """Returns a digest of the pieces, wherever the file is stored."""
    if self.words:
      return digest('WordPiece', [*self.words], self.lower)
    return digest('WordPiece', hashlib.sha256(self._content).hexdigest(), self.lower)

  @property
  def size(self) -> int:
    """The number of ids."""
    return len(self.table)

  @property
  def pad_id(self) -> int:
    return self.table[PAD]

  @property
  def unk_id(self) -> int:
    return self.table[UNK]

  @property
  def cls_id(self) -> int:
    return self.table[CLS]

  @property
  def sep_id(self) -> int:
    return self.table[SEP]

  @property
  def mask_id(self) -> int:
    return self.table[MASK]

  def encode(self, text: str) -> list[int]:
    """Returns the ids of a text, without [CLS] and [SEP]."""
    return self.processor.encode(text, add_special_tokens=False).ids

  def encode_all(self, texts: Sequence[str]) -> list[list[int]]:
    """Returns the ids of many texts."""
    return [self.encode(text) for text in texts]

  def decode(self, ids: Sequence[int]) -> str:
    """Returns the text of ids up to [SEP], without special tokens but [UNK]."""
    kept = []
    for i in ids:
      if i == self.sep_id:
        break
      if i not in (self.pad_id, self.cls_id):
        kept.append(i)
    return self.processor.decode([*map(int, kept)], skip_special_tokens=False)

  def pieces(self, ids: Sequence[int]) -> list[str]:
    """Returns the piece of each id; '##' marks a piece within a word."""
    return [self._names[i] if 0 <= i < self.size else UNK for i in ids]

  def __getstate__(self) -> dict[str, Any]:
    # Workers make their own tokenizer.
    return {k: v for k, v in self.__dict__.items() if k != 'processor'}


def normalizer(lower: bool) -> Any:
  """Returns BERT's normalization of texts, which also strips accents if it lowers."""
  return library().normalizers.BertNormalizer(
    clean_text=True, handle_chinese_chars=True, strip_accents=None, lowercase=lower
  )


def train(texts: Iterable[str], size: int, lower: bool = True) -> bytes:
  """Trains a vocabulary of at most `size` pieces; returns the content of vocab.txt.

  Starting from single characters, the most frequent pair of neighbouring pieces becomes
  a piece, until there are `size`. Of equally frequent pairs, the first in alphabetical
  order is taken, so that the same texts give the same file. (The trainer of tokenizers
  does not: its ties depend on the order in a hash table.) Raises a `UserError` if
  `size` is too small for the characters of the texts.
  """
  words = _split(_counted(texts, lower))
  if not words:
    raise UserError('there is no text to learn from.')
  pieces = sorted({piece for word, _ in words for piece in word})
  if len(SPECIAL) + len(pieces) > size:
    raise UserError(
      f'--size {size} is too small for the characters of the texts: use at least'
      f' {len(SPECIAL) + len(pieces)}.'
    )
  pieces += _merged(words, size - len(SPECIAL) - len(pieces), {*pieces})
  return ''.join(f'{piece}\n' for piece in (*SPECIAL, *pieces)).encode()


def _counted(texts: Iterable[str], lower: bool) -> collections.Counter[str]:
  normalize = normalizer(lower)
  splitter, counts = library().pre_tokenizers.BertPreTokenizer(), collections.Counter()
  for text in texts:
    split = splitter.pre_tokenize_str(normalize.normalize_str(text))
    counts.update(word for word, _ in split)
  return counts


def _split(counts: collections.Counter[str]) -> list[tuple[list[str], int]]:
  """Returns words as lists of single characters, with their counts."""
  return [
    ([word[0], *(PREFIX + letter for letter in word[1:])], count)
    for word, count in sorted(counts.items())
    if len(word) <= LONGEST
  ]


def _merged(
  words: Sequence[tuple[list[str], int]], most: int, known: set[str]
) -> list[str]:
  """Returns up to `most` new pieces, the most frequent pairs first."""
  totals: collections.Counter[tuple[str, str]] = collections.Counter()
  places: dict[tuple[str, str], set[int]] = collections.defaultdict(set)
  for number, (word, count) in enumerate(words):
    for pair in itertools.pairwise(word):
      totals[pair] += count
      places[pair].add(number)
  heap = [(-total, pair) for pair, total in totals.items()]
  heapq.heapify(heap)
  found: list[str] = []
  while heap and len(found) < most:
    total, pair = heapq.heappop(heap)
    if -total != totals[pair] or not total:  # it has changed since
      continue
    piece = pair[0] + pair[1].removeprefix(PREFIX)
    if piece not in known:  # two pairs may form the same piece
      known.add(piece)
      found.append(piece)
    changed = set()
    for number in places.pop(pair):
      word, count = words[number]
      for old in itertools.pairwise(word):
        totals[old] -= count
        changed.add(old)
      _join(word, pair, piece)
      for new in itertools.pairwise(word):
        totals[new] += count
        places[new].add(number)
        changed.add(new)
    for other in changed:
      heapq.heappush(heap, (-totals[other], other))
  return found


def _join(word: list[str], pair: tuple[str, str], piece: str) -> None:
  """Replaces each occurrence of a pair in a word."""
  place = 0
  while place < len(word) - 1:
    if (word[place], word[place + 1]) == pair:
      word[place : place + 2] = [piece]
    place += 1
