import jax
import jax.numpy as jnp
import numpy as np
import pytest
import shapes
from hypothesis import given, settings
from hypothesis import strategies as st

from big_vision_like.errors import UserError
from big_vision_like.ops import resampling

SIDE = st.integers(1, 12)


MATRICES = [
  resampling.linear_matrix,
  resampling.cubic_matrix,
  resampling.average_matrix,
]


@settings(max_examples=60, deadline=None)
@given(size=SIDE, new_size=SIDE)
def test_matrices_keep_constants_and_mirrors(size, new_size):
  for matrix in MATRICES:
    weights = matrix(size, new_size)
    assert weights.shape == (new_size, size) and weights.dtype == np.float64
    np.testing.assert_allclose(weights.sum(axis=1), 1.0, atol=1e-12)
    np.testing.assert_allclose(weights[::-1, ::-1], weights, atol=1e-12)
    np.testing.assert_allclose(matrix(size, size), np.eye(size), atol=1e-12)


@settings(max_examples=60, deadline=None)
@given(size=SIDE, new_size=st.integers(1, 30))
def test_slopes_are_kept(size, new_size):
  centres = np.clip(resampling.centres(size, new_size), 0, size - 1)
  got = resampling.linear_matrix(size, new_size) @ np.arange(size)
  np.testing.assert_allclose(got, centres, atol=1e-12)


def test_rows_and_columns_are_distinguished():
  x = jnp.arange(2 * 3 * 5 * 4, dtype=jnp.float32).reshape(2, 3, 5, 4)
  with shapes.checked('big_vision_like/ops') as seen:
    got = resampling.resize(x, (7, 6), 'bilinear')
    mean = resampling.adaptive_average(x, 1)
  assert got.shape == (2, 7, 6, 4) and {'x_BhwC', 'y_BHwC', 'y_BHWC'} <= seen.keys()
  np.testing.assert_allclose(mean, x.mean((1, 2), keepdims=True), rtol=1e-6)
  turned = resampling.resize(x.swapaxes(1, 2), (6, 7), 'bilinear')
  np.testing.assert_allclose(turned.swapaxes(1, 2), got, rtol=1e-6)


def test_the_type_stays_and_gradients_flow():
  x = jnp.ones((1, 3, 3, 2), jnp.bfloat16)
  assert resampling.resize(x, (5, 4), 'bicubic').dtype == jnp.bfloat16
  assert resampling.adaptive_average(x, 2).dtype == jnp.bfloat16
  gradient = jax.grad(lambda x: resampling.resize(x, (6, 6), 'bilinear').sum())(
    jnp.ones((1, 3, 3, 2))
  )
  np.testing.assert_allclose(gradient, 4.0, rtol=1e-6)  # each pixel becomes four


@pytest.mark.parametrize(
  'call, words',
  [
    (
      lambda x: resampling.resize(x, (2, 2), 'area'),
      "method='area'.*bilinear, bicubic",
    ),
    (lambda x: resampling.resize(x, (0, 2), 'bilinear'), r'size=\(0, 2\)'),
    (lambda x: resampling.adaptive_average(x, 0), 'size=0'),
  ],
)
def test_impossible_sizes_and_methods_are_named(call, words):
  with pytest.raises(UserError, match=words):
    call(jnp.zeros((1, 3, 3, 1)))


@pytest.mark.parametrize(
  ('size', 'factors'), [((1, 4), (5, 2)), ((3, 5), (1, 4)), ((2, 2), (3, 1))]
)
def test_enlargement_by_whole_numbers_equals_products(size, factors):
  x = np.random.default_rng(0).normal(size=(2, *size, 3)).astype(np.float32)
  new = [side * factor for side, factor in zip(size, factors, strict=True)]
  got = resampling.resize(x, tuple(new), 'bilinear')
  down, right = map(resampling.linear_matrix, size, new)
  want = np.einsum('Hh,bhwc,Ww->bHWc', down, x, right)
  np.testing.assert_allclose(got, want, atol=1e-6)


@pytest.mark.parametrize('size, new_size', [(5, 12), (12, 5), (7, 7), (4, 8)])
def test_tensorflow_1_keeps_the_first_pixel_in_place(size, new_size):
  # Without aligned corners it reads at i * size / new_size.
  x = np.arange(size, dtype=np.float32) ** 2
  place = np.arange(new_size) * size / new_size
  want = np.interp(place, np.arange(size), x)
  image = jnp.broadcast_to(x[None, :, None, None], (1, size, 3, 2))
  got = resampling.resize(image, (new_size, 3), 'tf1_bilinear')
  np.testing.assert_allclose(got[0, :, 1, 0], want, rtol=1e-6)
  assert got[0, 0, 0, 0] == x[0]
