import hypothesis
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import strategies as st

from big_vision_like.errors import UserError
from big_vision_like.ops import masks


def listed(mask, n, m):
  """Returns all booleans of a mask, (N, M), for one example and head."""
  dense = mask.dense(n, m)
  return (
    np.ones((n, m), bool) if dense is None else np.broadcast_to(dense[0, 0], (n, m))
  )


def test_nothing_is_hidden_without_conditions():
  assert masks.Mask().dense(3, 4) is None
  assert masks.window(None, None).dense(3, 4) is None
  assert masks.Mask().sees_any(3, 4) is None


def test_causal():
  np.testing.assert_array_equal(listed(masks.causal(), 3, 3), np.tri(3, dtype=bool))
  for n, m in ((2, 4), (4, 1)):
    want = np.tri(n, m, dtype=bool)
    np.testing.assert_array_equal(listed(masks.causal(), n, m), want)
  assert masks.causal().is_causal_alone
  assert not (masks.causal() & masks.padding(jnp.ones((1, 3)))).is_causal_alone


def test_up_to_continues_at_an_index():
  got = jax.jit(lambda i: masks.up_to(i).dense(2, 5))(jnp.int32(2))
  np.testing.assert_array_equal(got[0, 0], np.tri(5, dtype=bool)[2:4])


def test_window():
  got = listed(masks.window(1, 2), 4, 5)
  want = [[1, 1, 1, 0, 0], [1, 1, 1, 1, 0], [0, 1, 1, 1, 1], [0, 0, 1, 1, 1]]
  np.testing.assert_array_equal(got, np.array(want, bool))
  np.testing.assert_array_equal(
    listed(masks.window(None, 0), 4, 4), listed(masks.causal(), 4, 4)
  )


def test_padding_hides_keys_from_all_queries():
  got = listed(masks.padding(jnp.array([[1, 1, 0]])), 2, 3)
  np.testing.assert_array_equal(got, [[True, True, False]] * 2)


def test_segments_see_themselves_and_no_padding():
  got = listed(masks.segments(jnp.array([[1, 1, 2, 0]])), 4, 4)
  want = [[1, 1, 0, 0], [1, 1, 0, 0], [0, 0, 1, 0], [0, 0, 0, 0]]
  np.testing.assert_array_equal(got, np.array(want, bool))


def test_blocks_are_neighbours():
  want = np.kron(np.eye(2), np.ones((3, 3)))[:5, :5].astype(bool)
  np.testing.assert_array_equal(listed(masks.blocks(5, 3), 5, 5), want)


def test_edges_of_a_graph():
  edges_BNM = np.random.default_rng(0).random((2, 3, 4)) < 0.5
  got = masks.listed(jnp.asarray(edges_BNM)).dense(3, 4)
  np.testing.assert_array_equal(got, edges_BNM[:, None])


def test_both_is_every_condition_of_both():
  ids = jnp.array([[1, 1, 2, 2, 0]])
  arbitrary = jnp.asarray(np.random.default_rng(0).random((1, 1, 5, 5)) < 0.7)
  parts = [
    masks.causal(),
    masks.window(2, 3),
    masks.segments(ids),
    masks.padding(jnp.array([[1, 0, 1, 1, 1]])),
    masks.listed(arbitrary),
  ]
  for a in parts:
    for b in parts:
      want = listed(a, 5, 5) & listed(b, 5, 5)
      np.testing.assert_array_equal(listed(a & b, 5, 5), want)
  whole = parts[0] & parts[1] & parts[2] & parts[3] & parts[4]
  want = np.logical_and.reduce([listed(part, 5, 5) for part in parts])
  np.testing.assert_array_equal(listed(whole, 5, 5), want)


@hypothesis.settings(max_examples=25, deadline=None)
@hypothesis.given(
  n=st.integers(1, 6),
  m=st.integers(1, 6),
  left=st.none() | st.integers(0, 4),
  right=st.none() | st.integers(0, 4),
  kind=st.sampled_from(['none', 'padding', 'segments']),
  seed=st.integers(0, 2**16),
)
def test_queries_that_see_any_key(n, m, left, right, kind, seed):
  rng, mask = np.random.default_rng(seed), masks.window(left, right)
  if kind == 'padding':
    mask &= masks.padding(jnp.asarray(rng.integers(0, 2, (2, m))))
  elif kind == 'segments':
    ids = (jnp.asarray(rng.integers(0, 3, (2, size)), jnp.int32) for size in (n, m))
    mask &= masks.segments(*ids)
  got, dense = mask.sees_any(n, m), mask.dense(n, m)
  want = np.ones((1, 1, n), bool) if dense is None else dense.any(axis=-1)
  got = np.ones((1, n), bool) if got is None else np.asarray(got)
  np.testing.assert_array_equal(*np.broadcast_arrays(got, want[:, 0]))


@pytest.mark.parametrize(
  'make, words',
  [
    (lambda: masks.window(-1, 0), 'left=-1'),
    (lambda: masks.padding(jnp.ones(3)), r'2 dimensions; this one has shape \(3,\)'),
    (lambda: masks.segments(jnp.ones((1, 3))), 'whole numbers, not float32'),
    (lambda: masks.listed(jnp.ones((2, 3), bool)), r'4 dimensions.*\(2, 3\)'),
    (lambda: masks.listed(jnp.ones((1, 1, 2, 3))), r'\(1, 1, 2, 3\) is float32'),
  ],
)
def test_invalid_masks_are_reported(make, words):
  with pytest.raises(UserError, match=words):
    make()
