"""Learning rate schedules; step 0 is the first.

Durations declared as `Steps` may be fractional: epochs(2.4) in a config is not rounded.
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
  """Returns linear warm-up to `peak_value`, then linear decay to `end_value`."""
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
  """Returns linear warm-up, then 1 / sqrt(1 + steps / timescale), then linear cooldown.

  The cooldown ends at zero. This is the schedule of arXiv:2106.04560 section 3.3, which
  can be cooled down from any step.
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
  """Returns factor * width^-0.5 * min(n^-0.5, n * warmup_steps^-1.5) for step n.

  This is arXiv:1706.03762 equation 3, where the first step (step 0 here) is n = 1.
  """

  def schedule(step: jax.Array) -> jax.Array:
    n = jnp.asarray(step, jnp.float32) + 1.0
    return factor * width**-0.5 * jnp.minimum(n**-0.5, n * warmup_steps**-1.5)

  return schedule


def halving(peak_value: float, warmup_steps: int, half_life: float) -> Schedule:
  """Returns peak_value * min(1, step / warmup_steps) * 0.5^(step / half_life).

  This is the schedule of google-research/slot_attention: the decay starts during the
  warm-up.
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
  """Returns linear warm-up, then a decay by `factor` after each boundary.

  Step `boundary` still has the earlier rate, as in the BiT-HyperRule.
  """

  def schedule(step: jax.Array) -> jax.Array:
    passed = sum(jnp.asarray(step) > boundary for boundary in boundaries)
    rate = peak_value * factor ** jnp.asarray(passed, jnp.float32)
    if warmup_steps:
      rate *= jnp.minimum(1.0, step / warmup_steps)
    return rate

  return schedule


def step_decay(peak_value: float, every: int, factor: float = 0.1) -> Schedule:
  """Returns a decay by `factor` after every `every` steps, like StepLR of PyTorch.

  Step `every` is the first step with the lower rate.
  """

  def schedule(step: jax.Array) -> jax.Array:
    # Integer division, because compilers may round the float quotient down by one.
    passed = jnp.asarray(step) // every
    return peak_value * factor ** jnp.asarray(passed, jnp.float32)

  return schedule


def multi_step(
  peak_value: float,
  drops: Sequence[int],
  warmup_steps: int = 0,
  start: float = 0.0,
  factor: float = 0.1,
) -> Schedule:
  """Returns linear warm-up, then a decay by `factor` at each of the steps `drops`.

  Warm-up starts from the share `start` of the rate, and each drop is the first step
  with the lower rate, as in Detectron and mmdetection (MultiStepLR of PyTorch).
  """

  def schedule(step: jax.Array) -> jax.Array:
    passed = sum(jnp.asarray(step) >= drop for drop in drops)
    rate = peak_value * factor ** jnp.asarray(passed, jnp.float32)
    if warmup_steps:
      rate *= start + (1 - start) * jnp.minimum(1.0, step / warmup_steps)
    return rate

  return schedule


def hyperrule_steps(examples: int) -> tuple[int, ...]:
  """Returns the BiT-HyperRule's steps for a number of training examples.

  They are the end of the warm-up, three decays, and the total, as in arXiv:1912.11370
  section 3.3.
  """
  if examples < 20_000:
    return 100, 200, 300, 400, 500
  if examples < 500_000:
    return 500, 3000, 6000, 9000, 10_000
  return 500, 6000, 12_000, 18_000, 20_000


def hyperrule_rate(examples: int, peak_value: float = 0.003) -> Schedule:
  """Returns the BiT-HyperRule's learning rate for batches of 512 images."""
  warmup, *boundaries, _ = hyperrule_steps(examples)
  return staircase(peak_value, warmup, boundaries)


def hyperrule_mixup(examples: int) -> float:
  """Returns the BiT-HyperRule's alpha of mixup; 0 disables mixup."""
  return 0.0 if examples < 20_000 else 0.1


def exponential_staircase(
  peak_value: float, warmup_steps: Steps, decay_steps: Steps, factor: float = 0.97
) -> Schedule:
  """Returns linear warm-up, then peak_value * factor^floor(step / decay_steps).

  The decay counts from step 0, so the warm-up, a whole number of steps, does not delay
  it, as in EfficientNet (arXiv:1905.11946, tensorflow/tpu) and Noisy Student.
  """
  if not 0.0 < factor < 1.0:
    raise UserError(f'factor={factor} of an exponential staircase is not in (0, 1)')
  # The number of decays until the rate is below the smallest float32.
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
  """Returns warm-up from `warmup_value`, then a cosine that starts at step 0.

  The rate therefore drops a little at the end of the warm-up, as with timm's scheduler.
  In `optax.warmup_cosine_decay_schedule` the cosine starts at its peak then.
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
  """Returns `per_step_cosine` held constant in each epoch, late by one epoch.

  DeiT's scheduler (arXiv:2012.12877) is updated after each epoch, with the number of
  the epoch that has passed, so epochs 0 and 1 both have `warmup_value`. With
  `late=False` each epoch has the rate of its own start, as in timm's training script
  and T2T-ViT (arXiv:2101.11986).
  """
  # Rounded, because 5 epochs of 1,251.14 steps may give 5.000000000000001 epochs.
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

  Searching for a step among them is exact; floor(step / length) in float32 may be off.
  """
  if length <= 0:
    raise UserError(f'{length} steps between two changes of a rate are not above 0')
  # A multiple that is above a whole number only by rounding counts as that number.
  first = np.ceil(length * np.arange(1, count + 1) - 1e-6)
  return np.minimum(first, np.iinfo('int32').max).astype('int32')
