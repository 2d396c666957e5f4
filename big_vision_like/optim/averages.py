"""Running averages of variables."""

import dataclasses
from collections.abc import Sequence

import jax
import jax.numpy as jnp

from big_vision_like.errors import UserError
from big_vision_like.optim.rules import Tree


@dataclasses.dataclass(frozen=True, kw_only=True)
class Ema:
  """A running average of variables: average = d * average + (1 - d) * variables.

  d is `decay`, or 0.5^(batch / half_life), where `half_life` is the number of images
  after which the old average counts half. With `warmup`, d is at most (1 + t) /
  (10 + t), as in TensorFlow's ExponentialMovingAverage; t starts at `first_step` (1 in
  EfficientNet, which reads the number of updates after it was incremented). `rampup`
  limits the half-life to this multiple of the images seen so far (arXiv:1912.04958).
  `collections` lists the variable collections to average, if the module has them.
  """

  decay: float | None = None
  half_life: float | None = None
  warmup: bool = False
  first_step: int = 0
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
      raise UserError('rampup must be above 0 and needs half_life, which it limits')

  def init(self, variables: Tree) -> Tree:
    """Returns the average before the first step: a copy of the variables."""
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
    """Returns the d of a step, float32."""
    step = jnp.asarray(step, jnp.float32)
    if self.decay is not None:
      d = jnp.float32(self.decay)
    else:
      half_life = jnp.float32(self.half_life)
      if self.rampup is not None:
        half_life = jnp.minimum(half_life, (step + 1.0) * batch_size * self.rampup)
      d = 0.5 ** (batch_size / half_life)
    if not self.warmup:
      return d
    t = self.first_step + step
    return jnp.minimum(d, (1.0 + t) / (10.0 + t))

  def _chosen(self, variables: Tree) -> Tree:
    return {name: variables[name] for name in self.collections if name in variables}
