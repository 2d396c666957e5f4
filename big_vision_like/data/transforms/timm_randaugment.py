"""RandAugment (arXiv:1909.13719) as in timm, which trained DeiT and Swin.

Images are uint8 (H, W, 3). The operations are Pillow's. Operations that move pixels
interpolate, and fill uncovered pixels with the mean colour of ImageNet.
"""

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any

import grain
import numpy as np

from big_vision_like.data.transforms import pillow, randaugment
from big_vision_like.errors import UserError, check_one_of

Example = dict[str, Any]

MEAN_COLOR = (124, 116, 104)
# Interpolation methods from which 'random' draws one for each operation.
RANDOM = ('bilinear', 'bicubic')


@dataclasses.dataclass(frozen=True)
class RandAugment(grain.transforms.RandomMap):
  """A sequence of `layers` operations from `names`, each applied with `probability`.

  The magnitude of each is drawn from a Gaussian with standard deviation `std` and
  clipped to 0 to 10. The defaults are timm's 'rand-m9-mstd0.5-inc1', arXiv:2012.12877
  table 9. `names=NAMES` omits 'inc1': colours then change most at both ends of the
  scale. `method` is nearest, bilinear, bicubic, or random.
  """

  layers: int = 2
  magnitude: float = 9.0
  std: float = 0.5
  probability: float = 0.5
  names: Sequence[str] = dataclasses.field(default_factory=lambda: INCREASING)
  method: str = 'bicubic'
  fill: Sequence[int] = MEAN_COLOR

  def __post_init__(self) -> None:
    randaugment.check_names(self.names, KNOWN)
    check_method(self.method)
    if self.layers < 0 or self.std < 0 or not 0 <= self.probability <= 1:
      raise UserError(
        f'layers={self.layers}, std={self.std} and probability={self.probability} must'
        ' not be negative, and probability must be at most 1'
      )

  def random_map(self, example: Example, rng: np.random.Generator) -> Example:
    image = randaugment.rgb(example, 'RandAugment')
    for index in rng.integers(len(self.names), size=self.layers):
      if rng.random() < self.probability:
        magnitude = noisy(self.magnitude, self.std, rng)
        image = distort(
          self.names[index], image, magnitude, rng, self.fill, self.method
        )
    return example | {'image': image}


def check_method(method: str) -> None:
  """Raises UserError unless `method` is one of Pillow's, or 'random'."""
  check_one_of((*pillow.METHODS, 'random'), method=method)


def noisy(magnitude: float, std: float, rng: np.random.Generator) -> float:
  """Adds Gaussian noise to a magnitude and clips it to 0 to 10."""
  return min(max(rng.normal(magnitude, std), 0.0), 10.0)


def distort(
  name: str,
  image: np.ndarray,
  magnitude: float,
  rng: np.random.Generator,
  fill: Sequence[int],
  method: str,
  translate: float = 0.45,
) -> np.ndarray:
  """Applies an operation by name; draws its sign and a random method from `rng`.

  `translate` is the translation at magnitude 10, as a fraction of the side.
  """
  if name in PLAIN:
    return PLAIN[name](image)
  sign = 1.0 if rng.random() < 0.5 else -1.0
  amount = argument(name, magnitude, sign, translate)
  if name in MOVING:
    if method == 'random':
      method = RANDOM[rng.integers(len(RANDOM))]
    return MOVING[name](image, amount, fill, method)
  return GRADED[name.removesuffix('Increasing').removesuffix('Original')](image, amount)


def argument(
  name: str, magnitude: float, sign: float = 1.0, translate: float = 0.45
) -> float:
  """Returns the argument of an operation; `sign` gives its direction, if any."""
  share = magnitude / 10
  match name:
    case 'Posterize':
      return int(share * 4)
    case 'PosterizeIncreasing':
      return 4 - int(share * 4)
    case 'PosterizeOriginal':
      return 4 + int(share * 4)
    case 'Solarize':
      return min(256, int(share * 256))
    case 'SolarizeIncreasing':
      return 256 - min(256, int(share * 256))
    case 'SolarizeAdd':
      return min(128, int(share * 110))
    case 'Color' | 'Contrast' | 'Brightness' | 'Sharpness':
      return share * 1.8 + 0.1
    case 'Rotate':
      return sign * (share * 30.0)
    case 'ShearX' | 'ShearY':
      return sign * (share * 0.3)
    case 'TranslateX' | 'TranslateY':
      return sign * (share * translate)
  return max(0.1, 1.0 + sign * (share * 0.9))  # an increasing factor


PLAIN: dict[str, Callable[[np.ndarray], np.ndarray]] = {
  'AutoContrast': pillow.autocontrast,
  'Equalize': randaugment.equalize,
  'Invert': randaugment.invert,
}
GRADED: dict[str, Callable[[np.ndarray, float], np.ndarray]] = {
  'Posterize': pillow.posterize,
  'Solarize': pillow.solarize,
  'SolarizeAdd': randaugment.solarize_add,
  'Color': pillow.color,
  'Contrast': pillow.contrast,
  'Brightness': randaugment.brightness,
  'Sharpness': pillow.sharpness,
}
MOVING: dict[str, Callable[..., np.ndarray]] = {
  'Rotate': pillow.rotate,
  'ShearX': pillow.shear_x,
  'ShearY': pillow.shear_y,
  'TranslateX': pillow.translate_x,
  'TranslateY': pillow.translate_y,
}
NAMES = (*PLAIN, *GRADED, *MOVING)
# Operations whose effect increases with the magnitude.
INCREASING = tuple(
  name if name in (*PLAIN, *MOVING, 'SolarizeAdd') else f'{name}Increasing'
  for name in NAMES
)
KNOWN = tuple(dict.fromkeys((*NAMES, *INCREASING, 'PosterizeOriginal')))
