import re

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from big_vision_like import optim
from big_vision_like.errors import UserError
from big_vision_like.weights import tree


def parameters(seed: int = 0) -> dict:
  rng = np.random.default_rng(seed)

  def normal(*shape):
    return jnp.asarray(rng.normal(size=shape), jnp.float32)

  return {
    'embed': {'kernel': normal(2, 3), 'bias': normal(3)},
    'encoder': {
      'block_0': {'kernel': normal(3, 3), 'norm': {'scale': normal(3)}},
      'block_1': {'kernel': normal(3, 3), 'norm': {'scale': normal(3)}},
      'norm': {'scale': normal(3)},
    },
    'head': {'kernel': normal(3, 2), 'bias': normal(2)},
  }


GRADS = [parameters(seed) for seed in (1, 2, 3, 4)]


def descend(optimizer, params=None, grads=GRADS):
  """The parameters after a step for each of `grads`."""
  params = parameters() if params is None else params
  state = optimizer.init(params)
  for gradient in grads:
    updates, state = optimizer.update(gradient, state, params)
    params = optax.apply_updates(params, updates)
  return params


def assert_close(got, want, **tolerance):
  jax.tree.map(
    lambda g, w: np.testing.assert_allclose(g, w, **{'rtol': 1e-6, **tolerance}),
    got,
    want,
  )


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
    (['.*', 0.1], 'are no pairs of a path regex and a rate'),
  ],
)
def test_rates_by_group_that_do_not_fit(rate, told):
  with pytest.raises(UserError, match=re.escape(told)):
    optim.adamw(rate).init(parameters())


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


# Rules


def flat(tree_of_factors) -> dict[str, float]:
  return tree.flatten(tree_of_factors)


def test_kernels_alone_are_decayed_by_default():
  factors = flat(optim.adamw(0.1, weight_decay=0.5).decay_of(parameters()))
  assert factors == {
    'embed/kernel': 0.5,
    'embed/bias': 0.0,
    'encoder/block_0/kernel': 0.5,
    'encoder/block_0/norm/scale': 0.0,
    'encoder/block_1/kernel': 0.5,
    'encoder/block_1/norm/scale': 0.0,
    'encoder/norm/scale': 0.0,
    'head/kernel': 0.5,
    'head/bias': 0.0,
  }


def test_the_first_rule_that_matches_the_whole_path_counts():
  rules = [('head/kernel', 3.0), ('.*kernel', 1.0), ('head/.*', 7.0)]
  factors = flat(optim.factors(parameters(), rules, default=0.25))
  assert factors['head/kernel'] == 3.0
  assert factors['encoder/block_0/kernel'] == 1.0
  assert factors['head/bias'] == 7.0
  assert factors['embed/bias'] == 0.25


def test_decay_rules_change_the_update():
  rules = [('head/kernel', 10.0), ('.*kernel', 1.0)]
  zero = jax.tree.map(jnp.zeros_like, parameters())
  optimizer = optim.momentum(0.1, weight_decay=0.2, decay_rules=rules)
  got = flat(descend(optimizer, grads=[zero]))
  for name, before in flat(parameters()).items():
    factor = 10.0 if name == 'head/kernel' else 1.0 if 'kernel' in name else 0.0
    np.testing.assert_allclose(got[name], before * (1 - 0.02 * factor), rtol=1e-6)


def test_rate_rules_multiply_the_whole_update():
  optimizer = optim.adamw(0.1, weight_decay=0.2, rate_rules=[('encoder/.*', 0.25)])
  plain = flat(descend(optim.adamw(0.1, weight_decay=0.2), grads=GRADS[:1]))
  got = flat(descend(optimizer, grads=GRADS[:1]))
  for name, before in flat(parameters()).items():
    factor = 0.25 if name.startswith('encoder/') else 1.0
    np.testing.assert_allclose(
      got[name] - before, factor * (plain[name] - before), rtol=1e-4, atol=1e-6
    )


def test_a_rate_of_zero_freezes():
  optimizer = optim.adamw(0.1, weight_decay=0.2, rate_rules=[('embed/.*', 0.0)])
  got = descend(optimizer)
  assert_close(got['embed'], parameters()['embed'], rtol=0)
  assert not np.allclose(got['head']['bias'], parameters()['head']['bias'])


@pytest.mark.parametrize(
  'optimizer',
  [
    optim.adamw(0.1, rate_rules=[('encoder/.*', 0.5), ('heads/.*', 1.0)]),
    optim.adamw(0.1, weight_decay=0.1, decay_rules=[('heads/.*', 1.0)]),
  ],
)
def test_a_rule_that_matches_nothing_is_named(optimizer):
  with pytest.raises(UserError, match=re.escape("'heads/.*' matches no parameter")):
    optimizer.init(parameters())


@pytest.mark.parametrize('pattern', ['kernel', 'head', 'head/.'])
def test_a_rule_matches_whole_paths_only(pattern):
  with pytest.raises(UserError, match=f"'{pattern}' matches no parameter"):
    optim.factors(parameters(), [(pattern, 1.0)], 0.0)


def test_a_rule_shadowed_by_an_earlier_one_is_no_error():
  rules = [('.*', 2.0), ('.*bias', 1.0)]
  assert set(flat(optim.factors(parameters(), rules, 0.0)).values()) == {2.0}


def test_layer_decay():
  params = parameters() | {'cls': jnp.zeros((1, 1, 3)), 'pos_embedding': jnp.zeros(3)}
  optimizer = optim.adamw(0.1, rate_rules=optim.layer_decay(0.5, depth=2))
  factors = flat(optimizer.rate_factor_of(params))
  assert factors == {
    'embed/kernel': 0.125,
    'embed/bias': 0.125,
    'cls': 0.125,
    'pos_embedding': 0.125,
    'encoder/block_0/kernel': 0.25,
    'encoder/block_0/norm/scale': 0.25,
    'encoder/block_1/kernel': 0.5,
    'encoder/block_1/norm/scale': 0.5,
    'encoder/norm/scale': 1.0,
    'head/kernel': 1.0,
    'head/bias': 1.0,
  }


# Running averages


@pytest.mark.parametrize('step, decay', [(0, 0.1), (2, 0.25), (10**6, 0.9)])
def test_an_average_warms_up(step, decay):
  ema = optim.Ema(decay=0.9, warmup=True)
  assert ema.decay_at(step, 32) == pytest.approx(decay, rel=1e-5)
  assert optim.Ema(decay=0.9).decay_at(step, 32) == pytest.approx(0.9)
  average, variables = {'params': {'w': jnp.ones(3)}}, {'params': {'w': jnp.zeros(3)}}
  got = ema.update(average, variables, jnp.int32(step), 32)
  np.testing.assert_allclose(got['params']['w'], decay, rtol=1e-5)


def test_after_its_half_life_an_average_counts_half():
  ema, batch_size = optim.Ema(half_life=400), 32
  average = ema.init({'params': jnp.ones(())})
  for step in range(25):  # 800 images
    average = ema.update(average, {'params': jnp.zeros(())}, step, batch_size)
  np.testing.assert_allclose(average['params'], 0.25, rtol=1e-5)


def test_the_half_life_is_bounded_while_few_images_were_seen():
  ema = optim.Ema(half_life=10_000, rampup=0.05)
  # After 32 images the half-life is 1.6 of them, in the end 10,000.
  assert ema.decay_at(0, 32) == pytest.approx(0.5 ** (32 / 1.6), rel=1e-4)
  assert ema.decay_at(10**6, 32) == pytest.approx(0.5 ** (32 / 10_000), rel=1e-6)


def test_an_average_is_of_the_collections_it_names():
  variables = {
    'params': {'w': jnp.ones(2)},
    'batch_stats': {'mean': jnp.ones(2, jnp.bfloat16)},
    'constants': {'c': jnp.ones(2)},
  }
  average = optim.Ema(decay=0.5).init(variables)
  assert average.keys() == {'params', 'batch_stats'}
  doubled = jax.tree.map(lambda x: 2 * x, variables)
  after = optim.Ema(decay=0.5).update(average, doubled, 0, 8)
  np.testing.assert_allclose(after['params']['w'], 1.5)
  assert after['batch_stats']['mean'].dtype == jnp.bfloat16
  assert optim.Ema(decay=0.5, collections=['params']).init(variables).keys() == {
    'params'
  }


@pytest.mark.parametrize(
  'options, words',
  [
    ({}, r'takes either decay or half_life \(in images\)'),
    (dict(decay=0.5, half_life=8), 'takes either decay or half_life'),
    (dict(decay=1.0), r'decay=1.0 of a running average is not in \[0, 1\)'),
    (dict(half_life=0), 'half_life=0 of a running average is not above 0'),
    (dict(decay=0.5, rampup=0.1), 'rampup, above 0, bounds half_life: give both'),
  ],
)
def test_averages_that_cannot_be_are_told(options, words):
  with pytest.raises(UserError, match=words):
    optim.Ema(**options)


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


@pytest.mark.parametrize(
  'schedule, rates',
  [
    (optim.linear(2.0, 2, 6, end_value=0.4), [0.0, 1.0, 2.0, 1.6, 1.2, 0.8, 0.4]),
    (optim.rsqrt(2.0, 2, 3, 8), [0.0, 1.0, 2.0, 3**0.5, 1.2**0.5 * 2**0.5]),
    (optim.rsqrt(2.0, 0, 1, 4, cooldown_steps=2), [2.0, 2**0.5, 2 / 3**0.5, 0.5, 0.0]),
  ],
)
def test_schedules(schedule, rates):
  np.testing.assert_allclose([schedule(n) for n in range(len(rates))], rates, 1e-6)


def test_noam_is_the_published_schedule():
  schedule = optim.noam(512, 4000)
  steps = np.array([1, 100, 4000, 100_000])
  want = [1.747e-7, 1.747e-5, 6.988e-4, 1.398e-4]
  np.testing.assert_allclose(schedule(steps - 1), want, rtol=1e-3)
  n = np.arange(1, 9000, 7)
  formula = 2.0 * 512**-0.5 * np.minimum(n**-0.5, n * 4000**-1.5)
  got = optim.noam(512, 4000, factor=2.0)(n - 1)
  np.testing.assert_allclose(got, formula, rtol=1e-5)
  assert n[np.argmax(got)] == pytest.approx(4000, abs=7)


def test_halving_is_the_published_schedule():
  schedule = optim.halving(4e-4, 10_000, 100_000)
  want = [0.0, 2e-4 * 0.5**0.05, 2e-4, 1e-4]
  got = schedule(np.array([0, 5_000, 100_000, 200_000]))
  np.testing.assert_allclose(got, want, rtol=1e-6)
  assert optim.halving(1.0, 10, 50)(20) == pytest.approx(0.5**0.4)


def test_epsilon_of_adam():
  params, grads = {'x': jnp.ones(3)}, {'x': jnp.full(3, 1e-6)}
  for eps, want in ((1e-9, 1.0), (1.0, 1e-6)):
    optimizer = optim.adamw(1.0, eps=eps, decay_rules=[])
    updates, _ = optimizer.update(grads, optimizer.init(params), params)
    np.testing.assert_allclose(-updates['x'], want, rtol=2e-3)


def test_staircase():
  schedule = optim.staircase(8.0, 2, [3, 5], factor=0.5)
  want = [0.0, 4.0, 8.0, 8.0, 4.0, 4.0, 2.0, 2.0]
  np.testing.assert_allclose(schedule(np.arange(8)), want, rtol=1e-6)
  traced = jax.jit(optim.staircase(8.0, 0, [0]))
  np.testing.assert_allclose([traced(n) for n in (0, 1)], [8.0, 0.8], rtol=1e-6)


def test_step_decay():
  # Of many steps and compiled, too: a quotient in floats may fall short of a whole one.
  for every in (7, 739_294):
    steps = jnp.array([0, every - 1, every, 2 * every - 1, 2 * every])
    rates = jax.jit(optim.step_decay(0.5, every))(steps)
    np.testing.assert_allclose(rates, [0.5, 0.5, 0.05, 0.05, 0.005], rtol=1e-6)
