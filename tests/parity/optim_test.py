"""Tests of optimizers, step by step, and of schedules against torch and timm."""

import functools

import jax.numpy as jnp
import numpy as np
import optax
import pytest
import torch
from timm import optim as timm_optim

from big_vision_like import optim

RATES = (0.1, 0.03, 0.2, 0.05, 0.0, 0.1)
SHAPES = {'fc': {'kernel': (5, 3), 'bias': (3,)}, 'norm': {'scale': (3,)}}


def tensors(seed: int) -> dict:
  rng = np.random.default_rng(seed)
  return {
    name: {k: rng.normal(size=s).astype('float32') for k, s in group.items()}
    for name, group in SHAPES.items()
  }


def ours(optimizer: optim.Optimizer) -> dict:
  params = tensors(0)
  state = optimizer.init(params)
  for step in range(len(RATES)):
    updates, state = optimizer.update(tensors(step + 1), state, params)
    params = optax.apply_updates(params, updates)
  return {f'{name}/{k}': x for name, group in params.items() for k, x in group.items()}


def theirs(make, **decayed) -> dict:
  """Returns the result of a torch optimizer; `decayed` are the settings of kernels."""
  params = {
    f'{name}/{k}': torch.nn.Parameter(torch.tensor(x))
    for name, group in tensors(0).items()
    for k, x in group.items()
  }
  kernels = [x for name, x in params.items() if name.endswith('kernel')]
  others = [x for name, x in params.items() if not name.endswith('kernel')]
  optimizer = make([dict(params=kernels, **decayed), dict(params=others)])
  for step, rate in enumerate(RATES):
    for group in optimizer.param_groups:
      group['lr'] = rate
    for name, x in params.items():
      group, k = name.split('/')
      x.grad = torch.tensor(tensors(step + 1)[group][k])
    optimizer.step()
  return {name: x.detach().numpy() for name, x in params.items()}


@pytest.mark.parametrize(
  ('make', 'reference', 'decayed'),
  [
    (
      functools.partial(optim.lamb, b1=0.8, b2=0.9, weight_decay=0.3, eps=1e-8),
      functools.partial(timm_optim.Lamb, betas=(0.8, 0.9), weight_decay=0.0, eps=1e-8),
      dict(weight_decay=0.3),
    ),
    (
      functools.partial(optim.lamb, b1=0.8, b2=0.9, clip_norm=None, weight_decay=0.3),
      functools.partial(
        timm_optim.Lamb, betas=(0.8, 0.9), weight_decay=0.0, max_grad_norm=None
      ),
      dict(weight_decay=0.3),
    ),
    (
      functools.partial(optim.rmsprop_tf, l2=0.2, l2_rules=[('.*kernel', 1.0)]),
      functools.partial(
        timm_optim.RMSpropTF, alpha=0.9, eps=1e-3, momentum=0.9, lr_in_momentum=True
      ),
      dict(weight_decay=0.2),
    ),
    (
      functools.partial(optim.momentum, l2=0.2, l2_rules=[('.*kernel', 1.0)]),
      functools.partial(torch.optim.SGD, lr=0.1, momentum=0.9),
      dict(weight_decay=0.2),
    ),
    (
      functools.partial(optim.momentum, l2=0.2),
      functools.partial(torch.optim.SGD, lr=0.1, momentum=0.9, weight_decay=0.2),
      {},
    ),
  ],
)
def test_steps_match_torch(make, reference, decayed):
  rates = jnp.float32(RATES)
  got, want = ours(make(lambda step: rates[step])), theirs(reference, **decayed)
  for name, x in want.items():
    np.testing.assert_allclose(got[name], x, rtol=1e-5, atol=1e-6, err_msg=name)


def test_cosines_match_timm():
  from timm.scheduler import CosineLRScheduler

  parameter = torch.nn.Parameter(torch.zeros(1))
  group = torch.optim.SGD([parameter], lr=0.3)
  scheduler = CosineLRScheduler(
    group, t_initial=20, lr_min=0.01, warmup_t=3, warmup_lr_init=0.05
  )
  settings = dict(peak_value=0.3, warmup_value=0.05, end_value=0.01)
  schedule = optim.per_step_cosine(total_steps=20, warmup_steps=3, **settings)
  by_epoch = optim.per_epoch_cosine(
    total_steps=150, epoch_steps=7.5, warmup_steps=22.5, **settings
  )
  for t in range(20):
    want = group.param_groups[0]['lr']  # from `step` of the previous epoch
    assert float(by_epoch(int(np.ceil(7.5 * t)))) == pytest.approx(want, rel=1e-5)
    scheduler.step(t)
    want = group.param_groups[0]['lr']
    assert float(schedule(t)) == pytest.approx(want, rel=1e-5)
