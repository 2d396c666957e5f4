"""Golden files of optimizers and schedules."""

import functools
import re
from collections.abc import Callable, Iterable

import jax
import jax.numpy as jnp
import numpy as np
import optax

from big_vision_like import optim
from big_vision_like.errors import UserError
from big_vision_like.weights import tree
from tools.golden.common import FLOAT, Check, Fields, Results, Tolerance, select

# Our optimizers and the names of their arguments, by names in big_vision.
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


# Allowed keys of a case; unknown ones might change the numbers.
KNOWN = ('optax_name', 'optax', 'grad_clip_norm', 'lr', 'wd', 'wd_mults', 'schedule')


def optimizers(description: Fields, arrays: Fields) -> Results:
  """Computes schedules, and parameters after each step, of big_vision's optimizers."""
  steps, results = description['config']['steps'], {}
  for case, config in enumerate(map(Fields, description['config']['cases'])):
    first = select(arrays, 'input/p0/')
    optimizer, tolerance = optimizer_of(config, steps, first)
    results |= schedules(optimizer.rate, f'output/{case}/', config, steps, arrays)
    params = tree.unflatten(first)
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


def schedules(
  rates: optim.Rate | optim.Rates,
  prefix: str,
  config: Fields,
  steps: int,
  arrays: Fields,
) -> Results:
  """Returns rates as shares of `lr` by step, for each group.

  A file has one array, of the first group or of all groups (groups, steps), or an array
  for each group whose name ends in the group's number. Frozen groups only count in an
  array of all groups.
  """
  if not isinstance(rates, list):
    rates = [('.*', rates)]
  zero = optax.constant_schedule(0.0)
  share_GS = np.array(
    [[(rate or zero)(n) / config['lr'] for n in range(steps)] for _, rate in rates]
  )
  moving = [rate is not None for _, rate in rates]
  results = {}
  for name, array in select(arrays, f'{prefix}schedule').items():
    share = share_GS if array.shape == share_GS.shape else share_GS[moving]
    if array.ndim == 1:
      number = int(name.strip('/_')) if name.strip('/_').isdigit() else 0
      if number >= len(share):
        raise UserError(f'{prefix}schedule{name} is not one of {len(share)} groups')
      share = share[number]
    results[f'{prefix}schedule{name}'] = (share, FLOAT)
  return results


def rate_of(
  schedule: Fields, peak: float, steps: int
) -> Callable[[jax.Array], jax.Array]:
  """Returns big_vision's `create_learning_rate_schedule`, multiplied by `peak`."""
  peak *= schedule.get('mult', 1.0)
  warmup = schedule.get('warmup_steps', 0)
  kind = schedule['decay_type']
  if kind == 'cosine':
    return optax.warmup_cosine_decay_schedule(0.0, peak, warmup, steps)
  if kind == 'linear':
    return optim.linear(peak, warmup, steps, peak * schedule.get('linear_end', 0))
  if kind == 'rsqrt':
    cooldown = schedule.get('cooldown_steps', 0)
    return optim.rsqrt(peak, warmup, schedule['timescale'], steps, cooldown)
  raise UserError(f'decay_type {kind!r} is not one of cosine, linear, rsqrt')


def pattern_of(pattern: str) -> str:
  """Converts a pattern of big_vision to one for our whole paths."""
  return pattern.rstrip('$').replace('*/', '*')


def optimizer_of(
  config: Fields, steps: int, names: Iterable[str]
) -> tuple[optim.Optimizer, Tolerance]:
  """Returns the optimizer of `big_vision.optax.make`, and the tolerance of its steps.

  `names` are the names of the parameters.
  """
  if unknown := config.keys() - set(KNOWN):
    raise UserError(f'{", ".join(sorted(unknown))} is not one of {", ".join(KNOWN)}')
  rate, schedule = config['lr'], config['schedule']
  if isinstance(schedule, list):
    # In big_vision a pattern may match no parameter, which is an error here.
    decayed = [
      (pattern, None if own is None else rate_of(Fields(own), rate, steps))
      for pattern, own in schedule
      if any(re.fullmatch(pattern, name) for name in names)
    ]
  else:
    decayed = rate_of(Fields(schedule), rate, steps)
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
    (pattern_of(pattern), factor)
    for pattern, factor in config.get('wd_mults') or [('.*kernel', 1.0)]
  ]
  optimizer = make(
    decayed,
    # In big_vision the decay is multiplied by the schedule, not by the rate.
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


def rmsprop(description: Fields, arrays: Fields) -> Results:
  """Computes parameters and their average after each step of TensorFlow's RMSProp.

  The settings are in the text of the reference, such as `decay=0.9`.
  """
  reference = description['reference']
  number = r'=?\(?([\d.]+(?:e-?\d+)?)'

  def told(name: str, text: str) -> float:
    found = re.search(name + number, text)
    if found is None:
      raise UserError(f'it has no {name!r}')
    return float(found[1])

  rate_S = jnp.asarray(arrays['input/lr'])
  optimizer = optim.rmsprop_tf(
    lambda step: rate_S[step],
    decay=told('decay', reference),
    momentum=told('momentum', reference),
    eps=told('epsilon', reference),
  )
  ema = optim.Ema(
    decay=told('ExponentialMovingAverage', reference),
    warmup='num_updates' in reference,
    first_step=int(told('starting at ', description['notes'])),
  )
  params = {'w': jnp.asarray(arrays['input/w0'])}
  state, average = optimizer.init(params), ema.init({'params': params})
  update, found = jax.jit(optimizer.update), []
  for step in range(description['config']['steps']):
    grads = {'w': jnp.asarray(arrays['input/grads'][step])}
    updates, state = update(grads, state, params)
    params = optax.apply_updates(params, updates)
    average = ema.update(average, {'params': params}, step, batch_size=1)
    found.append((params['w'], average['params']['w']))
  weights, averages = zip(*found, strict=True)
  return {
    'output/w': (np.stack(weights), FLOAT),
    'output/ema': (np.stack(averages), FLOAT),
  }


def exponential_staircase(description: Fields) -> tuple[dict[str, np.ndarray], Results]:
  """Returns the rates of Noisy Student by step, and ours."""
  config = description['config']
  batch_size = config['train_batch_size']
  epoch = config['num_train_images'] / batch_size
  rate = optim.exponential_staircase(
    config['base_learning_rate'] * batch_size / 256,
    warmup_steps=config['warmup_epochs'] * epoch,
    decay_steps=config['decay_epochs'] * epoch,
    factor=config['decay_factor'],
  )
  wanted = description['lr_at_step']
  near = Tolerance(relative=1e-6)
  return (
    {f'step/{step}': np.asarray(value) for step, value in wanted.items()},
    {f'step/{step}': (rate(int(step)), near) for step in wanted},
  )


def per_epoch_cosine(description: Fields) -> tuple[dict[str, np.ndarray], Results]:
  """Returns DeiT's rates by epoch, and ours at the first and last steps of each.

  Ours are in float64, because float32 may differ by more than the tolerance.
  """
  config, epoch = description['config'], 1281167 / 1024
  rate = optim.per_epoch_cosine(
    config['base_lr'],
    total_steps=config['epochs'] * epoch,
    epoch_steps=epoch,
    warmup_steps=config['warmup_epochs'] * epoch,
    warmup_value=config['warmup_lr'],
    end_value=config['min_lr'],
  )
  first = np.ceil(epoch * np.arange(config['epochs'] + 1)).astype(int)
  with jax.enable_x64(True):
    ours = {
      'first': np.asarray(rate(first[:-1])),
      'last': np.asarray(rate(first[1:] - 1)),
    }
  wanted = np.asarray(description['lr_used_in_epoch'])
  return (
    {f'epoch/{name}_step': wanted for name in ours},
    {f'epoch/{name}_step': (x, Tolerance(absolute=1e-9)) for name, x in ours.items()},
  )


CHECKS = (
  Check(optimizers, 'big_vision optax.make'),
  Check(rmsprop, 'tf.compat.v1.train.RMSPropOptimizer'),
  Check(exponential_staircase, 'noisystudent utils.build_learning_rate', alone=True),
  Check(per_epoch_cosine, 'timm CosineLRScheduler', alone=True),
)
