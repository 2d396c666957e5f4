"""Learning rates by step; step 0 is the first."""

from collections.abc import Callable, Sequence

import jax
import jax.numpy as jnp
import optax

Schedule = Callable[[jax.Array], jax.Array]


def linear(
  peak_value: float, warmup_steps: int, total_steps: int, end_value: float = 0.0
) -> Schedule:
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
) -> Schedule:
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


def noam(width: int, warmup_steps: int, factor: float = 1.0) -> Schedule:
  """factor * width^-0.5 * min(n^-0.5, n * warmup_steps^-1.5) for the n-th step.

  arXiv:1706.03762 equation 3, where the first step is n = 1 (and here step 0).
  """

  def schedule(step: jax.Array) -> jax.Array:
    n = jnp.asarray(step, jnp.float32) + 1.0
    return factor * width**-0.5 * jnp.minimum(n**-0.5, n * warmup_steps**-1.5)

  return schedule


def halving(peak_value: float, warmup_steps: int, half_life: float) -> Schedule:
  """peak_value * min(1, step / warmup_steps) * 0.5^(step / half_life).

  Of google-research/slot_attention: the rate falls during the warm-up already.
  """

  def schedule(step: jax.Array) -> jax.Array:
    step = jnp.asarray(step, jnp.float32)
    warmth = jnp.minimum(1.0, step / warmup_steps)
    return peak_value * warmth * 0.5 ** (step / half_life)

  return schedule


def staircase(
  peak_value: float,
  warmup_steps: int,
  boundaries: Sequence[int],
  factor: float = 0.1,
) -> Schedule:
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


def step_decay(peak_value: float, every: int, factor: float = 0.1) -> Schedule:
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


def hyperrule_rate(examples: int, peak_value: float = 0.003) -> Schedule:
  """The BiT-HyperRule's learning rate at batches of 512 images."""
  warmup, *boundaries, _ = hyperrule_steps(examples)
  return staircase(peak_value, warmup, boundaries)


def hyperrule_mixup(examples: int) -> float:
  """The BiT-HyperRule's alpha of mixup; 0 is none."""
  return 0.0 if examples < 20_000 else 0.1
