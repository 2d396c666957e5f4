"""Tests of properties that all tasks with a single gradient share."""

import dataclasses

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from big_vision_like import optim
from big_vision_like.tasks import task

X_BD = jnp.asarray(np.random.default_rng(0).normal(size=(4, 3)), jnp.float32)


class Two(nn.Module):
  """Two matrices; the first may be a constant with the same values."""

  constant: bool = False

  @nn.compact
  def __call__(self, x_BD, train=False):
    first_DD = 2.0 * jnp.eye(3)
    if not self.constant:
      first_DD = self.param('first', lambda _: 2.0 * jnp.eye(3))
    return self.param('second', lambda _: jnp.full((3, 3), 0.5)) @ first_DD @ x_BD.T


@dataclasses.dataclass(frozen=True, kw_only=True)
class Shrink(task.GradientTask):
  def model_inputs(self, batch):
    return (batch['x'],)

  def loss(self, params, mutable, batch, key):
    y_DB, mutable = self.trained(params, mutable, self.model_inputs(batch))
    return (y_DB**2).mean(), (mutable, {})

  def predict(self, state, batch, key):
    raise NotImplementedError


def optimizer(rules):
  return optim.momentum(
    0.1, weight_decay=0.5, decay_rules=[('.*', 1.0)], clip_norm=1.0, rate_rules=rules
  )


@pytest.mark.parametrize('accumulate', [1, 2])
def test_a_frozen_parameter_acts_like_a_constant(key, accumulate):
  def after_one_step(constant, rules):
    this = Shrink(
      model=Two(constant=constant), optimizer=optimizer(rules), accumulate=accumulate
    )
    batch = {'x': X_BD}
    state, scalars = jax.jit(this.train_step)(this.init(key, batch), batch, key)
    return state.params, scalars['gradient_norm']

  frozen, norm = after_one_step(False, [('first', 0.0)])
  apart, want = after_one_step(True, [])
  _, of_both = after_one_step(False, [])
  np.testing.assert_array_equal(frozen['first'], 2.0 * np.eye(3))
  np.testing.assert_allclose(frozen['second'], apart['second'], rtol=1e-6)
  np.testing.assert_allclose(norm, want, rtol=1e-6)
  assert of_both > (1 + 1e-5) * norm


@pytest.mark.parametrize('accumulate', [1, 2])
def test_an_l2_penalty_counts_in_the_loss_that_is_reported(key, accumulate):
  def step(optimizer):
    this = Shrink(model=Two(), optimizer=optimizer, accumulate=accumulate)
    batch = {'x': X_BD}
    before = this.init(key, batch)
    after, scalars = jax.jit(this.train_step)(before, batch, key)
    return before.params, after.params, scalars

  params, without, plain = step(optim.momentum(0.1))
  _, after, scalars = step(optim.momentum(0.1, l2=0.3, l2_rules=[('first', 1.0)]))
  assert 'l2' not in plain
  np.testing.assert_allclose(scalars['l2'], 0.5 * 0.3 * (params['first'] ** 2).sum())
  np.testing.assert_allclose(scalars['loss'], plain['loss'] + scalars['l2'], rtol=1e-6)
  np.testing.assert_allclose(
    after['first'], without['first'] - 0.1 * 0.3 * params['first'], rtol=1e-5
  )
  np.testing.assert_array_equal(after['second'], without['second'])
