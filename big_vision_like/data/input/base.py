"""Interfaces of inputs and of the streams of batches that they produce."""

import abc
import contextlib
from collections.abc import Callable, Hashable, Iterator, Mapping
from typing import Any

import jax
import numpy as np

# Arrays by name; values may be nested dicts of arrays.
Batch = dict[str, Any]
RowsOf = Callable[[int], np.ndarray]


class Batches(Iterator[Batch], abc.ABC):
  """A stream of batches whose position can be saved and restored.

  `replaced` is the number of records that were replaced by others.
  """

  replaced: int

  @property
  @abc.abstractmethod
  def cpu_seconds(self) -> float:
    """CPU seconds that this process's batches have taken so far, with workers."""

  @abc.abstractmethod
  def get_state(self) -> dict[str, int]:
    """Returns the position: {'step': number of batches already returned}."""

  @abc.abstractmethod
  def set_state(self, state: Mapping[str, int]) -> None:
    """Restores a position, for any number of workers and processes."""

  @abc.abstractmethod
  def news(self) -> list[str]:
    """Returns messages that name the records replaced since the last call, and why."""

  @abc.abstractmethod
  def close(self) -> None:
    """Stops workers and threads and keeps the position."""


class Input(abc.ABC):
  """Batches for training or evaluation, as a config describes them.

  `rows_of` is a function from the number of rows in a batch to the indices of the rows
  that this process must read; batches of one input may have several sizes. `batch_size`
  counts the rows of all processes.

  Batches may have several signatures; each is compiled once. A signature is `()` if
  there is only one, the shape that a `bucket.Bucket` pads to, or a pair of the name of
  a part and a signature of that part.
  """

  batch_size: float

  @property
  @abc.abstractmethod
  def examples_per_epoch(self) -> int:
    """The number of examples in an epoch, for durations given in epochs."""

  @property
  @abc.abstractmethod
  def parts(self) -> dict[str, Any]:
    """The single-source inputs that this one draws from; itself under ''."""

  @property
  @abc.abstractmethod
  def exact_shares(self) -> dict[str, float]:
    """The share of the steps in which each of `parts` appears, in the long run."""

  @property
  def together(self) -> bool:
    """Whether every step has examples of all parts, as with a single input."""
    return all(share == 1 for share in self.exact_shares.values())

  @abc.abstractmethod
  def planned(self) -> 'Input':
    """Returns this input with stand-ins for sources whose data are not available."""

  @abc.abstractmethod
  def batches(self, rows_of: RowsOf = np.arange) -> Batches:
    """Returns a stream of batches with the rows that this process must read."""

  def __iter__(self) -> Batches:
    return self.batches()

  def first(self, rows_of: RowsOf = np.arange) -> Batch:
    """Returns the first batch; for an input with parts, the first batch of each."""
    with contextlib.closing(self.batches(rows_of)) as batches:
      return next(batches)

  @abc.abstractmethod
  def signatures(self, steps: int) -> dict[Hashable, float]:
    """Returns each signature's share of the first `steps` batches; reads no record."""

  @abc.abstractmethod
  def label(self, signature: Hashable) -> str:
    """Formats a signature for display: '', '768x1024', 'parity', 'coco 768x1024'."""

  @abc.abstractmethod
  def abstract(self, signature: Hashable = None) -> dict[str, Any]:
    """Returns shapes and dtypes of a global batch as `jax.ShapeDtypeStruct`.

    A global batch has the rows of all processes. The default is the batch of the
    largest signature. For an input with parts, the default has a batch of each part.
    """

  @abc.abstractmethod
  def padded_share(self, steps: int) -> float:
    """Returns the share of padding in the first `steps` batches; reads no record."""


def nested(function: Callable[[Any], Any], batch: Batch) -> Batch:
  """Applies a function to every array of a batch or an example."""
  return {
    name: nested(function, value) if isinstance(value, Mapping) else function(value)
    for name, value in batch.items()
  }


def leaves(batch: Batch) -> Iterator[Any]:
  """Yields every array of a batch or an example."""
  for value in batch.values():
    yield from leaves(value) if isinstance(value, Mapping) else (value,)


def with_rows(example: Batch, rows: int) -> dict[str, Any]:
  """Returns shapes and dtypes of a batch of `rows` examples shaped like `example`."""
  return nested(lambda x: jax.ShapeDtypeStruct((rows, *x.shape), x.dtype), example)
