import jax
import jax.numpy as jnp
import numpy as np
import pytest

from big_vision_like import optim
from big_vision_like.errors import UserError


@pytest.mark.parametrize('step, decay', [(0, 0.1), (2, 0.25), (10**6, 0.9)])
def test_an_average_warms_up(step, decay):
  ema = optim.Ema(decay=0.9, warmup=True)
  assert ema.decay_at(step, 32) == pytest.approx(decay, rel=1e-5)
  assert optim.Ema(decay=0.9).decay_at(step, 32) == pytest.approx(0.9)
  average, variables = {'params': {'w': jnp.ones(3)}}, {'params': {'w': jnp.zeros(3)}}
  got = ema.update(average, variables, jnp.int32(step), 32)
  np.testing.assert_allclose(got['params']['w'], decay, rtol=1e-5)


def test_the_step_of_the_first_average_may_be_counted_already():
  ema = optim.Ema(decay=0.9, warmup=True, first_step=1)
  assert [float(ema.decay_at(n, 8)) for n in (0, 1, 10**6)] == pytest.approx(
    [2 / 11, 3 / 12, 0.9]
  )


def test_after_its_half_life_an_average_counts_half():
  ema, batch_size = optim.Ema(half_life=400), 32
  average = ema.init({'params': jnp.ones(())})
  for step in range(25):  # 800 images
    average = ema.update(average, {'params': jnp.zeros(())}, step, batch_size)
  np.testing.assert_allclose(average['params'], 0.25, rtol=1e-5)


def test_the_half_life_is_bounded_while_few_images_were_seen():
  ema = optim.Ema(half_life=10_000, rampup=0.05)
  # After 32 images the half-life is 1.6 images; in the end it is 10,000.
  assert ema.decay_at(0, 32) == pytest.approx(0.5 ** (32 / 1.6), rel=1e-4)
  assert ema.decay_at(10**6, 32) == pytest.approx(0.5 ** (32 / 10_000), rel=1e-6)


def test_an_average_covers_the_named_collections():
  variables = {
    'params': {'w': jnp.ones(2)},
    'batch_stats': {'mean': jnp.ones(2, jnp.bfloat16)},
    'constants': {'c': jnp.ones(2)},
  }
  average = optim.Ema(decay=0.5).init(variables)
  assert average.keys() == {'params', 'batch_stats'}
  doubled = jax.tree.map(lambda x: 2 * x, variables)
  after = optim.Ema(decay=0.5).update(average, doubled, 0, 8)
  np.testing.assert_allclose(after['params']['w'], 1.5)
  assert after['batch_stats']['mean'].dtype == jnp.bfloat16
  assert optim.Ema(decay=0.5, collections=['params']).init(variables).keys() == {
    'params'
  }


@pytest.mark.parametrize(
  'options, words',
  [
    ({}, r'takes either decay or half_life \(in images\)'),
    (dict(decay=0.5, half_life=8), 'takes either decay or half_life'),
    (dict(decay=1.0), r'decay=1.0 of a running average is not in \[0, 1\)'),
    (dict(half_life=0), 'half_life=0 of a running average is not above 0'),
    (dict(decay=0.5, rampup=0.1), 'rampup must be above 0 and needs half_life'),
  ],
)
def test_impossible_averages_are_reported(options, words):
  with pytest.raises(UserError, match=words):
    optim.Ema(**options)
