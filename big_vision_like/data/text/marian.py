"""Conversion between text and token ids for Marian's translation models (`opus-mt-*`).

A folder has sentencepiece models `source.spm` and `target.spm`, which split text into
pieces, and one `vocab.json` for both, which numbers them.
"""

import collections
import dataclasses
import functools
import pathlib
from collections.abc import Iterable
from typing import Any

from big_vision_like import files
from big_vision_like.data.text import vocabulary
from big_vision_like.errors import UserError

EOS, UNKNOWN, PAD = '</s>', '<unk>', '<pad>'


@dataclasses.dataclass(frozen=True)
class MarianVocabulary:
  """The vocabulary in a folder, for texts of one side, 'source' or 'target'.

  It equals transformers' MarianTokenizer, except that '</s>', '<unk>' and '<pad>' in a
  text are treated as plain text.
  """

  folder: str
  side: str = 'source'

  def __post_init__(self) -> None:
    if self.side not in ('source', 'target'):
      raise UserError(f"side={self.side!r} is not one of 'source', 'target'")
    for name in (EOS, UNKNOWN, PAD):
      if name not in self.ids:
        raise UserError(f'{self.folder}/vocab.json has no {name!r}')

  @functools.cached_property
  def ids(self) -> dict[str, int]:
    """The id of each piece."""
    file = pathlib.Path(self.folder) / 'vocab.json'
    ids = files.read_json(file)
    if not isinstance(ids, dict) or any(
      type(i) is not int or i < 0 for i in ids.values()
    ):
      raise UserError(f'{file} does not have a number for each piece')
    if len({*ids.values()}) < len(ids):
      [(twice, _)] = collections.Counter(ids.values()).most_common(1)
      raise UserError(f'{file} has several pieces with number {twice}')
    return ids

  @property
  def eos_id(self) -> int:
    return self.ids[EOS]

  @property
  def pad_id(self) -> int:
    return self.ids[PAD]

  @property
  def bos_id(self) -> int:
    """The id that a decoder reads first: the padding."""
    return self.pad_id

  @functools.cached_property
  def languages(self) -> list[str]:
    """Tokens like '>>fra<<' that select the target language, if there are several."""
    return [x for x in self.ids if x.startswith('>>') and x.endswith('<<')]

  def encode(self, text: str) -> list[int]:
    """Returns the ids of a text, without EOS; pieces without an id become unknown."""
    code, text = split_language(text)
    pieces = ([code] if code else []) + self.processor.encode(text, out_type=str)
    return [self.ids.get(piece, self.ids[UNKNOWN]) for piece in pieces]

  def decode(self, ids: Iterable[int]) -> str:
    """Returns the text of ids without EOS and padding; unknown ids become ' ⁇ '."""
    skipped = self.eos_id, self.pad_id
    pieces = [self._pieces.get(int(i), UNKNOWN) for i in ids if i not in skipped]
    # '▁' remains if a piece is not in the sentencepiece model.
    return self.processor.decode_pieces(pieces).replace('▁', ' ').strip()

  @functools.cached_property
  def _pieces(self) -> dict[int, str]:
    return {i: piece for piece, i in self.ids.items()}

  @functools.cached_property
  def processor(self) -> Any:
    """The sentencepiece processor of this side."""
    file = pathlib.Path(self.folder) / f'{self.side}.spm'
    if not file.is_file():
      raise UserError(f'{self.folder} has no {file.name}')
    try:
      return vocabulary.library().SentencePieceProcessor(model_file=str(file))
    except RuntimeError as error:
      raise UserError(f'{file} is not a sentencepiece model: {error}') from error


def split_language(text: str) -> tuple[str, str]:
  """Splits off a leading language token: ('>>fra<<', ' the rest'), or ('', text)."""
  end = text.find('<<') + 2
  return (text[:end], text[end:]) if text.startswith('>>') and end > 1 else ('', text)
