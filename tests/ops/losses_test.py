import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from big_vision_like.ops import losses

LOSSES = [
  losses.softmax_cross_entropy,
  losses.sigmoid_cross_entropy,
  losses.binarized_cross_entropy,
]


def logits_and_targets():
  rng = np.random.default_rng(0)
  logits = rng.normal(size=(4, 6)).astype(np.float32) * 3
  target = rng.dirichlet(np.ones(6), size=4).astype(np.float32)
  return logits, target


def test_softmax_cross_entropy_by_hand():
  logits, target = logits_and_targets()
  exact = logits.astype(np.float64)
  log_p = exact - np.log(np.exp(exact).sum(axis=1, keepdims=True))
  got = losses.softmax_cross_entropy(logits, target)
  np.testing.assert_allclose(got, -(target * log_p).sum(axis=1), rtol=1e-6)


def test_sigmoid_cross_entropy_by_hand_sums_over_classes():
  logits, target = logits_and_targets()
  p = 1 / (1 + np.exp(-logits.astype(np.float64)))
  want = -(target * np.log(p) + (1 - target) * np.log(1 - p)).sum(axis=1)
  got = losses.sigmoid_cross_entropy(logits, target)
  np.testing.assert_allclose(got, want, rtol=1e-6)


@pytest.mark.parametrize('loss', LOSSES)
def test_losses_are_per_example_and_float32(loss):
  logits, target = logits_and_targets()
  half = jnp.asarray(logits, jnp.bfloat16)
  got = loss(half, target)
  assert got.shape == (4,) and got.dtype == jnp.float32
  np.testing.assert_array_equal(got, loss(half.astype(jnp.float32), target))
  np.testing.assert_allclose(got[1:2], loss(half[1:2], target[1:2]), rtol=1e-6)


@pytest.mark.parametrize('loss', LOSSES)
def test_large_logits_stay_finite(loss):
  logits = jnp.array([[1e4, -1e4, 0.0]])
  target = jnp.array([[0.0, 1.0, 0.0]])
  value, grad = jax.value_and_grad(lambda x: loss(x, target).sum())(logits)
  assert np.isfinite(value) and np.isfinite(grad).all()
  assert value >= 1e4 / 3  # one of the losses is a mean over classes


def targets(label, classes, smoothing, form):
  """Returns the smoothed target of one label."""
  if form == 'torch':
    return (1 - smoothing) * np.eye(classes)[label] + smoothing / classes
  others = np.ones(classes)
  if form == 'annotated':
    others[0] = 0
  others[label] = 0
  return (1 - smoothing) * np.eye(classes)[label] + smoothing * others / others.sum()


@pytest.mark.parametrize('form', losses.SMOOTHINGS)
@pytest.mark.parametrize('smoothing', [0.0, 0.1])
def test_smoothed_cross_entropy_is_the_definition(form, smoothing):
  rng = np.random.default_rng(0)
  logits, label = rng.normal(size=(2, 3, 5)), rng.integers(1, 5, (2, 3))
  got = losses.smoothed_cross_entropy(jnp.asarray(logits), label, smoothing, form)
  logp = np.asarray(jax.nn.log_softmax(logits))
  for place in np.ndindex(2, 3):
    target = targets(label[place], 5, smoothing, form)
    want = -(target * logp[place]).sum()
    if form != 'torch':
      want += sum(t * np.log(t) for t in target if t > 0)
    np.testing.assert_allclose(got[place], want, rtol=1e-5, atol=1e-6)
    if smoothing and form == 't2t':  # the best model reaches zero
      best = losses.smoothed_cross_entropy(
        jnp.log(target)[None, None], label[place][None, None], smoothing, form
      )
      np.testing.assert_allclose(best, 0.0, atol=1e-5)


def test_binarized_cross_entropy_takes_all_targets_above_zero():
  logits_BC = np.array([[1.0, -2.0, 0.5, 3.0]], np.float32)
  mixed_BC = np.array([[0.7, 0.0, 0.3, 0.0]], np.float32)
  p_C = 1 / (1 + np.exp(-logits_BC[0].astype(np.float64)))
  want = -np.log([p_C[0], 1 - p_C[1], p_C[2], 1 - p_C[3]]).mean()
  [loss] = losses.binarized_cross_entropy(logits_BC, mixed_BC)
  np.testing.assert_allclose(loss, want, rtol=1e-6)


def test_unknown_smoothing_is_reported():
  with pytest.raises(ValueError, match="form 'kl' is not one of t2t, torch, annotated"):
    losses.smoothed_cross_entropy(jnp.ones((1, 1, 3)), jnp.ones((1, 1), int), 0.1, 'kl')


def masks(dtype=np.float32):
  rng = np.random.default_rng(1)
  return rng.normal(size=(3, 50)).astype(np.float32) * 4, rng.integers(
    0, 2, (3, 50)
  ).astype(dtype)


@pytest.mark.parametrize('alpha, gamma', [(0.25, 2.0), (0.6, 1.5), (0.5, 0.0)])
def test_focal_loss_matches_optax(alpha, gamma):
  logits, target = masks()
  got = losses.sigmoid_focal(logits, target, alpha, gamma)
  want = optax.sigmoid_focal_loss(logits, target, alpha=alpha, gamma=gamma)
  np.testing.assert_allclose(got, want, rtol=1e-4, atol=1e-9)
  if gamma == 0:  # without focusing, the loss is half as large
    plain = optax.sigmoid_binary_cross_entropy(logits, target)
    np.testing.assert_allclose(got, plain / 2, rtol=1e-5)


def test_dice_by_hand():
  logits, target = masks()
  p = 1 / (1 + np.exp(-logits.astype(np.float64)))
  want = 1 - (2 * (p * target).sum(1) + 1) / (p.sum(1) + target.sum(1) + 1)
  np.testing.assert_allclose(losses.dice(logits, target), want, rtol=1e-5)
  perfect = losses.dice(np.where(target, 50.0, -50.0), target)
  np.testing.assert_allclose(perfect, np.zeros(3), atol=1e-6)


MASK_LOSSES = [losses.sigmoid_focal, losses.dice]


@pytest.mark.parametrize('loss', MASK_LOSSES)
@pytest.mark.parametrize('dtype', [bool, np.uint8])
def test_masks_may_be_bool_or_bytes_and_logits_halves(loss, dtype):
  logits, target = masks(dtype)
  half = jnp.asarray(logits, jnp.bfloat16)
  got = loss(half, target)
  assert got.dtype == jnp.float32
  np.testing.assert_array_equal(got, loss(np.float32(half), np.float32(target)))


@pytest.mark.parametrize('loss', MASK_LOSSES)
def test_mask_losses_of_large_logits_stay_finite(loss):
  logits, target = jnp.array([[1e4, -1e4, 0.0, 60.0]]), jnp.array([[0, 1, 1, 1]])
  value, grad = jax.value_and_grad(lambda x: loss(x, target).sum())(logits)
  assert np.isfinite(value) and np.isfinite(grad).all() and value > 0
