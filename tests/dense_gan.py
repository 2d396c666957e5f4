"""A small generator and discriminator of dense layers, and a run that trains them."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import ml_collections as mlc

from big_vision_like import optim
from big_vision_like.data.input import pipeline
from big_vision_like.data.sources import tfds
from big_vision_like.data.transforms import image, labels
from big_vision_like.spec import spec
from big_vision_like.tasks import adversarial

LAYERS, WIDTH = 3, 4


class Generator(nn.Module):
  """Two latents to grey images: each layer adds a matrix product of its styles."""

  resolution: int = 4
  channels: int = 1
  num_latents: int = 2
  latent_width: int = WIDTH
  num_styles: int = LAYERS

  def setup(self):
    self.mapping = nn.Dense(WIDTH, name='mapping')
    self.layers = [
      nn.Dense(self.resolution**2, name=f'layer_{i}') for i in range(LAYERS)
    ]
    self.average = self.variable('batch_stats', 'average', jnp.zeros, (WIDTH,))

  def styles(self, z, train=False):
    w = self.mapping(z)
    if train:
      self.average.value = 0.9 * self.average.value + 0.1 * w.mean(axis=(0, 1))
    return w

  def for_layers(self, w):
    return jnp.repeat(w[:, :, None], LAYERS, axis=2)

  def synthesize(self, w, noise='constant', train=False):
    found = sum(layer(w[:, :, i].sum(axis=1)) for i, layer in enumerate(self.layers))
    if noise == 'random':
      found += 0.1 * jax.random.normal(self.make_rng('noise'), found.shape)
    return {'image': jnp.tanh(found).reshape(-1, self.resolution, self.resolution, 1)}

  def __call__(self, z, train=False, noise='constant', psi=1.0):
    w = self.styles(z, train)
    average = self.average.value[None, None]
    w = average + psi * (w - average)
    return self.synthesize(self.for_layers(w), noise, train)


class Judge(nn.Module):
  """Images to logits, by one hidden layer."""

  @nn.compact
  def __call__(self, image_BHWC, train=False):
    x_BD = image_BHWC.reshape(len(image_BHWC), -1)
    x_BD = nn.leaky_relu(nn.Dense(8, name='hidden')(x_BD), 0.2)
    return {'logit': nn.Dense(1, name='head')(x_BD)[:, 0]}


def get_config() -> mlc.ConfigDict:
  c = mlc.ConfigDict(dict(seed=0, total_steps=7, log_every=1, checkpoint_every=2))
  c.train_data = spec(
    pipeline.TrainInput,
    source=spec(tfds.Tfds, name='digits', split='train'),
    transforms=[spec(image.Decode, channels=1), spec(labels.Keep, names=['image'])],
    batch_size=16,
    workers=0,
  )
  c.task = spec(
    adversarial.Adversarial,
    generator=spec(Generator, resolution=8),
    discriminator=spec(Judge),
    generator_optimizer=spec(adversarial.lazy_adam, rate=0.01, every=2),
    discriminator_optimizer=spec(adversarial.lazy_adam, rate=0.01, every=3),
    ema=spec(optim.Ema, half_life=100, collections=['params']),
    r1=1.0,
    r1_every=3,
    path_length=1.0,
    path_every=2,
    accumulate=2,
  )
  return c
