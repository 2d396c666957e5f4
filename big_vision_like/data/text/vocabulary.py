"""Conversion between texts and token ids."""

import dataclasses
import functools
import hashlib
import os
import pathlib
from collections.abc import Sequence
from typing import Any

from big_vision_like.data.sources.base import Identified
from big_vision_like.errors import Checked, UserError

# Minimum number of texts for which threads save more time than it takes to start them.
THREADS_FROM = 500


def library() -> Any:
  """Returns the package sentencepiece; raises `UserError` if it is not installed."""
  try:
    import sentencepiece
  except ImportError as error:
    raise UserError(
      'texts need the package sentencepiece: install the extra `text`: pip install -e'
      " '.[text]'"
    ) from error
  return sentencepiece


@dataclasses.dataclass(frozen=True)
class SentencePiece(Identified, Checked):
  """A sentencepiece model, loaded on first use; id 0 is padding.

  `recipe` has the arguments of tools/train_tokenizer.py that make it, such as
  'wmt14_translate/de-en --features de en --size 37000'. The error for a missing model
  shows them.
  """

  path: str
  recipe: str = 'DATA_SET --features NAME NAME --size N'

  @functools.cached_property
  def processor(self) -> Any:
    """The sentencepiece processor."""
    file = str(self._file)
    try:
      processor = library().SentencePieceProcessor(model_file=file)
    except RuntimeError as error:
      raise UserError(f'{self.path} is not a sentencepiece model: {error}') from error
    if processor.pad_id() != 0 or processor.eos_id() < 1:
      raise UserError(
        f'{self.path} has padding as id {processor.pad_id()} and EOS as'
        f' {processor.eos_id()} (-1: none), but padding must be 0 and EOS must exist:'
        ' train it with --pad_id=0 --bos_id=1 --eos_id=2 --unk_id=3, as'
        ' tools/train_tokenizer.py does.'
      )
    return processor

  def problems(self) -> list[str]:
    """Returns sentences about why the vocabulary cannot be used, or an empty list."""
    try:
      self.processor  # noqa: B018 - looks for package and file
    except UserError as error:
      return [str(error)]
    return []

  @property
  def _file(self) -> pathlib.Path:
    file = pathlib.Path(self.path).expanduser()
    if not file.is_file():
      raise UserError(
        f'there is no vocabulary {self.path}. Make it with: python'
        f' tools/train_tokenizer.py {self.recipe} --out {self.path}'
      )
    return file

  @functools.cached_property
  def sha256(self) -> str:
    """The SHA-256 digest of the file, in hexadecimal digits."""
    return hashlib.sha256(self._file.read_bytes()).hexdigest()

  def fingerprint(self) -> str:
    """Returns the digest of the file, wherever it is stored."""
    return self.sha256

  @property
  def size(self) -> int:
    """The number of ids."""
    return self.processor.get_piece_size()

  @property
  def pad_id(self) -> int:
    return self.processor.pad_id()

  @property
  def bos_id(self) -> int:
    return self.processor.bos_id()

  @property
  def eos_id(self) -> int:
    return self.processor.eos_id()

  @property
  def unk_id(self) -> int:
    return self.processor.unk_id()

  def encode(self, text: str) -> list[int]:
    """Returns the ids of a text, without BOS and EOS."""
    return self.processor.encode(text)

  def encode_all(self, texts: Sequence[str]) -> list[list[int]]:
    """Returns the ids of many texts, computed on all cores."""
    if len(texts) < THREADS_FROM:
      return [self.processor.encode(text) for text in texts]
    return self.processor.encode(list(texts), num_threads=os.cpu_count())

  def decode(self, ids: Sequence[int]) -> str:
    """Returns the text of ids up to EOS; ids outside the vocabulary become unknown."""
    kept = []
    for i in ids:
      if i == self.eos_id:
        break
      if i not in (self.pad_id, self.bos_id):
        kept.append(self._known(i))
    return self.processor.decode(kept)

  def pieces(self, ids: Sequence[int]) -> list[str]:
    """Returns the piece of each id; '▁' marks the beginning of a word."""
    return [self.processor.id_to_piece(self._known(i)) for i in ids]

  def _known(self, i: int) -> int:
    return int(i) if 0 <= i < self.size else self.unk_id

  def __getstate__(self) -> dict[str, Any]:
    # Workers load their own processor.
    return {k: v for k, v in self.__dict__.items() if k != 'processor'}
