"""Golden files of optimizers and schedules."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax

from big_vision_like import optim
from big_vision_like.errors import UserError
from big_vision_like.weights import tree
from tools.golden.common import FLOAT, Check, Fields, Results, Tolerance, select

# Our optimizers by big_vision's names, and our names of their arguments.
OPTIMIZERS = {
  'scale_by_adam': (optim.adamw, {'b1': 'b1', 'b2': 'b2', 'mu_dtype': 'mu_dtype'}),
  'big_vision.momentum_hp': (
    functools.partial(optim.momentum, dtype='bfloat16'),
    {'momentum': 'decay', 'nesterov': 'nesterov', 'dtype': 'dtype'},
  ),
  'big_vision.scale_by_adafactor': (
    optim.adafactor,
    {
      'momentum': 'b1',
      'beta2_cap': 'b2_cap',
      'dtype_momentum': 'mu_dtype',
      'min_dim_size_to_factor': 'min_size_to_factor',
    },
  ),
}


def optimizers(description: Fields, arrays: Fields) -> Results:
  """Schedules, and parameters after each step, of big_vision's optimizers."""
  steps, results = description['config']['steps'], {}
  for case, config in enumerate(map(Fields, description['config']['cases'])):
    optimizer, tolerance = optimizer_of(config, steps)
    relative = [optimizer.rate_at(n) / config['lr'] for n in range(steps)]
    results[f'output/{case}/schedule'] = (np.stack(relative), FLOAT)
    params = tree.unflatten(select(arrays, 'input/p0/'))
    state, update = optimizer.init(params), jax.jit(optimizer.update)
    for step in range(steps):
      grads = tree.unflatten(select(arrays, f'input/g{step}/'))
      updates, state = update(grads, state, params)
      params = optax.apply_updates(params, updates)
      if select(arrays, f'output/{case}/step{step}/'):
        results |= {
          f'output/{case}/step{step}/{name}': (value, tolerance)
          for name, value in tree.flatten(params).items()
        }
  return results


def optimizer_of(config: Fields, steps: int) -> tuple[optim.Optimizer, Tolerance]:
  """What `big_vision.optax.make` would build, and how near its steps must come."""
  schedule, rate = Fields(config['schedule']), config['lr']
  warmup = schedule.get('warmup_steps', 0)
  kind = schedule['decay_type']
  if kind == 'cosine':
    decayed = optax.warmup_cosine_decay_schedule(0.0, rate, warmup, steps)
  elif kind == 'linear':
    decayed = optim.linear(rate, warmup, steps, rate * schedule.get('linear_end', 0))
  elif kind == 'rsqrt':
    cooldown = schedule.get('cooldown_steps', 0)
    decayed = optim.rsqrt(rate, warmup, schedule['timescale'], steps, cooldown)
  else:
    raise UserError(f'decay_type {kind!r} is not one of cosine, linear, rsqrt')
  name = config['optax_name']
  if name not in OPTIMIZERS:
    raise UserError(f'optimizer {name!r} is not one of {", ".join(OPTIMIZERS)}')
  make, ours = OPTIMIZERS[name]
  options = {}
  for theirs, value in config.get('optax', {}).items():
    if theirs not in ours:
      raise UserError(f'{name} takes {", ".join(ours)} here, not {theirs!r}')
    options[ours[theirs]] = value
  rules = [
    (pattern.rstrip('$').replace('*/', '*'), factor)
    for pattern, factor in config.get('wd_mults') or [('.*kernel', 1.0)]
  ]
  optimizer = make(
    decayed,
    # There the decay is multiplied by the schedule, not by the rate.
    weight_decay=(config.get('wd') or 0.0) / rate,
    clip_norm=config.get('grad_clip_norm'),
    decay_rules=rules,
    **options,
  )
  half = any(
    x.dtype == jnp.bfloat16
    for x in jax.tree.leaves(optimizer.transform.init({'kernel': jnp.zeros(2)}))
  )
  return optimizer, Tolerance(absolute=1e-3) if half else FLOAT


CHECKS = (Check(optimizers, 'big_vision optax.make'),)
