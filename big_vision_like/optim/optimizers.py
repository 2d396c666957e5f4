"""Optimizers built from parts: clipping, moments, per-parameter decay and rates.

Rules (`rules.py`) determine the weight decay and the learning rate of each parameter.
The rate may be a list of pairs of a path regex and a schedule or None:
`[('embed/.*', None), ('.*', 1e-3)]`.
"""

import dataclasses
import functools
import re
from collections.abc import Callable, Sequence

import jax
import jax.numpy as jnp
import optax

from big_vision_like.errors import UserError
from big_vision_like.optim.rules import (
  Rules,
  Tree,
  factors,
  first_matches,
  is_stacked,
  path_of,
)

Rate = Callable[[jax.Array], jax.Array] | float
Rates = Sequence[tuple[str, Rate | None]]


@dataclasses.dataclass(frozen=True)
class Optimizer:
  """An optax transformation combined with rules for each parameter.

  The gradient of the loss plus the penalty sum(l2 * parameter^2) / 2 is clipped to a
  global norm of `clip_norm`. The update is

      after_rate(-rate(step) * rate_factor * u),  u = transform(gradient) + decay * p

  where `adapt`, if given, changes u, given u, the parameters p and the decay of each.
  `rate` is one rate for all parameters, or pairs of a path regex and a rate: the first
  regex that matches a parameter counts, and one must match. A parameter whose rate is
  None or whose rate factor is 0 is frozen (see `freeze`). A parameter whose rate is
  None has no moments either.
  """

  transform: optax.GradientTransformation
  rate: Rate | Rates
  weight_decay: float = 0.0
  clip_norm: float | None = None
  decay_rules: Rules = (('.*kernel', 1.0),)
  rate_rules: Rules = ()
  l2: float = 0.0
  l2_rules: Rules = (('.*', 1.0),)
  adapt: Callable[[Tree, Tree, Tree], Tree] | None = None
  after_rate: optax.GradientTransformation | None = None

  def __post_init__(self) -> None:
    if isinstance(self.rate, (list, tuple)):
      pairs = (isinstance(p, (list, tuple)) and len(p) == 2 for p in self.rate)
      if not all(pairs):
        raise UserError(f'rate={self.rate!r} must be pairs of a path regex and a rate')
      if all(rate is None for _, rate in self.rate):
        raise UserError('the rate is None for all parameters: nothing would be trained')

  def rate_at(self, step: jax.Array | int) -> jax.Array:
    """Returns the learning rate of a step (0 is the first), of the first pair."""
    rate = self.rate
    if isinstance(rate, (list, tuple)):
      rate = next(rate for _, rate in rate if rate is not None)
    return jnp.asarray(rate(step) if callable(rate) else rate)

  def decay_of(self, params: Tree) -> Tree:
    """Returns the weight decay of each parameter."""
    rules = self.decay_rules if self.weight_decay else ()
    return jax.tree.map(lambda f: self.weight_decay * f, factors(params, rules, 0.0))

  def l2_of(self, params: Tree) -> Tree:
    """Returns the l2 factor of each parameter in the penalty; 0 for frozen ones."""
    rules = self.l2_rules if self.l2 else ()
    return jax.tree.map(
      lambda own, rate: self.l2 * own * (rate != 0.0),
      factors(params, rules, 0.0),
      self.rate_factor_of(params),
    )

  def penalty(self, params: Tree) -> jax.Array:
    """Returns sum(l2 * parameter^2) / 2, whose gradient `update` adds to the given."""
    terms = jax.tree.map(
      lambda p, own: own * jnp.square(p).sum() / 2 if own else 0.0,
      params,
      self.l2_of(params),
    )
    return jnp.asarray(sum(jax.tree.leaves(terms)))

  def rate_factor_of(self, params: Tree) -> Tree:
    """Returns the learning rate factor of each parameter; 0 for frozen ones."""
    found = factors(params, self.rate_rules, 1.0)
    for rate, mask in self._rates(params):
      if rate is None:
        found = jax.tree.map(lambda factor, own: 0.0 if own else factor, found, mask)
    return found

  def freeze(self, params: Tree) -> Tree:
    """Returns the parameters with gradients stopped for those that are frozen.

    Gradients of frozen parameters are then neither computed nor part of the norm.
    """
    if not self.rate_rules and not isinstance(self.rate, (list, tuple)):
      return params
    return jax.tree.map(
      lambda p, f: p if f else jax.lax.stop_gradient(p),
      params,
      self.rate_factor_of(params),
    )

  def _rates(self, params: Tree) -> list[tuple[Rate | None, Tree]]:
    """Returns several rates, each with a mask of its parameters; [] for one rate."""
    if not isinstance(self.rate, (list, tuple)):
      return []
    first = first_matches(params, [pattern for pattern, _ in self.rate])
    for keys, place in jax.tree_util.tree_leaves_with_path(first):
      if place == len(self.rate):
        raise UserError(
          f'no pattern of `rate` matches the parameter {path_of(keys)}: add a last pair'
          " ('.*', rate) for all others, with None if they are frozen"
        )
    return [
      (rate, jax.tree.map(lambda found, own=place: found == own, first))
      for place, (_, rate) in enumerate(self.rate)
    ]

  def _chain(self, params: Tree) -> optax.GradientTransformation:
    rates = self._rates(params)
    trained = [mask for rate, mask in rates if rate is not None]

    def of_trained(part: optax.GradientTransformation) -> optax.GradientTransformation:
      if len(trained) == len(rates):
        return part
      return optax.masked(part, jax.tree.map(lambda *own: any(own), *trained))

    parts = []
    if self.l2:
      parts.append(_each(lambda g, p, own: g + own * p, self.l2_of(params)))
    if self.clip_norm is not None:
      parts.append(of_trained(optax.clip_by_global_norm(self.clip_norm)))
    parts.append(of_trained(self.transform))
    if self.weight_decay:
      parts.append(_each(lambda u, p, d: u + d * p, self.decay_of(params)))
    if self.adapt is not None:
      adapt, decay = self.adapt, self.decay_of(params)
      parts.append(optax.stateless(lambda updates, p: adapt(updates, p, decay)))
    for rate, mask in rates:
      frozen = rate is None
      scale = optax.set_to_zero() if frozen else optax.scale_by_learning_rate(rate)
      parts.append(optax.masked(scale, mask))
    if not rates:
      parts.append(optax.scale_by_learning_rate(self.rate))
    if self.rate_rules:
      parts.append(_each(lambda u, p, f: u * f, self.rate_factor_of(params)))
    if self.after_rate is not None:
      parts.append(of_trained(self.after_rate))
    return optax.chain(*parts)

  def init(self, params: Tree) -> optax.OptState:
    """Returns the optimizer's state before the first step."""
    return self._chain(params).init(params)

  def update(
    self, grads: Tree, state: optax.OptState, params: Tree
  ) -> tuple[Tree, optax.OptState]:
    """Returns the updates to add to the parameters, and the next state."""
    return self._chain(params).update(grads, state, params)


def _each(change: Callable[..., jax.Array], own: Tree) -> optax.GradientTransformation:
  """Returns a transformation of updates, given parameters and one number for each."""
  return optax.stateless(
    lambda updates, params: jax.tree.map(change, updates, params, own)
  )


def adamw(
  rate: Rate | Rates,
  b1: float = 0.9,
  b2: float = 0.999,
  weight_decay: float = 0.0,
  clip_norm: float | None = None,
  mu_dtype: str | None = None,
  decay_rules: Rules = (('.*kernel', 1.0),),
  rate_rules: Rules = (),
  eps: float = 1e-8,
) -> Optimizer:
  """Returns Adam with decoupled decay, which the rate multiplies (arXiv:1711.05101)."""
  transform = optax.scale_by_adam(b1=b1, b2=b2, eps=eps, mu_dtype=mu_dtype)
  return Optimizer(transform, rate, weight_decay, clip_norm, decay_rules, rate_rules)


def bert_adam(
  rate: Rate | Rates,
  b1: float = 0.9,
  b2: float = 0.999,
  weight_decay: float = 0.01,
  tensor_clip_norm: float | None = 1.0,
  decay_rules: Rules = (('.*kernel', 1.0),),
  rate_rules: Rules = (),
  eps: float = 1e-6,
) -> Optimizer:
  """Returns the Adam that fine-tunes BERT, without bias correction (arXiv:1810.04805).

  As in its PyTorch code (`BertAdam`), the gradient of each parameter is clipped to its
  own norm of `tensor_clip_norm`, and that of each scanned block too.
  """
  transform = _scale_by_plain_adam(b1, b2, eps)
  if tensor_clip_norm is not None:
    transform = optax.chain(_clip_each(tensor_clip_norm), transform)
  return Optimizer(
    transform, rate, weight_decay, decay_rules=decay_rules, rate_rules=rate_rules
  )


def _clip_each(norm: float) -> optax.GradientTransformation:
  """Scales the update of each parameter, and of each scanned block, to a norm."""

  def clipped(keys: Sequence[jax.tree_util.KeyEntry], g: jax.Array) -> jax.Array:
    axes = tuple(range(is_stacked(path_of(keys)), g.ndim))
    own = jnp.sqrt(jnp.square(g).sum(axes, keepdims=True))
    return g * jnp.minimum(1.0, norm / (own + 1e-6))  # as torch's clip_grad_norm_

  return optax.stateless(
    lambda updates, _: jax.tree_util.tree_map_with_path(clipped, updates)
  )


def _scale_by_plain_adam(
  b1: float, b2: float, eps: float
) -> optax.GradientTransformation:
  """Returns Adam's scaling by moments that start at zero and are not corrected."""

  def init(params: Tree) -> optax.ScaleByAdamState:
    zeros = jax.tree.map(jnp.zeros_like, params)
    return optax.ScaleByAdamState(jnp.zeros((), jnp.int32), zeros, zeros)

  def update(
    updates: Tree, state: optax.ScaleByAdamState, params: Tree | None = None
  ) -> tuple[Tree, optax.ScaleByAdamState]:
    del params
    mu = jax.tree.map(lambda m, g: b1 * m + (1 - b1) * g, state.mu, updates)
    nu = jax.tree.map(lambda v, g: b2 * v + (1 - b2) * g * g, state.nu, updates)
    scaled = jax.tree.map(lambda m, v: m / (jnp.sqrt(v) + eps), mu, nu)
    return scaled, optax.ScaleByAdamState(state.count + 1, mu, nu)

  return optax.GradientTransformation(init, update)


def momentum(
  rate: Rate | Rates,
  decay: float = 0.9,
  nesterov: bool = False,
  weight_decay: float = 0.0,
  clip_norm: float | None = None,
  dtype: str | None = None,
  decay_rules: Rules = (('.*kernel', 1.0),),
  rate_rules: Rules = (),
  l2: float = 0.0,
  l2_rules: Rules = (('.*', 1.0),),
) -> Optimizer:
  """Returns SGD with momentum, whose buffer has type `dtype` (used to fine-tune ViTs).

  The `weight_decay` of PyTorch's SGD, which is added to the gradient, is `l2` here.
  """
  return Optimizer(
    transform=optax.trace(decay, nesterov, accumulator_dtype=dtype),
    rate=rate,
    weight_decay=weight_decay,
    clip_norm=clip_norm,
    decay_rules=decay_rules,
    rate_rules=rate_rules,
    l2=l2,
    l2_rules=l2_rules,
  )


def rmsprop_tf(
  rate: Rate | Rates,
  decay: float = 0.9,
  momentum: float = 0.9,
  eps: float = 1e-3,
  l2: float = 0.0,
  clip_norm: float | None = None,
  l2_rules: Rules = (('.*', 1.0),),
  rate_rules: Rules = (),
) -> Optimizer:
  """Returns TensorFlow's RMSProp, with EfficientNet's defaults (arXiv:1905.11946).

  Second moments start at 1, eps is inside the square root, and the momentum buffer
  accumulates steps already multiplied by their learning rate.
  """
  return Optimizer(
    transform=optax.scale_by_rms(decay, eps, initial_scale=1.0, eps_in_sqrt=True),
    rate=rate,
    clip_norm=clip_norm,
    rate_rules=rate_rules,
    l2=l2,
    l2_rules=l2_rules,
    after_rate=optax.trace(momentum) if momentum else None,
  )


def lamb(
  rate: Rate | Rates,
  b1: float = 0.9,
  b2: float = 0.999,
  weight_decay: float = 0.0,
  clip_norm: float | None = 1.0,
  mu_dtype: str | None = None,
  decay_rules: Rules = (('.*kernel', 1.0),),
  rate_rules: Rules = (),
  eps: float = 1e-6,
  joint: str | None = 'query|key|value',
) -> Optimizer:
  """Returns LAMB (arXiv:1904.00962) as in NVIDIA's apex and timm, for DeiT III.

  If a parameter decays, the update of AdamW is scaled to the norm of the parameter;
  other parameters take the update of AdamW. Gradients are clipped to a global norm of 1
  unless `clip_norm` differs. Modules whose names match `joint` share one norm, because
  published ViTs have queries, keys and values in one matrix. Each scanned block has its
  own norm.
  """
  return Optimizer(
    transform=optax.scale_by_adam(b1=b1, b2=b2, eps=eps, mu_dtype=mu_dtype),
    rate=rate,
    weight_decay=weight_decay,
    clip_norm=clip_norm,
    decay_rules=decay_rules,
    rate_rules=rate_rules,
    adapt=functools.partial(_scale_to_parameters, joint),
  )


def _scale_to_parameters(
  joint: str | None, updates: Tree, params: Tree, decay: Tree
) -> Tree:
  """Scales updates of decayed parameters to the parameters' norms, if both are > 0."""

  def group(path: str) -> str:
    return path if joint is None else re.sub(rf'(?<=/)({joint})(?=/)', '*', path)

  def norms(tree: Tree) -> dict[str, jax.Array]:
    squares: dict[str, jax.Array] = {}
    for keys, x in jax.tree_util.tree_leaves_with_path(tree):
      path = path_of(keys)
      square = jnp.square(x).sum(tuple(range(is_stacked(path), x.ndim)))
      squares[group(path)] = squares.get(group(path), 0.0) + square
    return jax.tree.map(jnp.sqrt, squares)

  norms_of_params, norms_of_updates = norms(params), norms(updates)

  def scaled(
    keys: Sequence[jax.tree_util.KeyEntry], update: jax.Array, decay: float
  ) -> jax.Array:
    if not decay:
      return update
    name = group(path_of(keys))
    own, given = norms_of_params[name], norms_of_updates[name]
    both = (own > 0) & (given > 0)
    ratio = jnp.where(both, own / jnp.where(both, given, 1.0), 1.0)
    return update * jnp.expand_dims(ratio, tuple(range(ratio.ndim, update.ndim)))

  return jax.tree_util.tree_map_with_path(scaled, updates, decay)


def adafactor(
  rate: Rate | Rates,
  b1: float | None = 0.9,
  b2_cap: float = 0.999,
  weight_decay: float = 0.0,
  clip_norm: float | None = None,
  mu_dtype: str | None = 'bfloat16',
  min_size_to_factor: int = 32,
  decay_rules: Rules = (('.*kernel', 1.0),),
  rate_rules: Rules = (),
) -> Optimizer:
  """Returns Adam with a factored second moment, and without a first if b1 is None.

  This is arXiv:1804.04235 as used to train ViT-g and ViT-G in arXiv:2106.04560 section
  3.4: the second moment's decay is 1 - t^-0.8, at most `b2_cap`, and updates are not
  clipped. The state is half the size of `adamw`'s, a quarter with a bfloat16 moment.
  """

  def second_decay(count: jax.Array, exponent: float) -> jax.Array:
    steps = jnp.asarray(count, jnp.float32) + 1.0
    return jnp.minimum(b2_cap, 1.0 - steps**-exponent)

  transform = _by_block(
    optax.scale_by_factored_rms(
      min_dim_size_to_factor=min_size_to_factor, decay_rate_fn=second_decay
    )
  )
  if b1 is not None:
    momentum = optax.ema(b1, debias=False, accumulator_dtype=mu_dtype)
    transform = optax.chain(transform, momentum)
  return Optimizer(transform, rate, weight_decay, clip_norm, decay_rules, rate_rules)


def _by_block(
  transform: optax.GradientTransformation,
) -> optax.GradientTransformation:
  """Applies a transformation to each scanned block instead of the whole stack.

  Transformations may depend on shapes.
  """

  def labels(tree: Tree) -> Tree:
    return jax.tree_util.tree_map_with_path(
      lambda keys, _: 'blocks' if is_stacked(path_of(keys)) else 'others',
      tree,
    )

  stacked = optax.GradientTransformation(
    jax.vmap(transform.init), jax.vmap(transform.update)
  )
  parted = optax.partition({'blocks': stacked, 'others': transform}, labels)

  def part(tree: Tree) -> optax.GradientTransformation:
    return parted if 'blocks' in jax.tree.leaves(labels(tree)) else transform

  return optax.GradientTransformation(
    lambda params: part(params).init(params),
    lambda updates, state, params: part(updates).update(updates, state, params),
  )
