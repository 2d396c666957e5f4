import functools
import math

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from big_vision_like.layers import transformer
from big_vision_like.ops import masks
from big_vision_like.weights import tree

DEPTH = 2
SIZES = dict(depth=DEPTH, num_heads=2, mlp_dim=12)


@pytest.fixture(scope='module')
def x():
  return jax.random.normal(jax.random.key(7), (4, 5, 8))


@pytest.fixture(scope='module')
def params(x):
  """Returns random unrolled parameters."""
  shapes = jax.eval_shape(transformer.Stack(**SIZES).init, jax.random.key(0), x)
  rng = np.random.default_rng(0)

  def normal(leaf):
    return rng.normal(0, 0.5, leaf.shape).astype(np.float32)

  return jax.tree.map(normal, shapes['params'])


def test_scanned_parameters_are_drawn_block_by_block(x):
  options = dict(depth=2, num_heads=4, mlp_dim=64)
  encoder = transformer.Stack(**options, scan=True)
  x = jnp.zeros((1, 2, 64))
  params = jax.device_get(jax.jit(encoder.init)(jax.random.key(0), x)['params'])
  assert params.keys() == {'blocks', 'norm'}
  unrolled = transformer.Stack(**options)
  want = jax.eval_shape(unrolled.init, jax.random.key(0), x)['params']
  shapes = jax.tree.map(np.shape, tree.unstack_blocks(params))
  assert shapes == jax.tree.map(lambda leaf: leaf.shape, want)
  blocks = params['blocks']
  # Xavier's limit for 64 inputs and 64 outputs (of all heads), as without scan.
  for kernel in (
    blocks['attention']['query']['kernel'],
    blocks['mlp']['fc1']['kernel'],
  ):
    assert np.abs(kernel).max() == pytest.approx(np.sqrt(6 / 128), rel=0.02)
    assert not np.allclose(kernel[0], kernel[1])


def test_half_precision_keeps_float32_parameters(x):
  encoder = transformer.Stack(**SIZES, dtype='bfloat16')
  y, variables = jax.eval_shape(encoder.init_with_output, jax.random.key(0), x)
  assert y.dtype == jnp.bfloat16
  assert {leaf.dtype.name for leaf in jax.tree.leaves(variables)} == {'float32'}


@pytest.mark.parametrize('scan', [False, True])
def test_no_types_are_promoted_by_accident(scan, x):
  encoder = transformer.Stack(**SIZES, scan=scan, dropout=0.1, drop_path=0.1)

  def forward(x):
    key = jax.random.key(0)
    variables = encoder.init(key, x)
    return encoder.apply(variables, x, train=True, rngs={'dropout': key})

  # Only in float32: Flax's own norms promote bfloat16.
  with jax.numpy_dtype_promotion('strict'):
    assert jax.eval_shape(forward, x).dtype == jnp.float32


# Dropout and drop path


def test_drop_path_drops_whole_examples_and_keeps_the_mean():
  x = jnp.ones((4000, 2, 3))
  module = transformer.DropPath()
  y = np.asarray(module.apply({}, x, 0.25, rngs={'dropout': jax.random.key(0)}))
  example = y[:, 0, 0]
  np.testing.assert_array_equal(y, np.broadcast_to(example[:, None, None], y.shape))
  np.testing.assert_allclose(np.unique(example), [0, 1 / 0.75], rtol=1e-6)
  assert abs((example == 0).mean() - 0.25) < 4 * np.sqrt(0.25 * 0.75 / 4000)
  assert abs(y.mean() - 1.0) < 0.05
  kept = module.apply({}, x, 0.0, rngs={'dropout': jax.random.key(0)})
  np.testing.assert_array_equal(kept, x)


def test_drop_path_keeps_half_precision():
  x = jnp.ones((4, 2, 3), jnp.bfloat16)
  y = transformer.DropPath().apply(
    {}, x, jnp.float32(0.5), rngs={'dropout': jax.random.key(0)}
  )
  assert y.dtype == jnp.bfloat16


@pytest.mark.parametrize('depth, rates', [(3, [0.0, 0.2, 0.4]), (1, [0.0])])
def test_drop_path_grows_linearly_with_depth(depth, rates, x):
  encoder = transformer.Stack(depth=depth, num_heads=2, mlp_dim=4, drop_path=0.4)
  key = jax.random.key(0)

  @jax.jit
  def rates_used():
    seen = []

    def record(call, args, kwargs, context):
      if isinstance(context.module, transformer.DropPath):
        seen.append(args[1])
      return call(*args, **kwargs)

    with nn.intercept_methods(record):
      encoder.init({'params': key, 'dropout': key}, x, train=True)
    return seen

  np.testing.assert_allclose(rates_used(), np.repeat(rates, 2), rtol=1e-6)


@pytest.mark.parametrize('scan', [False, True])
def test_drop_path_of_a_whole_encoder(scan, params, x):
  # A rate of 1 - epsilon in the last block almost always leaves the output of the
  # first.
  options = SIZES | dict(depth=2)
  two = {name: params[name] for name in ('block_0', 'block_1', 'norm')}
  encoder = transformer.Stack(**options, drop_path=1 - 1e-6, scan=scan)
  variables = {'params': tree.stack_blocks(two) if scan else two}
  got = encoder.apply(variables, x, train=True, rngs={'dropout': jax.random.key(0)})
  one = {name: params[name] for name in ('block_0', 'norm')}
  want = transformer.Stack(**SIZES | dict(depth=1)).apply({'params': one}, x)
  np.testing.assert_allclose(got, want, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
  'options',
  [dict(dropout=0.5), dict(drop_path=0.5), dict(dropout=0.5, scan=True)],
  ids=lambda options: '-'.join(options),
)
def test_randomness_is_for_training_only(options, params, x):
  encoder = transformer.Stack(**SIZES, **options)
  without = transformer.Stack(**SIZES, scan=encoder.scan)
  variables = {'params': tree.stack_blocks(params) if encoder.scan else params}

  @jax.jit
  def forward(key):
    train = encoder.apply(variables, x, train=True, rngs={'dropout': key})
    return train, encoder.apply(variables, x), without.apply(variables, x)

  (first, *evaluations), (again, *_), (other, *_) = (
    forward(jax.random.key(seed)) for seed in (0, 0, 1)
  )
  np.testing.assert_array_equal(*evaluations)
  np.testing.assert_array_equal(first, again)
  assert not np.allclose(first, other)
  assert not np.allclose(first, evaluations[0])


def test_dropout_after_every_branch_and_in_the_mlp(x):
  encoder = transformer.Stack(**SIZES | dict(depth=1), dropout=0.25)
  rates = []

  def record(call, args, kwargs, context):
    if isinstance(context.module, nn.Dropout):
      rates.append(context.module.rate)
    return call(*args, **kwargs)

  with nn.intercept_methods(record):
    jax.eval_shape(functools.partial(encoder.init, train=False), jax.random.key(0), x)
  assert rates == [0.25] * 3  # after attention, after GELU and after the second Dense


# Kinds of blocks


def some(shape, seed):
  return jnp.asarray(np.random.default_rng(seed).normal(size=shape), jnp.float32)


def test_post_norm_norms_the_sum(x):
  block = transformer.Block(num_heads=2, mlp_dim=12, norm='post')
  variables = block.init(jax.random.key(0), x, 0.0)
  y = np.asarray(block.apply(variables, x, 0.0))
  np.testing.assert_allclose(y.mean(axis=-1), 0.0, atol=1e-5)
  np.testing.assert_allclose(y.std(axis=-1), 1.0, atol=1e-3)
  pre = transformer.Block(num_heads=2, mlp_dim=12)
  assert jax.tree.map(jnp.shape, variables) == jax.tree.map(
    jnp.shape, pre.init(jax.random.key(0), x, 0.0)
  )
  # Without branches, a pre-norm block is the identity, and a post-norm block norms
  # twice.
  nothing = jax.tree.map(jnp.zeros_like, variables['params'])
  nothing |= {f'norm{n}': variables['params'][f'norm{n}'] for n in (1, 2)}
  np.testing.assert_array_equal(pre.apply({'params': nothing}, x, 0.0), x)
  normed = (x - x.mean(-1, keepdims=True)) / x.std(-1, keepdims=True)
  got = block.apply({'params': nothing}, x, 0.0)
  np.testing.assert_allclose(got, normed, atol=1e-4)


def test_a_decoder_reads_its_memory(x):
  memory, other = some((4, 6, 10), 1), some((4, 6, 10), 2)
  decoder = transformer.Stack(**SIZES)
  context = transformer.Context(
    mask=masks.causal(),
    memory_BMD=memory,
    memory_mask=masks.padding(jnp.arange(6)[None] < 4),
  )
  params = decoder.init(jax.random.key(0), x, context=context)['params']
  assert params['block_1'].keys() == {
    *('norm1', 'attention', 'norm2', 'cross_attention', 'norm3', 'mlp')
  }
  assert params['block_1']['cross_attention']['key']['kernel'].shape == (10, 2, 4)

  @jax.jit
  def run(x, memory):
    return decoder.apply(
      {'params': params}, x, context=context.replace(memory_BMD=memory)
    )

  want = run(x, memory)
  assert np.abs(run(x, other) - want).max() > 0.01
  hidden = memory.at[:, 4:].set(other[:, 4:])
  np.testing.assert_array_equal(run(x, hidden), want)
  later = x.at[:, 3:].multiply(-1.0)
  np.testing.assert_array_equal(run(later, memory)[:, :3], want[:, :3])
  assert np.abs(run(later, memory)[:, 3:] - want[:, 3:]).max() > 0.01


def test_positions_go_to_queries_and_keys_alone(x):
  """Checks that moving tokens and positions moves outputs; values have no positions."""
  position = some((1, 5, 8), 3)
  block = transformer.Block(num_heads=2, mlp_dim=12, norm='post')
  context = transformer.Context(position_BND=position)
  variables = block.init(jax.random.key(0), x, 0.0, context=context)
  want = block.apply(variables, x, 0.0, context=context)
  order = np.array([2, 0, 4, 1, 3])
  moved = transformer.Context(position_BND=position[:, order])
  got = block.apply(variables, x[:, order], 0.0, context=moved)
  np.testing.assert_allclose(got, want[:, order], rtol=1e-4, atol=1e-5)
  unmoved = block.apply(variables, x[:, order], 0.0, context=context)
  assert np.abs(unmoved - want[:, order]).max() > 1e-3
  # With a single token, the weights are 1 whatever its position.
  alone = block.apply(
    variables, x[:, :1], 0.0, context=transformer.Context(position_BND=position[:, :1])
  )
  np.testing.assert_allclose(
    alone, block.apply(variables, x[:, :1], 0.0), rtol=1e-5, atol=1e-6
  )


def test_layer_scale_starts_small(x):
  block = transformer.Block(num_heads=2, mlp_dim=12, layer_scale=1e-3)
  variables = block.init(jax.random.key(0), x, 0.0)
  assert variables['params']['layer_scale1'].shape == (8,)
  assert 0 < np.abs(block.apply(variables, x, 0.0) - x).max() < 0.02


@pytest.mark.parametrize('activation', transformer.ACTIVATIONS)
@pytest.mark.parametrize('gated', [False, True])
def test_kinds_of_mlp(activation, gated, x):
  mlp = transformer.Mlp(12, activation=activation, gated=gated)
  variables = mlp.init(jax.random.key(0), x)
  params = variables['params']

  def dense(name, x):
    return x @ np.asarray(params[name]['kernel']) + np.asarray(params[name]['bias'])

  functions = {
    'gelu': lambda x: x / 2 * (1 + np.tanh((x + 0.044715 * x**3) * (2 / np.pi) ** 0.5)),
    'gelu_exact': lambda x: 0.5 * x * (1 + np.vectorize(math.erf)(x / np.sqrt(2))),
    'relu': lambda x: np.maximum(x, 0),
    'silu': lambda x: x / (1 + np.exp(-x)),
  }
  hidden = functions[activation](dense('gate' if gated else 'fc1', np.asarray(x)))
  if gated:
    hidden = hidden * dense('fc1', np.asarray(x))
  got = mlp.apply(variables, x)
  np.testing.assert_allclose(got, dense('fc2', hidden), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
  'option, words',
  [
    (dict(norm='sandwich'), "norm='sandwich' is not one of 'pre', 'post'"),
    (
      dict(block_args=dict(mlp_args=dict(activation='selu'))),
      "activation='selu' is not one of gelu, gelu_exact, relu, silu",
    ),
  ],
)
def test_unknown_kinds_are_named(option, words, x):
  with pytest.raises(ValueError, match=words):
    jax.eval_shape(transformer.Stack(**SIZES, **option).init, jax.random.key(0), x)
