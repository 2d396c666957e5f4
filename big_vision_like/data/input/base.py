"""The interfaces of inputs and of the streams of batches that they give."""

import abc
import contextlib
from collections.abc import Callable, Hashable, Iterator, Mapping
from typing import Any

import jax
import numpy as np

# Arrays by name; values may be such dicts again.
Batch = dict[str, Any]
RowsOf = Callable[[int], np.ndarray]


class Batches(Iterator[Batch], abc.ABC):
  """A stream of batches from a position that can be saved.

  `replaced` counts the records that others took the place of.
  """

  replaced: int

  @abc.abstractmethod
  def get_state(self) -> dict[str, int]:
    """Returns the position: {'step': number of batches already given}."""

  @abc.abstractmethod
  def set_state(self, state: Mapping[str, int]) -> None:
    """Goes to a position, also one saved with other workers or processes."""

  @abc.abstractmethod
  def news(self) -> list[str]:
    """Returns which records were replaced since the last call, and why."""

  @abc.abstractmethod
  def close(self) -> None:
    """Stops workers and threads; the position stays."""


class Input(abc.ABC):
  """Batches for training or evaluation, as a config describes them.

  `rows_of` gives, for a number of rows, those that this process must read: batches of
  one input may have several sizes. `batch_size` counts the rows of all processes.

  Batches may have several signatures, of which each is compiled once. A signature is
  `()` where there is one, the shape that a `bucket.Bucket` pads to, or a pair of the
  name of a part and a signature of that part.
  """

  batch_size: float

  @property
  @abc.abstractmethod
  def examples_per_epoch(self) -> int:
    """The number of examples that durations count as an epoch."""

  @property
  @abc.abstractmethod
  def parts(self) -> dict[str, Any]:
    """The inputs with one source that this one draws from; itself under ''."""

  @property
  @abc.abstractmethod
  def exact_shares(self) -> dict[str, float]:
    """The share of the steps that each of `parts` has in the long run."""

  @property
  def together(self) -> bool:
    """Tells whether every step has examples of all parts, as of a single input."""
    return all(share == 1 for share in self.exact_shares.values())

  @abc.abstractmethod
  def planned(self) -> 'Input':
    """Returns itself, with stand-ins for sources in a plan without the data."""

  @abc.abstractmethod
  def batches(self, rows_of: RowsOf = np.arange) -> Batches:
    """Returns a stream of batches with the rows that this process must read."""

  def __iter__(self) -> Batches:
    return self.batches()

  def first(self, rows_of: RowsOf = np.arange) -> Batch:
    """Returns the first batch; of an input with parts the first batch of each."""
    with contextlib.closing(self.batches(rows_of)) as batches:
      return next(batches)

  @abc.abstractmethod
  def signatures(self, steps: int) -> dict[Hashable, float]:
    """Returns the share of each signature among the first batches; reads no record."""

  @abc.abstractmethod
  def label(self, signature: Hashable) -> str:
    """Returns a signature for people: '', '768x1024', 'parity', 'coco 768x1024'."""

  @abc.abstractmethod
  def abstract(self, signature: Hashable = None) -> dict[str, Any]:
    """Returns shapes and types of a batch of all processes as `jax.ShapeDtypeStruct`.

    By default of the largest signature, and of an input with parts of all of them.
    """

  @abc.abstractmethod
  def padded_share(self, steps: int) -> float:
    """Returns the share of padding in the first batches; reads no record."""


def nested(function: Callable[[Any], Any], batch: Batch) -> Batch:
  """Returns a batch or an example with the function applied to every array."""
  return {
    name: nested(function, value) if isinstance(value, Mapping) else function(value)
    for name, value in batch.items()
  }


def leaves(batch: Batch) -> Iterator[Any]:
  """Yields every array of a batch or an example."""
  for value in batch.values():
    yield from leaves(value) if isinstance(value, Mapping) else (value,)


def with_rows(example: Batch, rows: int) -> dict[str, Any]:
  """Returns shapes and types of a batch with so many rows like an example."""
  return nested(lambda x: jax.ShapeDtypeStruct((rows, *x.shape), x.dtype), example)
