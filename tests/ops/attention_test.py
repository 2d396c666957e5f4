import functools
from unittest import mock

import hypothesis
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import strategies as st
from jax._src.cudnn import fused_attention_stablehlo
from jax.sharding import Mesh

from big_vision_like import plan
from big_vision_like.errors import UserError
from big_vision_like.ops import attention, masks, sharding

B, N, M, H, K, V = 2, 5, 7, 3, 4, 6


def inputs(seed: int = 0, dtype=jnp.float32):
  rng = np.random.default_rng(seed)
  shapes = (B, N, H, K), (B, M, H, K), (B, M, H, V)
  return tuple(jnp.asarray(rng.normal(size=shape), dtype) for shape in shapes)


def some_bias(seed: int = 1):
  rng = np.random.default_rng(seed)
  return jnp.asarray(rng.normal(size=(B, H, N, M)), jnp.float32)


def some_mask(seed: int = 2):
  """Returns a mask in which query 0 sees no key in example 0, and all in example 1."""
  mask = np.random.default_rng(seed).random((B, H, N, M)) < 0.6
  mask[..., 0] = True
  mask[0, :, 0], mask[1, :, 0] = False, True
  return jnp.asarray(mask)


def by_loops(q, k, v, bias=None, mask=None):
  """Computes attention by section 3.2.1, one query at a time."""
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
      y = attention.attend(q, k, v, mask=mask)
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
  # Rounded inputs, exact softmax: more accurate than the 2^-9 of bfloat16
  # probabilities.
  np.testing.assert_allclose(p.sum(axis=-1), 1.0, rtol=0, atol=1e-6)
  exact = [x.astype(jnp.float32) for x in half]
  want = attention.probabilities(*exact[:2])
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


def square(batch=2, tokens=5, heads=2, size=64, dtype=jnp.float32, seed=0):
  """Returns queries, keys and values of self-attention, laid out as for the kernels."""
  x = np.random.default_rng(seed).normal(size=(3, batch, tokens, heads, size))
  return tuple(jnp.asarray(x, dtype))


def output_and_gradients(implementation, **options):
  """Returns a function of (q, k, v) whose gradient weights every output differently."""

  def loss(q, k, v):
    y = attention.attend(q, k, v, implementation=implementation, **options)
    return (
      y.astype(jnp.float32) * jnp.sin(jnp.arange(y.size)).reshape(y.shape)
    ).sum(), y

  return jax.value_and_grad(loss, argnums=(0, 1, 2), has_aux=True)


def assert_equal_to_xla(qkv, implementation, tolerance, **options):
  got, want = (
    jax.jit(output_and_gradients(name, **options))(*qkv)
    for name in (implementation, 'xla')
  )
  (_, y), grads = jax.tree.map(lambda x: np.asarray(x, np.float32), got)
  (_, want_y), want_grads = jax.tree.map(lambda x: np.asarray(x, np.float32), want)
  for x, want_x in zip((y, *grads), (want_y, *want_grads), strict=True):
    scale = np.abs(want_x).max()
    np.testing.assert_allclose(x, want_x, rtol=0, atol=tolerance * scale)


@pytest.mark.parametrize(
  'tokens, size, dtype, tolerance',
  [
    (5, 64, 'float32', 2e-6),
    (197, 80, 'float32', 2e-6),
    (256, 64, 'float32', 2e-6),
    (197, 80, 'bfloat16', 0.02),
  ],
)
def test_the_kernel_is_exact(tokens, size, dtype, tolerance):
  qkv = square(tokens=tokens, size=size, dtype=dtype)
  assert_equal_to_xla(qkv, 'pallas', tolerance)


@pytest.mark.parametrize('queries, keys', [(1, 197), (197, 5)])
def test_the_kernel_takes_queries_of_another_sequence(queries, keys):
  q, _, _ = square(tokens=queries, seed=1)
  _, k, v = square(tokens=keys)
  assert_equal_to_xla((q, k, v[..., :40]), 'pallas', 2e-6)


def test_the_kernel_in_several_blocks(monkeypatch):
  monkeypatch.setattr(attention, 'MAX_BLOCK', 128)
  assert_equal_to_xla(square(tokens=300, heads=1), 'pallas', 2e-6)


PACKED = jnp.array([[1] * 40 + [2] * 90 + [0] * 10, [3] * 140])
SEEN = jnp.array([[1] * 90 + [0] * 50, [0] * 140])  # no key of the second example


MASKS = {
  'causal': masks.causal(),
  'window': masks.window(20, 5),
  'padding': masks.padding(SEEN),
  'packed': masks.causal() & masks.segments(PACKED),
  'window-padding': masks.window(None, 30) & masks.padding(SEEN),
  'window-packed': masks.window(9, 9) & masks.segments(PACKED),
}


@pytest.mark.parametrize(
  'name, fused',
  [*((name, False) for name in MASKS), ('packed', True), ('window-padding', True)],
)
def test_the_kernel_with_masks(name, fused, monkeypatch):
  monkeypatch.setattr(attention, 'MAX_BLOCK', 128)
  monkeypatch.setattr(attention, 'MAX_FUSED_BLOCKS', 2 if fused else 1)
  assert_equal_to_xla(square(tokens=140), 'pallas', 3e-6, mask=MASKS[name])


def test_the_kernel_with_fewer_heads_of_keys():
  q, _, _ = square(tokens=20, heads=6)
  _, k, v = square(tokens=30, heads=2, seed=1)
  mask = masks.padding(jnp.arange(30)[None] < 25)
  assert_equal_to_xla((q, k, v), 'pallas', 2e-6, mask=mask)


@pytest.mark.parametrize('groups', [1, 2])
@pytest.mark.parametrize('masked', [False, True])
def test_heads_may_share_keys_and_values(groups, masked):
  q, _, _ = square(heads=4)
  _, k, v = square(tokens=7, heads=groups, seed=1)
  mask = masks.listed(jnp.asarray(np.random.default_rng(0).random((2, 4, 5, 7)) < 0.5))
  mask = mask if masked else None
  got = attention.attend(q, k, v, mask=mask)
  repeated = (x.repeat(4 // groups, axis=2) for x in (k, v))
  np.testing.assert_allclose(
    got, attention.attend(q, *repeated, mask=mask), rtol=1e-5, atol=1e-6
  )
  if not masked:
    want = jax.nn.dot_product_attention(q, k, v)
    np.testing.assert_allclose(got, want, rtol=1e-5, atol=1e-6)


# The worked example of The Illustrated Transformer: a query of 64 numbers whose
# products with two keys are 112 and 96.


def test_illustrated_transformer():
  q = jnp.full((1, 1, 1, 64), 2.0)
  k = jnp.stack([jnp.full(64, 112 / 128), jnp.full(64, 96 / 128)])[None, :, None]
  p = attention.probabilities(q, k)
  np.testing.assert_allclose(p.reshape(2), [0.880797, 0.119203], rtol=0, atol=1e-6)
  v = jnp.array([[[[1.0, 0.0]], [[0.0, 1.0]]]])
  z = attention.attend(q, k, v).reshape(2)
  np.testing.assert_allclose(z, [0.88, 0.12], rtol=0, atol=5e-3)


# Queries that compete for keys


def test_softmax_over_queries():
  q, k, v = inputs()
  mask = some_mask()
  p = attention.probabilities(q, k, some_bias(), mask, over='queries')
  logits = np.einsum('bnhk,bmhk->bhnm', q, k) / np.sqrt(K) + np.asarray(some_bias())
  exp = np.where(mask, np.exp(logits), 0.0)
  total = exp.sum(axis=2, keepdims=True)
  want = np.divide(exp, total, out=np.zeros_like(exp), where=total > 0)
  np.testing.assert_allclose(p, want, rtol=1e-5, atol=1e-6)

  y = attention.attend(q, k, v, some_bias(), mask, over='queries')
  weights = np.where(mask, want + 1e-8, 0.0)
  sums = weights.sum(axis=-1, keepdims=True)
  weights = np.divide(weights, sums, out=np.zeros_like(weights), where=sums > 0)
  mean = np.einsum('bhnm,bmhv->bnhv', weights, v)
  np.testing.assert_allclose(y, mean, rtol=1e-4, atol=1e-5)
  np.testing.assert_array_equal(y[0, 0], 0.0)  # this query sees no key


def test_dropout_of_probabilities():
  q, k, _ = inputs()
  v = jnp.broadcast_to(jnp.eye(M)[None, :, None], (B, M, H, M))  # y = probabilities
  draw = jax.jit(
    jax.vmap(lambda key: attention.attend(q, k, v, dropout=0.25, dropout_key=key))
  )
  taken = np.asarray(draw(jax.random.split(jax.random.key(0), 400)))
  kept = attention.attend(q, k, v) / 0.75
  dropped = taken == 0.0
  np.testing.assert_allclose(taken, np.where(dropped, 0.0, kept), rtol=1e-5, atol=1e-6)
  assert abs(dropped.mean() - 0.25) < 0.005
  assert abs(dropped.mean(axis=0) - 0.25).max() < 0.12  # each probability is 0.25


@pytest.mark.parametrize(
  'change, words',
  [
    (dict(mask=jnp.ones((B, N, M, 1, 1), bool)), r'4 dimensions.*\(2, 5, 7, 1, 1\)'),
    (dict(mask=jnp.ones((B, H, N, M))), r'\(2, 3, 5, 7\) is float32'),
    (dict(mask=jnp.ones((B, H, M, N), bool)), r'\(2, 3, 7, 5\) does not broadcast to'),
    (
      dict(mask=masks.padding(jnp.ones((B, N)))),
      r'\(2, 5\) does not broadcast to \(2, 7',
    ),
    (dict(bias_BHNM=jnp.ones((B, N, M))), r'bias: shape \(2, 5, 7\)'),
    (dict(k_BMGK=jnp.ones((B, M, 2, K))), '2 heads of keys do not divide 3'),
    (dict(k_BMGK=jnp.ones((B, M, H, 5))), r'\(2, 7, 3, 5\) differ in batch or size'),
    (dict(v_BMGV=jnp.ones((B, N, H, V))), r'values \(2, 5, 3, 6\) differ'),
    (dict(q_BNHK=jnp.ones((N, H, K))), r'queries \(5, 3, 4\)'),
    (dict(over='heads'), "over='heads' is not one of"),
    (dict(dropout=0.1), 'needs a dropout_key'),
  ],
)
def test_arguments_that_do_not_fit_are_named(change, words):
  arguments = dict(zip(('q_BNHK', 'k_BMGK', 'v_BMGV'), inputs(), strict=True))
  with pytest.raises(UserError, match=words):
    attention.attend(**arguments | change)


@pytest.mark.parametrize(
  'tokens, want', [(5, (128, 128)), (577, (640, 640)), (1025, (640, 1280))]
)
def test_blocks_hold_all_tokens(tokens, want):
  assert attention._blocks(tokens) == want


@pytest.mark.parametrize('batch', [8, 3])  # divides over the mesh, and does not
def test_the_kernel_runs_on_each_device_of_a_mesh(batch):
  mesh = Mesh(np.array(jax.devices()).reshape(2, 2, 2), sharding.AXES)
  qkv = square(batch=batch, tokens=7)

  def on_mesh(*qkv):
    with sharding.on_mesh(mesh):
      return output_and_gradients('pallas')(*qkv)

  jaxpr = str(jax.make_jaxpr(on_mesh)(*qkv))
  assert ('shard_map' in jaxpr) == ('pallas_call' in jaxpr) == (batch == 8)
  on_devices = jax.device_put(qkv, sharding.replicated(mesh))
  (_, y), grads = jax.jit(on_mesh)(*on_devices)
  (_, want_y), want = jax.jit(output_and_gradients('xla'))(*qkv)
  for x, want_x in zip((y, *grads), (want_y, *want), strict=True):
    np.testing.assert_allclose(x, want_x, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(
  'options, implementation, message',
  [
    ({}, 'flash', "'flash' is not one of auto, xla, cudnn, pallas"),
    (dict(dtype='float32'), 'cudnn', 'bfloat16 or float16, not float32'),
    (dict(dtype='bfloat16', size=132), 'cudnn', 'not 132 and 132'),
    (dict(dtype='bfloat16', size=60), 'cudnn', 'not 60 and 60'),
    (dict(dtype='bfloat16'), 'cudnn', 'no cuDNN'),
    (dict(dtype='float16'), 'pallas', 'bfloat16 or float32, not float16'),
    (dict(size=136), 'pallas', 'heads of 136'),
  ],
)
def test_an_implementation_that_cannot_serve_says_why(options, implementation, message):
  with mock.patch.object(attention, '_has_cudnn', lambda: False):
    with pytest.raises(UserError, match=message):
      attention.attend(*square(**options), implementation=implementation)


@pytest.fixture
def cudnn(monkeypatch):
  """Simulates a machine with cuDNN, whose version JAX reads when it traces."""
  monkeypatch.setattr(fused_attention_stablehlo, 'check_cudnn_version', lambda: 91_100)
  attention._has_cudnn.cache_clear()
  yield
  attention._has_cudnn.cache_clear()


@pytest.mark.parametrize(
  'more, refused',
  [
    (dict(bias_BHNM=jnp.ones((1, 2, 1, 512))), ('cudnn', 'pallas')),
    (dict(over='queries'), ('cudnn', 'pallas')),
    (dict(dropout=0.1, dropout_key=jax.random.key(0)), ('cudnn', 'pallas')),
    (dict(mask=jnp.ones((1, 2, 1, 512), bool)), ('pallas',)),
    (dict(mask=masks.up_to(3)), ('pallas',)),
    (dict(mask=masks.causal()), ()),
    (dict(mask=masks.blocks(512, 64)), ()),
  ],
)
def test_unsupported_options_of_kernels(more, refused, cudnn):
  qkv = square(tokens=512, dtype='bfloat16')
  for implementation in 'cudnn', 'pallas':
    call = functools.partial(attention.attend, **more, implementation=implementation)
    if implementation in refused:
      with pytest.raises(UserError, match='cannot be used: it'):
        jax.eval_shape(call, *qkv)
    else:
      jax.eval_shape(call, *qkv)
  jaxpr = jax.make_jaxpr(functools.partial(attention.attend, **more))(*qkv)
  assert ('platform_index' in str(jaxpr)) == (len(refused) < 2)


def lowered(platform, mask=None, **options):
  qkv = [jax.ShapeDtypeStruct(x.shape, x.dtype) for x in square(**options)]
  traced = jax.jit(output_and_gradients('auto', mask=mask)).trace(*qkv)
  return traced.lower(lowering_platforms=(platform,)).as_text()


@pytest.mark.parametrize(
  'options, taken',
  [
    (dict(dtype='bfloat16', tokens=197), True),
    (dict(dtype='float16', tokens=197, size=80), True),
    (dict(dtype='bfloat16', tokens=197, size=60), False),
    (dict(dtype='bfloat16', tokens=197, size=136), False),
    (dict(dtype='float32', tokens=197), False),
  ],
)
def test_auto_is_cudnn_on_nvidia_where_it_can(options, taken, cudnn):
  text = lowered('cuda', **options)
  assert ('__cudnn$fmhaSoftmax(' in text) == taken
  assert ('__cudnn$fmhaSoftmaxBackward(' in text) == taken
  assert 'cudnn' not in lowered('cpu', **options)
  assert 'cudnn' not in lowered('tpu', **options)


def test_cudnn_handles_causal_masks_and_gets_others_as_a_bias(cudnn):
  options = dict(dtype='bfloat16', tokens=197)
  causal = lowered('cuda', masks.causal(), **options)
  assert 'CAUSAL' in causal and '__cudnn$fmhaScaleBiasSoftmax' not in causal
  seen = masks.padding(jnp.ones((2, 197)))
  text = lowered('cuda', masks.causal() & seen, **options)
  assert '__cudnn$fmhaScaleBiasSoftmax' in text


def test_cudnn_runs_on_each_device_of_a_mesh(cudnn):
  mesh = Mesh(np.array(jax.devices()).reshape(2, 2, 2), sharding.AXES)
  by_head = jax.sharding.NamedSharding(
    mesh, jax.P(sharding.BATCH, None, sharding.TENSOR, None)
  )
  x = jax.ShapeDtypeStruct((8, 197, 4, 64), jnp.bfloat16, sharding=by_head)

  def on_mesh(*qkv):
    with sharding.on_mesh(mesh):
      return output_and_gradients('cudnn')(*qkv)

  text = jax.jit(on_mesh).trace(x, x, x).lower(lowering_platforms=('cuda',)).as_text()
  calls = [line for line in text.splitlines() if '__cudnn$fmhaSoftmax' in line]
  assert len(calls) == 2  # forward and backward
  # Each device has 2 of 8 examples and 2 of 4 heads; cuDNN has no gradient for an odd
  # number of tokens, so they are padded.
  assert all('tensor<2x198x2x64xbf16>' in call for call in calls)
  assert 'CustomSPMDPartitioning' not in text


def test_auto_needs_no_cudnn(monkeypatch):
  monkeypatch.setattr(attention, '_has_cudnn', lambda: False)
  assert 'cudnn' not in lowered('cuda', dtype='bfloat16', tokens=197)


def test_auto_is_exact_on_the_cpu(cudnn):
  assert_equal_to_xla(square(dtype='bfloat16'), 'auto', 1e-6)


@pytest.fixture(scope='session')
def tpu_devices():
  """Returns four chips of a slice; programs can be compiled for it without hardware."""
  pytest.importorskip('libtpu')
  return plan.slice_devices('v5e:2x2')


@pytest.mark.parametrize('tokens, taken', [(196, False), (577, True)])
def test_auto_is_the_kernel_on_a_tpu_with_many_tokens(tokens, taken, tpu_devices):
  mesh = Mesh(np.array(tpu_devices).reshape(1, 2, 2), sharding.AXES)
  by_head = jax.sharding.NamedSharding(
    mesh, jax.P(sharding.BATCH, None, sharding.TENSOR, None)
  )
  shape = 4, tokens, 2, 80
  x = jax.ShapeDtypeStruct(shape, jnp.bfloat16, sharding=by_head)

  def on_mesh(*qkv):
    with sharding.on_mesh(mesh):
      return output_and_gradients('auto')(*qkv)

  text = jax.jit(on_mesh).lower(x, x, x).compile().as_text()
  assert text.count('custom_call_target="tpu_custom_call"') == (2 if taken else 0)
  assert not any(moved in text for moved in ('all-gather', 'all-to-all'))


@pytest.mark.parametrize('tokens, masked', [(16384, False), (8192, True)])
def test_memory_of_the_kernel_grows_with_the_tokens_not_their_square(
  tokens, masked, tpu_devices
):
  one = jax.sharding.SingleDeviceSharding(tpu_devices[0])
  x = jax.ShapeDtypeStruct((1, tokens, 8, 64), jnp.bfloat16, sharding=one)
  mask = masks.causal() & masks.blocks(tokens, 512) if masked else None
  step = jax.jit(output_and_gradients('auto', mask=mask)).lower(x, x, x).compile()
  # Besides arguments and results, at most ten arrays of the queries' shape; one array
  # of all probabilities of a single head would be larger from 5,120 tokens on.
  found = step.memory_analysis().temp_size_in_bytes
  assert found < 10 * (4 * tokens * 8 * 64)


def linear_inputs(m, size=16, norm=1.0):
  rng = np.random.default_rng(0)
  q, k, v = rng.normal(size=(3, 2, 5, 3, size)).astype('float32')
  q, k = (norm * x / np.linalg.norm(x, axis=-1, keepdims=True) for x in (q, k))
  return q, k, v, rng.normal(size=(m, size)).astype('float32')


def test_linear_attention_is_its_equation():
  q, k, v, w = linear_inputs(6)
  features = [
    np.exp(x @ w.T - np.square(x).sum(-1, keepdims=True) / 2) / 6**0.5 for x in (q, k)
  ]
  weights = np.einsum('bnhf,bmhf->bhnm', *features)
  weights /= weights.sum(-1, keepdims=True) + 1e-8
  want = np.einsum('bhnm,bmhv->bnhv', weights, v)
  got = jax.jit(attention.attend_linear)(q, k, v, w)
  np.testing.assert_allclose(got, want, rtol=1e-4, atol=1e-5)


def test_linear_attention_approaches_a_softmax():
  q, k, v, w = linear_inputs(4096)
  scores = np.exp(np.einsum('bnhk,bmhk->bhnm', q, k))
  want = np.einsum('bhnm,bmhv->bnhv', scores / scores.sum(-1, keepdims=True), v)
  errors = {}
  for m in (16, 4096):
    got = attention.attend_linear(q, k, v, w[:m])
    errors[m] = np.linalg.norm(got - want) / np.linalg.norm(want)
  assert errors[4096] < 0.05 < errors[16]


def test_linear_attention_of_half_precision_sums_in_float32():
  q, k, v, w = linear_inputs(8, norm=4.0)
  half = [jnp.asarray(x, jnp.bfloat16) for x in (q, k, v)]
  exact = [np.asarray(x, np.float32) for x in half]
  got = attention.attend_linear(*half, w)
  assert got.dtype == jnp.bfloat16
  want = attention.attend_linear(*exact, w)
  np.testing.assert_array_equal(got, want.astype(jnp.bfloat16))


def test_linear_attention_of_other_shapes():
  q, k, v, w = linear_inputs(8)
  with pytest.raises(UserError, match=r'features \(8, 15\) are not \(features, size\)'):
    attention.attend_linear(q, k, v, w[:, :-1])
  with pytest.raises(UserError, match='differ in the number of heads'):
    attention.attend_linear(q, k[:, :, :1], v[:, :, :1], w)
