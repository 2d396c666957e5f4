"""Transforms of colour and sharpness, with Pillow's arithmetic as in torchvision.

Images are uint8 (H, W, 3).
"""

import dataclasses
from typing import Any

import cv2
import grain
import numpy as np

from big_vision_like.data.transforms import pillow, randaugment
from big_vision_like.errors import UserError

Example = dict[str, Any]
# Eigenvalues and eigenvectors (columns) of the covariance of ImageNet's RGB in [0, 1].
EIGENVALUES = np.array([0.2175, 0.0188, 0.0045])
EIGENVECTORS = np.array(
  [
    [-0.5675, 0.7192, 0.4009],
    [-0.5808, -0.0045, -0.8140],
    [-0.5836, -0.6948, 0.4203],
  ]
)


@dataclasses.dataclass(frozen=True)
class ColorJitter(grain.transforms.RandomMap):
  """Random changes of brightness, contrast, saturation and hue, in a random order.

  The first three are multiplied by a factor from 1 - value (at least 0) to 1 + value.
  Hue is shifted by -value to +value (at most 0.5) of the colour circle. A value of 0
  leaves a property unchanged.
  """

  brightness: float = 0.0
  contrast: float = 0.0
  saturation: float = 0.0
  hue: float = 0.0

  def __post_init__(self) -> None:
    if min(self.brightness, self.contrast, self.saturation, self.hue) < 0:
      raise UserError(f'{self}: none of these may be negative')
    if self.hue > 0.5:
      raise UserError(f'hue={self.hue} is more than 0.5, half of the circle')

  def random_map(self, example: Example, rng: np.random.Generator) -> Example:
    image = randaugment.rgb(example, 'ColorJitter')
    factors = (
      (randaugment.brightness, self.brightness),
      (pillow.contrast, self.contrast),
      (pillow.color, self.saturation),
    )
    changes = [
      (operation, max(0.0, 1.0 - value), 1.0 + value)
      for operation, value in factors
      if value
    ]
    if self.hue:
      changes.append((pillow.hue, -self.hue, self.hue))
    for i in rng.permutation(len(changes)):
      operation, low, high = changes[i]
      image = operation(image, rng.uniform(low, high))
    return example | {'image': image}


@dataclasses.dataclass(frozen=True)
class Grayscale(grain.transforms.Map):
  """Conversion to grey with three channels."""

  def map(self, example: Example) -> Example:
    return example | {'image': pillow.grayscale(randaugment.rgb(example, 'Grayscale'))}


@dataclasses.dataclass(frozen=True)
class Solarize(grain.transforms.Map):
  """Inversion of values at or above `threshold`."""

  threshold: int = 128

  def map(self, example: Example) -> Example:
    return example | {'image': pillow.solarize(example['image'], self.threshold)}


@dataclasses.dataclass(frozen=True)
class GaussianBlur(grain.transforms.RandomMap):
  """Gaussian blur; its standard deviation is uniform in `radius`, in pixels."""

  radius: tuple[float, float] = (0.1, 2.0)

  def __post_init__(self) -> None:
    if not 0 <= self.radius[0] <= self.radius[1]:
      raise UserError(f'radius={self.radius} is not a range of pixels, low to high')

  def random_map(self, example: Example, rng: np.random.Generator) -> Example:
    image = randaugment.rgb(example, 'GaussianBlur')
    return example | {'image': pillow.gaussian_blur(image, rng.uniform(*self.radius))}


@dataclasses.dataclass(frozen=True)
class Lighting(grain.transforms.RandomMap):
  """Addition of one random colour to all pixels, along ImageNet's principal colours.

  AlexNet was trained this way; the constants are from fb.resnet.torch and pycls. Each
  principal colour is weighted by its eigenvalue times a normal sample with standard
  deviation `std`. The result is rounded and clipped.
  """

  std: float = 0.1

  def __post_init__(self) -> None:
    if self.std < 0:
      raise UserError(f'std={self.std} of the lighting is negative')

  def random_map(self, example: Example, rng: np.random.Generator) -> Example:
    image = randaugment.rgb(example, 'Lighting')
    color = 255 * EIGENVECTORS @ (EIGENVALUES * rng.normal(0.0, self.std, 3))
    values = np.round(np.arange(256)[:, None] + color)
    table = np.clip(values, 0, 255).astype(np.uint8)
    return example | {'image': cv2.LUT(image, table[None])}
