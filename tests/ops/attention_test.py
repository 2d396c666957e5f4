import functools

import hypothesis
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import strategies as st

from big_vision_like.ops import attention

B, N, M, H, K, V = 2, 5, 7, 3, 4, 6


def inputs(seed: int = 0, dtype=jnp.float32):
  rng = np.random.default_rng(seed)
  shapes = (B, N, H, K), (B, M, H, K), (B, M, H, V)
  return tuple(jnp.asarray(rng.normal(size=shape), dtype) for shape in shapes)


def some_bias(seed: int = 1):
  rng = np.random.default_rng(seed)
  return jnp.asarray(rng.normal(size=(B, H, N, M)), jnp.float32)


def some_mask(seed: int = 2):
  """Of queries 0 all keys are masked in example 0, and no key in example 1."""
  mask = np.random.default_rng(seed).random((B, H, N, M)) < 0.6
  mask[..., 0] = True
  mask[0, :, 0], mask[1, :, 0] = False, True
  return jnp.asarray(mask)


def by_loops(q, k, v, bias=None, mask=None):
  """Section 3.2.1, one query at a time."""
  q, k, v = (np.asarray(x, np.float64) for x in (q, k, v))
  result = np.zeros((B, N, H, v.shape[-1]))
  for b in range(B):
    for h in range(H):
      for n in range(N):
        scores = k[b, :, h] @ q[b, n, h] / np.sqrt(q.shape[-1])
        if bias is not None:
          scores = scores + np.asarray(bias)[b, h, n]
        seen = np.ones(M, bool) if mask is None else np.asarray(mask)[b, h, n]
        weights = np.exp(scores[seen] - scores[seen].max(initial=-np.inf))
        if seen.any():
          result[b, n, h] = weights / weights.sum() @ v[b, seen, h]
  return result


@pytest.mark.parametrize('with_bias', [False, True])
@pytest.mark.parametrize('with_mask', [False, True])
def test_attend_is_the_definition(with_bias, with_mask):
  bias = some_bias() if with_bias else None
  mask = some_mask() if with_mask else None
  got = attention.attend(*inputs(), bias, mask)
  want = by_loops(*inputs(), bias, mask)
  assert got.shape == (B, N, H, V) and got.dtype == jnp.float32
  np.testing.assert_allclose(got, want, rtol=1e-5, atol=1e-6)


def test_attend_is_that_of_jax():
  q, k, v = inputs()
  v = v[..., :K]
  mask = some_mask().at[0, :, 0].set(True)
  got = attention.attend(q, k, v, some_bias(), mask)
  want = jax.nn.dot_product_attention(q, k, v, some_bias(), mask)
  np.testing.assert_allclose(got, want, rtol=1e-5, atol=1e-6)


def test_probabilities_sum_to_one_where_anything_is_seen():
  q, k, _ = inputs()
  p = attention.probabilities(q, k, some_bias(), some_mask())
  assert p.shape == (B, H, N, M)
  sums = np.asarray(p.sum(axis=-1))
  np.testing.assert_array_equal(sums[0, :, 0], 0.0)
  np.testing.assert_allclose(sums[1], 1.0, rtol=1e-6)
  assert not np.asarray(p)[~np.asarray(some_mask())].any()


def test_a_query_that_sees_nothing_gets_zeros_and_passes_no_gradient():
  @jax.jit
  def outputs_and_gradients(q, k, v, mask):
    def loss(q, k, v):
      y = attention.attend(q, k, v, mask_BHNM=mask)
      return (y**2).sum() + y.sum(), y

    gradient = jax.value_and_grad(loss, argnums=(0, 1, 2), has_aux=True)
    (_, y), grads = gradient(q, k, v)
    return y, grads

  y, grads = outputs_and_gradients(*inputs(), some_mask())
  np.testing.assert_array_equal(y[0, 0], 0.0)
  assert all(np.isfinite(g).all() for g in grads)
  np.testing.assert_array_equal(grads[0][0, 0], 0.0)
  assert (np.abs(grads[0][1]).max(axis=(-1, -2)) > 0).all()

  y, grads = outputs_and_gradients(*inputs(), jnp.zeros_like(some_mask()))
  for zeros in (y, *grads):
    np.testing.assert_array_equal(zeros, 0.0)


def test_what_is_masked_has_no_influence():
  q, k, v = inputs()
  mask = jnp.broadcast_to(jnp.arange(M) < 4, (B, H, N, M))
  got = attention.attend(q, k.at[:, 4:].set(1e4), v.at[:, 4:].set(-1e4), None, mask)
  want = attention.attend(q, k[:, :4], v[:, :4])
  np.testing.assert_allclose(got, want, rtol=1e-5, atol=1e-6)


def test_bias_and_mask_broadcast():
  q, k, v = inputs()
  bias, mask = some_bias()[:1, :, :1], some_mask()[:, :1, 1:2]
  got = attention.attend(q, k, v, bias, mask)
  whole = (B, H, N, M)
  want = attention.attend(
    q, k, v, jnp.broadcast_to(bias, whole), jnp.broadcast_to(mask, whole)
  )
  np.testing.assert_array_equal(got, want)


def test_large_logits_stay_finite():
  q, k, v = inputs()
  y = attention.attend(q * 1e4, k * 1e4, v)
  assert np.isfinite(y).all()


def test_half_precision_keeps_a_float32_softmax():
  half = inputs(dtype=jnp.bfloat16)
  p = attention.probabilities(*half[:2])
  assert p.dtype == jnp.float32
  # Rounded inputs, exact softmax: nearer than the 2^-9 of bfloat16 probabilities.
  np.testing.assert_allclose(p.sum(axis=-1), 1.0, rtol=0, atol=1e-6)
  exact = [x.astype(jnp.float32) for x in half]
  scaled = (exact[0] / np.sqrt(K)).astype(jnp.bfloat16).astype(jnp.float32)
  want = attention.probabilities(scaled * np.sqrt(K), exact[1])
  np.testing.assert_allclose(p, want, rtol=1e-5)
  y = attention.attend(*half)
  assert y.dtype == jnp.bfloat16
  np.testing.assert_allclose(
    y.astype(jnp.float32), by_loops(*exact), rtol=0.03, atol=0.03
  )


@functools.cache
def compiled():
  return jax.jit(attention.attend)


@hypothesis.settings(max_examples=25, deadline=None)
@hypothesis.given(
  seed=st.integers(0, 2**16),
  queries=st.permutations(range(N)),
  keys=st.permutations(range(M)),
)
def test_permuting_queries_permutes_outputs_and_keys_do_not_matter(seed, queries, keys):
  q, k, v = inputs(seed)
  bias, mask = some_bias(seed), some_mask(seed)
  queries, keys = np.array(queries), np.array(keys)
  want = compiled()(q, k, v, bias, mask)[:, queries]
  got = compiled()(
    q[:, queries],
    k[:, keys],
    v[:, keys],
    bias[:, :, queries][..., keys],
    mask[:, :, queries][..., keys],
  )
  np.testing.assert_allclose(got, want, rtol=1e-5, atol=1e-6)
