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
  """Returns the share of its own label that each of the four examples kept."""
  return np.asarray(target)[np.arange(4), np.arange(4)]


def test_the_partner_is_the_example_before(batch, key):
  image, target = batch
  mixed_image, mixed_target = mixing.mixup(key, image, target, alpha=0.8)
  (weight,) = set(weights_of(mixed_target).tolist())  # the batch has a single weight
  assert 0.5 <= weight < 1.0
  partner = [3, 0, 1, 2]
  for i in range(4):
    np.testing.assert_allclose(
      mixed_image[i], weight * image[i] + (1 - weight) * image[partner[i]], rtol=1e-5
    )
    want = weight * target[i] + (1 - weight) * target[partner[i]]
    np.testing.assert_allclose(mixed_target[i], want, rtol=1e-5)


def test_weights_follow_a_folded_beta(batch):
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


def test_the_reversed_batch_as_partner(batch):
  image, target = batch
  folded = 0
  for seed in range(6):
    key = jax.random.key(seed)
    mixed = mixing.mixup(key, image, target, alpha=0.5, partner='reversed')
    weight = weights_of(mixed[1])
    assert len(set(weight.tolist())) == 1
    weight = weight[0]
    folded += weight < 0.5
    for got, x in zip(mixed, batch, strict=True):
      want = weight * x + (1 - weight) * x[::-1]
      np.testing.assert_allclose(got, want, rtol=1e-5, atol=1e-6)
  assert 0 < folded < 6  # weights are not folded


def test_one_of_mixup_and_cutmix():
  # Each image contains its index, each target its class.
  image = jnp.broadcast_to(jnp.arange(4.0).reshape(4, 1, 1, 1), (4, 6, 10, 1))
  keys = jax.random.split(jax.random.key(2), 60)

  @jax.jit
  @functools.partial(jax.vmap, in_axes=(None, 0))
  @functools.partial(jax.vmap, in_axes=(0, None))
  def mix(key, switch):
    return mixing.mixup_or_cutmix(key, image, jnp.eye(4), 0.8, 1.0, switch)

  images, targets = mix(keys, jnp.array([0.0, 0.5, 1.0]))
  own = targets[..., 0, 0]
  np.testing.assert_allclose(targets[..., 0, 3], 1 - own, atol=1e-6)
  first = np.asarray(images[..., 0, :, :, 0])  # example 0, whose partner is 3
  # In both cases the target states the share of each image.
  np.testing.assert_allclose(first.mean(axis=(2, 3)), 3 * (1 - own), atol=1e-5)
  cut = (np.isclose(first, 0) | np.isclose(first, 3)).all(axis=(2, 3)).sum(axis=1)
  assert cut[0] < 5 and 15 < cut[1] < 45 and cut[2] == 60
  assert all(len(np.unique(weights)) > 20 for weights in own)


def test_cutmix_alone():
  image = jnp.broadcast_to(jnp.arange(4.0).reshape(4, 1, 1, 1), (4, 6, 10, 1))
  keys = jax.random.split(jax.random.key(3), 50)
  cut = jax.jit(jax.vmap(lambda key: mixing.cutmix(key, image, jnp.eye(4), 1.0)))
  images, targets = cut(keys)
  own = targets[:, 1, 1]
  np.testing.assert_allclose(targets[:, 1, 2], 1 - own, atol=1e-6)
  second = np.asarray(images[:, 1, ..., 0])  # example 1, whose partner is 2
  assert ((second == 1) | (second == 2)).all()
  np.testing.assert_allclose((second == 1).mean(axis=(1, 2)), own, atol=1e-6)
  assert len(np.unique(own)) > 15


def test_single_images_are_flipped():
  rng = np.random.default_rng(0)
  image = jnp.asarray(rng.integers(0, 256, (200, 2, 3, 1), dtype=np.uint8))
  got = np.asarray(jax.jit(images.flip)(jax.random.key(0), image))
  same, turned = (
    (got == x).all(axis=(1, 2, 3)) for x in (np.asarray(image), image[:, :, ::-1])
  )
  assert (same | turned).all() and got.dtype == np.uint8
  assert 70 < turned.sum() < 130


def test_normalize():
  image = np.array([0, 51, 255], np.uint8).reshape(1, 1, 3, 1)
  got = images.normalize(jnp.asarray(image))
  assert got.dtype == jnp.float32
  np.testing.assert_allclose(np.ravel(got), [-1.0, -0.6, 1.0], rtol=1e-6)
  own = images.normalize(jnp.asarray(image.reshape(1, 1, 1, 3)), (0.5, 0.2, 0.1), 0.25)
  np.testing.assert_allclose(np.ravel(own), [-2.0, 0.0, 3.6], atol=1e-6)
  done = jnp.full((1, 2, 2, 3), 0.25)
  np.testing.assert_array_equal(images.normalize(done), done)
