import jax
import jax.numpy as jnp
import numpy as np
import pytest

from big_vision_like.ops import boxes


@pytest.fixture(params=['numpy', 'jax'])
def xp(request):
  return {'numpy': np, 'jax': jnp}[request.param]


def corners(*shape: int) -> np.ndarray:
  """Returns valid xyxy boxes of at most 20x30 pixels."""
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


def test_overlaps_are_counted_in_pixels(xp):
  whole = np.random.default_rng(1).integers(0, 12, (2, 3, 5, 2, 2))
  low, high = np.moveaxis(np.sort(whole, axis=-2), -2, 0)
  a, b = np.float32(np.concatenate([low, high + 1], axis=-1))
  y, x = np.mgrid[:13, :13]

  def covers(box):
    left, top, right, bottom = (
      side[..., None, None] for side in np.moveaxis(box, -1, 0)
    )
    return (x >= left) & (x < right) & (y >= top) & (y < bottom)

  one, other = covers(a), covers(b)
  both, either = (one & other).sum((-1, -2)), (one | other).sum((-1, -2))
  hull = covers(
    np.concatenate([np.minimum(a, b)[..., :2], np.maximum(a, b)[..., 2:]], axis=-1)
  ).sum((-1, -2))
  a, b = xp.asarray(a), xp.asarray(b)
  np.testing.assert_array_equal(boxes.intersection(a, b), both)
  np.testing.assert_array_equal(boxes.union(a, b), either)
  np.testing.assert_allclose(boxes.iou(a, b), both / either, rtol=1e-6)
  expected = both / either - (hull - either) / hull
  np.testing.assert_allclose(boxes.generalized_iou(a, b), expected, atol=1e-6)
  for pairwise, function in (
    (boxes.pairwise_iou, boxes.iou),
    (boxes.pairwise_generalized_iou, boxes.generalized_iou),
  ):
    table = pairwise(a, b[:, :4])
    assert isinstance(table, jax.Array if xp is jnp else np.ndarray)
    assert table.shape == (3, 5, 4)
    np.testing.assert_array_equal(table[2, 4, 3], function(a[2, 4], b[2, 3]))


def test_generalized_iou_of_known_boxes(xp):
  a = xp.asarray([[0.0, 0.0, 1.0, 1.0]] * 3)
  b = xp.asarray([[0.0, 0.0, 1.0, 1.0], [9.0, 0.0, 10.0, 1.0], [0.0, 0.0, 2.0, 2.0]])
  np.testing.assert_allclose(boxes.generalized_iou(a, b), [1.0, -0.8, 0.25], atol=1e-6)


def test_boxes_without_area_overlap_nothing(xp):
  point = xp.asarray([[2.0, 2.0, 2.0, 2.0]])
  box = xp.asarray([[1.0, 1.0, 3.0, 3.0]])
  np.testing.assert_array_equal(boxes.iou(point, point), [0])
  np.testing.assert_array_equal(boxes.generalized_iou(point, point), [0])
  np.testing.assert_array_equal(boxes.generalized_iou(point, box), [0])
  assert np.isnan(boxes.iou(point * np.float32(np.nan), box)).all()


def test_gradients_are_finite():
  point, box = jnp.full((1, 4), 2.0), jnp.array([[1.0, 1.0, 3.0, 3.0]])
  far = jnp.array([[5.0, 5.0, 6.0, 6.0]])
  grad = jax.grad(lambda a, b: boxes.generalized_iou(a, b).sum())
  for a, b in (point, point), (point, box), (box, box), (box, far):
    assert np.isfinite(grad(a, b)).all()
  moves = grad(far, box)[0]
  assert moves[0] < 0 and moves[1] < 0, 'boxes apart are not drawn together'
