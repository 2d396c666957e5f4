import jax
import jax.numpy as jnp
import ml_collections as mlc
import numpy as np
import pytest

from big_vision_like import optim, spec
from big_vision_like.errors import UserError


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
  # Many steps, also compiled: a quotient of floats may be just below a whole number.
  for every in (7, 739_294):
    steps = jnp.array([0, every - 1, every, 2 * every - 1, 2 * every])
    rates = jax.jit(optim.step_decay(0.5, every))(steps)
    np.testing.assert_allclose(rates, [0.5, 0.5, 0.05, 0.05, 0.005], rtol=1e-6)


def test_multi_step():
  schedule = jax.jit(optim.multi_step(8.0, [3, 5], 2, start=0.25, factor=0.5))
  want = [2.0, 5.0, 8.0, 4.0, 4.0, 2.0, 2.0]
  np.testing.assert_allclose(schedule(jnp.arange(7)), want, rtol=1e-6)
  assert optim.multi_step(8.0, [1])(0) == 8.0


def test_exponential_staircase():
  schedule = jax.jit(optim.exponential_staircase(8.0, 3.9, 2.5, factor=0.5))
  # The warm-up takes 3 whole steps; the rate drops at steps 2.5, 5, 7.5 and 10.
  want = [0.0, 8 / 3, 16 / 3, 4.0, 4.0, 2.0, 2.0, 2.0, 1.0, 1.0, 0.5]
  np.testing.assert_allclose([schedule(n) for n in range(11)], want, rtol=1e-6)
  assert optim.exponential_staircase(8.0, 0, 2)(0) == 8.0


def test_the_staircase_falls_at_its_steps_however_many_there_were():
  factor, falls = 0.98, np.arange(1, 1000)
  schedule = jax.jit(optim.exponential_staircase(1.0, 0, 1501.3, factor))
  first = -(-falls * 15013 // 10)
  # As a quotient in float32, the number of drops would be off at some of these steps.
  assert (np.floor(np.float32(first) / np.float32(1501.3)) != falls).any()
  for steps, passed in (first - 1, falls - 1), (first, falls):
    got = np.log(schedule(steps)) / np.log(factor)
    np.testing.assert_allclose(got, passed, atol=0.01)


def test_cosine_whose_clock_includes_the_warmup():
  schedule = optim.per_step_cosine(
    1.0, 10, warmup_steps=2, warmup_value=0.2, end_value=0.1
  )
  cosine = 0.1 + 0.9 * (1 + np.cos(np.pi * np.arange(12).clip(max=10) / 10)) / 2
  want = np.concatenate([[0.2, 0.6], cosine[2:]])
  np.testing.assert_allclose(schedule(np.arange(12)), want, rtol=1e-5)


def test_cosine_by_epoch_uses_the_epoch_before():
  # 5 epochs of 2.5 steps, which start at steps 0, 3, 5, 8 and 10.
  schedule = jax.jit(
    optim.per_epoch_cosine(1.0, 12.5, 2.5, warmup_steps=5.0, warmup_value=0.2)
  )
  rates = [schedule(n) for n in range(13)]
  cosine = (1 + np.cos(np.pi * np.arange(5) / 5)) / 2
  want = [0.2] * 5 + [0.6] * 3 + [cosine[2]] * 2 + [cosine[3]] * 3
  np.testing.assert_allclose(rates, want, rtol=1e-5)


def test_epochs_reach_schedules_unrounded():
  config = dict(
    rate=spec.spec(
      optim.exponential_staircase,
      peak_value=1.0,
      warmup_steps=spec.epochs(1.5),
      decay_steps=spec.epochs(2.4),
    ),
    other=spec.spec(
      optim.linear,
      peak_value=1.0,
      warmup_steps=spec.epochs(1.5),
      total_steps=spec.examples(700),
    ),
    every=spec.epochs(2.4),
  )
  plain = spec.in_steps(config, examples_per_epoch=1281, batch_size=64)
  assert plain['rate']['warmup_steps'] == 1.5 * 1281 / 64
  assert plain['rate']['decay_steps'] == 2.4 * 1281 / 64
  assert plain['other']['warmup_steps'] == 30
  assert plain['other']['total_steps'] == 11
  assert plain['every'] == 48


@pytest.mark.parametrize('old', [spec.epochs(5), 100, 62.5])
@pytest.mark.parametrize(
  ('text', 'new'), [('epochs(2.4)', {'epochs': 2.4}), ('31.5', 31.5), ('7', 7)]
)
def test_durations_in_part_steps_may_be_overridden(old, text, new):
  rate = spec.spec(optim.exponential_staircase, peak_value=1.0, decay_steps=old)
  config = mlc.ConfigDict(dict(rate=rate))
  spec.override(config, f'rate.decay_steps={text}')
  got = config.rate.decay_steps
  assert (got.to_dict() if isinstance(got, mlc.ConfigDict) else got) == new


@pytest.mark.parametrize(
  ('make', 'told'),
  [
    (lambda: optim.exponential_staircase(1.0, 1, 2, factor=1.0), 'factor=1.0'),
    (lambda: optim.exponential_staircase(1.0, 1, 0), '0 steps between two changes'),
    (lambda: optim.per_epoch_cosine(1.0, 10, -1.5), '-1.5 steps between two changes'),
  ],
)
def test_impossible_schedules_are_reported(make, told):
  with pytest.raises(UserError, match=told):
    make()
