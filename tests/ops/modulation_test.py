"""Tests of modulated convolutions, and of the deviation within groups."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from big_vision_like.errors import UserError
from big_vision_like.ops import modulation


@pytest.fixture(scope='module')
def drawn():
  keys = jax.random.split(jax.random.key(0), 3)
  shapes = (2, 4, 4, 3), (3, 3, 3, 5), (2, 3)
  return [jax.random.normal(k, s) for k, s in zip(keys, shapes, strict=True)]


@pytest.mark.parametrize('resample', [None, 'up'])
@pytest.mark.parametrize('demodulate', [True, False])
def test_both_forms_are_equal(drawn, resample, demodulate):
  found = [
    modulation.modulated_conv(*drawn, resample, demodulate, form)
    for form in modulation.FORMS
  ]
  np.testing.assert_allclose(*found, rtol=1e-4, atol=1e-5)


def test_demodulated_kernels_have_norm_1(drawn):
  _, kernel, style = drawn
  scale = modulation.demodulation(kernel, style)
  own = kernel[None] * style[:, None, None, :, None] * scale[:, None, None, None]
  norm = jnp.square(own).sum(axis=(1, 2, 3))
  np.testing.assert_allclose(norm, np.ones((2, 5)), rtol=1e-5)


def test_the_size_of_styles_does_not_matter_after_demodulation(drawn):
  x, kernel, style = drawn
  one, other = (modulation.modulated_conv(x, kernel, s * style) for s in (1.0, 3.0))
  np.testing.assert_allclose(one, other, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize('form', modulation.FORMS)
def test_second_derivatives_are_finite(drawn, form):
  x, kernel, style = drawn

  @jax.jit
  @jax.grad
  def gradient(style):
    def judged(x):
      return jnp.tanh(
        modulation.modulated_conv(x, kernel, style, 'up', form=form)
      ).sum()

    return jnp.square(jax.grad(judged)(x)).sum()

  found = gradient(style)
  assert np.isfinite(found).all() and np.abs(found).max() > 1e-4


def test_deviation_within_groups():
  x = jax.random.normal(jax.random.key(1), (6, 2, 2, 3))
  found = modulation.with_deviation(x, 3)
  np.testing.assert_array_equal(found[..., :3], x)
  # With two groups of three, a group has every other example.
  for first in range(2):
    want = np.sqrt(np.asarray(x)[first::2].var(axis=0) + 1e-8).mean()
    np.testing.assert_allclose(found[first::2, ..., 3], want, rtol=1e-5)
  whole = modulation.with_deviation(x, 8)[..., 3]
  assert np.ptp(whole) < 1e-6  # a group is at most the batch
  # Equal examples have no deviation, and finite gradients.
  slope = jax.grad(lambda x: modulation.with_deviation(x, 3).sum())(jnp.ones_like(x))
  assert np.isfinite(slope).all()
  with pytest.raises(
    UserError, match='batch of 6 images does not divide into groups of'
  ):
    modulation.with_deviation(x, 4)
