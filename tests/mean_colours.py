"""A generator that needs no training, and a network that compares mean colours.

Axes: B batch, H W image, C channels, D features.
"""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np

from big_vision_like.data.input import pipeline
from big_vision_like.data.sources import base
from big_vision_like.evals import features, generation


@dataclasses.dataclass(frozen=True, eq=False)
class MeanColours(features.FeatureNetwork):
  """Mean colours of the four corners, times the variables; three classes by colour."""

  factor: float = 1.0

  @property
  def variables(self):
    return np.float32(self.factor)

  def outputs(self, variables, image_BHWC):
    x_BHWC = image_BHWC.astype(jnp.float32) / 255
    h, w = (side // 2 for side in x_BHWC.shape[1:3])
    corners = [
      x_BHWC[:, i : i + h, j : j + w].mean((1, 2)) for i in (0, h) for j in (0, w)
    ]
    features_BD = variables * jnp.concatenate(corners, axis=-1)
    return {'features': features_BD, 'logits': 50 * x_BHWC.mean((1, 2))}

  def fingerprint(self):
    return base.digest('MeanColours', self.factor)


def generate(state, batch, key):
  """Returns noise around the colour `state`, of the size of the batch's images."""
  noise_BHWC = jax.random.normal(key, batch['image'].shape)
  return {'image': jnp.tanh(state[None, None, None] + 0.5 * noise_BHWC)}


def real(count=21, size=(8, 8), seed=0):
  images = np.random.default_rng(seed).integers(0, 256, (count, *size, 3), np.uint8)
  return [{'image': image, 'id': np.int32(i)} for i, image in enumerate(images)]


STATE = jnp.array([0.2, 0.0, -0.3])
REAL = real()


def made(kind=generation.Fid, source=REAL, batch_size=8, **options):
  data = pipeline.EvalInput(source=source, batch_size=batch_size)
  options = {'network': MeanColours(), 'samples': 30, 'pictures': 5} | options
  return kind(data=data, **options)
