import jax
import jax.numpy as jnp
import numpy as np
import pytest

from big_vision_like import optim


@pytest.mark.parametrize(
  'schedule, rates',
  [
    (optim.linear(2.0, 2, 6, end_value=0.4), [0.0, 1.0, 2.0, 1.6, 1.2, 0.8, 0.4]),
    (optim.rsqrt(2.0, 2, 3, 8), [0.0, 1.0, 2.0, 3**0.5, 1.2**0.5 * 2**0.5]),
    (optim.rsqrt(2.0, 0, 1, 4, cooldown_steps=2), [2.0, 2**0.5, 2 / 3**0.5, 0.5, 0.0]),
  ],
)
def test_schedules(schedule, rates):
  np.testing.assert_allclose([schedule(n) for n in range(len(rates))], rates, 1e-6)


def test_noam_is_the_published_schedule():
  schedule = optim.noam(512, 4000)
  steps = np.array([1, 100, 4000, 100_000])
  want = [1.747e-7, 1.747e-5, 6.988e-4, 1.398e-4]
  np.testing.assert_allclose(schedule(steps - 1), want, rtol=1e-3)
  n = np.arange(1, 9000, 7)
  formula = 2.0 * 512**-0.5 * np.minimum(n**-0.5, n * 4000**-1.5)
  got = optim.noam(512, 4000, factor=2.0)(n - 1)
  np.testing.assert_allclose(got, formula, rtol=1e-5)
  assert n[np.argmax(got)] == pytest.approx(4000, abs=7)


def test_halving_is_the_published_schedule():
  schedule = optim.halving(4e-4, 10_000, 100_000)
  want = [0.0, 2e-4 * 0.5**0.05, 2e-4, 1e-4]
  got = schedule(np.array([0, 5_000, 100_000, 200_000]))
  np.testing.assert_allclose(got, want, rtol=1e-6)
  assert optim.halving(1.0, 10, 50)(20) == pytest.approx(0.5**0.4)


def test_staircase():
  schedule = optim.staircase(8.0, 2, [3, 5], factor=0.5)
  want = [0.0, 4.0, 8.0, 8.0, 4.0, 4.0, 2.0, 2.0]
  np.testing.assert_allclose(schedule(np.arange(8)), want, rtol=1e-6)
  traced = jax.jit(optim.staircase(8.0, 0, [0]))
  np.testing.assert_allclose([traced(n) for n in (0, 1)], [8.0, 0.8], rtol=1e-6)


def test_step_decay():
  # Of many steps and compiled, too: a quotient in floats may fall short of a whole one.
  for every in (7, 739_294):
    steps = jnp.array([0, every - 1, every, 2 * every - 1, 2 * every])
    rates = jax.jit(optim.step_decay(0.5, every))(steps)
    np.testing.assert_allclose(rates, [0.5, 0.5, 0.05, 0.05, 0.005], rtol=1e-6)
