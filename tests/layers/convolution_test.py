"""Axes: B batch, h w feature map, C channels."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from big_vision_like.devices import mesh
from big_vision_like.errors import UserError
from big_vision_like.layers import convolution
from big_vision_like.ops import sharding

X_BhwC = np.random.default_rng(0).normal(3.0, 2.0, (8, 3, 2, 5)).astype(np.float32)


def normed(x_BhwC, **fields):
  """Returns the batch after batch norm, and the running averages."""
  norm = convolution.BatchNorm(momentum=0.0, **fields)
  variables = norm.init(jax.random.key(0), x_BhwC)
  y, changed = norm.apply(variables, x_BhwC, train=True, mutable=['batch_stats'])
  return y, changed['batch_stats']


def test_both_conventions_of_the_running_variance():
  for unbiased in (True, False):
    y_BhwC, averages = normed(X_BhwC, unbiased=unbiased, epsilon=0.0)
    flat_NC = X_BhwC.reshape(-1, 5)
    np.testing.assert_allclose(averages['mean'], flat_NC.mean(0), rtol=1e-5)
    variance_C = flat_NC.var(0, ddof=int(unbiased))
    np.testing.assert_allclose(averages['var'], variance_C, rtol=1e-5)
    np.testing.assert_allclose(y_BhwC.mean((0, 1, 2)), np.zeros(5), atol=1e-5)
    np.testing.assert_allclose(y_BhwC.std((0, 1, 2)), np.ones(5), rtol=1e-5)


def test_groups_are_normalized_alone_and_averaged():
  y_BhwC, averages = normed(X_BhwC, groups=4)
  alone = [normed(part) for part in np.split(X_BhwC, 4)]
  np.testing.assert_allclose(y_BhwC, np.concatenate([y for y, _ in alone]), atol=1e-5)
  for name in ('mean', 'var'):
    mean_C = np.mean([own[name] for _, own in alone], axis=0)
    np.testing.assert_allclose(averages[name], mean_C, rtol=1e-5)


@pytest.mark.parametrize('groups', (1, 2, 8))
def test_same_on_one_and_on_eight_devices(groups):
  """Checks that statistics cover the whole batch, or each group, on any mesh."""

  @jax.jit
  def loss_and_gradient(x_BhwC):
    return jax.value_and_grad(lambda x: jnp.sin(normed(x, groups=groups)[0]).sum())(
      x_BhwC
    )

  rows = sharding.batch_sharding(mesh.make_mesh(data=8))
  for one, eight in zip(
    loss_and_gradient(X_BhwC),
    loss_and_gradient(jax.device_put(X_BhwC, rows)),
    strict=True,
  ):
    np.testing.assert_allclose(one, eight, rtol=1e-4, atol=1e-5)


def test_groups_that_do_not_divide_or_have_one_value():
  with pytest.raises(UserError, match='8 examples does not divide into 3 groups'):
    normed(X_BhwC, groups=3)
  with pytest.raises(UserError, match='one value a channel in each of its 8 groups'):
    normed(X_BhwC[:, :1, :1], groups=8)


@pytest.mark.parametrize('side', (7, 8))
def test_padding_of_both_libraries_at_a_stride(side):
  """Sums with a kernel of ones, which shows the pixels that each output sees."""
  image_BhwC = np.arange(side, dtype=np.float32)[None, None, :, None] + np.ones(
    (1, side, 1, 1), np.float32
  )
  seen = {}
  for padding in convolution.PADDINGS:
    conv = convolution.conv('conv', 1, 3, 2, padding=padding)
    seen[padding] = conv.apply(
      {'params': {'kernel': jnp.ones((3, 3, 1, 1))}}, image_BhwC
    )[0, 1, :, 0]
  rows = {'symmetric': 3, 'same': 3}
  left = {'symmetric': 1, 'same': 1 if side % 2 else 0}
  for padding, found in seen.items():
    padded = np.pad(image_BhwC[0, 0, :, 0], (left[padding], 3))
    count = -(-side // 2)
    wanted = [rows[padding] * padded[2 * i : 2 * i + 3].sum() for i in range(count)]
    np.testing.assert_allclose(found, wanted)


def test_squeeze_excite_scales_channels_by_their_means():
  gate = convolution.SqueezeExcite(hidden=2)
  variables = gate.init(jax.random.key(0), X_BhwC)
  y_BhwC = gate.apply(variables, X_BhwC)
  ratio_BhwC = np.asarray(y_BhwC / X_BhwC)
  np.testing.assert_allclose(ratio_BhwC, ratio_BhwC[:, :1, :1] + 0 * X_BhwC, rtol=1e-4)
  assert ((ratio_BhwC > 0) & (ratio_BhwC < 1)).all()
