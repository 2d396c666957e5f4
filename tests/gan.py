"""A small GAN: two networks, two optimizers, and regularization in every fourth step.

It is a real task that neither the loop nor any tool knows about: that is its purpose.
"""

import dataclasses
from collections.abc import Mapping
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax

from big_vision_like import optim
from big_vision_like.evals import evaluator
from big_vision_like.evals.evaluator import Arrays, Results
from big_vision_like.ops import branches, images
from big_vision_like.tasks import task
from big_vision_like.tasks.task import Network, State


class Generator(nn.Module):
  """Noise (B, L) to images (B, 8, 8, 1) in [-1, 1]."""

  hidden: int = 64

  @nn.compact
  def __call__(self, noise_BL):
    x_BD = nn.relu(nn.Dense(self.hidden, name='hidden')(noise_BL))
    x_BD = nn.relu(nn.Dense(self.hidden, name='more')(x_BD))
    x_BD = nn.tanh(nn.Dense(64, name='pixels')(x_BD))
    return {'image': x_BD.reshape(-1, 8, 8, 1)}


class Discriminator(nn.Module):
  """Images (B, 8, 8, 1) to one logit each: real or not."""

  hidden: int = 64

  @nn.compact
  def __call__(self, image_BHWC):
    x_BD = image_BHWC.reshape(len(image_BHWC), -1)
    x_BD = nn.leaky_relu(nn.Dense(self.hidden, name='hidden')(x_BD), 0.2)
    return {'logit': nn.Dense(1, name='head')(x_BD)[:, 0]}


@dataclasses.dataclass(frozen=True, kw_only=True)
class Gan(task.Task):
  """Non-saturating GAN with lazy R1 (arXiv:1801.04406), as in arXiv:1912.04958."""

  predicts = 'images'

  generator: nn.Module
  discriminator: nn.Module
  generator_optimizer: optim.Optimizer
  discriminator_optimizer: optim.Optimizer
  ema: optim.Ema
  noise_size: int = 16
  r1: float = 0.1
  r1_every: int = 4

  def noise(self, key: jax.Array, batch: Arrays) -> jax.Array:
    return jax.random.normal(key, (len(batch['image']), self.noise_size))

  def networks(self) -> Mapping[str, Network]:
    def noise(batch):
      return (self.noise(jax.random.key(0), batch),)

    def real(batch):
      return (images.normalize(batch['image']),)

    own = images.Normalization()
    return {
      'generator': Network(self.generator, noise, lambda state: state.ema['generator']),
      'discriminator': Network(
        self.discriminator,
        real,
        lambda state: {'params': state.params['discriminator']},
        own,
      ),
    }

  def optimizers(self) -> Mapping[str, optim.Optimizer]:
    return {
      'generator': self.generator_optimizer,
      'discriminator': self.discriminator_optimizer,
    }

  @property
  def images(self) -> images.Normalization:
    return images.Normalization()

  def prepare(self, batch: Arrays, key: jax.Array, frozen: Any = None) -> Arrays:
    real = images.flip(key, images.normalize(batch['image']))
    return batch | {'image': real, 'noise': self.noise(key, batch)}

  def init(self, key: jax.Array, batch: Arrays) -> State:
    params = {
      name: network.module.init(key, *network.inputs(batch))['params']
      for name, network in self.networks().items()
    }
    opt_state = {n: o.init(params[n]) for n, o in self.optimizers().items()}
    ema = {'generator': self.ema.init({'params': params['generator']})}
    return State(jnp.zeros((), jnp.int32), params, opt_state, ema=ema)

  def train_step(
    self, state: State, batch: Arrays, key: jax.Array
  ) -> tuple[State, Arrays]:
    prepared = self.prepare(batch, key)
    real, noise, params = prepared['image'], prepared['noise'], state.params

    def judge(params: Any, image: jax.Array) -> jax.Array:
      return self.discriminator.apply({'params': params}, image)['logit']

    def generate(params: Any) -> jax.Array:
      return self.generator.apply({'params': params}, noise)['image']

    def penalty(params: Any) -> jax.Array:
      grad = jax.grad(lambda image: judge(params, image).sum())(real)
      return self.r1 * self.r1_every * jnp.square(grad).sum(axis=(1, 2, 3)).mean()

    def discriminator_loss(params: Any, fake: jax.Array) -> jax.Array:
      loss = jax.nn.softplus(-judge(params, real)) + jax.nn.softplus(
        judge(params, fake)
      )
      return loss.mean() + branches.every(
        self.r1_every, state.step, penalty, lambda _: jnp.zeros(()), params
      )

    def generator_loss(own: Any) -> jax.Array:
      return jax.nn.softplus(-judge(params['discriminator'], generate(own))).mean()

    losses, grads = {}, {}
    losses['generator'], grads['generator'] = jax.value_and_grad(generator_loss)(
      params['generator']
    )
    fake = generate(params['generator'])
    losses['discriminator'], grads['discriminator'] = jax.value_and_grad(
      discriminator_loss
    )(params['discriminator'], fake)
    after, opt_state = {}, {}
    for name, optimizer in self.optimizers().items():
      updates, opt_state[name] = optimizer.update(
        grads[name], state.opt_state[name], params[name]
      )
      after[name] = optax.apply_updates(params[name], updates)
    average = self.ema.update(
      state.ema['generator'], {'params': after['generator']}, state.step, len(real)
    )
    scalars = {f'loss_{name}': value for name, value in losses.items()}
    return state.replace(
      step=state.step + 1,
      params=after,
      opt_state=opt_state,
      ema={'generator': average},
    ), scalars | {'loss': sum(losses.values())}

  def generate(
    self, state: State, batch: Arrays, key: jax.Array, truncation: float = 1.0
  ) -> Arrays:
    """Returns images (B, 8, 8, 1) of noise that depends on the key alone."""
    noise = truncation * self.noise(key, batch)
    return self.generator.apply(state.ema['generator'], noise)


@dataclasses.dataclass(kw_only=True)
class Moments(evaluator.Evaluator):
  """Difference between generated pixels and the data in mean and deviation."""

  predict: str = 'generate'

  def reports(self) -> Mapping[str, str]:
    return {'distance': 'min', 'distinct': 'max'}

  def measure(self, outputs: Arrays, batch: Arrays) -> Arrays:
    real = images.normalize(batch['image'])
    return {'fake': outputs['image'], 'real': real}

  def run(self, predict, state, mesh=None) -> Results:
    found = self.joined(
      self.measure, predict, state, mesh, draw=lambda o, b: o, pictures=8
    )
    fake, real = (found.values[k].reshape(-1, 64) for k in ('fake', 'real'))
    moments = [np.stack([x.mean(axis=0), x.std(axis=0)]) for x in (fake, real)]
    distinct = len({row.tobytes() for row in fake}) / len(fake)
    sheet = np.stack([row['image'] for row in found.drawn])
    return Results(
      {
        'distance': float(np.abs(moments[0] - moments[1]).mean()),
        'distinct': distinct,
      },
      {'samples': (127.5 * (sheet + 1)).astype(np.uint8)},
    )
