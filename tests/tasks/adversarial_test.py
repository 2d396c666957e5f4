"""Tests of adversarial training, with networks of a few dense layers."""

import functools

import dense_gan
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from big_vision_like import optim, train
from big_vision_like.cost import flops
from big_vision_like.errors import UserError
from big_vision_like.models import discriminator
from big_vision_like.tasks import adversarial

SIDE, WIDTH = 4, dense_gan.WIDTH


def descent(rate):
  return optim.Optimizer(optax.identity(), rate)


@functools.cache
def make(**options):
  return adversarial.Adversarial(
    **{
      'generator': dense_gan.Generator(),
      'discriminator': dense_gan.Judge(),
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


@functools.cache
def compiled(task):
  return jax.jit(task.train_step)


def stepped(task, batch, steps=1, state=None):
  state = task.init(jax.random.key(0), batch) if state is None else state
  for i in range(steps):
    state, scalars = compiled(task)(state, batch, jax.random.key(1 + i))
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
  """Checks that R1 at one step in four has four times the effect."""
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
  """Checks that the squared length of J^T y is the mean square of J."""

  class Linear(dense_gan.Generator):
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
  """Checks R1, which differentiates downsampling and the deviation twice."""
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


@pytest.fixture(scope='module')
def trained(data_dir, tmp_path_factory):
  """Returns the state and the folder of a run with all penalties."""
  workdir = tmp_path_factory.mktemp('adversarial') / 'run'
  return train.train(dense_gan.get_config(), workdir), workdir


def test_a_restart_ends_bit_equal(trained, tmp_path):
  train.train(dense_gan.get_config(), tmp_path / 'run', drill=3)
  state = train.train(dense_gan.get_config(), tmp_path / 'run')
  jax.tree.map(np.testing.assert_array_equal, state, trained[0])
  moments = [x for x in jax.tree.leaves(state.opt_state) if x.ndim]
  assert any(np.any(x) for x in moments)


def test_a_penalty_that_is_not_finite_is_named_and_replayed(data_dir, tmp_path, capfd):
  config = dense_gan.get_config()
  config.task.r1 = 1e38  # overflows when it is multiplied by the gradient
  config.task.accumulate, config.task.path_length = 1, 0.0
  with pytest.raises(UserError) as found:
    train.train(config, tmp_path / 'run')
  names = str(found.value).split(' not finite')[0]
  assert 'gradient_norm_r1' in names and 'loss_generator' not in names
  assert train.main([f'--workdir={tmp_path / "run"}', '--replay=1']) == 0
  told = capfd.readouterr().out
  assert 'parameters before the step: all finite' in told
  for name, finite in ('gradient_norm_r1', False), ('gradient_norm_generator', True):
    value = float(told.split(f'{name} = ')[1].split()[0])
    assert bool(np.isfinite(value)) is finite, name
  assert 'first: ' in told
