"""Optimizers, schedules and running averages: `optim.adamw`, `optim.rsqrt`, ..."""

from big_vision_like.optim.averages import Ema
from big_vision_like.optim.optimizers import (
  Optimizer,
  Rate,
  Rates,
  adafactor,
  adamw,
  momentum,
)
from big_vision_like.optim.rules import (
  Rules,
  factors,
  first_matches,
  layer_decay,
  path_of,
)
from big_vision_like.optim.schedules import (
  Schedule,
  halving,
  hyperrule_mixup,
  hyperrule_rate,
  hyperrule_steps,
  linear,
  noam,
  rsqrt,
  staircase,
  step_decay,
)

__all__ = [
  'Ema',
  'Optimizer',
  'Rate',
  'Rates',
  'Rules',
  'Schedule',
  'adafactor',
  'adamw',
  'factors',
  'first_matches',
  'halving',
  'hyperrule_mixup',
  'hyperrule_rate',
  'hyperrule_steps',
  'layer_decay',
  'linear',
  'momentum',
  'noam',
  'path_of',
  'rsqrt',
  'staircase',
  'step_decay',
]
