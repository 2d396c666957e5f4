"""Small parameters and gradients, and the result of an optimizer on them."""

import jax
import jax.numpy as jnp
import numpy as np
import optax

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
  """Returns the parameters after a step for each of `grads`."""
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


def flat(tree_of_factors) -> dict[str, float]:
  return tree.flatten(tree_of_factors)
