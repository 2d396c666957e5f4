"""The input pipeline from a source to batches, built with Grain.

The training stream is an endless list of examples that depends only on the seed. The
source is reshuffled each epoch, and each transform has its own random numbers at each
position. Step s takes examples s*B to (s+1)*B, and every process reads its own rows of
them. The position is therefore a single number, the step, whatever the number of
workers or processes. If examples are padded to several shapes, they are reordered
within windows so that each batch has one shape (see `data.input.grouping`).

An unusable record raises `BadRecordError` while it is read, decoded or checked.
Training replaces it by another record; evaluation stops.
"""

import abc
import collections
import contextlib
import dataclasses
import functools
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, SupportsIndex

import grain
import numpy as np

from big_vision_like.data.input import base, grouping
from big_vision_like.data.input import bucket as buckets
from big_vision_like.data.input.base import Batch
from big_vision_like.data.input.mixture import Mixture, Part, Transforms
from big_vision_like.data.input.order import Order, epoch_length
from big_vision_like.data.input.prepared import PICTURES, Prepared, leading
from big_vision_like.data.input.workers import Workers
from big_vision_like.data.sources.base import Source, as_source
from big_vision_like.errors import BadRecordError, UserError, listed, shape_text

# Key for messages about replaced records, in examples and batches.
REPLACED = '_replaced'
# Number of records that are read at once. They are in memory, still encoded.
AT_ONCE = 64
# Number of other records that are tried in place of a bad one.
ATTEMPTS = 10
# The share of bad records is computed over at least this many examples.
FEW = 1000
# The length of endless lists; small enough for Grain, which sometimes counts in floats.
ENDLESS = 2**50


@dataclasses.dataclass(frozen=True, kw_only=True)
class SingleInput(base.Input):
  """Batches of transformed examples of one source.

  `workers` is the number of processes that decode and transform; 0 uses `threads`
  threads of this process instead. Threads keep examples as they are before the first
  random transform, if the images are decoded and the whole source takes at most
  `keep_mib` MiB.
  """

  source: Source
  batch_size: int
  transforms: Transforms = ()
  workers: int = 0
  threads: int = 2
  keep_mib: float = 256.0

  def __post_init__(self) -> None:
    least = {'batch_size': 1, 'workers': 0, 'threads': 0, 'seed': 0, 'repeats': 1}
    least['keep_mib'] = 0
    for name, number in least.items():
      value = getattr(self, name, number)  # some exist for training only
      if value < number:
        raise UserError(f'{name}={value} is too small: it must be at least {number}')
    object.__setattr__(self, 'source', as_source(self.source))

  @property
  @abc.abstractmethod
  def examples(self) -> '_Examples':
    """The examples in the order of batches, each made on demand."""

  @property
  @abc.abstractmethod
  def in_turn(self) -> '_Examples':
    """The examples in stream order, before they are grouped into batches by shape."""

  @abc.abstractmethod
  def layout(self, step: int) -> grouping.Batch:
    """Returns the positions, sizes and shape of a batch; needs several shapes."""

  def example(
    self, position: int = 0, shape: buckets.Size | None = None
  ) -> dict[str, Any]:
    """Returns an example as in a batch, in `shape` or else in the largest shape."""
    example = self.in_turn[position]
    batch = stack(grouping.alike(self.transforms, [example], shape))
    batch.pop(REPLACED, None)
    return base.nested(lambda values: values[0], batch)

  @property
  def parts(self) -> dict[str, 'SingleInput']:
    return {'': self}

  @property
  def exact_shares(self) -> dict[str, float]:
    return {'': 1.0}

  def planned(self) -> 'SingleInput':
    return dataclasses.replace(
      self,
      source=self.source.planned(),
      transforms=[_planned(transform) for transform in self.transforms],
    )

  @property
  def bucket(self) -> buckets.Bucket | None:
    """The transform that pads to several shapes; None if there is only one shape."""
    return buckets.of(self.transforms)

  def signatures(self, steps: int) -> dict[buckets.Size, float]:
    if self.bucket is None:
      return {(): 1.0}
    steps = min(steps, len(self.examples) // self.batch_size)
    found = [tuple(self.layout(step).shape.tolist()) for step in range(steps)]
    return {shape: count / steps for shape, count in collections.Counter(found).items()}

  def label(self, signature: buckets.Size) -> str:
    return shape_text(signature) if signature else ''

  def abstract(self, signature: buckets.Size | None = None) -> dict[str, Any]:
    return base.with_rows(self.example(shape=signature or None), self.batch_size)

  def padded_share(self, steps: int) -> float:
    if self.bucket is None:
      raise UserError('padded_share needs an input whose Pad has several sizes.')
    steps = min(steps, len(self.examples) // self.batch_size)
    real = padded = 0
    for step in range(steps):
      batch = self.layout(step)
      real += self.bucket.content(batch.sizes, batch.shape).sum()
      padded += len(batch.sizes) * self.bucket.elements(batch.shape)
    return float(1 - real / padded)


def _planned(part: Any) -> Any:
  """Returns a transform with stand-ins for missing sources and vocabularies."""
  if hasattr(part, 'planned'):
    return part.planned()
  if not dataclasses.is_dataclass(part):
    return part
  own = {field.name: getattr(part, field.name) for field in dataclasses.fields(part)}
  changed = {name: new for name, x in own.items() if (new := _planned(x)) is not x}
  return dataclasses.replace(part, **changed) if changed else part


@dataclasses.dataclass(frozen=True, kw_only=True)
class TrainInput(SingleInput):
  """Endless shuffled batches; `batch_size` counts the rows of all processes.

  `source` may be a `mixture.Mixture`. `repeats` and `window` are arguments of
  `order.Order`.

  An unusable record is replaced by another record of its source, always the same one,
  and reported. The run stops once a process has replaced more than `bad_share` of the
  examples that it has read since it started, with at least 1,000 counted as read.
  """

  seed: int = 0
  repeats: int = 1
  window: int = 16
  bad_share: float = 0.001

  @property
  def examples_per_epoch(self) -> int:
    return epoch_length(len(self.source), self.repeats)

  @functools.cached_property
  def examples(self) -> '_Examples':
    return self.in_turn if self.bucket is None else _Grouped(self.in_turn, self)

  @functools.cached_property
  def in_turn(self) -> '_Stream':
    return _Stream(self)

  def layout(self, step: int) -> grouping.Batch:
    return self.examples.layout(step)

  def batches(
    self, rows_of: base.RowsOf = np.arange, place: str = 'train_data'
  ) -> 'SingleBatches':
    """Returns a stream of batches; `place` names this input in messages."""
    return SingleBatches(self, rows_of(self.batch_size), self.bad_share, place)


class SingleBatches(base.Batches):
  """The given rows of each batch of a single-source input.

  `place` names a training input in messages. It is None for evaluation, where records
  are never replaced.
  """

  def __init__(
    self, data: SingleInput, rows: np.ndarray, bad_share: float, place: str | None
  ):
    self._data, self._rows = data, rows
    self._bad_share, self._place = bad_share, place
    self._step = self._used = self.replaced = 0
    self._cpu_of_workers = 0.0  # of those that have ended
    self._news: list[str] = []
    self._batches = _Batches(data.examples, data.batch_size, rows)
    self._iterator = None

  @property
  def cpu_seconds(self) -> float:
    workers = getattr(self._iterator, 'cpu_seconds', 0.0)
    return self._batches.cpu_seconds + self._cpu_of_workers + workers

  def __next__(self) -> Batch:
    self._check_share()
    if self._iterator is None:
      self._iterator = _started(
        self._batches[self._step :],
        self._data.workers,
        self._data.threads,
        self._place or 'data',
      )
    batch = next(self._iterator)
    self._step += 1
    self._used += len(self._rows)
    replaced = batch.pop(REPLACED, [])
    self.replaced += len(replaced)
    self._news += replaced
    return batch

  def _check_share(self) -> None:
    # Checked on the next call, so that the loop has logged the replacements first.
    if self.replaced > self._bad_share * max(self._used, FEW):
      raise UserError(
        f'{self.replaced:,} of {self._used:,} examples could not be used, more than'
        f' {self._place}.bad_share={self._bad_share:g} allows: repair the data, or'
        ' raise bad_share.'
      )

  def news(self) -> list[str]:
    news, self._news = self._news, []
    return news

  def get_state(self) -> dict[str, int]:
    return {'step': self._step}

  def set_state(self, state: Mapping[str, int]) -> None:
    """Restores a position; accepts positions of earlier versions, in examples."""
    if 'step' not in state:
      state = {'step': self._step_of(state['examples'])}
    self.close()
    self._step = state['step']

  def _step_of(self, examples: int) -> int:
    step, rest = divmod(examples, self._data.batch_size)
    if rest:
      raise UserError(
        f'{self._place}.batch_size={self._data.batch_size} does not divide the'
        f' {examples} examples already used: take a divisor of that number.'
      )
    return step

  def close(self) -> None:
    if self._iterator is not None:
      self._cpu_of_workers += getattr(self._iterator, 'cpu_seconds', 0.0)
      self._iterator.close()
    self._iterator = None


@dataclasses.dataclass(frozen=True, kw_only=True)
class EvalInput(SingleInput):
  """Batches of every example of a source once; the last batch is filled and masked.

  Examples come in order. With several shapes, the examples of each shape come in order,
  one shape after another.
  """

  def __post_init__(self) -> None:
    super().__post_init__()
    for transform in self.transforms:
      if isinstance(transform, grain.transforms.RandomMap):
        raise UserError(
          f'{type(transform).__name__} is random, which evaluation does not allow.'
        )

  @property
  def examples_per_epoch(self) -> int:
    return len(self.source)

  def epoch(self, rows_of: base.RowsOf = np.arange) -> Iterator[Batch]:
    """Yields batches with a bool `mask`, False for rows that only fill the last batch.

    `rows_of` returns the rows of a batch that this process reads.
    """
    with contextlib.closing(self.batches(rows_of)) as batches:
      yield from batches

  def batches(self, rows_of: base.RowsOf = np.arange) -> SingleBatches:
    """Returns a stream of the batches of one epoch."""
    return SingleBatches(self, rows_of(self.batch_size), bad_share=0.0, place=None)

  @property
  def order(self) -> tuple[np.ndarray, np.ndarray]:
    """The source index of each row of the batches, int64 (N,), and a mask, bool (N,).

    Rows are in the order of batches. The mask is False for rows that only fill a batch.
    """
    places, masks, _ = self._plan
    return places, masks

  @functools.cached_property
  def _plan(self) -> tuple[np.ndarray, np.ndarray, list[int]]:
    """The `order`, and with several shapes the index of each batch's shape."""
    if len(self.source) == 0:
      raise UserError(f'{self.source} holds no examples.')
    if self.bucket is None:
      places, masks = grouping.filled(range(len(self.source)), self.batch_size)
      shapes = []
    else:
      sizes = [self._sizes[i]['size'] for i in range(len(self._sizes))]
      places, masks, shapes = grouping.by_shape(sizes, self.bucket, self.batch_size)
    return np.array(places, np.int64), np.array(masks), shapes

  @functools.cached_property
  def _sizes(self) -> grain.MapDataset:
    """The sizes of all examples after the transforms."""
    sizes = grouping.Sizes(grouping.sizes(self.source, self.bucket))
    transforms = grouping.of_sizes(self.transforms)
    return _transformed(grain.MapDataset.source(sizes), transforms, seed=0)

  @functools.cached_property
  def in_turn(self) -> '_Ordered':
    return _Ordered(self)

  @functools.cached_property
  def examples(self) -> '_Examples':
    if self.bucket is None:
      return self.in_turn
    return _Fitted(self.in_turn, self.bucket, self._plan[2], self.batch_size)

  def layout(self, step: int) -> grouping.Batch:
    places, _, shapes = self._plan
    positions = places[step * self.batch_size : (step + 1) * self.batch_size]
    return grouping.Batch(
      positions=positions,
      sizes=np.array([self._sizes[int(place)]['size'] for place in positions]),
      shape=np.array(self.bucket.shapes[shapes[step]]),
    )


class _Examples(grain.MapDataset):
  """A list of examples that are made on demand, several at once at a lower cost."""

  def __getitem__(self, index: SupportsIndex | slice) -> Any:
    return self.slice(index) if isinstance(index, slice) else self.make([index])[0]

  def make(self, positions: Sequence[int]) -> list[dict[str, Any]]:
    """Returns the examples at these positions."""
    raise NotImplementedError


class _Ordered(_Examples):
  """The examples of an evaluation; those that only fill batches are masked."""

  def __init__(self, data: EvalInput):
    super().__init__()
    self._places, self._masks = data.order
    added = {'mask': np.True_}
    keep_mib = 0.0 if data.workers else data.keep_mib
    self._prepared = Prepared(data.source, data.transforms, keep_mib, added)

  def __len__(self) -> int:
    return len(self._places)

  def make(self, positions: Sequence[int]) -> list[dict[str, Any]]:
    examples = self._prepared.take(self._places[positions].tolist())
    for position, example in zip(positions, examples, strict=True):
      if isinstance(example, BadRecordError):
        raise example
      if 'mask' in example:  # transforms may have dropped it
        example['mask'] = np.bool_(self._masks[position])
    return examples


class _Fitted(_Examples):
  """Padded examples in the shapes of their batches."""

  def __init__(
    self,
    parent: _Examples,
    bucket: buckets.Bucket,
    shapes: Sequence[int],
    batch_size: int,
  ):
    super().__init__(parent)
    self._bucket, self._shapes, self._batch_size = bucket, shapes, batch_size

  def __len__(self) -> int:
    return len(self._parent)

  def make(self, positions: Sequence[int]) -> list[dict[str, Any]]:
    shapes = [self._shapes[position // self._batch_size] for position in positions]
    return [
      self._bucket.fit(example, self._bucket.shapes[shape])
      for example, shape in zip(self._parent.make(positions), shapes, strict=True)
    ]


class _Endless(grain.MapDataset):
  """An endless list whose items are made on demand."""

  def __len__(self) -> int:
    return ENDLESS

  def __getitem__(self, index: SupportsIndex | slice) -> Any:
    return self.slice(index) if isinstance(index, slice) else self.item(index)

  def item(self, position: int) -> dict[str, Any]:
    raise NotImplementedError


class _Records(_Endless):
  """The records of a source in their order, or their replacements for `attempt` > 0."""

  def __init__(self, order: Order, attempt: int):
    super().__init__()
    self._order, self._attempt = order, attempt

  def item(self, position: int) -> dict[str, Any]:
    return self._order.source[self._order.index(position, self._attempt)]


class _Taken(_Endless):
  """Examples that have been made already, by position; errors are raised."""

  def __init__(self, examples: Mapping[int, dict[str, Any] | BadRecordError]):
    super().__init__()
    self._examples = examples

  def item(self, position: int) -> dict[str, Any]:
    example = self._examples[position]
    if isinstance(example, BadRecordError):
      raise example
    return example


class _Sizes(_Endless):
  """The sizes of the records of a source, in their order."""

  def __init__(self, order: Order, bucket: buckets.Bucket):
    super().__init__()
    self._order = order
    self._sizes = grouping.Sizes(grouping.sizes(order.source, bucket))

  def item(self, position: int) -> dict[str, Any]:
    return self._sizes[self._order.index(position)]


class _Mixed(_Endless):
  """Examples of several parts, interleaved by a mixture."""

  def __init__(self, parts: Sequence[grain.MapDataset], mixture: Mixture):
    super().__init__(parts)
    self._mixture = mixture

  def item(self, position: int) -> dict[str, Any]:
    part, place = self._mixture.place(position)
    return self.parents[part][place] | {'part': np.int32(part)}


class _Stream(_Examples):
  """The examples of a training input; unusable examples are replaced by others."""

  def __init__(self, data: TrainInput):
    mixed = isinstance(data.source, Mixture)
    self._mixture = data.source if mixed else None
    self._parts = [Part(source=data.source)]
    self._transforms, self._seed, seeds = data.transforms, data.seed, [data.seed]
    if mixed:
      self._parts = list(data.source.parts.values())
      seeds = np.random.SeedSequence(data.seed).generate_state(len(self._parts))
    self._orders = [
      Order(part.source, int(seed), data.repeats, data.window)
      for part, seed in zip(self._parts, seeds, strict=True)
    ]
    keep_mib = 0.0 if data.workers or data.bucket else data.keep_mib
    # The transforms of a mixture see the part, which is added after those of its parts.
    first = [part.transforms if mixed else data.transforms for part in self._parts]
    self._leading = [leading(transforms) for transforms in first]
    self._prepared = [
      Prepared(part.source, transforms, keep_mib)
      for part, transforms in zip(self._parts, self._leading, strict=True)
    ]
    super().__init__(
      [
        self._joined([_Records(order, attempt) for order in self._orders])
        for attempt in range(ATTEMPTS + 1)
      ]
    )

  def __len__(self) -> int:
    return ENDLESS

  def _joined(
    self,
    records: Sequence[grain.MapDataset],
    made: Callable[[Transforms], Transforms] = list,
    done: Sequence[int] | None = None,
  ) -> grain.MapDataset:
    """Returns transformed records.

    `made` may substitute the transforms; `done` counts those that each part's records
    have been through.
    """
    done = done or [0] * len(records)
    if not self._mixture:
      return _transformed(records[0], made(self._transforms), self._seed, done[0])
    streams = [
      _transformed(own, made(part.transforms), order.seed, count)
      for own, part, order, count in zip(
        records, self._parts, self._orders, done, strict=True
      )
    ]
    mixed = _Mixed(streams, self._mixture)
    return _transformed(mixed, made(self._transforms), self._seed)

  def sizes(self, bucket: buckets.Bucket) -> grain.MapDataset:
    """Returns the size of each example, without reading it."""
    records = [_Sizes(order, bucket) for order in self._orders]
    return self._joined(records, grouping.of_sizes)

  def make(self, positions: Sequence[int]) -> list[dict[str, Any]]:
    stream = self._taken(positions)
    return [self._usable(position, stream) for position in positions]

  def _taken(self, positions: Sequence[int]) -> grain.MapDataset:
    """Returns a stream of these positions alone, whose records have been read."""
    by_part: list[list[int]] = [[] for _ in self._parts]
    for position in positions:
      part, place = self._place(position)
      by_part[part].append(place)
    records = []
    for places, order, prepared in zip(
      by_part, self._orders, self._prepared, strict=True
    ):
      indices = [order.index(place) for place in places]
      examples = prepared.take(indices) if indices else ()
      records.append(_Taken(dict(zip(places, examples, strict=True))))
    return self._joined(records, done=[len(steps) for steps in self._leading])

  def _usable(self, position: int, first: grain.MapDataset) -> dict[str, Any]:
    """Returns the example of the first stream, or of another that replaces it."""
    told = []
    for attempt, stream in enumerate([first, *self.parents[1:]]):
      try:
        example = stream[position]
      except BadRecordError as error:
        told.append(f'{self._name(position, attempt)}: {error}')
      else:
        return example | {REPLACED: told} if told else example
    raise UserError(f'{len(told)} records in a row could not be used; {told[-1]}')

  def _place(self, position: int) -> tuple[int, int]:
    """Returns the part of a position, and the position in the part."""
    return self._mixture.place(position) if self._mixture else (0, position)

  def _name(self, position: int, attempt: int) -> str:
    part, place = self._place(position)
    order = self._orders[part]
    return f'record {order.index(place, attempt):,} of {order.source}'


class _Grouped(_Examples):
  """Examples reordered within windows, so that each batch has one shape."""

  def __init__(self, examples: _Stream, data: TrainInput):
    super().__init__(examples)
    self._batch_size, self._bucket = data.batch_size, data.bucket
    self._windows = grouping.Windows(
      examples.sizes(data.bucket), data.bucket, data.batch_size, data.seed
    )

  def __len__(self) -> int:
    return ENDLESS

  def layout(self, step: int) -> grouping.Batch:
    """Returns the positions of a batch's examples, their sizes and their shape."""
    return self._windows.batch(step)

  def make(self, positions: Sequence[int]) -> list[dict[str, Any]]:
    places = [divmod(position, self._batch_size) for position in positions]
    batches = [self._windows.batch(step) for step, _ in places]
    rows = [row for _, row in places]
    examples = self._parent.make(
      [int(batch.positions[row]) for batch, row in zip(batches, rows, strict=True)]
    )
    return [
      self._fitted(example, batch, row)
      for example, batch, row in zip(examples, batches, rows, strict=True)
    ]

  def _fitted(
    self, example: dict[str, Any], batch: grouping.Batch, row: int
  ) -> dict[str, Any]:
    # An example that replaces a bad record may have another size.
    if REPLACED not in example:
      self._check(self._bucket.size(example), tuple(batch.sizes[row].tolist()))
    return self._bucket.fit(example, tuple(batch.shape.tolist()))

  def _check(self, size: buckets.Size, expected: buckets.Size) -> None:
    if size != expected:
      raise UserError(
        f'the {self._bucket.noun} of an example has the size {shape_text(size)}, not'
        f' {shape_text(expected)} as expected: if batches have several shapes,'
        f' only {self._bucket.resizers} may change sizes; if the data have changed,'
        f' delete {grouping.FOLDER}.'
      )


class _Batches(grain.MapDataset):
  """The given rows of each batch, stacked; counts the CPU time that this takes."""

  def __init__(self, examples: _Examples, batch_size: int, rows: np.ndarray):
    super().__init__(examples)
    self._batch_size, self._rows = batch_size, rows
    self._spent: collections.deque[float] = collections.deque()  # added by threads
    self._total = 0.0

  def __len__(self) -> int:
    return len(self._parent) // self._batch_size

  def __getitem__(self, index: SupportsIndex | slice) -> Any:
    if isinstance(index, slice):
      return self.slice(index)
    started = time.thread_time()
    positions = (index * self._batch_size + self._rows).tolist()
    examples: list[dict[str, Any]] = []
    for first in range(0, len(positions), AT_ONCE):
      examples += self._parent.make(positions[first : first + AT_ONCE])
    batch = stack(examples)
    self._spent.append(time.thread_time() - started)
    return batch

  @property
  def cpu_seconds(self) -> float:
    """CPU seconds of the threads of this process that have made batches."""
    while self._spent:
      self._total += self._spent.popleft()
    return self._total


def _transformed(
  examples: grain.MapDataset, transforms: Transforms, seed: int, done: int = 0
) -> grain.MapDataset:
  """Applies transforms except the first `done`, each with its own random numbers."""
  for i, transform in enumerate(transforms):
    if i < done:
      continue
    if isinstance(transform, grain.transforms.RandomMap):
      own = np.random.SeedSequence((seed, i)).generate_state(1).item()
      examples = examples.random_map(transform, seed=own)
    else:
      examples = examples.map(transform)
  return examples


def stack(examples: Sequence[dict[str, Any]]) -> Batch:
  """Stacks examples into a batch; values may be nested dicts.

  Texts are left out. Messages about replaced records are joined into one list.
  """
  told = [line for example in examples for line in example.pop(REPLACED, ())]
  batch = _stacked_dicts('', examples)
  return batch | {REPLACED: told} if told else batch


def is_text(value: Any) -> bool:
  """Returns whether a value is text, bytes or a sequence of these."""
  if isinstance(value, np.ndarray):
    if value.dtype.kind in 'SU':
      return True
    value = value.ravel().tolist() if value.dtype.kind == 'O' else ()
  several = isinstance(value, (list, tuple)) and len(value) > 0
  return isinstance(value, (str, bytes)) or (several and all(map(is_text, value)))


def _stacked_dicts(path: str, examples: Sequence[Mapping[str, Any]]) -> Batch:
  texts = {
    name
    for example in examples
    for name, value in example.items()
    if name not in PICTURES and is_text(value)
  }
  names = [set(example) - texts for example in examples]
  for name in sorted(set().union(*names) - set.intersection(*names)):
    raise UserError(
      f'some examples have {path + name!r} and some do not: keep the fields that all'
      ' have, with labels.Keep(names=...).'
    )
  return {
    name: _stacked(path + name, [example[name] for example in examples])
    for name in examples[0]
    if name not in texts
  }


def _stacked(path: str, values: Sequence[Any]) -> Any:
  dicts = [isinstance(value, Mapping) for value in values]
  if all(dicts):
    return _stacked_dicts(f'{path}/', values)
  if any(dicts):
    raise UserError(f'{path!r} is a dict in some examples and an array in others.')
  try:
    array = np.stack(values)
  except ValueError as error:
    shapes = listed({shape_text(np.shape(value)): None for value in values})
    raise UserError(
      f'{path!r} has several shapes ({shapes}), which cannot be stacked into a batch:'
      ' resize, crop or pad them to one.'
    ) from error
  return _narrow(path, array) if array.dtype == np.int64 else array


def _narrow(name: str, values: np.ndarray) -> np.ndarray:
  """Converts int64 to int32, as JAX does for devices; raises on overflow."""
  narrow = values.astype(np.int32)
  if (narrow != values).any():
    raise UserError(
      f'{name} holds {values.max()}, which does not fit in int32: renumber the values.'
    )
  return narrow


def _started(
  batches: grain.MapDataset, workers: int, threads: int, place: str
) -> Iterator[Batch]:
  options = grain.ReadOptions(num_threads=threads, prefetch_buffer_size=2 * threads)
  if workers:
    return Workers(batches, options, workers, place)
  return iter(batches.to_iter_dataset(options))
