"""Batches by shape: the interface between inputs and transforms that pad.

Examples of varying size (images, texts, clips, graphs) are padded to one of a few
shapes, and all examples of a batch have the same shape. A `Bucket` is the transform
that pads. It measures records, chooses a shape for each, and pads examples to it.
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
  """A transform whose effect on sizes is known before records are read."""

  @abc.abstractmethod
  def size_after(self, size: Size, rng: np.random.Generator | None) -> Size:
    """Returns the size of an example after the transform.

    Draws the same random numbers from `rng` as the transform itself.
    """


class Bucket(grain.transforms.Map, abc.ABC):
  """The last transform for examples of varying size: pads each to one of a few shapes.

  `map` pads an example to the smallest shape that holds it. For messages, `noun` names
  the objects that are measured, and `resizers` the transforms that may change sizes.
  """

  noun = 'example'
  resizers = 'transforms that are `bucket.Resizing`'
  sides = ()  # names of arguments that are side lengths of images

  @property
  @abc.abstractmethod
  def shapes(self) -> Sequence[Size]:
    """The shapes that examples are padded to."""

  @property
  def measured_by(self) -> Any:
    """Plain data that `measure` depends on in addition to the record."""
    return type(self).__qualname__

  @abc.abstractmethod
  def measure(self, record: Example) -> Size:
    """Returns the size of a record before any transform.

    Raises ValueError if the record cannot be measured.
    """

  def known(self, source: Source) -> np.ndarray | None:
    """Returns sizes of all records, int32 (N, K), or None if the source has none."""
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
    """Returns a padded example in another shape; shrinks it if it does not fit."""

  def content(self, sizes_BK: np.ndarray, shape: Size) -> np.ndarray:
    """Returns the number of elements of each example that are not padding, (B,)."""
    return np.minimum(sizes_BK, shape).prod(axis=1)

  def elements(self, shape: Size) -> int:
    """Returns the number of elements of an example in a shape, padding included."""
    return math.prod(shape)

  @property
  def largest(self) -> Size:
    """The shape with the most elements."""
    return tuple(max(self.shapes, key=self.elements))


def of(transforms: Sequence[Any]) -> Bucket | None:
  """Returns the transform that pads to several shapes; None if there is only one."""
  found = [t for t in transforms if isinstance(t, Bucket) and len(t.shapes) > 1]
  return found[-1] if found else None


def size_after(transform: Any, size: Size, rng: np.random.Generator | None) -> Size:
  """Returns the size of an example after any transform; most leave it unchanged."""
  return transform.size_after(size, rng) if isinstance(transform, Resizing) else size


def smallest(shapes: Sequence[Size], size: Size) -> int | None:
  """Returns the index of the shape with the fewest elements that holds a size."""
  fitting = [
    (math.prod(shape), i)
    for i, shape in enumerate(shapes)
    if all(side >= own for side, own in zip(shape, size, strict=True))
  ]
  return min(fitting)[1] if fitting else None
