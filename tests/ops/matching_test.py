import jax
import jax.numpy as jnp
import numpy as np
import pytest
import shapes
from scipy import optimize

from big_vision_like.devices import mesh as meshes
from big_vision_like.errors import UserError
from big_vision_like.ops import matching, sharding

match = jax.jit(matching.match)
UNMATCHED = 1e6  # exceeds the cost of any matching here


def least_costs(cost_BTQ, valid_BT):
  """Returns least costs by scipy in float64, UNMATCHED for each unmatched target."""
  cost_BTQ = np.where(np.isfinite(cost_BTQ), cost_BTQ.astype(np.float64), UNMATCHED)
  tables = [
    cost_TQ[valid_T] for cost_TQ, valid_T in zip(cost_BTQ, valid_BT, strict=True)
  ]
  return [table[optimize.linear_sum_assignment(table)].sum() for table in tables]


def costs_of(query_BT, cost_BTQ, valid_BT):
  """Returns the costs of a matching, after checking that it is one."""
  assert query_BT.dtype == np.int32 and query_BT.shape == valid_BT.shape
  assert (query_BT[~valid_BT] == -1).all()
  queries = cost_BTQ.shape[-1]
  assert query_BT.min() >= -1 and query_BT.max() < queries
  uses_BQ = (query_BT[:, :, None] == np.arange(queries)).sum(axis=1)
  assert uses_BQ.max() <= 1, 'a query has two targets'
  cost_BT = np.take_along_axis(cost_BTQ, query_BT[:, :, None], axis=2)[..., 0]
  assert np.isfinite(cost_BT[query_BT >= 0]).all(), 'a pair that may not be'
  cost_BT = np.where(query_BT < 0, UNMATCHED, cost_BT.astype(np.float64))
  return np.where(valid_BT, cost_BT, 0.0).sum(axis=1)


def forbidden(rng, shape):
  """Returns integer costs in which some or all pairs of an instance are forbidden."""
  share_B11 = rng.random((shape[0], 1, 1))
  never = rng.choice([np.inf, -np.inf, np.nan], shape)
  return np.where(rng.random(shape) < share_B11, never, rng.integers(0, 9, shape))


# The number of instances of each kind, and a function that makes their costs.
WHOLE = [
  (500, lambda rng, shape: rng.integers(-2, 3, shape)),  # many ties
  (300, lambda rng, shape: rng.integers(0, 99, shape)),
  (100, lambda rng, shape: np.full(shape, 7)),
  (100, lambda rng, shape: 1_000_000 + rng.integers(0, 5, shape)),
  (800, forbidden),
]
FLOATS = [
  (500, lambda rng, shape: rng.normal(size=shape)),
  (200, lambda rng, shape: 10.0 ** rng.uniform(-3, 3, shape)),
]


@pytest.mark.parametrize('padded', [False, True], ids=['whole', 'padded'])
@pytest.mark.parametrize('sizes', [(10, 10), (6, 15)], ids=['10x10', '6x15'])
def test_ten_thousand_matchings_cost_as_much_as_with_scipy(sizes, padded):
  rng = np.random.default_rng(0)
  made = [make(rng, (count, *sizes)) for count, make in WHOLE + FLOATS]
  cost_BTQ = np.concatenate(made).astype(np.float32)
  valid_BT = np.ones(cost_BTQ.shape[:2], bool)
  if padded:
    valid_BT = rng.random(valid_BT.shape) < rng.random((len(valid_BT), 1))
    of_padding = rng.choice([np.nan, np.inf, -1e9, 0.0], valid_BT.shape)
    cost_BTQ = np.where(valid_BT[:, :, None], cost_BTQ, of_padding[:, :, None])
    cost_BTQ = cost_BTQ.astype(np.float32)
  query_BT = np.asarray(match(cost_BTQ, valid_BT) if padded else match(cost_BTQ))
  found = costs_of(query_BT, cost_BTQ, valid_BT)
  expected = least_costs(cost_BTQ, valid_BT)
  count = sum(count for count, _ in WHOLE)
  np.testing.assert_array_equal(found[:count], expected[:count])
  np.testing.assert_allclose(found, expected, 1e-6, 1e-6)


@pytest.mark.parametrize('spread', [1.0, 1e-3], ids=['distinct', 'alike'])
def test_objects_among_a_hundred_queries(spread):
  rng = np.random.default_rng(4)
  object_BT14, query_BQ4 = rng.random((100, 20, 1, 4)), rng.random((100, 100, 4))
  query_BQ4 = query_BQ4.mean() + spread * (query_BQ4 - query_BQ4.mean())
  cost_BTQ = 5 * np.abs(object_BT14 - query_BQ4[:, None]).sum(axis=-1)
  cost_BTQ = (cost_BTQ - rng.random((100, 20, 1))).astype(np.float32)
  valid_BT = np.arange(20) < rng.integers(0, 21, (100, 1))
  found = costs_of(np.asarray(match(cost_BTQ, valid_BT)), cost_BTQ, valid_BT)
  np.testing.assert_allclose(found, least_costs(cost_BTQ, valid_BT), 1e-6, 1e-4)


@pytest.mark.parametrize('sizes', [(1, 1), (1, 4), (5, 5)])
def test_small_matchings(sizes):
  rng = np.random.default_rng(1)
  cost_BTQ = rng.integers(0, 4, (50, *sizes)).astype(np.float32)
  valid_BT = rng.random(cost_BTQ.shape[:2]) < 0.7
  query_BT = np.asarray(match(cost_BTQ, valid_BT))
  found = costs_of(query_BT, cost_BTQ, valid_BT)
  np.testing.assert_array_equal(found, least_costs(cost_BTQ, valid_BT))


@pytest.mark.parametrize('dtype', [jnp.float32, jnp.bfloat16])
def test_by_hand(dtype):
  inf, nan = np.inf, np.nan
  cost_BTQ = [
    [[1, 2, 9], [1, 5, 9]],  # query 0 matters more to the second target,
    [[1, 2, 9], [1, 5, 9]],  # but here the second target is padding
    [[5, inf, nan], [1, nan, inf]],  # both want the only query
  ]
  valid_BT = np.array([[True, True], [True, False], [True, True]])
  query_BT = match(jnp.asarray(cost_BTQ, dtype), valid_BT)
  np.testing.assert_array_equal(query_BT, [[1, 0], [0, -1], [-1, 0]])


def test_costs_near_the_largest_float():
  cost = np.array(
    [[[3e38, np.inf], [np.inf, np.inf]], [[3e38, -3e38], [-3e38, 3e38]]], np.float32
  )
  found = jax.jit(matching.match)(cost)
  np.testing.assert_array_equal(found, [[0, -1], [1, 0]])


def test_no_targets():
  assert match(np.zeros((3, 0, 4), np.float32)).shape == (3, 0)


def test_gradients_come_only_from_the_matched_costs():
  cost_BTQ = np.random.default_rng(2).random((3, 4, 5), np.float32)

  def total(cost_BTQ):
    query_BT = matching.match(cost_BTQ)
    matched_BT1 = jnp.take_along_axis(cost_BTQ, query_BT[..., None], axis=2)
    return matched_BT1.sum(), query_BT

  grads_BTQ, query_BT = jax.jit(jax.grad(total, has_aux=True))(cost_BTQ)
  chosen_BTQ = np.asarray(query_BT)[..., None] == np.arange(5)
  np.testing.assert_array_equal(grads_BTQ, chosen_BTQ)


@pytest.mark.parametrize('batch_size', [6, 5])
def test_devices_of_a_mesh_match_their_own(batch_size):
  mesh = meshes.make_mesh(data=2, devices=jax.devices()[:2])
  rng = np.random.default_rng(3)
  cost_BTQ = rng.normal(size=(batch_size, 4, 6)).astype(np.float32)
  valid_BT = rng.random((batch_size, 4)) < 0.6
  arrays = cost_BTQ, valid_BT
  if batch_size % 2 == 0:
    arrays = [jax.device_put(x, sharding.batch_sharding(mesh)) for x in arrays]

  def on_mesh(*arrays):
    with sharding.on_mesh(mesh):
      return matching.match(*arrays)

  compiled = jax.jit(on_mesh).lower(*arrays).compile()
  np.testing.assert_array_equal(compiled(*arrays), match(cost_BTQ, valid_BT))
  if batch_size % 2 == 0:
    assert not any(f'all-{x}' in compiled.as_text() for x in ('reduce', 'gather'))


def test_more_targets_than_queries_are_reported():
  with pytest.raises(UserError, match=r'5 targets.* one of 4 queries.*\[2, 5, 4\]'):
    jax.eval_shape(matching.match, np.zeros((2, 5, 4), np.float32))


def test_array_names_match_their_axes():
  with shapes.checked('big_vision_like/ops') as seen:
    jax.eval_shape(matching.match, np.zeros((2, 3, 5)), np.ones((2, 3), bool))
  assert {'cost_BTQ', 'valid_BT', 'query_BT', 'pairs_BTQ'} <= seen.keys()
