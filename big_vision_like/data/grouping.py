"""Batches of images of several sizes, each batch padded to one of a few shapes.

`boxes.Pad` with several `sizes` gives an example the smallest of them that fits. That
of each example of the training stream is known beforehand, from the size of the image
and the random numbers that its transforms will draw. So within a window of batches
examples change places until batches have one shape each; those left over go into the
next larger shape. A function of the position alone: nothing else has to be remembered,
and all processes agree.

What is larger than every batch with room left has is shrunk into it: at most one batch
of a window, of portraits among landscapes, and what takes the place of a bad record.

Axes: N images or positions of a window, M batches of a window; 2 is height and width.
"""

import dataclasses
import functools
import struct
from collections.abc import Sequence
from typing import Any, NamedTuple

import grain
import numpy as np

from big_vision_like.data import cache
from big_vision_like.data.transforms import boxes, compose, decoding
from big_vision_like.errors import BadRecordError, UserError

Example = dict[str, Any]

# Batches among which examples change places.
WINDOW = 32
# Records read at once to see how large images are.
CHUNK = 1000
FOLDER = '~/.cache/big_vision_like/sizes'


def pad_of(transforms: Sequence[Any]) -> boxes.Pad | None:
  """The transform that gives images several shapes."""
  found = [t for t in transforms if isinstance(t, boxes.Pad) and len(t.sizes) > 1]
  return found[-1] if found else None


def alike(
  transforms: Sequence[Any],
  examples: Sequence[Example],
  shape: tuple[int, int] | None = None,
) -> list[Example]:
  """Examples after the transforms, all in one of the shapes, by default the largest."""
  pad = pad_of(transforms)
  if pad is None:
    return list(examples)
  if shape is None:
    shape = max(pad.sizes, key=lambda size: size[0] * size[1])
  return [boxes.fitted(example, *shape) for example in examples]


# Sizes of images


def image_sizes(source: Any) -> np.ndarray:
  """int32 (N, 2): of the images of a source, as it has them, or as their headers say.

  Headers are read once and sizes then kept in ~/.cache/big_vision_like/sizes. A record
  that cannot be read gets the size of another: it is never used.
  """
  known = getattr(source, 'image_sizes', None)
  if known is not None:
    return known
  image = dict(getattr(source, 'features', None) or {}).get('image')
  shape = getattr(image, 'shape', (None, None))[:2]
  if None not in shape:
    return np.tile(np.array(shape, np.int32), (len(source), 1))
  if not dataclasses.is_dataclass(source):
    return _measured(source)
  file = cache.file('sizes', [repr(source), len(source)])
  return cache.arrays(file, lambda: {'sizes': _measured(source)})['sizes']


def _measured(source: Any) -> np.ndarray:
  sizes_N2 = np.zeros((len(source), 2), np.int32)
  starts = range(0, len(source), CHUNK)
  for start in cache.progress(starts, 'measuring images', len(starts)):
    for index in range(start, min(start + CHUNK, len(source))):
      try:
        sizes_N2[index] = image_size(source[index]['image'])
      except (BadRecordError, ValueError):
        continue
  good_N = sizes_N2.all(axis=1)
  if not good_N.any():
    raise UserError(f'{source} has no image that can be read.')
  sizes_N2[~good_N] = sizes_N2[good_N][0]
  return sizes_N2


def image_size(encoded: bytes | np.ndarray) -> tuple[int, int]:
  """Height and width of an image, encoded or not; ValueError for what is none."""
  if isinstance(encoded, np.ndarray):
    return encoded.shape[:2]
  if decoding.is_jpeg(encoded) and (size := decoding.jpeg_size(encoded)):
    return size
  if encoded.startswith(b'\x89PNG\r\n\x1a\n') and len(encoded) >= 24:
    width, height = struct.unpack('>II', encoded[16:24])
    return height, width
  return decoding.decode(encoded).shape[:2]


class Sizes:
  """Heights and widths as a source."""

  def __init__(self, sizes_N2: np.ndarray):
    self._sizes_N2 = sizes_N2

  def __len__(self) -> int:
    return len(self._sizes_N2)

  def __getitem__(self, index: int) -> Example:
    height, width = self._sizes_N2[index].tolist()
    return {'height': height, 'width': width}


def of_sizes(transforms: Sequence[Any]) -> list[compose.Transform]:
  """What transforms of images do to their heights and widths."""
  return [
    _RandomSize(t) if isinstance(t, grain.transforms.RandomMap) else _Size(t)
    for t in transforms
  ]


@dataclasses.dataclass(frozen=True)
class _Size(grain.transforms.Map):
  transform: Any

  def map(self, example: Example) -> Example:
    return _moved(self.transform, example, None)


@dataclasses.dataclass(frozen=True)
class _RandomSize(grain.transforms.RandomMap):
  transform: Any

  def random_map(self, example: Example, rng: np.random.Generator) -> Example:
    return _moved(self.transform, example, rng)


def _moved(
  transform: Any, example: Example, rng: np.random.Generator | None
) -> Example:
  if not hasattr(transform, 'steps'):
    return example
  size = example['height'], example['width']
  height, width = boxes.size_after(transform.steps(*size, rng), *size)
  return example | {'height': height, 'width': width}


# Batches of one shape


class Batch(NamedTuple):
  """Where the examples of a batch are in the stream, their sizes and one shape."""

  positions: np.ndarray
  sizes: np.ndarray
  shape: np.ndarray


@dataclasses.dataclass(frozen=True, eq=False)
class Windows:
  """Batches of one shape each, out of a stream of `sizes` of images."""

  sizes: grain.MapDataset
  pad: boxes.Pad
  batch_size: int
  seed: int

  def batch(self, step: int) -> Batch:
    """What is in the batch of a step."""
    window, number = divmod(step, WINDOW)
    sizes_N2, places_MB, shape_M = self._window(window)
    places_B = places_MB[number]
    return Batch(
      positions=window * WINDOW * self.batch_size + places_B,
      sizes=sizes_N2[places_B],
      shape=np.array(self.pad.sizes[shape_M[number]]),
    )

  @functools.cached_property
  def _window(self) -> Any:
    def window(number: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
      count = WINDOW * self.batch_size
      start = number * count
      sizes = [self.sizes[position] for position in range(start, start + count)]
      sizes_N2 = np.array([(size['height'], size['width']) for size in sizes])
      shape_N = np.array([self.pad.smallest(*size) for size in sizes_N2.tolist()])
      places_MB, shape_M = together(shape_N, self.pad.sizes, self.batch_size)
      order_M = np.random.default_rng((self.seed, number)).permutation(WINDOW)
      return sizes_N2, places_MB[order_M], shape_M[order_M]

    return functools.lru_cache(maxsize=2)(window)

  def __getstate__(self) -> dict[str, Any]:
    return {f.name: getattr(self, f.name) for f in dataclasses.fields(self)}


def together(
  shape_N: np.ndarray, shapes: Sequence[tuple[int, int]], batch_size: int
) -> tuple[np.ndarray, np.ndarray]:
  """Divides examples into batches of one shape each.

  `shape_N` are the shapes they need, by their places among `shapes`, and N a multiple
  of the batch size. Returns places among the examples (M, batch size) and shapes (M,).
  """
  waiting = {i: np.flatnonzero(shape_N == i) for i in range(len(shapes))}
  by_area = sorted(waiting, key=lambda i: (shapes[i][0] * shapes[i][1], i))
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
  # Nothing holds all that is left: the shape that most of a batch has.
  rest = np.concatenate([places for _, _, places in sorted(over, key=lambda x: -x[0])])
  for start in range(0, len(rest), batch_size):
    batch = rest[start : start + batch_size]
    places.append(batch)
    shape_M.append(int(np.bincount(shape_N[batch]).argmax()))
  return np.array(places), np.array(shape_M)


def filled(places: Sequence[int], batch_size: int) -> tuple[list[int], list[bool]]:
  """Places with the last one again until batches are full, and which are no fill."""
  fill = -len(places) % batch_size
  return [*places, *[places[-1]] * fill], [True] * len(places) + [False] * fill


def by_shape(
  sizes: Sequence[Example], pad: boxes.Pad, batch_size: int
) -> tuple[list[int], list[bool], list[int]]:
  """All examples in batches of one shape: places, masks, and the shape of each batch.

  In order but for the shapes; the last batch of each is filled.
  """
  found: dict[int, list[int]] = {i: [] for i in range(len(pad.sizes))}
  for place in range(len(sizes)):
    size = sizes[place]
    found[pad.smallest(size['height'], size['width'])].append(place)
  places, masks, shapes = [], [], []
  for shape, own in found.items():
    if own:
      more, real = filled(own, batch_size)
      places, masks = places + more, masks + real
      shapes += [shape] * (len(more) // batch_size)
  return places, masks, shapes
