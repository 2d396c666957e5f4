"""AdamW that skips parameters without a gradient."""

import jax
import jax.numpy as jnp
import numpy as np
import optax

from big_vision_like import optim

ARGUMENTS = dict(rate=0.1, weight_decay=0.2, clip_norm=1.0, decay_rules=(('.*', 1.0),))
PARAMS = {'a': jnp.array([1.0, -2.0]), 'b': jnp.array([[3.0], [0.5]])}


def run(optimizer, steps):
  params, state = PARAMS, optimizer.init(PARAMS)
  for grads in steps:
    updates, state = optimizer.update(grads, state, params)
    params = optax.apply_updates(params, updates)
  return params


def grads(seed, zero=()):
  rng = np.random.default_rng(seed)
  return {
    name: jnp.zeros(x.shape) if name in zero else jnp.array(rng.normal(size=x.shape))
    for name, x in PARAMS.items()
  }


def test_with_gradients_for_all_it_is_adamw():
  steps = [grads(i) for i in range(4)]
  want = run(optim.adamw(**ARGUMENTS), steps)
  found = run(optim.skipping_adamw(**ARGUMENTS), steps)
  jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-6), found, want)


def test_a_skipped_step_leaves_no_trace():
  some, skipped = [grads(0), grads(1)], grads(2, zero=('b',))
  optimizer = optim.skipping_adamw(**ARGUMENTS)
  want = run(optimizer, some)
  found = run(optimizer, [some[0], skipped, some[1]])
  np.testing.assert_array_equal(found['b'], want['b'])
  assert not np.allclose(found['a'], want['a'])
  decayed = run(optim.adamw(**ARGUMENTS), [some[0], skipped, some[1]])
  assert not np.allclose(decayed['b'], want['b'])
