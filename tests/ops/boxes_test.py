import jax
import jax.numpy as jnp
import numpy as np
import pytest

from big_vision_like.ops import boxes


@pytest.fixture(params=['numpy', 'jax'])
def xp(request):
  return {'numpy': np, 'jax': jnp}[request.param]


def corners(*shape: int) -> np.ndarray:
  """Valid xyxy boxes of 20x30 pixels and less."""
  low, high = np.sort(np.random.default_rng(0).uniform(0, 1, (2, *shape, 2)), axis=0)
  return (np.concatenate([low, high], -1) * [30, 20, 30, 20]).astype(np.float32)


def test_centre_and_size(xp):
  got = boxes.xyxy_to_cxcywh(xp.asarray([[10.0, 20.0, 14.0, 30.0]]))
  np.testing.assert_array_equal(got, [[12, 25, 4, 10]])
  np.testing.assert_array_equal(boxes.cxcywh_to_xyxy(got), [[10, 20, 14, 30]])
  assert isinstance(got, jax.Array if xp is jnp else np.ndarray)


def test_conversions_invert_each_other(xp):
  given = xp.asarray(corners(3, 7))
  back = boxes.cxcywh_to_xyxy(boxes.xyxy_to_cxcywh(given))
  np.testing.assert_allclose(back, given, atol=1e-5)
  assert back.dtype == given.dtype


def test_area_is_never_negative(xp):
  given = xp.asarray([[1.0, 2.0, 4.0, 4.0], [4.0, 2.0, 1.0, 4.0], [4.0, 4.0, 1.0, 2.0]])
  np.testing.assert_array_equal(boxes.area(given), [6, 0, 0])


def test_clip_cuts_to_the_image(xp):
  given = xp.asarray([[-5.0, -5.0, 50.0, 50.0], [40.0, 2.0, 50.0, 4.0]])
  got = boxes.clip(given, height=20, width=30)
  np.testing.assert_array_equal(got, [[0, 0, 30, 20], [30, 2, 30, 4]])
  assert got.dtype == given.dtype and boxes.area(got)[1] == 0


def test_sizes_of_a_batch_may_be_traced():
  given = corners(5)
  clip = jax.jit(boxes.clip)
  np.testing.assert_array_equal(clip(given, 6, 9), boxes.clip(given, 6, 9))
