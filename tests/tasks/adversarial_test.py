"""Tests of adversarial training, with networks of a few dense layers."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from big_vision_like import optim
from big_vision_like.cost import flops
from big_vision_like.errors import UserError
from big_vision_like.models import discriminator
from big_vision_like.tasks import adversarial

SIDE, LAYERS, WIDTH = 4, 3, 4


class Generator(nn.Module):
  """Two latents to images of 4x4: each layer adds a matrix product of its styles."""

  resolution: int = SIDE
  channels: int = 1
  num_latents: int = 2
  latent_width: int = WIDTH
  num_styles: int = LAYERS

  def setup(self):
    self.mapping = nn.Dense(WIDTH, name='mapping')
    self.layers = [nn.Dense(SIDE * SIDE, name=f'layer_{i}') for i in range(LAYERS)]
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
    return {'image': jnp.tanh(found).reshape(-1, SIDE, SIDE, 1)}

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


def descent(rate):
  return optim.Optimizer(optax.identity(), rate)


def make(**options):
  return adversarial.Adversarial(
    **{
      'generator': Generator(),
      'discriminator': Judge(),
      'generator_optimizer': descent(0.01),
      'discriminator_optimizer': descent(0.01),
      'ema': optim.Ema(half_life=16, collections=('params',)),
      'r1': 0.0,
      **options,
    }
  )


@pytest.fixture(scope='module')
def batch():
  rng = np.random.default_rng(0)
  return dict(image=rng.integers(0, 256, (8, SIDE, SIDE, 1), dtype=np.uint8))


def stepped(task, batch, steps=1, state=None):
  state = task.init(jax.random.key(0), batch) if state is None else state
  step = jax.jit(task.train_step)
  for i in range(steps):
    state, scalars = step(state, batch, jax.random.key(1 + i))
  return state, scalars


def distance(one, other):
  return optax.tree.norm(jax.tree.map(lambda a, b: a - b, one, other))


def test_losses_are_those_of_the_paper():
  real, fake = jnp.array([2.0, -1.0]), jnp.array([0.5, -3.0])
  want = -np.log(1 / (1 + np.exp(-fake)))
  np.testing.assert_allclose(adversarial.generator_loss(fake), want, rtol=1e-5)
  want = -np.log(1 / (1 + np.exp(-real))) - np.log(1 - 1 / (1 + np.exp(-fake)))
  np.testing.assert_allclose(
    adversarial.discriminator_loss(real, fake), want, rtol=1e-5
  )
  # The gradient of a linear judge is its kernel.
  image = jnp.ones((3, 2, 2, 1))
  kernel = jnp.arange(4.0).reshape(2, 2, 1)
  square = adversarial.gradient_square(
    lambda x: (x * kernel[None]).sum((1, 2, 3)), image
  )
  np.testing.assert_allclose(square, [14.0] * 3)


def test_a_penalty_counts_for_all_steps_that_it_stands_for(batch):
  """The change by R1 at one step in four is four times the change at every step."""
  start = stepped(make(), batch)[0].params['discriminator']
  changes = {}
  for every in (1, 4):
    state, _ = stepped(make(r1=0.1, r1_every=every), batch)
    after = state.params['discriminator']
    changes[every] = jax.tree.map(lambda a, b: a - b, after, start)
  assert optax.tree.norm(changes[1]) > 1e-4
  jax.tree.map(
    lambda one, four: np.testing.assert_allclose(4 * one, four, rtol=1e-2, atol=1e-6),
    changes[1],
    changes[4],
  )


def test_penalties_run_at_their_steps_only(batch):
  task = make(r1=0.1, r1_every=3, path_length=0.5, path_every=2)
  state, seen = None, []
  for _ in range(4):
    state, scalars = stepped(task, batch, state=state)
    seen.append({name: float(scalars[name]) for name in ('r1', 'path_length')})
  r1, length = ([s[name] for s in seen] for name in ('r1', 'path_length'))
  # Values of the last such step are shown until the next one.
  assert r1[0] == r1[1] == r1[2] != r1[3]
  assert length[0] == length[1] != length[2] == length[3]
  assert all(np.isfinite(x) and x > 0 for x in r1 + length)
  plain, _ = stepped(make(), batch)
  apart = distance(stepped(task, batch)[0].params, plain.params)
  assert apart > 1e-5
  # Between such steps, nothing differs.
  later = state.replace(step=jnp.int32(1))
  one, two = (stepped(t, batch, state=later)[0].params for t in (task, make()))
  jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-6), one, two)


def test_operations_of_penalties_are_weighted_by_their_steps(batch):
  def counted(**options):
    task = make(**options)
    state = jax.eval_shape(task.init, jax.random.key(0), batch)
    return flops.count(task.train_step, state, batch, jax.random.key(0))

  never, always = counted(r1=1.0, r1_every=10**9), counted(r1=1.0, r1_every=1)
  found = counted(r1=1.0, r1_every=16)
  assert always > never
  assert found == pytest.approx(never + (always - never) / 16, rel=1e-3)


def test_path_lengths_of_a_linear_generator(batch):
  """The squared length of J^T y for y ~ N(0, 1 / pixels) is the mean square of J."""

  class Linear(Generator):
    def synthesize(self, w, noise='constant', train=False):
      image = jnp.repeat(w[:, :1, 0].sum(axis=1), SIDE * SIDE // WIDTH, axis=-1)
      return {'image': image.reshape(-1, SIDE, SIDE, 1)}

  task = make(generator=Linear(), path_length=1e-9, path_every=1, mixing=0.0)
  state = task.init(jax.random.key(0), batch)
  total, loss = 0.0, jax.jit(task._path_loss)
  for i in range(200):
    _, (_, scalars) = loss(state.params, state.mutable, batch, jax.random.key(i))
    total += float(scalars['path_length']) ** 2 / 200
  # Each of the 4 numbers of one style in one layer reaches 4 of 16 pixels: the sum of
  # squares is 4 * 4 / 16, its mean over 2 latents and 3 layers a sixth of that.
  assert total == pytest.approx(1 / 6, rel=0.15)


def test_the_average_has_a_half_life_in_images_and_copies_statistics(batch):
  task = make()
  start = task.init(jax.random.key(0), batch)
  state, _ = stepped(task, batch, state=start)
  keep = 0.5 ** (8 / 16)
  want = jax.tree.map(
    lambda a, b: keep * a + (1 - keep) * b,
    start.params['generator'],
    state.params['generator'],
  )
  average = state.ema['generator']
  jax.tree.map(
    lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5), average['params'], want
  )
  own = state.mutable['generator']['batch_stats']['average']
  assert np.any(own)
  np.testing.assert_array_equal(average['batch_stats']['average'], own)


def test_parts_of_a_batch_give_the_mean_gradient(batch):
  one, _ = stepped(make(mixing=0.0), batch)
  many, scalars = stepped(make(mixing=0.0, accumulate=4), batch)
  start = make().init(jax.random.key(0), batch)
  # Other latents, so other gradients of about the same size.
  moved = [distance(x.params, start.params) for x in (one, many)]
  assert moved[1] == pytest.approx(float(moved[0]), rel=0.6)
  assert np.isfinite(scalars['loss'])
  with pytest.raises(UserError, match='a batch of 8 does not divide into accumulate=3'):
    stepped(make(accumulate=3), batch)


def test_styles_are_mixed_after_a_random_layer():
  swapped = np.asarray(make(mixing=0.9)._swapped(jax.random.key(0), 1000, 7))[
    :, 0, :, 0
  ]
  first = np.where(swapped.any(axis=1), swapped.argmax(axis=1), 7)
  assert swapped.any(axis=1).mean() == pytest.approx(0.9, abs=0.03)
  assert set(first) == set(range(1, 8))
  np.testing.assert_array_equal(swapped, np.arange(7)[None] >= first[:, None])


def test_predictions_use_the_average_and_their_key(batch):
  task = make()
  state, _ = stepped(task, batch)
  key = jax.random.key(3)
  found = task.generate(state, batch, key)['image']
  assert found.shape == (8, SIDE, SIDE, 1) and np.abs(found).max() <= 1
  np.testing.assert_array_equal(found, task.generate(state, batch, key)['image'])
  assert np.any(found != task.generate(state, batch, jax.random.key(4))['image'])
  other = state.replace(params=jax.tree.map(jnp.zeros_like, state.params))
  np.testing.assert_array_equal(found, task.generate(other, batch, key)['image'])
  whole = np.ptp(task.truncated(state, batch, key, psi=1.0)['image'], axis=0).mean()
  none = np.ptp(task.truncated(state, batch, key, psi=0.0)['image'], axis=0).mean()
  assert none < whole


def test_rates_and_moments_are_those_of_fewer_steps():
  found = adversarial.lazy_adam(0.002, 4)
  assert found.rate_at(0) == pytest.approx(0.0016)
  params = {'a': jnp.ones(2)}
  state = found.init(params)
  _, state = found.update({'a': jnp.full(2, 3.0)}, state, params)
  adam = next(x for x in state if hasattr(x, 'nu'))
  np.testing.assert_allclose(adam.nu['a'], (1 - 0.99**0.8) * 9.0, rtol=1e-4)
  np.testing.assert_allclose(adam.mu['a'], 3.0)  # beta of 0 remains 0


def test_images_of_another_shape_are_refused(batch):
  task = make()
  task.check(batch)
  with pytest.raises(UserError, match=r'images have shape 3x4x1, but the generator'):
    task.check({'image': batch['image'][:, :3]})


def test_second_derivatives_of_a_real_discriminator_are_finite():
  """R1 differentiates downsampling, residual blocks and the deviation twice."""
  model = discriminator.Discriminator(8, channels=1, channel_base=32, channel_max=6)
  image = jax.random.normal(jax.random.key(0), (4, 8, 8, 1))
  params = model.init(jax.random.key(1), image)['params']

  @jax.jit
  @jax.grad
  def slope(params):
    def logits(image):
      return model.apply({'params': params}, image)['logit']

    return adversarial.gradient_square(logits, image).mean()

  found = jax.tree.leaves(slope(params))
  assert all(np.isfinite(x).all() for x in found)
  assert sum(np.any(x) for x in found) > len(found) / 2
