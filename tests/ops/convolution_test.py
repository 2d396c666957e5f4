"""Axes: B batch, h w map, r s kernel, I O input and output channels."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from big_vision_like.cost import flops
from big_vision_like.devices import mesh
from big_vision_like.ops import convolution, sharding

LAYOUT = convolution.LAYOUT


def arrays(seed, batch, size, kernel, inputs, channels, groups, dtype=np.float32):
  rng = np.random.default_rng(seed)
  x_BhwI = rng.normal(size=(batch, *size, inputs))
  kernel_rsIO = rng.normal(size=(*kernel, inputs // groups, channels))
  return jnp.asarray(x_BhwI, dtype), jnp.asarray(kernel_rsIO, dtype)


def both(stride, padding, dilation, groups):
  """Returns our convolution and JAX's, as functions of input and kernel."""
  return [
    functools.partial(
      fn,
      window_strides=(stride, stride),
      padding=padding,
      rhs_dilation=(dilation, dilation),
      dimension_numbers=LAYOUT,
      feature_group_count=groups,
    )
    for fn in (convolution.convolve, jax.lax.conv_general_dilated)
  ]


def with_gradients(fn, x, kernel):
  """Returns the output, and both gradients of a weighted sum of it."""
  y, transposed = jax.vjp(fn, x, kernel)
  dy = jnp.asarray(np.random.default_rng(9).normal(size=y.shape), y.dtype)
  return y, *transposed(dy)


def check(ours, theirs, tolerance):
  for our, their in zip(ours, theirs, strict=True):
    assert our.shape == their.shape and our.dtype == their.dtype
    our, their = np.asarray(our, np.float64), np.asarray(their, np.float64)
    np.testing.assert_allclose(our, their, atol=tolerance * np.abs(their).max())


# Batch, size, kernel, input and output channels, groups, stride, padding, dilation.
CASES = {
  '3x3': (2, (6, 5), (3, 3), 4, 4, 4, 1, ((1, 1), (1, 1)), 1),
  '3x3 by 2': (3, (7, 6), (3, 3), 4, 4, 4, 2, ((1, 1), (1, 1)), 1),
  '5x5 by 2': (2, (8, 9), (5, 5), 3, 3, 3, 2, ((2, 2), (2, 2)), 1),
  '5x5 by 2, same': (2, (8, 9), (5, 5), 3, 3, 3, 2, 'SAME', 1),
  '7x7': (1, (5, 6), (7, 7), 3, 3, 3, 1, 'SAME', 1),
  '3x3 dilated': (2, (8, 7), (3, 3), 3, 3, 3, 1, ((2, 2), (2, 2)), 2),
  '3x3 dilated by 2': (2, (8, 7), (3, 3), 3, 3, 3, 2, 'SAME', 2),
  '2x3 valid by 3': (2, (9, 8), (2, 3), 3, 3, 3, 3, 'VALID', 1),
  'a part of the map': (2, (9, 8), (3, 3), 3, 3, 3, 1, ((-1, 0), (0, -2)), 1),
  '1x1 depthwise by 2': (2, (4, 5), (1, 1), 3, 3, 3, 2, 'VALID', 1),
  'large batch': (34, (5, 4), (3, 3), 2, 2, 2, 1, 'SAME', 1),
  '1x1': (2, (4, 5), (1, 1), 3, 6, 1, 1, 'VALID', 1),
  '1x1 by 2': (2, (4, 5), (1, 1), 3, 6, 1, 2, 'SAME', 1),
  '1x1 padded': (2, (4, 5), (1, 1), 3, 6, 1, 1, ((1, 1), (0, 1)), 1),
  'groups': (2, (6, 5), (3, 3), 6, 12, 3, 1, ((1, 1), (1, 1)), 1),
  'groups by 2': (2, (6, 5), (3, 3), 6, 4, 2, 2, 'SAME', 1),
  'multiplier': (2, (6, 5), (3, 3), 3, 6, 3, 1, 'SAME', 1),
  'dense': (2, (6, 5), (3, 3), 3, 4, 1, 2, 'SAME', 1),
}


@pytest.mark.parametrize('name', CASES)
def test_outputs_and_gradients_match_jax(name):
  *shapes, stride, padding, dilation = CASES[name]
  x, kernel = arrays(0, *shapes)
  pair = both(stride, padding, dilation, shapes[-1])
  found = [jax.jit(functools.partial(with_gradients, fn))(x, kernel) for fn in pair]
  check(*found, 1e-5)


DEPTHWISE = (3, (6, 5), (3, 3), 4, 4, 4), (2, 'SAME', 1, 4)
GROUPS = (3, (6, 5), (3, 3), 4, 8, 2), (1, 'SAME', 1, 2)
POINTS = (3, (6, 5), (1, 1), 4, 8, 1), (2, 'VALID', 1, 1)
THREE = {'depthwise': DEPTHWISE, 'groups': GROUPS, '1x1': POINTS}


@pytest.mark.parametrize('name', THREE)
@pytest.mark.parametrize('dtype, tolerance', [('float64', 1e-13), ('bfloat16', 1e-2)])
def test_other_types_of_numbers(name, dtype, tolerance):
  shapes, options = THREE[name]
  with jax.enable_x64(dtype == 'float64'):
    x, kernel = arrays(0, *shapes, dtype=dtype)
    found = [
      jax.jit(functools.partial(with_gradients, fn))(x, kernel) for fn in both(*options)
    ]
    assert found[0][0].dtype == dtype
    check(*found, tolerance)


@pytest.mark.parametrize('name', THREE)
def test_second_derivatives(name):
  shapes, options = THREE[name]
  x, kernel = arrays(0, *shapes)

  def penalty(fn):
    """Returns a sum of squared gradients, like those of gradient penalties."""

    def total(x, kernel):
      return jnp.sin(fn(x, kernel)).sum()

    def squares(x, kernel):
      return sum((g**2).sum() for g in jax.grad(total, argnums=(0, 1))(x, kernel))

    return jax.jit(jax.grad(squares, argnums=(0, 1)))

  ours, theirs = [penalty(fn)(x, kernel) for fn in both(*options)]
  check(ours, theirs, 1e-4)


@pytest.mark.parametrize('name', THREE)
def test_operations_match_the_convolution(name):
  (batch, _, *shapes), options = THREE[name]
  x, kernel = arrays(0, batch, (6, 4), *shapes)
  (ours, forward), (theirs, alone) = [
    (
      flops.count(functools.partial(with_gradients, fn), x, kernel),
      flops.count(fn, x, kernel),
    )
    for fn in both(*options)
  ]
  assert forward == alone > 0
  assert ours == theirs == 3 * forward


@pytest.mark.parametrize('name', THREE)
@pytest.mark.parametrize('platform', ['cpu', 'tpu', 'cuda'])
def test_accelerators_have_one_convolution_forward_and_two_backward(name, platform):
  shapes, options = THREE[name]
  x, kernel = arrays(0, *shapes)
  ours, _ = both(*options)
  traced = jax.jit(functools.partial(with_gradients, ours)).trace(x, kernel)
  text = traced.lower(lowering_platforms=(platform,)).as_text()
  count = {'depthwise': 0, '1x1': 0, 'groups': 6}[name] if platform == 'cpu' else 3
  assert text.count('stablehlo.convolution') == count


def test_a_split_batch_gives_the_same():
  (*_, channels, groups), options = DEPTHWISE
  x, kernel = arrays(0, 8, (6, 5), (3, 3), channels, channels, groups)
  ours, _ = both(*options)
  alone = jax.jit(functools.partial(with_gradients, ours))(x, kernel)
  many = mesh.make_mesh(data=4, fsdp=2)

  @jax.jit
  def split(x, kernel):
    with sharding.on_mesh(many):
      return with_gradients(ours, x, kernel)

  put = jax.device_put(x, sharding.batch_sharding(many))
  check(split(put, kernel), alone, 1e-5)


def test_unsupported_cases_use_jax():
  x, kernel = arrays(0, 2, (6, 5), (3, 3), 4, 4, 4)
  options = dict(
    window_strides=(1, 1),
    padding=((1, 1), (1, 1)),
    lhs_dilation=(2, 2),
    dimension_numbers=LAYOUT,
    feature_group_count=4,
  )
  np.testing.assert_array_equal(
    convolution.convolve(x, kernel, **options),
    jax.lax.conv_general_dilated(x, kernel, **options),
  )
