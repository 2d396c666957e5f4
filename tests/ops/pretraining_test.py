import jax
import jax.numpy as jnp
import numpy as np
import pytest

from big_vision_like.errors import UserError
from big_vision_like.ops import pretraining

RNG = np.random.default_rng(0)
LOGITS = RNG.normal(size=(3, 4, 6)).astype(np.float32)
MASKED = np.array([[1, 0, 0, 1], [0, 0, 0, 0], [0, 1, 0, 0]], bool)
TARGET = RNG.dirichlet(np.ones(6), (3, 4)).astype(np.float32)
TARGET[0, 0] = [1, 0, 0, 0, 0, 0]


def log_softmax(x):
  return x - np.log(np.exp(x).sum(axis=-1, keepdims=True))


def test_masked_words():
  words = RNG.integers(0, 6, (3, 4))
  want = -np.mean([log_softmax(LOGITS[i, j])[words[i, j]] for i, j in places()])
  got = pretraining.masked_words(LOGITS, np.where(MASKED, words, 99), MASKED)
  np.testing.assert_allclose(got, want, rtol=1e-5)


def places():
  return list(zip(*MASKED.nonzero(), strict=True))


def test_masked_regions_by_divergence():
  with np.errstate(divide='ignore', invalid='ignore'):
    each = np.where(TARGET > 0, TARGET * (np.log(TARGET) - log_softmax(LOGITS)), 0)
  want = each[MASKED].sum() / MASKED.sum()
  got = pretraining.masked_regions_kl(LOGITS, TARGET, MASKED)
  np.testing.assert_allclose(got, want, rtol=1e-5)
  same = pretraining.masked_regions_kl(jnp.log(TARGET[2:]), TARGET[2:], MASKED[2:])
  np.testing.assert_allclose(same, 0.0, atol=1e-6)


def test_masked_regions_by_squared_error():
  want = np.square(LOGITS - TARGET)[MASKED].mean()
  got = pretraining.masked_regions_mse(LOGITS, TARGET, MASKED)
  np.testing.assert_allclose(got, want, rtol=1e-5)


def test_nothing_masked_costs_nothing_and_moves_nothing():
  none = np.zeros_like(MASKED)
  for function, target in (
    (pretraining.masked_words, np.zeros((3, 4), int)),
    (pretraining.masked_regions_kl, TARGET),
    (pretraining.masked_regions_mse, TARGET),
    (lambda *x: pretraining.masked_regions_nce(*x, jax.random.key(0), 10), TARGET),
  ):
    value, gradient = jax.value_and_grad(function)(LOGITS, target, none)
    assert value == 0 and not gradient.any()


def test_a_region_is_found_among_negatives():
  features = RNG.normal(size=(5, 4, 16)).astype(np.float32)
  masked = np.ones((5, 4), bool)
  nce = jax.jit(pretraining.masked_regions_nce, static_argnums=4)
  value = nce(np.zeros_like(features), features, masked, jax.random.key(0), 20)
  np.testing.assert_allclose(value, np.log(21), rtol=1e-5)  # all candidates are equal
  assert nce(9 * features, features, masked, jax.random.key(0), 20) < 0.1
  # A region is never its own negative.
  one = np.zeros_like(features)
  one[1, 2] = 50 * features[1, 2]
  alone = np.zeros_like(masked)
  alone[1, 2] = True
  for number in range(5):
    assert nce(one, features, alone, jax.random.key(number), 200) < 1e-3
  with pytest.raises(UserError, match='at least 2 images with 2 regions'):
    nce(features[:1], features[:1], masked[:1], jax.random.key(0), 20)


def test_alignment_has_class_0_for_pairs_that_belong_together():
  logits = np.array([[3.0, 0.0], [3.0, 0.0]])
  good = pretraining.alignment(logits[:1], np.array([True]))
  bad = pretraining.alignment(logits[1:], np.array([False]))
  want = [np.log1p(np.exp(-3)), np.log1p(np.exp(3))]
  np.testing.assert_allclose([good, bad], want, rtol=1e-5)
  both = pretraining.alignment(logits, np.array([True, False]))
  np.testing.assert_allclose(both, (good + bad) / 2, rtol=1e-6)


def test_contrastive_loss_is_of_both_directions():
  text, image = RNG.normal(size=(2, 4, 8))
  aligned = np.array([True, True, False, True])
  scores = (
    image
    / np.linalg.norm(image, axis=1, keepdims=True)
    @ (text / np.linalg.norm(text, axis=1, keepdims=True)).T
    / 0.07
  )
  rows, columns = log_softmax(scores), log_softmax(scores.T)
  want = -(np.diag(rows) + np.diag(columns))[aligned].mean() / 2
  got = pretraining.contrastive(text, image, aligned)
  np.testing.assert_allclose(got, want, rtol=1e-4)
  np.testing.assert_allclose(got, pretraining.contrastive(3 * text, image, aligned))
