"""Batches of examples of varying size, each batch padded to one of a few shapes.

A `bucket.Bucket` with several shapes, such as `boxes.Pad`, pads an example to the
smallest shape that holds it. The shape of each example of the training stream is known
in advance, from the size of its record and the random numbers that its transforms will
draw. Examples are therefore reordered within windows of batches until each batch has
one shape. Leftover examples move to the next larger shape. The order depends on the
position alone, so there is no other state to save and all processes agree.

An example is shrunk if no batch that still has room is large enough for it. This
affects at most one batch per window, for example portraits among landscapes, and
examples that replace a bad record.

Axes: N records or positions of a window, M batches of a window, K numbers of a size.
"""

import dataclasses
import functools
import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import grain
import numpy as np

from big_vision_like.data.input import bucket as buckets
from big_vision_like.data.input import cache
from big_vision_like.data.sources.base import Example, Source
from big_vision_like.data.transforms import compose
from big_vision_like.errors import BadRecordError, UserError

# Number of batches in a window, within which examples are reordered.
WINDOW = 32
# Number of records measured between updates of the progress bar.
CHUNK = 1000
FOLDER = '~/.cache/big_vision_like/sizes'


def alike(
  transforms: Sequence[Any],
  examples: Sequence[Example],
  shape: buckets.Size | None = None,
) -> list[Example]:
  """Returns transformed examples in one common shape, by default the largest."""
  bucket = buckets.of(transforms)
  if bucket is None:
    return list(examples)
  return [bucket.fit(example, shape or bucket.largest) for example in examples]


# Sizes of examples


def sizes(source: Source, bucket: buckets.Bucket) -> np.ndarray:
  """Returns the sizes of all records, int32 (N, K), stored by the source or measured.

  Records are measured once; their sizes are then cached in
  ~/.cache/big_vision_like/sizes. A record that cannot be read gets the size of another
  record, since it is never used.
  """
  known = bucket.known(source)
  if known is not None:
    return known
  file = cache.file('sizes', [source.fingerprint(), bucket.measured_by])
  return cache.arrays(file, lambda: {'sizes': _measured(source, bucket)})['sizes']


def _measured(source: Source, bucket: buckets.Bucket) -> np.ndarray:
  sizes_NK = np.zeros((len(source), len(bucket.shapes[0])), np.int32)
  starts = range(0, len(source), CHUNK)
  for start in cache.progress(starts, 'measuring examples', len(starts)):
    for index in range(start, min(start + CHUNK, len(source))):
      try:
        sizes_NK[index] = bucket.measure(source[index])
      except BadRecordError:
        continue
      except UserError:
        raise
      except ValueError:
        continue
  good_N = sizes_NK.all(axis=1)
  if not good_N.any():
    raise UserError(f'{source} has no {bucket.noun} that can be read.')
  sizes_NK[~good_N] = sizes_NK[good_N][0]
  return sizes_NK


class Sizes:
  """A sequence of sizes in the place of the records of a stream of examples."""

  def __init__(self, sizes_NK: np.ndarray):
    self._sizes_NK = sizes_NK

  def __len__(self) -> int:
    return len(self._sizes_NK)

  def __getitem__(self, index: int) -> Example:
    return {'size': tuple(self._sizes_NK[index].tolist())}


def of_sizes(transforms: Sequence[Any]) -> list[compose.Transform]:
  """Returns transforms of sizes that follow the given transforms of examples."""
  return [
    _RandomSize(t) if isinstance(t, grain.transforms.RandomMap) else _Size(t)
    for t in transforms
  ]


@dataclasses.dataclass(frozen=True)
class _Size(grain.transforms.Map):
  transform: Any

  def map(self, example: Example) -> Example:
    return {'size': buckets.size_after(self.transform, example['size'], None)}


@dataclasses.dataclass(frozen=True)
class _RandomSize(grain.transforms.RandomMap):
  transform: Any

  def random_map(self, example: Example, rng: np.random.Generator) -> Example:
    return {'size': buckets.size_after(self.transform, example['size'], rng)}


# Batches of one shape


class Batch(NamedTuple):
  """Positions of a batch's examples in the stream, their sizes and their one shape."""

  positions: np.ndarray
  sizes: np.ndarray
  shape: np.ndarray


@dataclasses.dataclass(frozen=True, eq=False)
class Windows:
  """Batches of one shape each, planned from a stream of `sizes` of examples."""

  sizes: grain.MapDataset
  bucket: buckets.Bucket
  batch_size: int
  seed: int

  def batch(self, step: int) -> Batch:
    """Returns the positions, sizes and shape of the examples in the batch of a step."""
    window, number = divmod(step, WINDOW)
    sizes_NK, places_MB, shape_M = self._window(window)
    places_B = places_MB[number]
    return Batch(
      positions=window * WINDOW * self.batch_size + places_B,
      sizes=sizes_NK[places_B],
      shape=np.array(self.bucket.shapes[shape_M[number]]),
    )

  @functools.cached_property
  def _window(self) -> Any:
    def window(number: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
      count = WINDOW * self.batch_size
      start = number * count
      sizes = [self.sizes[place]['size'] for place in range(start, start + count)]
      shape_N = np.array([self.bucket.choose(size) for size in sizes])
      places_MB, shape_M = together(shape_N, self.bucket.shapes, self.batch_size)
      order_M = np.random.default_rng((self.seed, number)).permutation(WINDOW)
      return np.array(sizes), places_MB[order_M], shape_M[order_M]

    return functools.lru_cache(maxsize=2)(window)

  def __getstate__(self) -> dict[str, Any]:
    return {f.name: getattr(self, f.name) for f in dataclasses.fields(self)}


def together(
  shape_N: np.ndarray, shapes: Sequence[buckets.Size], batch_size: int
) -> tuple[np.ndarray, np.ndarray]:
  """Divides examples into batches of one shape each.

  `shape_N` holds the shape that each example needs, as an index into `shapes`; N is a
  multiple of the batch size. Returns indices of examples, (M, batch size), and the
  shape of each batch as an index into `shapes`, (M,).
  """
  waiting = {i: np.flatnonzero(shape_N == i) for i in range(len(shapes))}
  by_area = sorted(waiting, key=lambda i: (math.prod(shapes[i]), i))
  places, shape_M, over = [], [], []
  for rank, i in enumerate(by_area):
    whole = len(waiting[i]) // batch_size * batch_size
    places += np.split(waiting[i][:whole], range(batch_size, whole, batch_size))[
      : whole // batch_size
    ]
    shape_M += [i] * (whole // batch_size)
    rest = waiting[i][whole:]
    larger = [
      j for j in by_area[rank + 1 :] if np.all(shapes[j] >= np.array(shapes[i]))
    ]
    if larger:
      waiting[larger[0]] = np.concatenate([waiting[larger[0]], rest])
    else:
      over.append((len(rest), i, rest))
  # No shape holds all leftovers: use the shape that most of the batch needs.
  rest = np.concatenate([places for _, _, places in sorted(over, key=lambda x: -x[0])])
  for start in range(0, len(rest), batch_size):
    batch = rest[start : start + batch_size]
    places.append(batch)
    shape_M.append(int(np.bincount(shape_N[batch]).argmax()))
  return np.array(places), np.array(shape_M)


def filled(places: Sequence[int], batch_size: int) -> tuple[list[int], list[bool]]:
  """Repeats the last place until batches are full; returns places and a mask.

  The mask is False for the repeated places.
  """
  fill = -len(places) % batch_size
  return [*places, *[places[-1]] * fill], [True] * len(places) + [False] * fill


def by_shape(
  sizes: Sequence[buckets.Size], bucket: buckets.Bucket, batch_size: int
) -> tuple[list[int], list[bool], list[int]]:
  """Divides all examples into batches of one shape each.

  Returns the places of examples, a mask, and the shape of each batch as an index. The
  examples of each shape stay in order. The last batch of each shape is filled; the mask
  is False for the fill.
  """
  found: dict[int, list[int]] = {i: [] for i in range(len(bucket.shapes))}
  for place, size in enumerate(sizes):
    found[bucket.choose(size)].append(place)
  places, masks, shapes = [], [], []
  for shape, own in found.items():
    if own:
      more, real = filled(own, batch_size)
      places, masks = places + more, masks + real
      shapes += [shape] * (len(more) // batch_size)
  return places, masks, shapes
