"""AdamW that leaves parameters without a gradient alone, to train several tasks."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import optax

from big_vision_like.optim.optimizers import Optimizer, Rate, Rates
from big_vision_like.optim.rules import Rules, Tree


class Moments(NamedTuple):
  """The moments of each parameter, and the number of steps that changed them."""

  count: Tree
  mu: Tree
  nu: Tree


def skipping_adamw(
  rate: Rate | Rates,
  b1: float = 0.9,
  b2: float = 0.999,
  weight_decay: float = 0.0,
  clip_norm: float | None = None,
  decay_rules: Rules = (('.*kernel', 1.0),),
  rate_rules: Rules = (),
  eps: float = 1e-8,
) -> Optimizer:
  """Returns `adamw` that skips parameters whose gradient is zero everywhere.

  Neither moments nor weight decay change such a parameter, and its moments are
  corrected for the steps in which it had a gradient. arXiv:2102.10772 trains several
  tasks so: a step of one task does not change the heads of the others.
  """
  return Optimizer(
    scale_by_skipping_adam(b1, b2, eps),
    rate,
    weight_decay,
    clip_norm,
    decay_rules,
    rate_rules,
    adapt=_without_lone_decay,
  )


def scale_by_skipping_adam(
  b1: float, b2: float, eps: float
) -> optax.GradientTransformation:
  """Returns Adam with a count of steps for each parameter; updates are 0 if skipped."""

  def init(params: Tree) -> Moments:
    counts = jax.tree.map(lambda _: jnp.zeros((), jnp.int32), params)
    return Moments(counts, *(jax.tree.map(jnp.zeros_like, params) for _ in range(2)))

  def update(
    grads: Tree, state: Moments, params: Tree | None = None
  ) -> tuple[Tree, Moments]:
    del params

    def one(
      g: jax.Array, count: jax.Array, mu: jax.Array, nu: jax.Array
    ) -> tuple[jax.Array, ...]:
      touched = jnp.any(g != 0)
      count = count + touched.astype(count.dtype)
      mu = jnp.where(touched, b1 * mu + (1 - b1) * g, mu)
      nu = jnp.where(touched, b2 * nu + (1 - b2) * g**2, nu)
      steps = jnp.maximum(count, 1).astype(g.dtype)
      scaled = (mu / (1 - b1**steps)) / (jnp.sqrt(nu / (1 - b2**steps)) + eps)
      return jnp.where(touched, scaled, jnp.zeros_like(g)), count, mu, nu

    leaves, structure = jax.tree.flatten(grads)
    parts = [structure.flatten_up_to(part) for part in state]
    found = [one(*args) for args in zip(leaves, *parts, strict=True)]
    updates, *state = (structure.unflatten(x) for x in zip(*found, strict=True))
    return updates, Moments(*state)

  return optax.GradientTransformation(init, update)


def _without_lone_decay(updates: Tree, params: Tree, decay: Tree) -> Tree:
  """Removes the decay of parameters that have no other update: they were skipped."""

  def own(u: jax.Array, p: jax.Array, d: float) -> jax.Array:
    return jnp.where(jnp.all(u == d * p), 0.0, u) if d else u

  return jax.tree.map(own, updates, params, decay)
