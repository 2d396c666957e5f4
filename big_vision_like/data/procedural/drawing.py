"""Parallel drawing of examples, with equal results for any number of processes."""

import collections
import dataclasses
import functools
import itertools
import multiprocessing
import os
import signal
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent import futures
from concurrent.futures import process
from typing import Any

import cv2
import numpy as np
import tensorflow_datasets as tfds

from big_vision_like.data.input import parent as parents
from big_vision_like.errors import UserError

Example = tuple[int, dict[str, Any]]
Draw = Callable[[int], dict[str, Any]]

# Number of examples drawn per task of a process.
CHUNK = 64
# For fewer examples, starting processes would cost more time than it saves.
FEW = 2048


class Pictures(tfds.core.GeneratorBasedBuilder, skip_registration=True):
  """A TFDS builder of images in a fixed order, each with an `id`."""

  VERSION = tfds.core.Version('1.0.0')
  RELEASE_NOTES = {'1.0.0': 'First release.'}

  def described(
    self, description: str, features: Mapping[str, Any], **more
  ) -> tfds.core.DatasetInfo:
    """Returns the DatasetInfo of examples with these features and `id`."""
    return tfds.core.DatasetInfo(
      builder=self,
      description=description,
      features=tfds.features.FeaturesDict({**features, 'id': np.int64}),
      disable_shuffling=True,
      **{'license': 'Apache-2.0', **more},
    )

  def _generate_examples(self, examples: Iterable) -> Iterable:
    return examples


def picture(height: int, width: int, channels: int) -> tfds.features.Image:
  """Returns the feature of images of a fixed size, stored as PNG."""
  return tfds.features.Image(shape=(height, width, channels), encoding_format='png')


@dataclasses.dataclass(frozen=True)
class Counted:
  """An iterable of examples with a length, for TFDS's progress bar."""

  examples: Iterable[Example]
  count: int

  def __len__(self) -> int:
    return self.count

  def __iter__(self) -> Iterator[Example]:
    return iter(self.examples)


def generator(
  seed: int, split: str, index: int, splits: Sequence[str]
) -> np.random.Generator:
  """Returns the random generator of example `index` of one of the splits."""
  if split not in splits:
    raise ValueError(f'split={split!r} is not one of {splits}')
  return np.random.default_rng((seed, splits.index(split), index))


def by_split(
  draw: Callable[[Any, str, int], dict[str, Any]],
  config: Any,
  counts: Mapping[str, int],
) -> dict[str, Counted]:
  """Returns the splits for a builder's `_split_generators`: draw(config, split, i)."""
  return {
    split: drawn(functools.partial(draw, config, split), count)
    for split, count in counts.items()
  }


def drawn(draw: Draw, count: int, workers: int | None = None) -> Counted:
  """Returns (i, draw(i)) for i in range(count), in order, as a one-shot iterable.

  `draw` depends only on i and supports pickling: it is a function of a module, or a
  partial of one. `workers` is the number of processes. The default is one per core, or
  only this process for few examples. As usual with multiprocessing, the main program
  must be under `if __name__ == '__main__'`.
  """
  if workers is None:
    workers = 1 if count < FEW else len(os.sched_getaffinity(0))
  if workers == 1:
    return Counted(((i, draw(i)) for i in range(count)), count)
  return Counted(_by_processes(draw, count, workers), count)


def _by_processes(draw: Draw, count: int, workers: int) -> Iterator[Example]:
  # Spawned: forking would copy the locks of library threads in an arbitrary state.
  context = multiprocessing.get_context('spawn')
  with futures.ProcessPoolExecutor(
    workers, context, _start, (draw, os.getpid())
  ) as pool:
    chunks = (range(i, min(i + CHUNK, count)) for i in range(0, count, CHUNK))
    ahead: collections.deque[futures.Future] = collections.deque()
    try:
      # Only a few chunks are drawn in advance, which limits memory use.
      ahead.extend(
        pool.submit(_chunk, c) for c in itertools.islice(chunks, 4 * workers)
      )
      while ahead:
        examples = ahead.popleft().result()
        ahead.extend(pool.submit(_chunk, c) for c in itertools.islice(chunks, 1))
        yield from examples
    except process.BrokenProcessPool as error:
      raise UserError(
        'a process that draws examples was killed: is there enough memory for'
        f' {workers} processes?'
      ) from error
    finally:
      pool.shutdown(cancel_futures=True)


def _start(draw: Draw, parent: int) -> None:
  """Initializes a drawing process."""
  global _draw
  _draw = draw
  signal.signal(signal.SIGINT, signal.SIG_IGN)  # an interrupted parent ends the pool
  parents.end_with(parent)
  cv2.setNumThreads(1)


def _chunk(chunk: range) -> list[Example]:
  return [(i, _draw(i)) for i in chunk]


def png(image_HWC: np.ndarray) -> bytes:
  """Encodes a uint8 image as PNG; three channels are RGB.

  TFDS gets bytes because it would import TensorFlow to encode pixels.
  """
  if image_HWC.shape[2] == 3:
    image_HWC = cv2.cvtColor(image_HWC, cv2.COLOR_RGB2BGR)
  return cv2.imencode('.png', image_HWC)[1].tobytes()


def encoded(example: dict[str, Any], *more: str) -> dict[str, Any]:
  """Encodes `image`, `segmentation` and further named fields of an example as PNG."""
  pictures = 'image', 'segmentation', *more
  return example | {name: png(example[name]) for name in pictures}
