"""Transforms composed of other transforms."""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

import grain
import numpy as np

from big_vision_like.errors import UserError, listed, shape_text

Example = dict[str, Any]
Transform = grain.transforms.Map | grain.transforms.RandomMap


def applied(
  transforms: Sequence[Transform], example: Example, rng: np.random.Generator
) -> Example:
  """Applies transforms to an example, one after the other."""
  for transform in transforms:
    if isinstance(transform, grain.transforms.RandomMap):
      example = transform.random_map(example, rng)
    else:
      example = transform.map(example)
  return example


@dataclasses.dataclass(frozen=True)
class Sometimes(grain.transforms.RandomMap):
  """All of the transforms with `probability`, otherwise none."""

  transforms: Sequence[Transform]
  probability: float

  def __post_init__(self) -> None:
    if not 0 <= self.probability <= 1:
      raise UserError(f'probability={self.probability} is not from 0 to 1')

  def random_map(self, example: Example, rng: np.random.Generator) -> Example:
    if rng.random() < self.probability:
      return applied(self.transforms, example, rng)
    return example


@dataclasses.dataclass(frozen=True)
class OneOf(grain.transforms.RandomMap):
  """One of the transforms, drawn uniformly."""

  transforms: Sequence[Transform]

  def __post_init__(self) -> None:
    if not self.transforms:
      raise UserError('OneOf needs transforms to choose from')

  def random_map(self, example: Example, rng: np.random.Generator) -> Example:
    return applied([self.transforms[rng.integers(len(self.transforms))]], example, rng)


@dataclasses.dataclass(frozen=True)
class MultiCrop(grain.transforms.RandomMap):
  """Several views of an image (arXiv:2006.09882 section 3.2).

  `views` maps names of new fields to one list of transforms per view. Each list begins
  with a random crop and draws its own random numbers. The views of a field have equal
  sizes and are stacked to uint8 (views, H, W, C).
  """

  views: Mapping[str, Sequence[Sequence[Transform]]]

  def __post_init__(self) -> None:
    for name, views in self.views.items():
      if not views:
        raise UserError(f'{name!r} needs at least one view, a list of transforms')

  def random_map(self, example: Example, rng: np.random.Generator) -> Example:
    made = {}
    for name, views in self.views.items():
      images = [applied(view, example, rng)['image'] for view in views]
      shapes = {image.shape: None for image in images}
      if len(shapes) > 1:
        raise UserError(
          f'the views {name!r} have several shapes ({listed(map(shape_text, shapes))}):'
          ' crop them to one shape, or give views of another size another name.'
        )
      made[name] = np.stack(images)
    return example | made


@dataclasses.dataclass(frozen=True)
class Beside(grain.transforms.Map):
  """An additional image, stored as `name`, made by its own deterministic transforms.

  It lets a teacher that predicts in each step see the clean image, without later noise.
  As the first transform, with its own `Decode`, it adds `teacher_image`.
  """

  transforms: Sequence[Transform]
  name: str = 'teacher_image'

  def __post_init__(self) -> None:
    for transform in self.transforms:
      if isinstance(transform, grain.transforms.RandomMap):
        raise UserError(
          f'{type(transform).__name__} is random, but the extra image must be clean'
        )

  def map(self, example: Example) -> Example:
    made = example
    for transform in self.transforms:
      made = transform.map(made)
    return example | {self.name: made['image']}
