"""Optimizers from parts: schedules, clipping, per-parameter decay and rates.

Rules are ordered (path regex, factor) pairs; the first that matches a parameter's whole
'/'-joined path counts, and a parameter that none matches takes the default. The rate
may be such pairs too, of schedules or None: `[('embed/.*', None), ('.*', 1e-3)]`.
"""

import dataclasses
import re
from collections.abc import Callable, Sequence

import jax
import jax.numpy as jnp
import optax

from big_vision_like.errors import UserError

Rules = Sequence[tuple[str, float]]
Rate = Callable[[jax.Array], jax.Array] | float
Rates = Sequence[tuple[str, Rate | None]]
Tree = dict


def path_of(keys: Sequence[jax.tree_util.KeyEntry]) -> str:
  """'encoder/block_0/mlp/fc1/kernel' for a leaf of a tree."""
  return jax.tree_util.keystr(keys, simple=True, separator='/')


def factors(tree: Tree, rules: Rules, default: float) -> Tree:
  """The factor that the rules give each leaf; a rule that matches nothing raises."""
  values = [value for _, value in rules] + [default]
  first = first_matches(tree, [pattern for pattern, _ in rules])
  return jax.tree.map(lambda rule: values[rule], first)


def first_matches(tree: Tree, patterns: Sequence[str]) -> Tree:
  """Finds the place of the first pattern that matches each leaf, else their number.

  A pattern that matches nothing raises. A later one may be shadowed by an earlier one
  on purpose; a typo matches nothing.
  """
  paths = [path_of(keys) for keys, _ in jax.tree_util.tree_leaves_with_path(tree)]
  for pattern in patterns:
    if not any(re.fullmatch(pattern, path) for path in paths):
      raise UserError(f'the rule {pattern!r} matches no parameter')

  def first(keys: Sequence[jax.tree_util.KeyEntry], _) -> int:
    found = (bool(re.fullmatch(pattern, path_of(keys))) for pattern in patterns)
    return [*found, True].index(True)

  return jax.tree_util.tree_map_with_path(first, tree)


@dataclasses.dataclass(frozen=True)
class Optimizer:
  """An optax transformation that also knows its rules for each parameter.

  The update is -rate(step) * rate_factor * (transform(gradient) + decay * parameter),
  after the gradients were clipped to a global norm of `clip_norm`. `rate` is one for
  all parameters, or pairs of a path regex and a rate, of which the first that matches a
  parameter counts; one must match. A parameter whose rate is None or whose rate factor
  is 0 is frozen: see `freeze`. Where the rate is None, it has no moments either.
  """

  transform: optax.GradientTransformation
  rate: Rate | Rates
  weight_decay: float = 0.0
  clip_norm: float | None = None
  decay_rules: Rules = (('.*kernel', 1.0),)
  rate_rules: Rules = ()

  def __post_init__(self) -> None:
    if isinstance(self.rate, (list, tuple)):
      pairs = (isinstance(p, (list, tuple)) and len(p) == 2 for p in self.rate)
      if not all(pairs):
        raise UserError(f'rate={self.rate!r} are no pairs of a path regex and a rate')
      if all(rate is None for _, rate in self.rate):
        raise UserError('the rate is None for all parameters: nothing would be trained')

  def rate_at(self, step: jax.Array | int) -> jax.Array:
    """The learning rate of step `step` (0 is the first), that of the first pair."""
    rate = self.rate
    if isinstance(rate, (list, tuple)):
      rate = next(rate for _, rate in rate if rate is not None)
    return jnp.asarray(rate(step) if callable(rate) else rate)

  def decay_of(self, params: Tree) -> Tree:
    """Weight decay of each parameter."""
    rules = self.decay_rules if self.weight_decay else ()
    return jax.tree.map(lambda f: self.weight_decay * f, factors(params, rules, 0.0))

  def rate_factor_of(self, params: Tree) -> Tree:
    """What multiplies the learning rate of each parameter; 0 of frozen ones."""
    found = factors(params, self.rate_rules, 1.0)
    for rate, mask in self._rates(params):
      if rate is None:
        found = jax.tree.map(lambda factor, own: 0.0 if own else factor, found, mask)
    return found

  def freeze(self, params: Tree) -> Tree:
    """The same, but that no gradient reaches what the rules freeze.

    So gradients of frozen parameters are not computed, nor do they count in the norm.
    """
    if not self.rate_rules and not isinstance(self.rate, (list, tuple)):
      return params
    return jax.tree.map(
      lambda p, f: p if f else jax.lax.stop_gradient(p),
      params,
      self.rate_factor_of(params),
    )

  def _rates(self, params: Tree) -> list[tuple[Rate | None, Tree]]:
    """Returns several rates, each with a mask of its parameters; empty for one rate."""
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
    parts = []
    if self.clip_norm is not None:
      parts.append(optax.clip_by_global_norm(self.clip_norm))
    parts.append(self.transform)
    trained = [mask for rate, mask in rates if rate is not None]
    if len(trained) < len(rates):
      mask = jax.tree.map(lambda *own: any(own), *trained)
      parts = [optax.masked(part, mask) for part in parts]
    if self.weight_decay:
      parts.append(_each(lambda u, p, d: u + d * p, self.decay_of(params)))
    for rate, mask in rates:
      frozen = rate is None
      scale = optax.set_to_zero() if frozen else optax.scale_by_learning_rate(rate)
      parts.append(optax.masked(scale, mask))
    if not rates:
      parts.append(optax.scale_by_learning_rate(self.rate))
    if self.rate_rules:
      parts.append(_each(lambda u, p, f: u * f, self.rate_factor_of(params)))
    return optax.chain(*parts)

  def init(self, params: Tree) -> optax.OptState:
    """The optimizer's state before the first step."""
    return self._chain(params).init(params)

  def update(
    self, grads: Tree, state: optax.OptState, params: Tree
  ) -> tuple[Tree, optax.OptState]:
    """What to add to the parameters, and the next state."""
    return self._chain(params).update(grads, state, params)


def _each(change: Callable[..., jax.Array], own: Tree) -> optax.GradientTransformation:
  """Changes each update by its parameter and its own number."""
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
  """Adam with decoupled decay, which the rate multiplies (arXiv:1711.05101)."""
  transform = optax.scale_by_adam(b1=b1, b2=b2, eps=eps, mu_dtype=mu_dtype)
  return Optimizer(transform, rate, weight_decay, clip_norm, decay_rules, rate_rules)


def momentum(
  rate: Rate | Rates,
  decay: float = 0.9,
  nesterov: bool = False,
  weight_decay: float = 0.0,
  clip_norm: float | None = None,
  dtype: str | None = None,
  decay_rules: Rules = (('.*kernel', 1.0),),
  rate_rules: Rules = (),
) -> Optimizer:
  """SGD with momentum, its buffer kept in `dtype` (how the ViTs are fine-tuned)."""
  transform = optax.trace(decay, nesterov, accumulator_dtype=dtype)
  return Optimizer(transform, rate, weight_decay, clip_norm, decay_rules, rate_rules)


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
  """Adam with a factored second moment and no first where b1 is None.

  Of arXiv:1804.04235 as arXiv:2106.04560 section 3.4 trains ViT-g and ViT-G with it:
  the second moment's decay is 1 - t^-0.8, at most `b2_cap`; updates are not clipped.
  The state is half that of `adamw`, a quarter with the moment in bfloat16.
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
  """Applies to each of scanned blocks, not to their stack (where shapes decide)."""

  def labels(tree: Tree) -> Tree:
    return jax.tree_util.tree_map_with_path(
      lambda keys, _: 'blocks' if 'blocks' in path_of(keys).split('/') else 'others',
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


def linear(
  peak_value: float, warmup_steps: int, total_steps: int, end_value: float = 0.0
) -> Callable[[jax.Array], jax.Array]:
  """Linear warm-up to `peak_value`, then linearly to `end_value` at `total_steps`."""
  return optax.join_schedules(
    [
      optax.linear_schedule(0.0, peak_value, warmup_steps),
      optax.linear_schedule(peak_value, end_value, total_steps - warmup_steps),
    ],
    [warmup_steps],
  )


def rsqrt(
  peak_value: float,
  warmup_steps: int,
  timescale: int,
  total_steps: int,
  cooldown_steps: int = 0,
) -> Callable[[jax.Array], jax.Array]:
  """Linear warm-up, then 1 / sqrt(1 + steps / timescale), then linearly to zero.

  The schedule of arXiv:2106.04560 section 3.3, which can be cooled down at any step.
  """

  def schedule(step: jax.Array) -> jax.Array:
    since = jnp.maximum(step - warmup_steps, 0)
    rate = peak_value / jnp.sqrt(1.0 + since / timescale)
    if warmup_steps:
      rate *= jnp.minimum(1.0, step / warmup_steps)
    if cooldown_steps:
      rate *= jnp.minimum(1.0, (total_steps - step) / cooldown_steps)
    return rate

  return schedule


def noam(
  width: int, warmup_steps: int, factor: float = 1.0
) -> Callable[[jax.Array], jax.Array]:
  """factor * width^-0.5 * min(n^-0.5, n * warmup_steps^-1.5) for the n-th step.

  arXiv:1706.03762 equation 3, where the first step is n = 1 (and here step 0).
  """

  def schedule(step: jax.Array) -> jax.Array:
    n = jnp.asarray(step, jnp.float32) + 1.0
    return factor * width**-0.5 * jnp.minimum(n**-0.5, n * warmup_steps**-1.5)

  return schedule


def halving(
  peak_value: float, warmup_steps: int, half_life: float
) -> Callable[[jax.Array], jax.Array]:
  """peak_value * min(1, step / warmup_steps) * 0.5^(step / half_life).

  Of google-research/slot_attention: the rate falls during the warm-up already.
  """

  def schedule(step: jax.Array) -> jax.Array:
    step = jnp.asarray(step, jnp.float32)
    warmth = jnp.minimum(1.0, step / warmup_steps)
    return peak_value * warmth * 0.5 ** (step / half_life)

  return schedule


def layer_decay(decay: float, depth: int) -> list[tuple[str, float]]:
  """Rate rules of layer-wise decay (arXiv:2111.06377): the head 1, block i decay^(L-i).

  For the unrolled layout (`block_0`, ...), L = `depth`.
  """
  embed = '(embed/.*|cls|pos_embedding)'
  rules = [(f'encoder/block_{i}/.*', decay ** (depth - i)) for i in range(depth)]
  return [(embed, decay ** (depth + 1)), *rules]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Ema:
  """A running average of variables: average = d * average + (1 - d) * variables.

  d is `decay`, or 0.5^(batch / half_life) with `half_life` in images: after that many
  the old average counts half. With `warmup` d is at most (1 + t) / (10 + t) at step t,
  as in TensorFlow's ExponentialMovingAverage; `rampup` bounds the half-life by that
  share of the images seen so far (arXiv:1912.04958). `collections` are those of a
  module's variables that are averaged, where the module has them.
  """

  decay: float | None = None
  half_life: float | None = None
  warmup: bool = False
  rampup: float | None = None
  collections: Sequence[str] = ('params', 'batch_stats')

  def __post_init__(self) -> None:
    if (self.decay is None) == (self.half_life is None):
      raise UserError('a running average takes either decay or half_life (in images)')
    if self.decay is not None and not 0 <= self.decay < 1:
      raise UserError(f'decay={self.decay} of a running average is not in [0, 1)')
    if self.half_life is not None and self.half_life <= 0:
      raise UserError(f'half_life={self.half_life} of a running average is not above 0')
    if self.rampup is not None and (self.half_life is None or self.rampup <= 0):
      raise UserError('rampup, above 0, bounds half_life: give both')

  def init(self, variables: Tree) -> Tree:
    """Returns the average before the first step: a copy."""
    return jax.tree.map(jnp.copy, self._chosen(variables))

  def update(
    self, average: Tree, variables: Tree, step: jax.Array, batch_size: int
  ) -> Tree:
    """Returns the average after step `step` (0 is the first), in its own dtypes."""
    d = self.decay_at(step, batch_size)
    return jax.tree.map(
      lambda a, x: (d * a + (1.0 - d) * x).astype(a.dtype),
      average,
      self._chosen(variables),
    )

  def decay_at(self, step: jax.Array | int, batch_size: int) -> jax.Array:
    """Returns d of a step, float32."""
    step = jnp.asarray(step, jnp.float32)
    if self.decay is not None:
      d = jnp.float32(self.decay)
    else:
      half_life = jnp.float32(self.half_life)
      if self.rampup is not None:
        half_life = jnp.minimum(half_life, (step + 1.0) * batch_size * self.rampup)
      d = 0.5 ** (batch_size / half_life)
    return jnp.minimum(d, (1.0 + step) / (10.0 + step)) if self.warmup else d

  def _chosen(self, variables: Tree) -> Tree:
    return {name: variables[name] for name in self.collections if name in variables}


def staircase(
  peak_value: float,
  warmup_steps: int,
  boundaries: Sequence[int],
  factor: float = 0.1,
) -> Callable[[jax.Array], jax.Array]:
  """Linear warm-up, then times `factor` after each of the boundaries.

  Step `boundary` still has the rate before it, as in the BiT-HyperRule.
  """

  def schedule(step: jax.Array) -> jax.Array:
    passed = sum(jnp.asarray(step) > boundary for boundary in boundaries)
    rate = peak_value * factor ** jnp.asarray(passed, jnp.float32)
    if warmup_steps:
      rate *= jnp.minimum(1.0, step / warmup_steps)
    return rate

  return schedule


def step_decay(
  peak_value: float, every: int, factor: float = 0.1
) -> Callable[[jax.Array], jax.Array]:
  """Times `factor` after every so many steps, as StepLR of PyTorch.

  Step `every` is the first of the lower rate.
  """

  def schedule(step: jax.Array) -> jax.Array:
    # In whole numbers: in floats, compilers round such a quotient down by one.
    passed = jnp.asarray(step) // every
    return peak_value * factor ** jnp.asarray(passed, jnp.float32)

  return schedule


def hyperrule_steps(examples: int) -> tuple[int, ...]:
  """BiT-HyperRule (arXiv:1912.11370 section 3.3) for so many training examples.

  Steps when the warm-up ends, when the rate falls (three times), and in total.
  """
  if examples < 20_000:
    return 100, 200, 300, 400, 500
  if examples < 500_000:
    return 500, 3000, 6000, 9000, 10_000
  return 500, 6000, 12_000, 18_000, 20_000


def hyperrule_rate(
  examples: int, peak_value: float = 0.003
) -> Callable[[jax.Array], jax.Array]:
  """The BiT-HyperRule's learning rate at batches of 512 images."""
  warmup, *boundaries, _ = hyperrule_steps(examples)
  return staircase(peak_value, warmup, boundaries)


def hyperrule_mixup(examples: int) -> float:
  """The BiT-HyperRule's alpha of mixup; 0 is none."""
  return 0.0 if examples < 20_000 else 0.1
