"""From a source to batches, with Grain.

The training stream is an endless list of examples that depends on the seed alone: the
source shuffled anew each epoch, each transform with randomness of its own for each
position. Step s takes examples s*B to (s+1)*B, of which every process reads its own
rows. So the position is one number, whatever the number of workers or processes.
Where images are padded to several shapes, examples change places within windows, so
that a batch has one of them (see `data.grouping`).

A record that cannot be used raises `BadRecordError` where that is found out: while it
is read, decoded or checked. Training puts another in its place; evaluation stops.
"""

import collections
import contextlib
import dataclasses
import functools
import os
import sys
from collections.abc import Callable, Iterator, Sequence
from typing import Any, SupportsIndex

import grain
import numpy as np
from absl import flags

from big_vision_like import malloc
from big_vision_like.data import grouping
from big_vision_like.data import workers as processes
from big_vision_like.data.mixture import Mixture, Part, Transforms
from big_vision_like.data.order import Order, epoch_length
from big_vision_like.data.transforms import boxes
from big_vision_like.errors import BadRecordError, UserError

Batch = dict[str, np.ndarray]

# What is said of replaced records, in an example and in a batch on its way here.
REPLACED = '_replaced'
# How many other records are tried in place of one.
ATTEMPTS = 10
# The share of bad records is that of so many examples at least.
FEW = 1000
# The length of lists without end; Grain counts in floats here and there.
ENDLESS = 2**50
# Batches under way when workers stop are cleared up at the end of the program, by a
# process of Python's that has its warnings from here and would call them leaked.
NO_LEAK = 'ignore:resource_tracker:UserWarning'
# Where workers put batches, if there is such a place.
SHARED = '/dev/shm'


@dataclasses.dataclass(frozen=True, kw_only=True)
class TrainInput:
  """Shuffled batches without end; `batch_size` counts all processes.

  `source` may be a `mixture.Mixture`; `repeats` and `window` are those of
  `order.Order`. `workers` are processes that decode and transform; 0 does it on
  `threads` threads.

  A record that cannot be used is replaced by another of its source, the same each time,
  and told. The run stops when these are more than `bad_share` of the examples that a
  process has read since it started, or of the first thousand.
  """

  source: Any
  batch_size: int
  transforms: Transforms = ()
  seed: int = 0
  repeats: int = 1
  window: int = 16
  workers: int = 0
  threads: int = 2
  bad_share: float = 0.001

  @property
  def examples_per_epoch(self) -> int:
    """How many examples durations take for an epoch."""
    return epoch_length(len(self.source), self.repeats)

  @functools.cached_property
  def examples(self) -> grain.MapDataset:
    """The endless list of examples, each made when it is asked for."""
    return self._in_turn if self._pad is None else _Grouped(self._in_turn, self)

  @functools.cached_property
  def _in_turn(self) -> '_Examples':
    return _Examples(self)

  @property
  def _pad(self) -> boxes.Pad | None:
    return grouping.pad_of(self.transforms)

  def example(
    self, position: int = 0, shape: tuple[int, int] | None = None
  ) -> dict[str, np.ndarray]:
    """An example as it is in a batch; of several shapes the largest, or this one."""
    example = self._in_turn[position]
    batch = stack(grouping.alike(self.transforms, [example], shape))
    return {name: values[0] for name, values in batch.items() if name != REPLACED}

  def shapes(self, steps: int) -> dict[tuple[int, int], float]:
    """How often images of the first batches have each of several shapes.

    Empty where all have one; no image is read.
    """
    return {} if self._pad is None else self.examples.shapes(steps)

  def padded_share(self, steps: int) -> float:
    """How much of the images of the first batches is padding; no image is read."""
    if self._pad is None:
      raise UserError('padded_share is of inputs whose Pad has several sizes.')
    return self.examples.padded_share(steps)

  def __iter__(self) -> 'TrainBatches':
    return self.batches()

  def batches(
    self, rows_of: Callable[[int], np.ndarray] = np.arange
  ) -> 'TrainBatches':
    """Some rows of each batch: all, or those that one process must read."""
    return TrainBatches(self, rows_of(self.batch_size))

  def first(self, rows_of: Callable[[int], np.ndarray] = np.arange) -> Batch:
    with contextlib.closing(self.batches(rows_of)) as batches:
      return next(batches)

  def abstract(self, signature: Any = None) -> Any:
    import jax

    return {
      k: jax.ShapeDtypeStruct((self.batch_size, *x.shape), x.dtype)
      for k, x in self.example(shape=signature or None).items()
    }

  def signatures(self, steps: int) -> dict[Any, float]:
    return self.shapes(steps) or {(): 1.0}

  def label(self, signature: Any) -> str:
    return 'x'.join(map(str, signature))


class TrainBatches(Iterator[Batch]):
  """Some rows of each batch, from a position that can be saved.

  `replaced` counts the records that others took the place of.
  """

  def __init__(self, data: TrainInput, rows: np.ndarray):
    self._data, self._rows = data, rows
    self._step = self._used = self.replaced = 0
    self._news: list[str] = []
    self._batches = _batched(data.examples, data.batch_size, rows)
    self._iterator = None

  def __next__(self) -> Batch:
    self._check_share()
    if self._iterator is None:
      if self._data.workers:
        _check_room(self._data.example(), len(self._rows), self._data.workers)
      self._iterator = _started(
        self._batches[self._step :], self._data.workers, self._data.threads
      )
    batch = next(self._iterator)
    self._step += 1
    self._used += len(self._rows)
    replaced = batch.pop(REPLACED, [])
    self.replaced += len(replaced)
    self._news += replaced
    return batch

  def _check_share(self) -> None:
    # Here, where the loop comes after it has written down the news.
    share = self._data.bad_share
    if self.replaced > share * max(self._used, FEW):
      raise UserError(
        f'{self.replaced:,} of {self._used:,} examples could not be used, more than'
        f' train_data.bad_share={share:g} allows: mend the data, or raise it.'
      )

  def news(self) -> list[str]:
    """Which records were replaced since this was last asked, and why."""
    news, self._news = self._news, []
    return news

  def get_state(self) -> dict[str, int]:
    """The position: how many examples of the whole stream have been used."""
    return {'examples': self._step * self._data.batch_size}

  def set_state(self, state: dict[str, int]) -> None:
    """Goes to a position, also one saved with other workers or processes."""
    step, rest = divmod(state['examples'], self._data.batch_size)
    if rest:
      raise UserError(
        f'train_data.batch_size={self._data.batch_size} does not divide the'
        f' {state["examples"]} examples already used: take a divisor of that number.'
      )
    self.close()
    self._step = step

  def close(self) -> None:
    """Stops workers and threads; the position stays."""
    if self._iterator is not None:
      self._iterator.close()
    self._iterator = None


@dataclasses.dataclass(frozen=True, kw_only=True)
class EvalInput:
  """Every example of a source once, in order; the last batch is filled and masked."""

  source: Any
  batch_size: int
  transforms: Transforms = ()
  workers: int = 0
  threads: int = 2

  def __post_init__(self) -> None:
    for transform in self.transforms:
      if isinstance(transform, grain.transforms.RandomMap):
        raise UserError(
          f'{type(transform).__name__} is random, which evaluation may not be.'
        )

  def epoch(self, rows_of: Callable[[int], np.ndarray] = np.arange) -> Iterator[Batch]:
    """Batches with `mask` (bool, False where a row only fills the last batch).

    `rows_of` gives the rows of each batch that are wanted, as a process reads only its
    own.
    """
    if len(self.source) == 0:
      raise UserError(f'{self.source} holds no examples.')
    rows = rows_of(self.batch_size)
    batches = _batched(self._examples(), self.batch_size, rows)
    with contextlib.closing(_started(batches, self.workers, self.threads)) as stream:
      yield from stream

  @functools.cached_property
  def order(self) -> tuple[np.ndarray, np.ndarray]:
    """For all rows of all batches, the index in the source and whether it is real."""
    places, masks = grouping.filled(range(len(self.source)), self.batch_size)
    return np.array(places), np.array(masks)

  def _examples(self) -> grain.MapDataset:
    count, pad = len(self.source), grouping.pad_of(self.transforms)
    if pad is None:
      padded = _Padded(self.source, *grouping.filled(range(count), self.batch_size))
      return _transformed(grain.MapDataset.source(padded), self.transforms, seed=0)
    sizes = grouping.image_sizes(self.source)
    after = _transformed(
      grain.MapDataset.source(grouping.Sizes(sizes)),
      grouping.of_sizes(self.transforms),
      seed=0,
    )
    places, masks, batches = grouping.by_shape(after, pad, self.batch_size)
    padded = _Padded(self.source, places, masks)
    examples = _transformed(grain.MapDataset.source(padded), self.transforms, seed=0)
    return _Fitted(examples, [pad.sizes[i] for i in batches], self.batch_size)


class _Padded:
  """Records of a source in an order, some of which only fill batches."""

  def __init__(self, source: Any, places: Sequence[int], masks: Sequence[bool]):
    self._source, self._places, self._masks = source, places, masks

  def __len__(self) -> int:
    return len(self._places)

  def __getitem__(self, index: int) -> dict[str, Any]:
    record = self._source[int(self._places[index])]
    return record | {'mask': np.bool_(self._masks[index])}


class _Fitted(grain.MapDataset):
  """Padded examples in the shapes of their batches."""

  def __init__(
    self,
    parent: grain.MapDataset,
    shapes: Sequence[tuple[int, int]],
    batch_size: int,
  ):
    super().__init__(parent)
    self._shapes, self._batch_size = shapes, batch_size

  def __len__(self) -> int:
    return len(self._parent)

  def __getitem__(self, index: SupportsIndex | slice) -> Any:
    if isinstance(index, slice):
      return self.slice(index)
    return boxes.fitted(self._parent[index], *self._shapes[index // self._batch_size])


class _Endless(grain.MapDataset):
  """A list without end; what is at a position is made when it is asked for."""

  def __len__(self) -> int:
    return ENDLESS

  def __getitem__(self, index: SupportsIndex | slice) -> Any:
    return self.slice(index) if isinstance(index, slice) else self.make(index)

  def make(self, position: int) -> dict[str, Any]:
    raise NotImplementedError


class _Records(_Endless):
  """The records of a source in their order, or those of an attempt to replace them."""

  def __init__(self, order: Order, attempt: int):
    super().__init__()
    self._order, self._attempt = order, attempt

  def make(self, position: int) -> dict[str, Any]:
    return self._order.source[self._order.index(position, self._attempt)]


class _Sizes(_Endless):
  """Sizes of the images of a source, in the order of its records."""

  def __init__(self, order: Order):
    super().__init__()
    self._order = order
    self._sizes = grouping.Sizes(grouping.image_sizes(order.source))

  def make(self, position: int) -> dict[str, Any]:
    return self._sizes[self._order.index(position)]


class _Mixed(_Endless):
  """Examples of several parts, as a mixture places them."""

  def __init__(self, parts: Sequence[grain.MapDataset], mixture: Mixture):
    super().__init__(parts)
    self._mixture = mixture

  def make(self, position: int) -> dict[str, Any]:
    part, place = self._mixture.place(position)
    return self.parents[part][place] | {'part': np.int32(part)}


class _Examples(_Endless):
  """The examples of an input; one that cannot be used gives way to another."""

  def __init__(self, data: TrainInput):
    self._mixture = data.source if isinstance(data.source, Mixture) else None
    parts, seeds = self._parts(data), [data.seed]
    if self._mixture:
      seeds = np.random.SeedSequence(data.seed).generate_state(len(parts)).tolist()
    self._orders = [
      Order(part.source, seed, data.repeats, data.window)
      for part, seed in zip(parts, seeds, strict=True)
    ]

    super().__init__(
      [
        self._joined(data, [_Records(order, attempt) for order in self._orders])
        for attempt in range(ATTEMPTS + 1)
      ]
    )

  def _parts(self, data: TrainInput) -> list[Part]:
    if self._mixture:
      return list(self._mixture.parts.values())
    return [Part(source=data.source)]

  def _joined(
    self,
    data: TrainInput,
    records: Sequence[grain.MapDataset],
    made: Callable[[Transforms], Transforms] = list,
  ) -> grain.MapDataset:
    """Records after the transforms, or what is `made` of these."""
    streams = [
      _transformed(own, made(part.transforms), order.seed)
      for own, part, order in zip(records, self._parts(data), self._orders, strict=True)
    ]
    mixed = _Mixed(streams, self._mixture) if self._mixture else streams[0]
    return _transformed(mixed, made(data.transforms), data.seed)

  def sizes(self, data: TrainInput) -> grain.MapDataset:
    """The size of each example's image, none of which is read for it."""
    records = [_Sizes(order) for order in self._orders]
    return self._joined(data, records, grouping.of_sizes)

  def make(self, position: int) -> dict[str, Any]:
    told = []
    for attempt, stream in enumerate(self.parents):
      try:
        example = stream[position]
      except BadRecordError as error:
        told.append(f'{self._name(position, attempt)}: {error}')
      else:
        return example | {REPLACED: told} if told else example
    raise UserError(f'{len(told)} records in turn could not be used; {told[-1]}')

  def _name(self, position: int, attempt: int) -> str:
    part = 0
    if self._mixture:
      part, position = self._mixture.place(position)
    order = self._orders[part]
    return f'record {order.index(position, attempt):,} of {order.source}'


class _Grouped(_Endless):
  """Examples that change places within windows, so that batches have one shape."""

  def __init__(self, examples: _Examples, data: TrainInput):
    super().__init__(examples)
    self._batch_size = data.batch_size
    self._windows = grouping.Windows(
      examples.sizes(data), grouping.pad_of(data.transforms), data.batch_size, data.seed
    )

  def make(self, position: int) -> dict[str, Any]:
    step, row = divmod(position, self._batch_size)
    batch = self._windows.batch(step)
    example = self._parent[int(batch.positions[row])]
    # What took the place of a bad record has another size.
    if REPLACED not in example and (example['size'] != batch.sizes[row]).any():
      raise UserError(
        f'an image has {"x".join(map(str, example["size"]))} pixels where'
        f' {"x".join(map(str, batch.sizes[row]))} were expected: with several sizes of'
        ' Pad only transforms of boxes may change sizes; if the data have changed,'
        f' delete {grouping.FOLDER}.'
      )
    return boxes.fitted(example, *batch.shape)

  def shapes(self, steps: int) -> dict[tuple[int, int], float]:
    """The share of each shape in the first batches."""
    found = [tuple(self._windows.batch(step).shape.tolist()) for step in range(steps)]
    return {shape: count / steps for shape, count in collections.Counter(found).items()}

  def padded_share(self, steps: int) -> float:
    """How much of the images of the first batches is padding."""
    real = padded = 0
    for step in range(steps):
      batch = self._windows.batch(step)
      shrunk = np.minimum(batch.shape / batch.sizes, 1).min(axis=1)
      real += (batch.sizes.prod(axis=1) * shrunk**2).sum()
      padded += len(batch.sizes) * np.prod(batch.shape)
    return float(1 - real / padded)


class _Rows(grain.MapDataset):
  """Some rows of each batch, in order."""

  def __init__(self, parent: grain.MapDataset, batch_size: int, rows: np.ndarray):
    super().__init__(parent)
    self._batch_size, self._rows = batch_size, rows

  def __len__(self) -> int:
    return len(self._parent) // self._batch_size * len(self._rows)

  def __getitem__(self, index: SupportsIndex | slice) -> Any:
    if isinstance(index, slice):
      return self.slice(index)
    step, row = divmod(index, len(self._rows))
    return self._parent[step * self._batch_size + int(self._rows[row])]


def _transformed(
  examples: grain.MapDataset, transforms: Transforms, seed: int
) -> grain.MapDataset:
  for i, transform in enumerate(transforms):
    if isinstance(transform, grain.transforms.RandomMap):
      own = np.random.SeedSequence((seed, i)).generate_state(1).item()
      examples = examples.random_map(transform, seed=own)
    else:
      examples = examples.map(transform)
  return examples


def _batched(
  examples: grain.MapDataset, batch_size: int, rows: np.ndarray
) -> grain.MapDataset:
  return _Rows(examples, batch_size, rows).batch(len(rows), batch_fn=stack)


def stack(examples: Sequence[dict[str, Any]]) -> Batch:
  """Examples as a batch; what was said of replaced records is a list for all."""
  told = [line for example in examples for line in example.pop(REPLACED, ())]
  for name in sorted(set().union(*examples) - set.intersection(*map(set, examples))):
    raise UserError(
      f'some examples have {name!r} and some have not: keep what all have, with'
      ' labels.Keep(names=...).'
    )
  batch = {name: _stacked(name, examples) for name in examples[0]}
  return batch | {REPLACED: told} if told else batch


def _stacked(name: str, examples: Sequence[dict[str, Any]]) -> np.ndarray:
  try:
    values = np.stack([example[name] for example in examples])
  except ValueError as error:
    shapes = {np.shape(example[name]): None for example in examples}
    listed = ', '.join('x'.join(map(str, shape)) or 'scalar' for shape in shapes)
    raise UserError(
      f'{name!r} has several shapes ({listed}), which make no batch: resize, crop or'
      ' pad them to one.'
    ) from error
  return _narrow(name, values) if values.dtype == np.int64 else values


def _narrow(name: str, values: np.ndarray) -> np.ndarray:
  """int32, as JAX would make it on the way to the device, or an error."""
  narrow = values.astype(np.int32)
  if (narrow != values).any():
    raise UserError(
      f'{name} holds {values.max()}, which int32 cannot: number them anew.'
    )
  return narrow


def _started(batches: grain.MapDataset, workers: int, threads: int) -> Iterator[Batch]:
  options = grain.ReadOptions(num_threads=threads, prefetch_buffer_size=2 * threads)
  stream = batches.to_iter_dataset(options)
  if workers:
    if not flags.FLAGS.is_parsed():
      flags.FLAGS.mark_as_parsed()  # Grain reads absl flags; this program has none
    if NO_LEAK not in sys.warnoptions:
      sys.warnoptions.append(NO_LEAK)
    stream = stream.mp_prefetch(
      grain.MultiprocessingOptions(num_workers=workers), _start_worker
    )
  return iter(stream)


def _check_room(example: dict[str, np.ndarray], rows: int, workers: int) -> None:
  """Raises where batches do not fit into the memory that they come through."""
  if not os.path.isdir(SHARED):
    return
  room = os.statvfs(SHARED)
  free = room.f_bavail * room.f_frsize / 2**20
  # One waits with each worker, one is on its way here, one is in use.
  batch = rows * sum(np.asarray(value).nbytes for value in example.values()) / 2**20
  needed = (2 * workers + 1) * batch
  if needed > free:
    raise UserError(
      f'{SHARED} has {free:,.0f} MiB left, but batches of {batch:,.0f} MiB from'
      f' {workers} workers take {needed:,.0f}: make it larger (docker run --shm-size),'
      ' or set train_data.workers=0 and train_data.threads.'
    )


def _start_worker(worker: int, count: int) -> None:
  """Keeps memory, and lets a worker end when its program is gone, even if killed."""
  del worker, count
  malloc.keep_memory()
  processes.end_with(os.getppid())
