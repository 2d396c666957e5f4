import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from big_vision_like.ops import images, mixing


@pytest.fixture(scope='module')
def batch():
  rng = np.random.default_rng(0)
  image = rng.uniform(-1, 1, (4, 3, 5, 2)).astype(np.float32)
  return jnp.asarray(image), jax.nn.one_hot(jnp.array([0, 1, 2, 3]), 6)


def weights_of(target) -> np.ndarray:
  """The share of its own label that each of the four examples kept."""
  return np.asarray(target)[np.arange(4), np.arange(4)]


def test_the_partner_is_the_example_before(batch, key):
  image, target = batch
  mixed_image, mixed_target = mixing.mixup(key, image, target, alpha=0.8)
  (weight,) = set(weights_of(mixed_target).tolist())  # one weight for the batch
  assert 0.5 <= weight < 1.0
  partner = [3, 0, 1, 2]
  for i in range(4):
    np.testing.assert_allclose(
      mixed_image[i], weight * image[i] + (1 - weight) * image[partner[i]], rtol=1e-5
    )
    want = weight * target[i] + (1 - weight) * target[partner[i]]
    np.testing.assert_allclose(mixed_target[i], want, rtol=1e-5)


def test_targets_still_sum_to_one(batch, key):
  _, target = mixing.mixup(key, *batch, alpha=0.2)
  np.testing.assert_allclose(target.sum(axis=1), 1.0, rtol=1e-6)


def test_weights_are_those_of_a_folded_beta(batch):
  alphas = np.array([0.2, 1.0], np.float32)

  @jax.jit
  @functools.partial(jax.vmap, in_axes=(0, None))
  @functools.partial(jax.vmap, in_axes=(None, 0))
  def weight(key, alpha):
    return mixing.mixup(key, *batch, alpha=alpha)[1][0, 0]

  drawn = np.asarray(weight(jax.random.split(jax.random.key(1), 2000), alphas))
  assert drawn.min() >= 0.5 and drawn.max() <= 1.0
  rng = np.random.default_rng(0)
  for weights, alpha in zip(drawn.T, alphas, strict=True):
    want = rng.beta(alpha, alpha, 100_000)
    want = np.maximum(want, 1 - want)
    assert abs(weights.mean() - want.mean()) < 0.02
    assert abs((weights > 0.9).mean() - (want > 0.9).mean()) < 0.04


def test_another_key_mixes_differently_and_the_same_key_equally(batch):
  first, again, other = (
    mixing.mixup(jax.random.key(seed), *batch, alpha=1.0)[1] for seed in (0, 0, 1)
  )
  np.testing.assert_array_equal(first, again)
  assert not np.array_equal(first, other)


def test_normalize():
  image = np.array([0, 51, 255], np.uint8).reshape(1, 1, 3, 1)
  got = images.normalize(jnp.asarray(image))
  assert got.dtype == jnp.float32
  np.testing.assert_allclose(np.ravel(got), [-1.0, -0.6, 1.0], rtol=1e-6)
  done = jnp.full((1, 2, 2, 3), 0.25)
  np.testing.assert_array_equal(images.normalize(done), done)
