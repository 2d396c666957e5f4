"""Packing of several pairs of sequences into each row, which leaves little padding.

Axes: N pairs, R rows, M steps of packing, L lanes, K open rows of a lane; 2 is source
and target.
"""

import dataclasses
import functools
import pathlib
import sys
from collections.abc import Sequence
from typing import Any

import numpy as np

from big_vision_like.data.input import cache
from big_vision_like.data.sources import planned
from big_vision_like.data.sources.base import Source, as_source, digest
from big_vision_like.data.transforms import text
from big_vision_like.errors import UserError

# Pairs are packed in parallel lanes, each with its own rows. The last rows of a lane
# stay half empty, so a lane gets at least PAIRS_PER_LANE.
LANES = 128
OPEN_ROWS = 16
PAIRS_PER_LANE = 4096
# Number of pairs tokenised at once.
CHUNK = 10_000
# Increased whenever lengths cached by earlier versions would be wrong.
CACHE_VERSION = 1


@dataclasses.dataclass(frozen=True)
class Plan:
  """An assignment of pairs to rows: row r holds pairs_N[starts[r] : starts[r + 1]].

  `fill_2` is the share of positions that hold tokens, for source and target.
  """

  pairs_N: np.ndarray
  starts: np.ndarray
  fill_2: np.ndarray


@dataclasses.dataclass(frozen=True, kw_only=True)
class Packed(Source):
  """Rows of `source_length` and `target_length` tokens, filled with whole pairs.

  `source` provides pairs of texts, which `tokenize` converts to ids. Without
  `tokenize`, it provides `source` and `target` ids that end with EOS; trailing zeros
  are allowed. A row has int32 `source` and `target`. For each, `..._segment` numbers
  the pairs of the row (0 is padding, 1, 2, ... are pairs), and `..._position` counts
  from 0 in each segment. The pairs that share a row depend only on their lengths and
  `seed`, and are the same in all epochs. Pairs longer than a row and pairs without a
  source are left out.

  The first use tokenises the source once; lengths are then cached in
  ~/.cache/big_vision_like/packing. `rows` is the approximate number of rows, for plans
  made before the data are available.
  """

  source: Source
  source_length: int
  target_length: int
  tokenize: text.Tokenize | None = None
  seed: int = 0
  rows: int | None = None

  tiny = dict(source_length=64, target_length=64)

  def __post_init__(self) -> None:
    object.__setattr__(self, 'source', as_source(self.source))

  @property
  def inner(self) -> dict[str, Source]:
    """The source of the pairs."""
    return {'source': self.source}

  def fingerprint(self) -> str:
    """Returns a digest of the pairs, the vocabulary, the row lengths and the seed."""
    lengths = self.source_length, self.target_length
    return digest('Packed', self._tokens, *lengths, self.seed)

  @functools.cached_property
  def _tokens(self) -> str:
    """A digest of everything that the lengths of sequences depend on."""
    return digest(self.source, self.tokenize)

  @functools.cached_property
  def plan(self) -> Plan:
    """The assignment of pairs to rows; prints a one-line summary."""
    plan = pack(self.lengths_2N, (self.source_length, self.target_length), self.seed)
    print(self._summary(plan), file=sys.stderr, flush=True)
    return plan

  @functools.cached_property
  def lengths_2N(self) -> np.ndarray:
    """The number of tokens of each source and target, including EOS."""
    arrays = cache.arrays(self._cache(), lambda: {'lengths_2N': self._measure()})
    return arrays['lengths_2N']

  @property
  def left_out(self) -> dict[str, int]:
    """The number of pairs that are in no row, by reason."""
    empty_N, long_N = _unfit(self.lengths_2N, (self.source_length, self.target_length))
    return {'too long': int(long_N.sum()), 'without a source': int(empty_N.sum())}

  def planned(self) -> Source:
    """Returns this source, or a stand-in if data or vocabulary are missing."""
    stand_in = planned.Rows(self.rows, self.source_length, self.target_length)
    if self.source.planned() is not self.source:
      return stand_in
    try:
      if self.tokenize:
        self.tokenize.vocabulary.processor  # noqa: B018 - looks for the file
    except UserError:
      return stand_in
    return self

  def __len__(self) -> int:
    return len(self.plan.starts) - 1

  def __getitem__(self, index: int) -> dict[str, np.ndarray]:
    if not 0 <= index < len(self):
      raise IndexError(f'row {index} of {len(self)}')
    start, stop = self.plan.starts[index : index + 2]
    pairs = self._ids([self.source[i] for i in self.plan.pairs_N[start:stop].tolist()])
    row = {}
    for name, sequences in zip(('source', 'target'), pairs, strict=True):
      lengths = [len(ids) for ids in sequences]
      room = getattr(self, f'{name}_length') - sum(lengths)
      if room < 0:
        raise UserError(
          f'{self.source} has changed since it was packed: delete {self._cache()} and'
          ' start again.'
        )
      numbers = np.repeat(np.arange(1, len(lengths) + 1), lengths)
      positions = np.concatenate([np.arange(length) for length in lengths])
      row[name] = np.pad(np.concatenate(sequences), (0, room)).astype(np.int32)
      row[f'{name}_segment'] = np.pad(numbers, (0, room)).astype(np.int32)
      row[f'{name}_position'] = np.pad(positions, (0, room)).astype(np.int32)
    return row

  def __getstate__(self) -> dict[str, Any]:
    # Workers receive the plan, but not the lengths that it was made from.
    return {k: v for k, v in self.__dict__.items() if k != 'lengths_2N'}

  def _summary(self, plan: Plan) -> str:
    out = ', '.join(f'{count:,} {reason}' for reason, count in self.left_out.items())
    source, target = plan.fill_2 * 100
    return (
      f'packed {len(plan.pairs_N):,} pairs into {len(plan.starts) - 1:,} rows of'
      f' {self.source_length} + {self.target_length} tokens, {source:.1f} % and'
      f' {target:.1f} % full; left out: {out}'
    )

  def _ids(self, examples: Sequence[Any]) -> tuple[Sequence[Any], Sequence[Any]]:
    """Returns the ids of the sources and of the targets."""
    if self.tokenize is not None:
      return self.tokenize.encode(examples)
    trimmed = (
      [np.trim_zeros(example[name], 'b') for example in examples]
      for name in ('source', 'target')
    )
    return next(trimmed), next(trimmed)

  def _measure(self) -> np.ndarray:
    # Reading in bulk is faster for thousands of pairs, not for the few of a row.
    read = self.source.__getitems__
    lengths_2N = np.zeros((2, len(self.source)), np.int32)
    starts = range(0, len(self.source), CHUNK)
    for start in cache.progress(starts, 'measuring pairs', len(starts)):
      stop = min(start + CHUNK, len(self.source))
      for side, sequences in enumerate(self._ids(read(range(start, stop)))):
        lengths_2N[side, start:stop] = [len(ids) for ids in sequences]
    return lengths_2N

  def _cache(self) -> pathlib.Path:
    """Returns the path of the cache file for lengths."""
    return cache.file('packing', [CACHE_VERSION, self._tokens])


def pack(lengths_2N: np.ndarray, room: tuple[int, int], seed: int) -> Plan:
  """Packs shuffled pairs into rows of `room` tokens of source and target.

  Each pair goes into the open row in which it leaves the least room. If it fits into
  none of the few open rows, a new row replaces the fullest.
  """
  kept_N = np.flatnonzero(~np.any(_unfit(lengths_2N, room), axis=0))
  pairs_N = np.random.default_rng(seed).permutation(kept_N)
  num_lanes = min(max(len(pairs_N) // PAIRS_PER_LANE, 1), LANES)
  num_steps = -(-len(pairs_N) // num_lanes)
  fill = num_steps * num_lanes - len(pairs_N)  # empty pairs complete the last step
  lengths_2ML = np.pad(lengths_2N[:, pairs_N], ((0, 0), (0, fill))).reshape(
    2, num_steps, num_lanes
  )
  row_ML = np.zeros((num_steps, num_lanes), np.int64)
  lanes_L = np.arange(num_lanes)
  room_211 = np.array(room, np.int32)[:, None, None]
  left_2LK = np.tile(room_211, (1, num_lanes, OPEN_ROWS))
  names_LK = np.arange(num_lanes * OPEN_ROWS).reshape(num_lanes, OPEN_ROWS)
  rows_opened = names_LK.size
  for step in range(num_steps):
    length_2L = lengths_2ML[:, step]
    after_LK = (left_2LK - length_2L[:, :, None]).min(axis=0)
    choice_L = np.where(after_LK >= 0, after_LK, max(room)).argmin(axis=1)
    full = np.flatnonzero(after_LK[lanes_L, choice_L] < 0)
    if len(full):
      choice_L[full] = slots = left_2LK[:, full].min(axis=0).argmin(axis=1)
      left_2LK[:, full, slots] = room_211[:, :, 0]
      names_LK[full, slots] = rows_opened + np.arange(len(full))
      rows_opened += len(full)
    left_2LK[:, lanes_L, choice_L] -= length_2L
    row_ML[step] = names_LK[lanes_L, choice_L]
  row_N = row_ML.ravel()[: len(pairs_N)]
  order_N = np.argsort(row_N, kind='stable')
  _, counts_R = np.unique(row_N, return_counts=True)
  used_2 = lengths_2N[:, pairs_N].sum(axis=1)
  return Plan(
    pairs_N=pairs_N[order_N].astype(np.int32),
    starts=np.concatenate([[0], np.cumsum(counts_R)]),
    fill_2=used_2 / (np.array(room) * max(len(counts_R), 1)),
  )


def _unfit(
  lengths_2N: np.ndarray, room: tuple[int, int]
) -> tuple[np.ndarray, np.ndarray]:
  """Returns masks of the pairs with an empty source, and of other pairs too long.

  A source with at most EOS counts as empty.
  """
  empty_N = lengths_2N[0] < 2
  long_N = (lengths_2N > np.array(room)[:, None]).any(axis=0)
  return empty_N, long_N & ~empty_N
