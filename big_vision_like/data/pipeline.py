"""From a source to batches, with Grain.

The training stream is an endless list of examples that depends on the seed alone: the
source shuffled anew each epoch, each transform with randomness of its own for each
position. Step s takes examples s*B to (s+1)*B, of which every process reads its own
rows. So the position is one number, whatever the number of workers or processes.
"""

import contextlib
import dataclasses
from collections.abc import Iterator, Sequence
from typing import Any, SupportsIndex

import grain
import numpy as np
from absl import flags

from big_vision_like.errors import UserError

Batch = dict[str, np.ndarray]
Transforms = Sequence[grain.transforms.Map | grain.transforms.RandomMap]


@dataclasses.dataclass(frozen=True, kw_only=True)
class TrainInput:
  """Shuffled batches without end; `batch_size` counts all processes.

  `workers` are processes that decode and transform; 0 does it on `threads` threads.
  """

  source: Any
  batch_size: int
  transforms: Transforms = ()
  seed: int = 0
  workers: int = 0
  threads: int = 2

  @property
  def examples_per_epoch(self) -> int:
    """How many examples the source holds."""
    return len(self.source)

  def example(self, record: dict[str, Any] | None = None) -> dict[str, np.ndarray]:
    """An example of a batch, of this record or the first: what tells all shapes."""
    examples = grain.MapDataset.source([record or self.source[0]])
    rows = _transformed(examples, self.transforms, self.seed)
    return {name: values[0] for name, values in _stacked(rows, 1)[0].items()}

  def __iter__(self) -> 'TrainBatches':
    return self.batches(np.arange(self.batch_size))

  def batches(self, rows: np.ndarray) -> 'TrainBatches':
    """These rows of each batch: all, or those that one process must read."""
    return TrainBatches(self, rows)


class TrainBatches(Iterator[Batch]):
  """Some rows of each batch, from a position that can be saved."""

  def __init__(self, data: TrainInput, rows: np.ndarray):
    self._data = data
    self._step = 0
    if len(data.source) == 0:
      raise UserError(f'{data.source} holds no examples.')
    examples = grain.MapDataset.source(data.source).shuffle(seed=data.seed).repeat(None)
    examples = _transformed(examples, data.transforms, data.seed)
    self._batches = _stacked(_Rows(examples, data.batch_size, rows), len(rows))
    self._iterator = None

  def __next__(self) -> Batch:
    if self._iterator is None:
      self._iterator = _started(
        self._batches[self._step :], self._data.workers, self._data.threads
      )
    batch = next(self._iterator)
    self._step += 1
    return batch

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

  def epoch(self, rows: np.ndarray | None = None) -> Iterator[Batch]:
    """Batches with `mask` (bool, False where a row only fills the last batch).

    `rows` are those of each batch that are wanted, as a process reads only its own.
    """
    if len(self.source) == 0:
      raise UserError(f'{self.source} holds no examples.')
    rows = np.arange(self.batch_size) if rows is None else rows
    padded = _Padded(self.source, self.batch_size)
    examples = _transformed(grain.MapDataset.source(padded), self.transforms, seed=0)
    batches = _stacked(_Rows(examples, self.batch_size, rows), len(rows))
    with contextlib.closing(_started(batches, self.workers, self.threads)) as stream:
      yield from stream


class _Padded:
  """A source whose length is a multiple of the batch size."""

  def __init__(self, source: Any, batch_size: int):
    self._source = source
    self._length = -(-len(source) // batch_size) * batch_size

  def __len__(self) -> int:
    return self._length

  def __getitem__(self, index: int) -> dict[str, Any]:
    last = len(self._source) - 1
    return self._source[min(index, last)] | {'mask': np.bool_(index <= last)}


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


def _stacked(rows: grain.MapDataset, size: int) -> grain.MapDataset:
  def stack(examples: Sequence[dict[str, Any]]) -> Batch:
    batch = {k: np.stack([e[k] for e in examples]) for k in examples[0]}
    return {k: _narrow(k, v) if v.dtype == np.int64 else v for k, v in batch.items()}

  return rows.batch(size, batch_fn=stack)


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
    stream = stream.mp_prefetch(grain.MultiprocessingOptions(num_workers=workers))
  return iter(stream)
