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
from big_vision_like.ops import sharding

B, N, M, D, H = 3, 5, 7, 24, 4


class Separate(nn.Module):
  """The same attention with a matrix product for each projection, as published."""

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


def with_biases(params, key):
  """Biases, which start at zero, made to matter."""
  leaves, tree = jax.tree.flatten(params)
  keys = jax.random.split(key, len(leaves))
  noise = [
    jax.random.normal(k, x.shape) * 0.1 for k, x in zip(keys, leaves, strict=True)
  ]
  return jax.tree.map(jnp.add, params, tree.unflatten(noise))


def test_parameters_are_those_of_separate_projections(key):
  params, want = (
    flax.traverse_util.flatten_dict(module.init(key, sequences()[0])['params'], sep='/')
    for module in (attention.MultiHeadAttention(H), Separate())
  )
  assert params.keys() == want.keys()
  for name, x in params.items():
    assert x.dtype == jnp.float32
    np.testing.assert_array_equal(x, want[name], err_msg=name)


@pytest.mark.parametrize('cross', [False, True], ids=['self', 'cross'])
@pytest.mark.parametrize('dtype, tolerance', [('float32', 1e-6), ('bfloat16', 0.03)])
def test_joined_projections_are_the_separate_ones(cross, dtype, tolerance, key):
  x, kv = sequences(dtype)
  args = (x, kv) if cross else (x,)
  module = attention.MultiHeadAttention(H, dtype)
  params = with_biases(module.init(key, *args)['params'], key)

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
  # Scores, values, output.
  assert len(products) == len(widths) + 3


def test_the_same_sequence_twice_is_one_product(key):
  module = attention.MultiHeadAttention(H)
  x, _ = sequences()
  variables = module.init(key, x)
  once = jax.make_jaxpr(lambda x: module.apply(variables, x))(x)
  twice = jax.make_jaxpr(lambda x: module.apply(variables, x, x))(x)
  assert str(once) == str(twice)


def test_array_names_tell_the_axes(key):
  with shapes.checked('big_vision_like/layers', 'big_vision_like/ops') as seen:
    jax.eval_shape(attention.MultiHeadAttention(H).init, key, *sequences())
  assert {'kernel_DTHK', 'y_BNTHK', 'q_BNHK', 'p_BHNM'} <= seen.keys()


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
  assert 'all-reduce' in text  # over the heads, after `out`
  np.testing.assert_allclose(
    forward(placed, x_placed), module.apply({'params': params}, x), rtol=1e-5, atol=1e-6
  )
