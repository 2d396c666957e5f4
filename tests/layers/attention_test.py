import functools

import battery
import flax
import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import shapes
from jax.sharding import Mesh, NamedSharding

from big_vision_like.errors import UserError
from big_vision_like.layers import attention
from big_vision_like.ops import masks, sharding

B, N, M, D, H = 3, 5, 7, 24, 4


class Separate(nn.Module):
  """The same attention with one matrix product for each projection, as published."""

  @nn.compact
  def __call__(self, x, kv=None):
    project = dict(
      features=(H, D // H), kernel_init=nn.initializers.xavier_uniform(), dtype=x.dtype
    )
    kv = x if kv is None else kv
    q = nn.DenseGeneral(**project, name='query')(x)
    k, v = (nn.DenseGeneral(**project, name=name)(kv) for name in ('key', 'value'))
    y = jax.nn.dot_product_attention(q, k, v)
    kernel_init = nn.initializers.xavier_uniform()
    out = nn.DenseGeneral(
      D, axis=(-2, -1), kernel_init=kernel_init, dtype=x.dtype, name='out'
    )
    return out(y)


def sequences(dtype='float32'):
  rng = np.random.default_rng(0)
  return tuple(jnp.asarray(rng.normal(size=(B, n, D)), dtype) for n in (N, M))


def test_parameters_match_separate_projections(key):
  params, want = (
    flax.traverse_util.flatten_dict(module.init(key, sequences()[0])['params'], sep='/')
    for module in (attention.MultiHeadAttention(H), Separate())
  )
  assert params.keys() == want.keys()
  for name, x in params.items():
    assert x.dtype == jnp.float32
    np.testing.assert_array_equal(x, want[name], err_msg=name)


@pytest.mark.parametrize(
  'cross, dtype, tolerance',
  [(False, 'float32', 1e-6), (True, 'float32', 1e-6), (True, 'bfloat16', 0.03)],
)
def test_joined_projections_are_the_separate_ones(cross, dtype, tolerance):
  x, kv = sequences(dtype)
  args = (x, kv) if cross else (x,)
  module = attention.MultiHeadAttention(H, dtype)
  params = battery.variables(module, *args)['params']

  def result(module):
    def loss(params, args):
      y = module.apply({'params': params}, *args)
      return (y.astype(jnp.float32) ** 2).mean(), y

    return jax.jit(jax.grad(loss, argnums=(0, 1), has_aux=True))(params, args)

  got, want = result(module), result(Separate())
  for (path, a), b in zip(
    jax.tree_util.tree_leaves_with_path(got), jax.tree.leaves(want), strict=True
  ):
    assert a.dtype == b.dtype
    a, b = (np.asarray(x, np.float32) for x in (a, b))
    atol = tolerance * max(1.0, np.abs(b).max())
    np.testing.assert_allclose(a, b, rtol=0, atol=atol, err_msg=str(path))


@pytest.mark.parametrize('cross, widths', [(False, [3 * D]), (True, [D, 2 * D])])
def test_one_matrix_product_for_each_sequence(cross, widths, key):
  module = attention.MultiHeadAttention(H)
  args = sequences() if cross else sequences()[:1]
  variables = module.init(key, *args)
  jaxpr = jax.make_jaxpr(module.apply)(variables, *args)
  products = [e for e in jaxpr.eqns if e.primitive.name == 'dot_general']
  inputs = [e.invars[0].aval.shape for e in products]
  outputs = [e.outvars[0].aval.size for e in products]
  found = [
    size // (B * shape[1])
    for shape, size in zip(inputs, outputs, strict=True)
    if shape in ((B, N, D), (B, M, D))
  ]
  assert found == widths
  # Scores, weighted values, output.
  assert len(products) == len(widths) + 3


def test_the_same_sequence_twice_is_one_product(key):
  module = attention.MultiHeadAttention(H)
  x, _ = sequences()
  variables = module.init(key, x)
  once = jax.make_jaxpr(lambda x: module.apply(variables, x))(x)
  twice = jax.make_jaxpr(lambda x: module.apply(variables, x, x))(x)
  assert str(once) == str(twice)


class Grouped(nn.Module):
  """Two projections of one sequence, in groups."""

  groups: int

  @nn.compact
  def __call__(self, x_BND):
    made = [
      attention.Projection(3, 4, groups=self.groups, name=name)
      for name in ('key', 'value')
    ]
    return attention.project([(x_BND, p) for p in made], 'float32')


@pytest.mark.parametrize('groups', [1, 2, 6])
def test_groups_of_a_projection_see_their_own_inputs(groups, key):
  x_BND = np.random.default_rng(0).normal(size=(2, 5, 12)).astype(np.float32)
  variables = Grouped(groups).init(key, x_BND)
  for got, name in zip(
    Grouped(groups).apply(variables, x_BND), ('key', 'value'), strict=True
  ):
    kernel = np.asarray(variables['params'][name]['kernel'])
    assert kernel.shape == (12 // groups, 3, 4)
    parts = zip(
      np.split(x_BND, groups, axis=-1),
      np.split(kernel.reshape(-1, 12), groups, axis=-1),
      strict=True,
    )
    want = np.concatenate([x @ w for x, w in parts], axis=-1)
    np.testing.assert_allclose(got, want.reshape(2, 5, 3, 4), atol=1e-5)
  with pytest.raises(UserError, match="'key': 5 groups do not divide 12 inputs and 12"):
    Grouped(5).init(key, x_BND)


def test_array_names_tell_the_axes(key):
  with shapes.checked('big_vision_like/layers', 'big_vision_like/ops') as seen:
    jax.eval_shape(attention.MultiHeadAttention(H).init, key, *sequences())
  assert {'kernel_ITHK', 'y_BNTHK', 'q_BNHK', 'p_BHNM'} <= seen.keys()


def test_implementation_is_handed_on(key):
  module = attention.MultiHeadAttention(H, implementation='flash')
  with pytest.raises(UserError, match="'flash' is not one of"):
    module.init(key, sequences()[0])


def test_heads_are_split_without_moving_kernels(key):
  mesh = Mesh(np.array(jax.devices()[:4]).reshape(1, 2, 2), sharding.AXES)
  module = attention.MultiHeadAttention(H)
  x = jnp.concatenate([sequences()[0], jnp.ones((1, N, D))])
  params = module.init(key, x)['params']
  specs = {
    'kernel': (None, sharding.TENSOR, None),
    'bias': (sharding.TENSOR, None),
  }
  rules = {name: specs for name in ('query', 'key', 'value')}
  rules['out'] = {'kernel': (sharding.TENSOR, None, None), 'bias': ()}
  placed = {
    name: {
      leaf: jax.device_put(params[name][leaf], NamedSharding(mesh, jax.P(*spec)))
      for leaf, spec in leaves.items()
    }
    for name, leaves in rules.items()
  }

  @jax.jit
  def forward(params, x):
    with sharding.on_mesh(mesh):
      return module.apply({'params': params}, x)

  x_placed = jax.device_put(x, sharding.batch_sharding(mesh))
  text = forward.lower(placed, x_placed).compile().as_text()
  moves = ('all-gather', 'all-to-all', 'collective-permute', 'reduce-scatter')
  assert not any(move in text for move in moves)
  assert 'all-reduce' in text  # sums over heads, after `out`
  np.testing.assert_allclose(
    forward(placed, x_placed), module.apply({'params': params}, x), rtol=1e-5, atol=1e-6
  )


# Options that other models use


def test_sources_of_their_own(key):
  """Checks queries, keys and values of three sequences; DETR adds positions to two."""
  rng = np.random.default_rng(1)
  x, kv = sequences()
  position = jnp.asarray(rng.normal(size=(B, M, D)), jnp.float32)
  module = attention.MultiHeadAttention(H)
  params = module.init(key, x, kv + position, kv)['params']
  got = module.apply({'params': params}, x, kv + position, kv)
  q, k, v = (
    jnp.einsum('bnd,dhk->bnhk', source, params[name]['kernel'])
    for name, source in (('query', x), ('key', kv + position), ('value', kv))
  )
  y = jax.nn.dot_product_attention(q, k, v)
  want = jnp.einsum('bnhk,hkd->bnd', y, params['out']['kernel'])
  np.testing.assert_allclose(got, want, rtol=1e-5, atol=1e-5)


def test_sizes_of_heads():
  x, _ = sequences()
  module = attention.MultiHeadAttention(H, num_kv_heads=2, size=3, value_size=5)
  params = battery.variables(module, x)['params']
  shapes_of = jax.tree.map(jnp.shape, params)
  assert shapes_of['query'] == {'kernel': (D, H, 3), 'bias': (H, 3)}
  assert shapes_of['key'] == {'kernel': (D, 2, 3), 'bias': (2, 3)}
  assert shapes_of['value'] == {'kernel': (D, 2, 5), 'bias': (2, 5)}
  assert shapes_of['out'] == {'kernel': (H, 5, D), 'bias': (D,)}
  # Repeats the shared keys and values for every head.
  own = dict(params)
  for name in ('key', 'value'):
    own[name] = jax.tree.map(lambda p: p.repeat(2, axis=-2), params[name])
  every = attention.MultiHeadAttention(H, size=3, value_size=5)
  want = jax.jit(every.apply)({'params': own}, x)
  got = jax.jit(module.apply)({'params': params}, x)
  np.testing.assert_allclose(got, want, rtol=1e-5, atol=1e-6)


def test_without_biases(key):
  params = attention.MultiHeadAttention(H, use_bias=False).init(key, sequences()[0])
  assert all(p.keys() == {'kernel'} for p in params['params'].values())


def test_normed_queries_and_keys_bound_the_logits(key):
  x, _ = sequences()
  module = attention.MultiHeadAttention(H, qk_norm=True)
  params = module.init(key, x)['params']
  assert params['query_norm'].keys() == params['key_norm'].keys() == {'scale'}

  def probs(x):
    _, state = module.apply({'params': params}, x, mutable=['intermediates'])
    return state['intermediates']['probs'][0]

  np.testing.assert_allclose(probs(1e3 * x), probs(x), rtol=1e-3, atol=1e-4)
  largest = D // H / np.sqrt(D // H)  # a normed vector's squared length
  logits = np.log(probs(x))
  assert np.ptp(logits, axis=-1).max() <= 2 * largest + 1e-3


def test_dropout_of_probabilities_is_for_training(key):
  x, _ = sequences()
  module = attention.MultiHeadAttention(H, dropout=0.5)
  variables = module.init(key, x)
  plain = attention.MultiHeadAttention(H).apply(variables, x)
  np.testing.assert_array_equal(module.apply(variables, x), plain)
  dropped = module.apply(variables, x, train=True, rngs={'dropout': key})
  assert np.abs(dropped - plain).max() > 1e-2


def test_masks_and_bias_are_handed_on(key):
  x, kv = sequences()
  module = attention.MultiHeadAttention(H)
  variables = module.init(key, x, kv)
  seen = jnp.arange(M)[None] < 4
  got = module.apply(variables, x, kv, mask=masks.padding(seen))
  want = module.apply(variables, x, kv[:, :4])
  np.testing.assert_allclose(got, want, rtol=1e-5, atol=1e-6)
  bias = jnp.where(seen, 0.0, -1e9)[:, None, None]
  got = module.apply(variables, x, kv, bias_BHNM=bias)
  np.testing.assert_allclose(got, want, rtol=1e-5, atol=1e-6)
  with pytest.raises(UserError, match=r'\(1, 9\) does not broadcast to \(3, 7\)'):
    module.apply(variables, x, kv, mask=masks.padding(jnp.ones((1, 9))))


def test_heads_of_keys_must_divide_those_of_queries(key):
  module = attention.MultiHeadAttention(H, num_kv_heads=3)
  with pytest.raises(UserError, match='4 heads are not divisible by num_kv_heads=3'):
    module.init(key, sequences()[0])


@functools.partial(jax.jit, static_argnums=0)
def extended(module, variables, x):
  """Returns outputs of tokens that follow the cached ones, and the extended cache."""
  return module.apply(variables, x, cache_length=N + 2, mutable=['cache'])


@pytest.mark.parametrize('chunks', [[1] * N, [2, 3], [0, 4, 1]])
def test_cached_is_causal_attention(chunks):
  x, _ = sequences()
  module = attention.MultiHeadAttention(H, num_kv_heads=2, qk_norm=True)
  params = battery.variables(module, x)['params']
  causal = jax.jit(functools.partial(module.apply, mask=masks.causal()))
  want = causal({'params': params}, x)
  cache, start, parts = {}, 0, []
  for size in chunks:
    variables = {'params': params, **cache}
    y, cache = extended(module, variables, x[:, start : start + size])
    start += size
    parts.append(y)
  got = jnp.concatenate(parts, axis=1)
  np.testing.assert_allclose(got, want, rtol=1e-5, atol=1e-6)
  assert cache['cache']['keys'].shape == (B, N + 2, 2, D // H)
  assert cache['cache']['index'] == N


def test_a_cache_of_another_sequence_serves_all_beams():
  x, kv = sequences()
  module = attention.MultiHeadAttention(H)
  params = battery.variables(module, x, kv)['params']
  mask = masks.padding(jnp.arange(M)[None] < jnp.array([[7], [3], [5]]))
  beams = jnp.stack([x, x[:, ::-1] * 2], axis=1).reshape(B * 2, N, D)
  _, cache = module.apply(
    {'params': params}, beams[:, :0], kv, mask=mask, cache_length=9, mutable=['cache']
  )
  assert cache['cache']['keys'].shape == (B, M, H, D // H)  # stored once for both beams
  got = module.apply(
    {'params': params, **cache}, beams, kv * jnp.nan, mask=mask, cache_length=9
  )
  want = module.apply({'params': params}, x, kv, mask=mask)
  got = got.reshape(B, 2, N, D)
  np.testing.assert_allclose(got[:, 0], want, rtol=1e-5, atol=1e-6)
  want = module.apply({'params': params}, x[:, ::-1] * 2, kv, mask=mask)
  np.testing.assert_allclose(got[:, 1], want, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize('parts', [1, 3])
def test_projections_start_within_xaviers_bounds_of_their_parts_as_one(key, parts):
  module = attention.MultiHeadAttention(4, init_parts=parts)
  x_BND = jnp.zeros((1, 2, 64))
  params = jax.jit(module.init)(key, x_BND)['params']
  bound = np.sqrt(
    6 / (64 + parts * 64)
  )  # torch.nn.init.xavier_uniform_ of (parts D, D)
  for name in ('query', 'key', 'value'):
    largest = np.abs(params[name]['kernel']).max()
    assert 0.99 * bound < largest <= bound
