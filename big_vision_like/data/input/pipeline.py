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
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, SupportsIndex

import grain
import numpy as np

from big_vision_like.data.input import base, grouping
from big_vision_like.data.input import bucket as buckets
from big_vision_like.data.input.base import Batch
from big_vision_like.data.input.mixture import Mixture, Part, Transforms
from big_vision_like.data.input.order import Order, epoch_length
from big_vision_like.data.input.workers import Workers
from big_vision_like.data.sources.base import Source, as_source
from big_vision_like.errors import BadRecordError, UserError, listed, shape_text

# Key for messages about replaced records, in examples and batches.
REPLACED = '_replaced'
# Number of other records that are tried in place of a bad one.
ATTEMPTS = 10
# The share of bad records is computed over at least this many examples.
FEW = 1000
# The length of endless lists; small enough for Grain, which sometimes counts in floats.
ENDLESS = 2**50
# Images and videos that are still bytes are a mistake, not texts to leave out.
PICTURES = ('image', 'video')


@dataclasses.dataclass(frozen=True, kw_only=True)
class SingleInput(base.Input):
  """Batches of transformed examples of one source.

  `workers` is the number of processes that decode and transform; 0 uses `threads`
  threads of this process instead.
  """

  source: Source
  batch_size: int
  transforms: Transforms = ()
  workers: int = 0
  threads: int = 2

  def __post_init__(self) -> None:
    least = {'batch_size': 1, 'workers': 0, 'threads': 0, 'seed': 0, 'repeats': 1}
    for name, number in least.items():
      value = getattr(self, name, number)  # some exist for training only
      if value < number:
        raise UserError(f'{name}={value} is too small: it must be at least {number}')
    object.__setattr__(self, 'source', as_source(self.source))

  @property
  @abc.abstractmethod
  def examples(self) -> grain.MapDataset:
    """The examples in the order of batches, each made on demand."""

  @property
  @abc.abstractmethod
  def in_turn(self) -> grain.MapDataset:
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
    return dataclasses.replace(self, source=self.source.planned())

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
  def examples(self) -> grain.MapDataset:
    return self.in_turn if self.bucket is None else _Grouped(self.in_turn, self)

  @functools.cached_property
  def in_turn(self) -> '_Examples':
    return _Examples(self)

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
    self._news: list[str] = []
    own = _Rows(data.examples, data.batch_size, rows)
    self._batches = own.batch(len(rows), batch_fn=stack)
    self._iterator = None

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
  def in_turn(self) -> grain.MapDataset:
    padded = _Padded(self.source, *self.order)
    return _transformed(grain.MapDataset.source(padded), self.transforms, seed=0)

  @functools.cached_property
  def examples(self) -> grain.MapDataset:
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


class _Padded:
  """Records of a source in a given order; records that only fill batches are masked."""

  def __init__(self, source: Source, places: np.ndarray, masks: np.ndarray):
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
    bucket: buckets.Bucket,
    shapes: Sequence[int],
    batch_size: int,
  ):
    super().__init__(parent)
    self._bucket, self._shapes, self._batch_size = bucket, shapes, batch_size

  def __len__(self) -> int:
    return len(self._parent)

  def __getitem__(self, index: SupportsIndex | slice) -> Any:
    if isinstance(index, slice):
      return self.slice(index)
    shape = self._bucket.shapes[self._shapes[index // self._batch_size]]
    return self._bucket.fit(self._parent[index], shape)


class _Endless(grain.MapDataset):
  """An endless list whose items are made on demand."""

  def __len__(self) -> int:
    return ENDLESS

  def __getitem__(self, index: SupportsIndex | slice) -> Any:
    return self.slice(index) if isinstance(index, slice) else self.make(index)

  def make(self, position: int) -> dict[str, Any]:
    raise NotImplementedError


class _Records(_Endless):
  """The records of a source in their order, or their replacements for `attempt` > 0."""

  def __init__(self, order: Order, attempt: int):
    super().__init__()
    self._order, self._attempt = order, attempt

  def make(self, position: int) -> dict[str, Any]:
    return self._order.source[self._order.index(position, self._attempt)]


class _Sizes(_Endless):
  """The sizes of the records of a source, in their order."""

  def __init__(self, order: Order, bucket: buckets.Bucket):
    super().__init__()
    self._order = order
    self._sizes = grouping.Sizes(grouping.sizes(order.source, bucket))

  def make(self, position: int) -> dict[str, Any]:
    return self._sizes[self._order.index(position)]


class _Mixed(_Endless):
  """Examples of several parts, interleaved by a mixture."""

  def __init__(self, parts: Sequence[grain.MapDataset], mixture: Mixture):
    super().__init__(parts)
    self._mixture = mixture

  def make(self, position: int) -> dict[str, Any]:
    part, place = self._mixture.place(position)
    return self.parents[part][place] | {'part': np.int32(part)}


class _Examples(_Endless):
  """The examples of an input; unusable examples are replaced by others."""

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
    """Returns transformed records; `made` may substitute the transforms."""
    streams = [
      _transformed(own, made(part.transforms), order.seed)
      for own, part, order in zip(records, self._parts(data), self._orders, strict=True)
    ]
    mixed = _Mixed(streams, self._mixture) if self._mixture else streams[0]
    return _transformed(mixed, made(data.transforms), data.seed)

  def sizes(self, data: TrainInput) -> grain.MapDataset:
    """Returns the size of each example, without reading it."""
    records = [_Sizes(order, data.bucket) for order in self._orders]
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
    raise UserError(f'{len(told)} records in a row could not be used; {told[-1]}')

  def _name(self, position: int, attempt: int) -> str:
    part = 0
    if self._mixture:
      part, position = self._mixture.place(position)
    order = self._orders[part]
    return f'record {order.index(position, attempt):,} of {order.source}'


class _Grouped(_Endless):
  """Examples reordered within windows, so that each batch has one shape."""

  def __init__(self, examples: _Examples, data: TrainInput):
    super().__init__(examples)
    self._batch_size, self._bucket = data.batch_size, data.bucket
    self._windows = grouping.Windows(
      examples.sizes(data), data.bucket, data.batch_size, data.seed
    )

  def layout(self, step: int) -> grouping.Batch:
    """Returns the positions of a batch's examples, their sizes and their shape."""
    return self._windows.batch(step)

  def make(self, position: int) -> dict[str, Any]:
    step, row = divmod(position, self._batch_size)
    batch = self._windows.batch(step)
    example = self._parent[int(batch.positions[row])]
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


class _Rows(grain.MapDataset):
  """The given rows of each batch, in order."""

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
