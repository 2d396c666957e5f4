"""Learning rates by step; step 0 is the first.

Durations that are declared `Steps` need not be whole: epochs(2.4) of a config arrives
there unrounded.
"""

import math
from collections.abc import Callable, Sequence

import jax
import jax.numpy as jnp
import numpy as np
import optax

from big_vision_like.errors import UserError

Schedule = Callable[[jax.Array], jax.Array]
Steps = int | float


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


def exponential_staircase(
  peak_value: float, warmup_steps: Steps, decay_steps: Steps, factor: float = 0.97
) -> Schedule:
  """Warms up from 0, then returns peak_value * factor^floor(step / decay_steps).

  The decay counts from step 0 and the warm-up, of whole steps, ignores it, as in
  EfficientNet (arXiv:1905.11946, tensorflow/tpu) and Noisy Student.
  """
  if not 0.0 < factor < 1.0:
    raise UserError(f'factor={factor} of an exponential staircase is not in (0, 1)')
  # Until the rate is less than float32 can hold.
  last = math.log(jnp.finfo('float32').tiny) / math.log(factor)
  falls, warmup = _first_steps(decay_steps, math.ceil(last)), int(warmup_steps)

  def schedule(step: jax.Array) -> jax.Array:
    passed = jnp.searchsorted(falls, jnp.asarray(step), side='right')
    rate = peak_value * factor ** (1.0 * passed)
    return jnp.where(step < warmup, peak_value * (step / max(warmup, 1)), rate)

  return schedule


def per_step_cosine(
  peak_value: float,
  total_steps: Steps,
  warmup_steps: Steps = 0,
  warmup_value: float = 0.0,
  end_value: float = 0.0,
) -> Schedule:
  """Warms up from `warmup_value`, then follows a cosine that runs since step 0.

  So the rate jumps a little down when the warm-up ends, as with timm's scheduler, where
  that of `optax.warmup_cosine_decay_schedule` starts at its peak.
  """

  def schedule(step: jax.Array) -> jax.Array:
    warm = warmup_value + step * ((peak_value - warmup_value) / (warmup_steps or 1))
    share = jnp.minimum(step / total_steps, 1.0)
    rate = end_value + (peak_value - end_value) * (1.0 + jnp.cos(jnp.pi * share)) / 2.0
    return jnp.where(step < warmup_steps, warm, rate)

  return schedule


def per_epoch_cosine(
  peak_value: float,
  total_steps: Steps,
  epoch_steps: Steps,
  warmup_steps: Steps = 0,
  warmup_value: float = 0.0,
  end_value: float = 0.0,
  late: bool = True,
) -> Schedule:
  """Holds `per_step_cosine` through each epoch, as at the start of the one before.

  As DeiT's (arXiv:2012.12877), whose scheduler moves after each epoch and starts with
  the number of the epoch that has passed: epochs 0 and 1 both have `warmup_value`. With
  `late=False` it is that of the start of the epoch itself, as in timm's own script and
  T2T-ViT's (arXiv:2101.11986).
  """
  # Rounded, as 5 epochs of 1,251.14 steps may come to 5.000000000000001 epochs.
  total = round(total_steps / epoch_steps, 9)
  warmup = round(warmup_steps / epoch_steps, 9)
  cosine = per_step_cosine(peak_value, total, warmup, warmup_value, end_value)
  starts = _first_steps(epoch_steps, math.ceil(total))

  def schedule(step: jax.Array) -> jax.Array:
    epoch = jnp.searchsorted(starts, jnp.asarray(step), side='right')
    return cosine(jnp.maximum(epoch - 1, 0) if late else epoch)

  return schedule


def _first_steps(length: Steps, count: int) -> np.ndarray:
  """Returns the first whole steps at or after `length`, twice `length`, and so on.

  Where a step lies among them is exact; floor(step / length) in float32 may be off.
  """
  if length <= 0:
    raise UserError(f'{length} steps between two changes of a rate are not above 0')
  # A multiple that only rounding carries over a whole number is that number.
  first = np.ceil(length * np.arange(1, count + 1) - 1e-6)
  return np.minimum(first, np.iinfo('int32').max).astype('int32')
