"""A vocabulary of given symbols, which texts separate by spaces."""

import dataclasses
import functools
from collections.abc import Mapping, Sequence

from big_vision_like.data.sources.base import Identified, digest
from big_vision_like.data.text.words import SPECIAL, numbered
from big_vision_like.errors import Checked, UserError, listed

PAD, BOS, EOS, UNKNOWN = range(len(SPECIAL))


@dataclasses.dataclass(frozen=True)
class Symbols(Identified, Checked):
  """The ids of symbols: 0 is padding, 1 BOS, 2 EOS, 3 unknown, then `symbols`."""

  symbols: Sequence[str]

  bos_id = BOS
  eos_id = EOS
  pad_id = PAD
  unk_id = UNKNOWN

  def __post_init__(self) -> None:
    twice = [s for i, s in enumerate(self.symbols) if s in self.symbols[:i]]
    if twice or not self.symbols:
      what = f'has {listed(twice)} twice' if twice else 'is empty'
      raise UserError(f'the vocabulary of symbols {what}')

  @functools.cached_property
  def _id_of(self) -> Mapping[str, int]:
    return numbered(self.symbols)

  @property
  def size(self) -> int:
    """The number of ids."""
    return len(SPECIAL) + len(self.symbols)

  def fingerprint(self) -> str:
    """Returns a digest of all symbols in order."""
    return digest('Symbols', [*self.symbols])

  def encode(self, text: str) -> list[int]:
    """Returns the ids of a text, without BOS and EOS."""
    return [self._id_of.get(symbol, UNKNOWN) for symbol in text.split()]

  def encode_all(self, texts: Sequence[str]) -> list[list[int]]:
    """Returns the ids of many texts."""
    return [self.encode(text) for text in texts]

  def decode(self, ids: Sequence[int]) -> str:
    """Returns the text of ids up to EOS; ids outside the vocabulary become unknown."""
    kept = []
    for i in ids:
      if i == EOS:
        break
      if i not in (PAD, BOS):
        kept.append(i)
    return ' '.join(self.pieces(kept))

  def pieces(self, ids: Sequence[int]) -> list[str]:
    """Returns the symbol of each id."""
    names = (*SPECIAL, *self.symbols)
    return [names[i if 0 <= i < len(names) else UNKNOWN] for i in ids]
