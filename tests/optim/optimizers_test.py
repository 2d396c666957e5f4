import functools
import re

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from descent import GRADS, assert_close, descend, flat, parameters

from big_vision_like import optim
from big_vision_like.errors import UserError
from big_vision_like.weights import tree


def test_adamw_by_hand():
  grads = [np.array([3.0, -4.0]), np.array([0.3, 0.1])]
  w, m, v = np.array([1.0, 2.0]), np.zeros(2), np.zeros(2)
  for t, g in enumerate(grads, start=1):
    g = g / max(1.0, np.linalg.norm(g) / 2.0)
    m, v = 0.8 * m + 0.2 * g, 0.9 * v + 0.1 * g * g
    step = (m / (1 - 0.8**t)) / (np.sqrt(v / (1 - 0.9**t)) + 1e-8)
    w = w - 0.1 * (step + 0.5 * w)
  optimizer = optim.adamw(0.1, b1=0.8, b2=0.9, weight_decay=0.5, clip_norm=2.0)
  params = {'kernel': jnp.array([1.0, 2.0])}
  got = descend(optimizer, params, [{'kernel': jnp.float32(g)} for g in grads])
  np.testing.assert_allclose(got['kernel'], w, rtol=1e-5)


@pytest.mark.parametrize('nesterov', [False, True])
def test_momentum_by_hand(nesterov):
  grads = [np.array([1.0, -2.0]), np.array([0.5, 3.0]), np.array([1.0, 1.0])]
  w, buffer = np.array([1.0, 2.0]), np.zeros(2)
  for g in grads:
    buffer = 0.8 * buffer + g
    w = w - 0.1 * ((g + 0.8 * buffer if nesterov else buffer) + 0.5 * w)
  optimizer = optim.momentum(0.1, decay=0.8, nesterov=nesterov, weight_decay=0.5)
  params = {'kernel': jnp.array([1.0, 2.0])}
  got = descend(optimizer, params, [{'kernel': jnp.float32(g)} for g in grads])
  np.testing.assert_allclose(got['kernel'], w, rtol=1e-6)


def test_gradients_are_clipped_to_their_global_norm():
  clipped = descend(optim.momentum(0.1, clip_norm=0.5), grads=GRADS[:1])
  norm = float(optax.tree.norm(GRADS[0]))
  assert norm > 0.5
  want = jax.tree.map(lambda p, g: p - 0.1 * g * 0.5 / norm, parameters(), GRADS[0])
  assert_close(clipped, want)
  small = jax.tree.map(lambda g: g * 0.1 / norm, GRADS[0])
  assert_close(
    descend(optim.momentum(0.1, clip_norm=0.5), grads=[small]),
    descend(optim.momentum(0.1), grads=[small]),
  )


def by_group(transform, decay):
  """Two rates and a frozen head, from parts of optax alone."""
  labels = jax.tree_util.tree_map_with_path(
    lambda keys, _: {'embed': 'slow', 'head': 'none'}.get(keys[0].key, 'all'),
    parameters(),
  )
  kernels = jax.tree_util.tree_map_with_path(
    lambda keys, _: keys[-1].key == 'kernel', parameters()
  )

  trained = jax.tree.map(lambda label: label != 'none', labels)
  clip = optax.masked(optax.clip_by_global_norm(1.0), trained)
  rates = {'slow': 1e-3, 'all': optax.linear_schedule(0.1, 0.0, 4)}
  return optax.chain(
    clip,
    optax.masked(transform, trained),
    optax.add_decayed_weights(decay, kernels),
    optax.partition(
      {'none': optax.set_to_zero()}
      | {name: optax.scale_by_learning_rate(rate) for name, rate in rates.items()},
      labels,
    ),
  )


@pytest.mark.parametrize(
  'make, transform',
  [
    (optim.adamw, optax.scale_by_adam()),
    (optim.momentum, optax.trace(0.9)),
    (optim.adafactor, optim.adafactor(1.0).transform),
  ],
)
def test_a_rate_for_each_group_of_parameters(make, transform):
  linear = optax.linear_schedule(0.1, 0.0, 4)
  rate = [('head/.*', None), ('embed/.*', 1e-3), ('head/kernel|.*', linear)]
  optimizer = make(rate, weight_decay=0.1, clip_norm=1.0)
  theirs = by_group(transform, 0.1)
  got, want = descend(optimizer), descend(theirs)
  assert_close(got, want, atol=1e-7)
  assert_close(got['head'], parameters()['head'], rtol=0)
  trained = {name: part for name, part in parameters().items() if name != 'head'}
  shapes = [x.shape for x in jax.tree.leaves(make(0.1).transform.init(trained))]
  moments = optimizer.init(parameters())[1]
  assert [x.shape for x in jax.tree.leaves(moments)] == shapes  # none of the head
  assert float(optimizer.rate_at(0)) == np.float32(1e-3)
  factor = optimizer.rate_factor_of(parameters())
  assert factor['head'] == {'kernel': 0.0, 'bias': 0.0}
  assert factor['embed'] == {'kernel': 1.0, 'bias': 1.0}
  gradient = jax.grad(lambda p: sum(map(jnp.sum, jax.tree.leaves(optimizer.freeze(p)))))
  assert not any(x.any() for x in jax.tree.leaves(gradient(parameters())['head']))


@pytest.mark.parametrize(
  'rate, told',
  [
    ([('head/.*', 0.1)], 'no pattern of `rate` matches the parameter embed/bias'),
    ([('haed/.*', None), ('.*', 0.1)], "the rule 'haed/.*' matches no parameter"),
    ([('.*', None)], 'the rate is None for all parameters'),
    (['.*', 0.1], 'must be pairs of a path regex and a rate'),
  ],
)
def test_rates_by_group_that_do_not_fit(rate, told):
  with pytest.raises(UserError, match=re.escape(told)):
    optim.adamw(rate).init(parameters())


MAKERS = [
  optim.adamw,
  optim.momentum,
  optim.adafactor,
  optim.rmsprop_tf,
  functools.partial(optim.momentum, l2=0.1),
  functools.partial(optim.rmsprop_tf, l2=0.1),
  functools.partial(optim.lamb, weight_decay=0.1, clip_norm=None),
]


@pytest.mark.parametrize('make', MAKERS)
def test_each_group_moves_as_if_it_were_alone(make):
  rates = {'embed': 1e-3, 'encoder': optax.linear_schedule(0.1, 0.0, 4), 'head': None}
  optimizer = make([(f'{name}/.*', rate) for name, rate in rates.items()])
  got = descend(optimizer)
  assert_close(got['head'], parameters()['head'], rtol=0)
  for name, rate in list(rates.items())[:2]:
    grads = [{name: gradient[name]} for gradient in GRADS]
    alone = descend(make(rate), {name: parameters()[name]}, grads)
    assert_close(got[name], alone[name], atol=1e-7)
  trained = {name: part for name, part in parameters().items() if name != 'head'}
  counts = [
    sum(x.size for x in jax.tree.leaves(state) if x.ndim)
    for state in (optimizer.init(parameters()), make(0.1).init(trained))
  ]
  assert counts[0] == counts[1]  # no moments of the head


@pytest.mark.parametrize('make', MAKERS)
def test_what_a_rate_factor_of_zero_freezes_stays(make):
  got = descend(make(0.1, rate_rules=[('embed/.*', 0.0)]))
  assert_close(got['embed'], parameters()['embed'], rtol=0)
  assert not np.allclose(got['head']['bias'], parameters()['head']['bias'])


def test_rmsprop_tf_by_hand():
  grads = [np.array([3.0, -4.0]), np.array([0.3, 0.1]), np.array([-1.0, 0.0])]
  rates = np.array([0.1, 0.01, 0.5])
  w, square, buffer = np.array([1.0, 2.0]), np.ones(2), np.zeros(2)
  for rate, g in zip(rates, grads, strict=True):
    g = g + 0.3 * w
    square = 0.8 * square + 0.2 * g**2
    buffer = 0.7 * buffer + rate * g / np.sqrt(square + 0.01)
    w = w - buffer
  optimizer = optim.rmsprop_tf(
    lambda n: jnp.float32(rates)[n], decay=0.8, momentum=0.7, eps=0.01, l2=0.3
  )
  params = {'kernel': jnp.array([1.0, 2.0])}
  got = descend(optimizer, params, [{'kernel': jnp.float32(g)} for g in grads])
  np.testing.assert_allclose(got['kernel'], w, rtol=1e-5)


@pytest.mark.parametrize('momentum', [0.0, 0.9])
def test_rmsprop_tf_is_a_setting_of_optax(momentum):
  rate = optax.linear_schedule(0.1, 0.0, 4)
  theirs = optax.rmsprop(
    rate, 0.9, 1e-3, initial_scale=1.0, momentum=momentum or None, eps_in_sqrt=True
  )
  got = descend(optim.rmsprop_tf(rate, momentum=momentum))
  assert_close(got, descend(theirs), rtol=1e-5)


def test_lamb_is_that_of_optax_where_all_parameters_decay():
  rate = optax.linear_schedule(0.1, 0.0, 4)
  ours = optim.lamb(
    rate, b1=0.8, b2=0.9, weight_decay=0.1, clip_norm=None, decay_rules=[('.*', 1.0)]
  )
  theirs = optax.lamb(rate, b1=0.8, b2=0.9, weight_decay=0.1)
  assert_close(descend(ours), descend(theirs), rtol=1e-5)


def test_lamb_moves_what_does_not_decay_as_adamw():
  got = flat(descend(optim.lamb(0.1, weight_decay=0.2)))
  adam = flat(descend(optim.adamw(0.1, weight_decay=0.2, clip_norm=1.0, eps=1e-6)))
  for name, want in adam.items():
    assert np.allclose(got[name], want, rtol=1e-5) == (not name.endswith('kernel'))


def attention(seed: int) -> dict:
  rng = np.random.default_rng(seed)
  return {
    name: {'kernel': jnp.asarray(rng.normal(size=(4, 2, 2)), jnp.float32)}
    for name in ('query', 'key', 'value', 'out')
  }


def fused(layer: dict) -> dict:
  """The same with queries, keys and values in one matrix."""
  qkv = [layer[name]['kernel'].reshape(4, 4) for name in ('query', 'key', 'value')]
  return {'qkv': {'kernel': jnp.concatenate(qkv, 1)}, 'out': layer['out']}


def test_norms_of_queries_keys_and_values_are_taken_together():
  params, *grads = [{'attention': attention(seed)} for seed in range(4)]
  params['attention']['key']['kernel'] *= 5.0
  got = descend(optim.lamb(0.1, weight_decay=0.1), params, grads)
  one, *others = [{'attention': fused(x['attention'])} for x in (params, *grads)]
  want = descend(optim.lamb(0.1, weight_decay=0.1), one, others)
  assert_close(fused(got['attention']), want['attention'], rtol=1e-5)
  apart = descend(optim.lamb(0.1, weight_decay=0.1, joint=None), params, grads)
  assert not np.allclose(
    apart['attention']['key']['kernel'], got['attention']['key']['kernel'], rtol=1e-2
  )


def test_each_of_scanned_blocks_has_its_own_norm():
  def blocks(seed):
    layers = {f'block_{i}': {'attention': attention(seed + i)} for i in range(3)}
    return {'encoder': jax.tree.map(lambda x: (1.0 + seed) * x, layers)}

  params, *grads = [blocks(seed) for seed in range(3)]
  optimizer = optim.lamb(0.1, weight_decay=0.1)
  want = descend(optimizer, params, grads)
  got = descend(
    optimizer, tree.stack_blocks(params), [tree.stack_blocks(g) for g in grads]
  )
  assert_close(tree.unstack_blocks(got), want, rtol=1e-5, atol=1e-7)


def test_lamb_of_a_parameter_or_update_that_is_zero():
  params = {'a': {'kernel': jnp.zeros((2, 2))}, 'b': {'kernel': jnp.ones((2, 2))}}
  grads = {'a': {'kernel': jnp.ones((2, 2))}, 'b': {'kernel': jnp.zeros((2, 2))}}
  optimizer = optim.lamb(0.1, weight_decay=1e-30)
  got = descend(optimizer, params, [grads])
  np.testing.assert_allclose(got['a']['kernel'], -0.1, rtol=1e-5)
  np.testing.assert_allclose(got['b']['kernel'], 1.0)


def test_l2_is_the_gradient_of_the_penalty():
  rules = [('.*norm/.*', 0.0), ('head/.*', 2.0), ('.*', 1.0)]
  optimizer = optim.momentum(
    0.1,
    l2=0.3,
    l2_rules=rules,
    clip_norm=1.0,
    rate_rules=[('embed/.*', 0.0), ('.*', 1.0)],
  )
  params = parameters()
  parts = flat(params)
  counted = {n: x for n, x in parts.items() if 'norm' not in n and 'embed' not in n}
  want = sum(
    0.5 * 0.3 * (2.0 if name.startswith('head') else 1.0) * float((x**2).sum())
    for name, x in counted.items()
  )
  assert float(optimizer.penalty(params)) == pytest.approx(want, rel=1e-5)
  added = jax.grad(optimizer.penalty)(params)
  still = {'embed': {'kernel': jnp.zeros((2, 3)), 'bias': jnp.zeros(3)}}
  got = descend(optimizer, grads=[GRADS[0] | still])
  plain = optim.momentum(0.1, clip_norm=1.0)
  both = jax.tree.map(jnp.add, GRADS[0] | still, added)
  assert_close(got, descend(plain, grads=[both]))
  assert optim.momentum(0.1).penalty(params) == 0.0


def moment_types(state) -> set[str]:
  return {str(x.dtype) for x in jax.tree.leaves(state) if x.ndim > 0}


def test_buffers_have_the_type_asked_for():
  params = parameters()
  assert moment_types(optim.momentum(0.1).init(params)) == {'float32'}
  optimizer = optim.momentum(0.1, dtype='bfloat16')
  state = optimizer.init(params)
  assert moment_types(state) == {'bfloat16'}
  updates, state = optimizer.update(GRADS[0], state, params)
  assert moment_types(state) == {'bfloat16'}
  assert moment_types(optax.apply_updates(params, updates)) == {'float32'}
  close = descend(optim.momentum(0.1))
  assert_close(descend(optimizer), close, rtol=0, atol=0.02)
  moments = optim.adamw(0.1, mu_dtype='bfloat16').init(params)
  assert moment_types(moments) == {'bfloat16', 'float32'}


@pytest.mark.parametrize('make', [optim.adamw, optim.momentum])
def test_the_rate_of_step_n_is_the_schedule_at_n(make):
  def warmup(step):
    return 0.1 * (jnp.asarray(step) > 0)

  optimizer = make(warmup, weight_decay=0.1)
  assert [float(optimizer.rate_at(n)) for n in (0, 1)] == [0.0, np.float32(0.1)]
  assert_close(descend(optimizer, grads=GRADS[:1]), parameters(), rtol=0)
  moved = descend(optimizer, grads=GRADS[:2])
  assert not np.allclose(moved['head']['kernel'], parameters()['head']['kernel'])
  assert float(make(0.3).rate_at(7)) == np.float32(0.3)


def test_epsilon_of_adam():
  params, grads = {'x': jnp.ones(3)}, {'x': jnp.full(3, 1e-6)}
  for eps, want in ((1e-9, 1.0), (1.0, 1e-6)):
    optimizer = optim.adamw(1.0, eps=eps, decay_rules=[])
    updates, _ = optimizer.update(grads, optimizer.init(params), params)
    np.testing.assert_allclose(-updates['x'], want, rtol=2e-3)


def test_the_factored_moment_of_scanned_blocks_is_that_of_each_block():
  def blocks(seed):
    rng = np.random.default_rng(seed)
    shapes = {'kernel': (8, 9), 'bias': (8,), 'scale': (3, 8)}
    return {
      'encoder': {
        f'block_{i}': {
          name: jnp.asarray(rng.normal(size=shape), jnp.float32)
          for name, shape in shapes.items()
        }
        for i in range(5)  # enough to be factored over, wrongly
      },
      'head': {'kernel': jnp.asarray(rng.normal(size=(8, 7)), jnp.float32)},
    }

  params, grads = blocks(0), [blocks(1), blocks(2)]
  # In float32: bfloat16 rounds two orders of summation to different sides.
  optimizer = optim.adafactor(
    0.1, weight_decay=0.1, mu_dtype='float32', min_size_to_factor=4
  )
  want = descend(optimizer, params, grads)
  stacked = descend(
    optimizer, tree.stack_blocks(params), [tree.stack_blocks(g) for g in grads]
  )
  assert_close(tree.unstack_blocks(stacked), want, rtol=1e-5, atol=1e-7)
  moments = optimizer.init(tree.stack_blocks(params))
  size = sum(x.size for x in jax.tree.leaves(moments))
  assert size < 1.6 * sum(x.size for x in jax.tree.leaves(params))


def test_bert_adam_by_hand():
  grads = [np.array([3.0, -4.0]), np.array([0.3, 0.1])]
  w, m, v = np.array([1.0, 2.0]), np.zeros(2), np.zeros(2)
  for g in grads:
    g = g / max(1.0, np.linalg.norm(g) / 2.0)
    m, v = 0.8 * m + 0.2 * g, 0.9 * v + 0.1 * g * g
    w = w - 0.1 * (m / (np.sqrt(v) + 1e-3) + 0.5 * w)
  optimizer = optim.bert_adam(
    0.1, b1=0.8, b2=0.9, weight_decay=0.5, tensor_clip_norm=2.0, eps=1e-3
  )
  # The other parameter has a large gradient, which does not shrink this one's.
  params = {'kernel': jnp.array([1.0, 2.0]), 'other': jnp.array([1.0])}
  given = [{'kernel': jnp.float32(g), 'other': jnp.float32([1e3])} for g in grads]
  got = descend(optimizer, params, given)
  np.testing.assert_allclose(got['kernel'], w, rtol=1e-5)


def test_bert_adam_clips_scanned_blocks_separately():
  grads = np.float32([[3.0, 4.0], [0.03, 0.04]])
  optimizer = optim.bert_adam(0.1, weight_decay=0.0)
  params = {'a': jnp.zeros((2, 2)), 'b': jnp.zeros((2, 2))}
  names = ('block_0', 'block_1')
  apart = {name: {'w': x} for name, x in zip(names, params['a'], strict=True)}
  got = descend(
    optimizer, {'blocks': {'w': params['a']}}, [{'blocks': {'w': jnp.asarray(grads)}}]
  )
  want = descend(
    optimizer,
    apart,
    [{n: {'w': jnp.asarray(g)} for n, g in zip(names, grads, strict=True)}],
  )
  for name, block in zip(names, got['blocks']['w'], strict=True):
    np.testing.assert_allclose(block, want[name]['w'], rtol=1e-6)
