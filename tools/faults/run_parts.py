"""Parts of a training run that starts in seconds, for `tools/benchmark/kills.py`."""

import dataclasses

import flax.linen as nn
import grain
import jax
import numpy as np

from big_vision_like.data.sources.base import Example, Source, digest


@dataclasses.dataclass(frozen=True)
class Noisy(Source):
  """Small pictures of noise."""

  examples: int = 200

  def __len__(self) -> int:
    return self.examples

  def fingerprint(self) -> str:
    """Returns a digest of the number of examples."""
    return digest('Noisy', self.examples)

  def __getitem__(self, index: int) -> Example:
    if not 0 <= index < self.examples:
      raise IndexError(index)
    image = np.random.default_rng(index).integers(0, 256, (8, 8, 1), np.uint8)
    return {'image': image, 'label': np.int64(index % 10), 'id': np.int64(index)}


@dataclasses.dataclass(frozen=True)
class Shake(grain.transforms.RandomMap):
  """Random changes of pixels, which reveal a wrong position of the input."""

  def random_map(self, example: Example, rng: np.random.Generator) -> Example:
    noise = rng.integers(-20, 20, example['image'].shape)
    image = np.clip(example['image'] + noise, 0, 255).astype(np.uint8)
    return example | {'image': image}


class Mlp(nn.Module):
  """A network of a few hundred parameters, with dropout."""

  num_classes: int = 10
  hidden: int = 16

  @nn.compact
  def __call__(self, image_BHWC: jax.Array, train: bool = False) -> dict:
    x_BD = image_BHWC.reshape(len(image_BHWC), -1)
    x_BD = nn.relu(nn.Dense(self.hidden, name='hidden')(x_BD))
    x_BD = nn.Dropout(0.1, name='dropout')(x_BD, deterministic=not train)
    return {'logits': nn.Dense(self.num_classes, name='head')(x_BD)}
