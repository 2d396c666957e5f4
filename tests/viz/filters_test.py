import numpy as np
import pytest

from big_vision_like.viz import filters


def test_principal_filters_find_the_directions_the_filters_were_made_of():
  random = np.random.default_rng(0)
  directions = np.linalg.qr(random.normal(size=(4 * 2 * 3, 2)))[0].T
  mixture = random.normal(size=(50, 2)) * [[3.0, 1.0]]
  mixture -= mixture.mean(axis=0)
  kernel = (mixture @ directions + 0.7).T.reshape(4, 2, 3, 50)
  found, share = filters.principal_filters(kernel, count=2)
  assert found.shape == (2, 4, 2, 3) and share.shape == (2,)
  np.testing.assert_allclose(share.sum(), 1.0)
  assert share[0] > share[1]
  components = (found - 0.5).reshape(2, -1)
  components /= np.linalg.norm(components, axis=1, keepdims=True)
  # Together they span the same plane, whatever the mixture's own correlation.
  np.testing.assert_allclose(
    components.T @ components, directions.T @ directions, atol=1e-9
  )


def test_principal_filters_use_the_whole_range_of_brightness():
  kernel = np.random.default_rng(1).normal(size=(2, 2, 1, 10))
  found, share = filters.principal_filters(kernel)
  assert found.shape == (4, 2, 2, 1), 'no more components than weights in a filter'
  assert np.all(found.max(axis=(1, 2, 3)) == 1.0)
  assert np.all(found >= 0.0)
  np.testing.assert_allclose(share.sum(), 1.0)


def test_principal_filters_of_a_constant_kernel_are_finite():
  found, share = filters.principal_filters(np.ones((2, 2, 3, 5)))
  assert np.all(np.isfinite(found)) and np.all(share == 0)


def test_principal_filters_want_a_patch_kernel():
  with pytest.raises(ValueError, match=r'not \(4, 8\)'):
    filters.principal_filters(np.ones((4, 8)))
