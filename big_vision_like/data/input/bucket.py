"""Batches by shape: the interface between inputs and transforms that pad.

Examples of varying size (images, texts, clips, graphs) are padded to one of a few
shapes, and a batch holds examples of one shape. A `Bucket` is the transform that pads.
It says how large a record is, which shape holds it, and puts an example into a shape.
Sizes and shapes are tuples of whole numbers: height and width, or numbers of tokens,
frames or nodes.

Axes: B examples, K numbers of a size.
"""

import abc
import math
from collections.abc import Sequence
from typing import Any

import grain
import numpy as np

from big_vision_like.data.sources.base import Example, Source

Size = tuple[int, ...]


class Resizing(abc.ABC):
  """A transform that changes sizes in a way that is known before records are read."""

  @abc.abstractmethod
  def size_after(self, size: Size, rng: np.random.Generator | None) -> Size:
    """Returns the size of an example after the transform.

    Draws from `rng` what the transform itself will draw.
    """


class Bucket(grain.transforms.Map, abc.ABC):
  """The last transform of examples of varying size: pads each to one of few shapes.

  `map` pads an example to the smallest shape that holds it. `noun` names what is
  measured, and `resizers` the transforms that may change sizes, for messages.
  """

  noun = 'example'
  resizers = 'transforms that are `bucket.Resizing`'
  sides = ()  # arguments that are sides of pictures

  @property
  @abc.abstractmethod
  def shapes(self) -> Sequence[Size]:
    """The shapes that examples are padded to."""

  @property
  def measured_by(self) -> Any:
    """Returns plain data on which `measure` depends, besides the record."""
    return type(self).__qualname__

  @abc.abstractmethod
  def measure(self, record: Example) -> Size:
    """Returns the size of a record before any transform.

    Raises ValueError where it cannot be measured.
    """

  def known(self, source: Source) -> np.ndarray | None:
    """Returns sizes of all records, int32 (N, K), where the source knows them."""
    del source
    return None

  @abc.abstractmethod
  def size(self, example: Example) -> Size:
    """Returns the size of a padded example without its padding."""

  @abc.abstractmethod
  def choose(self, size: Size) -> int:
    """Returns the index of the smallest shape that holds a size."""

  @abc.abstractmethod
  def fit(self, example: Example, shape: Size) -> Example:
    """Returns a padded example in another shape; shrinks what the shape cannot hold."""

  def content(self, sizes_BK: np.ndarray, shape: Size) -> np.ndarray:
    """Returns how many elements of examples in a shape are no padding, (B,)."""
    return np.minimum(sizes_BK, shape).prod(axis=1)

  def elements(self, shape: Size) -> int:
    """Returns how many elements an example in a shape has."""
    return math.prod(shape)

  @property
  def largest(self) -> Size:
    """The shape with most elements."""
    return tuple(max(self.shapes, key=self.elements))


def of(transforms: Sequence[Any]) -> Bucket | None:
  """Returns the transform that gives examples several shapes; None for one shape."""
  found = [t for t in transforms if isinstance(t, Bucket) and len(t.shapes) > 1]
  return found[-1] if found else None


def size_after(transform: Any, size: Size, rng: np.random.Generator | None) -> Size:
  """Returns the size of an example after any transform: unchanged by most."""
  return transform.size_after(size, rng) if isinstance(transform, Resizing) else size


def smallest(shapes: Sequence[Size], size: Size) -> int | None:
  """Returns the index of the shape with fewest elements that holds a size."""
  fitting = [
    (math.prod(shape), i)
    for i, shape in enumerate(shapes)
    if all(side >= own for side, own in zip(shape, size, strict=True))
  ]
  return min(fitting)[1] if fitting else None
