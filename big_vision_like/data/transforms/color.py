"""Changes of colour and focus, with Pillow's arithmetic as torchvision calls it.

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
# Of the covariance of RGB in [0, 1] over ImageNet; eigenvectors are columns.
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
  """Brightness, contrast, saturation and hue, one after the other in a random order.

  Each of the first three is changed by a factor from 1 - value (at least 0) to
  1 + value, hues by -value to +value (at most 0.5) of the circle; 0 leaves them.
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
  """Without colours; still three channels."""

  def map(self, example: Example) -> Example:
    return example | {'image': pillow.grayscale(randaugment.rgb(example, 'Grayscale'))}


@dataclasses.dataclass(frozen=True)
class Solarize(grain.transforms.Map):
  """Values from the threshold on are inverted."""

  threshold: int = 128

  def map(self, example: Example) -> Example:
    return example | {'image': pillow.solarize(example['image'], self.threshold)}


@dataclasses.dataclass(frozen=True)
class GaussianBlur(grain.transforms.RandomMap):
  """Out of focus, by a deviation drawn uniformly from `radius`, in pixels."""

  radius: tuple[float, float] = (0.1, 2.0)

  def __post_init__(self) -> None:
    if not 0 <= self.radius[0] <= self.radius[1]:
      raise UserError(f'radius={self.radius} is not a range of pixels, low to high')

  def random_map(self, example: Example, rng: np.random.Generator) -> Example:
    image = randaugment.rgb(example, 'GaussianBlur')
    return example | {'image': pillow.gaussian_blur(image, rng.uniform(*self.radius))}


@dataclasses.dataclass(frozen=True)
class Lighting(grain.transforms.RandomMap):
  """Adds one random colour to all pixels, along the principal colours of ImageNet.

  As AlexNet was trained, with the numbers of fb.resnet.torch and pycls: each principal
  colour counts its eigenvalue times a normal draw of deviation `std`. The result is
  rounded and clipped.
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
