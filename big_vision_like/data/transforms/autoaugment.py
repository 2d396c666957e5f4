"""AutoAugment (arXiv:1805.09501): augmentation policies found by search.

A policy is a table of sub-policies; one of them is drawn for each image. A sub-policy
is a sequence of two operations, each with its probability and its magnitude.
"""

import dataclasses
from collections.abc import Sequence
from typing import Any

import grain
import numpy as np

from big_vision_like.data.transforms import randaugment, timm_randaugment
from big_vision_like.errors import UserError, check_one_of

Example = dict[str, Any]
Policy = tuple[tuple[tuple[str, float, float], ...], ...]

# The paper's policy for ImageNet (appendix, table 9).
IMAGENET: Policy = (
  (('PosterizeOriginal', 0.4, 8), ('Rotate', 0.6, 9)),
  (('Solarize', 0.6, 5), ('AutoContrast', 0.6, 5)),
  (('Equalize', 0.8, 8), ('Equalize', 0.6, 3)),
  (('PosterizeOriginal', 0.6, 7), ('PosterizeOriginal', 0.6, 6)),
  (('Equalize', 0.4, 7), ('Solarize', 0.2, 4)),
  (('Equalize', 0.4, 4), ('Rotate', 0.8, 8)),
  (('Solarize', 0.6, 3), ('Equalize', 0.6, 7)),
  (('PosterizeOriginal', 0.8, 5), ('Equalize', 1.0, 2)),
  (('Rotate', 0.2, 3), ('Solarize', 0.6, 8)),
  (('Equalize', 0.6, 8), ('PosterizeOriginal', 0.4, 6)),
  (('Rotate', 0.8, 8), ('Color', 0.4, 0)),
  (('Rotate', 0.4, 9), ('Equalize', 0.6, 2)),
  (('Equalize', 0.0, 7), ('Equalize', 0.8, 8)),
  (('Invert', 0.6, 4), ('Equalize', 1.0, 8)),
  (('Color', 0.6, 4), ('Contrast', 1.0, 8)),
  (('Rotate', 0.8, 8), ('Color', 1.0, 2)),
  (('Color', 0.8, 8), ('Solarize', 0.8, 7)),
  (('Sharpness', 0.4, 7), ('Invert', 0.6, 8)),
  (('ShearX', 0.6, 5), ('Equalize', 1.0, 9)),
  (('Color', 0.4, 0), ('Equalize', 0.6, 3)),
  (('Equalize', 0.4, 7), ('Solarize', 0.2, 4)),
  (('Solarize', 0.6, 5), ('AutoContrast', 0.6, 5)),
  (('Invert', 0.6, 4), ('Equalize', 1.0, 8)),
  (('Color', 0.6, 4), ('Contrast', 1.0, 8)),
  (('Equalize', 0.8, 8), ('Equalize', 0.6, 3)),
)
# The policy for ImageNet in EfficientNet's code.
V0: Policy = (
  (('Equalize', 0.8, 1), ('ShearY', 0.8, 4)),
  (('Color', 0.4, 9), ('Equalize', 0.6, 3)),
  (('Color', 0.4, 1), ('Rotate', 0.6, 8)),
  (('Solarize', 0.8, 3), ('Equalize', 0.4, 7)),
  (('Solarize', 0.4, 2), ('Solarize', 0.6, 2)),
  (('Color', 0.2, 0), ('Equalize', 0.8, 8)),
  (('Equalize', 0.4, 8), ('SolarizeAdd', 0.8, 3)),
  (('ShearX', 0.2, 9), ('Rotate', 0.6, 8)),
  (('Color', 0.6, 1), ('Equalize', 1.0, 2)),
  (('Invert', 0.4, 9), ('Rotate', 0.6, 0)),
  (('Equalize', 1.0, 9), ('ShearY', 0.6, 3)),
  (('Color', 0.4, 7), ('Equalize', 0.6, 0)),
  (('Posterize', 0.4, 6), ('AutoContrast', 0.4, 7)),
  (('Solarize', 0.6, 8), ('Color', 0.6, 9)),
  (('Solarize', 0.2, 4), ('Rotate', 0.8, 9)),
  (('Rotate', 1.0, 7), ('TranslateY', 0.8, 9)),
  (('ShearX', 0.0, 0), ('Solarize', 0.8, 4)),
  (('ShearY', 0.8, 0), ('Color', 0.6, 4)),
  (('Color', 1.0, 0), ('Rotate', 0.6, 2)),
  (('Equalize', 0.8, 4), ('Equalize', 0.0, 8)),
  (('Equalize', 1.0, 4), ('AutoContrast', 0.6, 2)),
  (('ShearY', 0.4, 7), ('SolarizeAdd', 0.6, 7)),
  (('Posterize', 0.8, 2), ('Solarize', 0.6, 10)),
  (('Solarize', 0.6, 8), ('Equalize', 0.6, 1)),
  (('Color', 0.8, 6), ('Rotate', 0.4, 5)),
)
# The paper's policy for CIFAR-10, found on 4,000 images (appendix, table 7).
CIFAR10: Policy = (
  (('Invert', 0.1, 7), ('Contrast', 0.2, 6)),
  (('Rotate', 0.7, 2), ('TranslateX', 0.3, 9)),
  (('Sharpness', 0.8, 1), ('Sharpness', 0.9, 3)),
  (('ShearY', 0.5, 8), ('TranslateY', 0.7, 9)),
  (('AutoContrast', 0.5, 8), ('Equalize', 0.9, 2)),
  (('ShearY', 0.2, 7), ('PosterizeIncreasing', 0.3, 7)),
  (('Color', 0.4, 3), ('Brightness', 0.6, 7)),
  (('Sharpness', 0.3, 9), ('Brightness', 0.7, 9)),
  (('Equalize', 0.6, 5), ('Equalize', 0.5, 1)),
  (('Contrast', 0.6, 7), ('Sharpness', 0.6, 5)),
  (('Color', 0.7, 7), ('TranslateX', 0.5, 8)),
  (('Equalize', 0.3, 7), ('AutoContrast', 0.4, 8)),
  (('TranslateY', 0.4, 3), ('Sharpness', 0.2, 6)),
  (('Brightness', 0.9, 6), ('Color', 0.2, 8)),
  (('SolarizeIncreasing', 0.5, 2), ('Invert', 0.0, 3)),
  (('Equalize', 0.2, 0), ('AutoContrast', 0.6, 0)),
  (('Equalize', 0.2, 8), ('Equalize', 0.6, 4)),
  (('Color', 0.9, 9), ('Equalize', 0.6, 6)),
  (('AutoContrast', 0.8, 4), ('SolarizeIncreasing', 0.2, 8)),
  (('Brightness', 0.1, 3), ('Color', 0.7, 0)),
  (('SolarizeIncreasing', 0.4, 5), ('AutoContrast', 0.9, 3)),
  (('TranslateY', 0.9, 9), ('TranslateY', 0.7, 9)),
  (('AutoContrast', 0.9, 2), ('SolarizeIncreasing', 0.8, 3)),
  (('Equalize', 0.8, 8), ('Invert', 0.1, 3)),
  (('TranslateY', 0.7, 9), ('AutoContrast', 0.9, 1)),
)
POLICIES = {'imagenet': IMAGENET, 'v0': V0, 'cifar10': CIFAR10}


@dataclasses.dataclass(frozen=True)
class AutoAugment(grain.transforms.RandomMap):
  """AutoAugment with Pillow's operations, as in timm.

  A sub-policy of `policy` is drawn for each image. `std`, `method` and `fill` are as in
  `timm_randaugment.RandAugment`. `translate` is the translation at magnitude 10, as a
  fraction of the side. The authors trained on CIFAR-10 with `policy='cifar10',
  method='nearest', translate=10 / 32, fill=(125, 123, 114)`.
  """

  policy: str = 'imagenet'
  std: float = 0.0
  method: str = 'bicubic'
  fill: Sequence[int] = timm_randaugment.MEAN_COLOR
  translate: float = 0.45

  def __post_init__(self) -> None:
    timm_randaugment.check_method(self.method)
    check_one_of(POLICIES, policy=self.policy)
    if self.std < 0:
      raise UserError(f'std={self.std} must not be negative')

  def random_map(self, example: Example, rng: np.random.Generator) -> Example:
    image = randaugment.rgb(example, 'AutoAugment')
    for name, magnitude in drawn(POLICIES[self.policy], rng):
      magnitude = timm_randaugment.noisy(magnitude, self.std, rng)
      image = timm_randaugment.distort(
        name, image, magnitude, rng, self.fill, self.method, self.translate
      )
    return example | {'image': image}


@dataclasses.dataclass(frozen=True)
class EfficientNetAutoAugment(grain.transforms.RandomMap):
  """AutoAugment with policy V0 and TensorFlow's operations, as in EfficientNet."""

  def random_map(self, example: Example, rng: np.random.Generator) -> Example:
    image = randaugment.rgb(example, 'EfficientNetAutoAugment')
    at_ten = randaugment.at_ten_with(translate=250.0, cutout=100)
    for name, magnitude in drawn(V0, rng):
      image = randaugment.distort(name, image, magnitude, rng, at_ten)
    return example | {'image': image}


def drawn(policy: Policy, rng: np.random.Generator) -> list[tuple[str, float]]:
  """Draws a sub-policy; returns its operations to apply, with their magnitudes."""
  chosen = policy[rng.integers(len(policy))]
  return [(name, level) for name, share, level in chosen if rng.random() < share]
