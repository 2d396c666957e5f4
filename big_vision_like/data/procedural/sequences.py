"""Toy sequence tasks on strings of random symbols."""

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
# One in this many strings, sentences or words belongs to the test split.
TEST_ONE_IN = 10
MAX_DRAWS = 10_000


@dataclasses.dataclass(frozen=True, kw_only=True)
class Reverse(Source):
  """Random strings with their reversed, copied or sorted strings as targets.

  Examples have int32 `source` and `target` (max_length + 1,), which are symbols 3 to
  vocab_size - 1, then EOS (2) and zeros, and `id`. Lengths and symbols are uniform. The
  split of a string depends only on its symbols, so test strings never occur in
  training, whatever the seeds.
  """

  examples: int
  split: str = dataclasses.field()  # without the default of a source
  seed: int = 0
  vocab_size: int = 20
  min_length: int = 4
  max_length: int = 12
  target: str = 'reverse'

  tiny = dict(examples=20, vocab_size=128)

  def __post_init__(self) -> None:
    check_one_of(SPLITS, split=self.split)
    check_one_of(TARGETS, target=self.target)
    if not 1 <= self.min_length <= self.max_length:
      raise UserError(
        f'min_length={self.min_length} and max_length={self.max_length} must be at'
        ' least 1 and ascending'
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
    """Returns the first string drawn for this example that belongs to the split."""
    # Random numbers come from a hash: making a NumPy Generator takes ten times as long.
    drawn = hashlib.shake_128(f'{self.seed} {self.split} {index}'.encode())
    for _ in range(MAX_DRAWS):
      words = np.frombuffer(drawn.digest(4 * (self.max_length + 1)), '<u4')
      lengths = self.max_length - self.min_length + 1
      length = self.min_length + (int(words[0]) * lengths >> 32)
      count = np.uint64(self.vocab_size - FIRST_SYMBOL)
      symbols = (words[1 : length + 1] * count >> np.uint64(32)).astype(np.int32)
      symbols += FIRST_SYMBOL
      if split_of(symbols.astype('<i4').tobytes()) == self.split:
        return symbols
      drawn.update(b'again')
    raise UserError(
      f'no string of {self.min_length} to {self.max_length} of'
      f' {self.vocab_size - FIRST_SYMBOL} symbols was found for the split'
      f' {self.split!r}: there are too few strings; raise max_length or vocab_size'
    )


def split_of(content: bytes) -> str:
  """Returns the split that content belongs to, which depends on nothing else."""
  digest = hashlib.blake2b(content, digest_size=4).digest()
  is_test = int.from_bytes(digest, 'little') % TEST_ONE_IN == 0
  return 'test' if is_test else 'train'
