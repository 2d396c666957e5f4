"""Strings of random symbols and what is to be made of them."""

import dataclasses
import hashlib
from typing import Any

import numpy as np

from big_vision_like.data.sources.base import Source
from big_vision_like.errors import UserError, check_one_of

SPLITS = ('train', 'test')
TARGETS = {
  'reverse': lambda symbols: symbols[::-1],
  'copy': lambda symbols: symbols,
  'sort': np.sort,
}
EOS = 2
FIRST_SYMBOL = 3  # after padding, BOS and EOS
# One string in so many belongs to the test split.
TEST_ONE_IN = 10
MAX_DRAWS = 10_000


@dataclasses.dataclass(frozen=True, kw_only=True)
class Reverse(Source):
  """Random strings reversed, copied or sorted: a task in which order is all.

  Examples are int32 `source` and `target` (max_length + 1,), symbols 3 to
  vocab_size - 1, then EOS (2) and zeros; and `id`. Lengths and symbols are uniform.
  Which split a string belongs to depends on its symbols alone, so whatever the seeds
  no test string occurs in training.
  """

  examples: int
  split: str = dataclasses.field()  # without the default of a source
  seed: int = 0
  vocab_size: int = 20
  min_length: int = 4
  max_length: int = 12
  target: str = 'reverse'

  tiny = dict(examples=20)

  def __post_init__(self) -> None:
    check_one_of(SPLITS, split=self.split)
    check_one_of(TARGETS, target=self.target)
    if not 1 <= self.min_length <= self.max_length:
      raise UserError(
        f'min_length={self.min_length} and max_length={self.max_length}: from 1 on, the'
        ' longer not the shorter'
      )
    if self.vocab_size <= FIRST_SYMBOL:
      raise UserError(
        f'vocab_size={self.vocab_size} leaves no symbols: the first {FIRST_SYMBOL} ids'
        ' are padding, BOS and EOS'
      )

  def __len__(self) -> int:
    return self.examples

  def __getitem__(self, index: int) -> dict[str, Any]:
    if not 0 <= index < self.examples:
      raise IndexError(f'example {index} of {self.examples}')
    symbols = self._symbols(index)
    pair_2T = np.zeros((2, self.max_length + 1), np.int32)
    pair_2T[0, : len(symbols)] = symbols
    pair_2T[1, : len(symbols)] = TARGETS[self.target](symbols)
    pair_2T[:, len(symbols)] = EOS
    return {'source': pair_2T[0], 'target': pair_2T[1], 'id': np.int64(index)}

  def _symbols(self, index: int) -> np.ndarray:
    """The first string drawn for this example that belongs to the split."""
    # A hash for randomness: a numpy Generator takes ten times as long to make.
    drawn = hashlib.shake_128(f'{self.seed} {self.split} {index}'.encode())
    for _ in range(MAX_DRAWS):
      words = np.frombuffer(drawn.digest(4 * (self.max_length + 1)), '<u4')
      lengths = self.max_length - self.min_length + 1
      length = self.min_length + (int(words[0]) * lengths >> 32)
      count = np.uint64(self.vocab_size - FIRST_SYMBOL)
      symbols = (words[1 : length + 1] * count >> np.uint64(32)).astype(np.int32)
      symbols += FIRST_SYMBOL
      if _split_of(symbols) == self.split:
        return symbols
      drawn.update(b'again')
    raise UserError(
      f'no string of {self.min_length} to {self.max_length} of'
      f' {self.vocab_size - FIRST_SYMBOL} symbols was found for the split'
      f' {self.split!r}: there are too few; raise max_length or vocab_size'
    )


def _split_of(symbols: np.ndarray) -> str:
  digest = hashlib.blake2b(symbols.astype('<i4').tobytes(), digest_size=4).digest()
  is_test = int.from_bytes(digest, 'little') % TEST_ONE_IN == 0
  return 'test' if is_test else 'train'
