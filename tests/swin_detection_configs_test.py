"""Tests of the recipes of Swin's detectors against the published ones, written out."""

import pathlib
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from big_vision_like import spec
from big_vision_like.run import experiment

CONFIG = pathlib.Path(__file__).parent.parent / 'configs' / 'swin' / 'coco.py'
COCO, BATCH = 118_287, 16
STEPS = round(COCO / BATCH)


def load(argument):
  config = spec.load(f'{CONFIG}:{argument}', root=experiment.Settings)
  assert config.train_data.batch_size == BATCH
  return spec.in_steps(config, COCO, BATCH)


@pytest.mark.parametrize(
  ('argument', 'last', 'drops'),
  [('mask_T_1x', 12, (8, 11)), ('cascade_B_3x', 36, (27, 33))],
)
def test_rates(argument, last, drops):
  config = load(argument)
  assert config['total_steps'] == round(last * COCO / BATCH)
  rate = jax.vmap(spec.build(config['task']['optimizer']['rate']))
  np.testing.assert_allclose(
    rate(jnp.array([0, 250, 500, 501])), [1e-7, 5.005e-5, 1e-4, 1e-4], rtol=1e-4
  )
  for number, epoch in enumerate(drops):
    first = round(epoch * COCO / BATCH)
    found = rate(jnp.array([first - 1, first]))
    np.testing.assert_allclose(found, [1e-4 * 0.1**number, 1e-5 * 0.1**number], 1e-4)


@pytest.mark.parametrize(
  ('name', 'decays'),
  [
    ('backbone/stage1/block_0/window/attention/query/kernel', True),
    ('backbone/stage1/block_0/window/attention/query/bias', True),
    ('backbone/stage1/block_0/window/relative_bias', False),
    ('backbone/stage1/block_0/shifted/norm2/bias', False),
    ('backbone/merge1/norm/scale', False),
    ('backbone/embed_norm/scale', False),
    ('backbone/norm4/bias', False),
    ('pyramid/lateral1/bias', True),
    # It is called `bn` there, so that no rule for `norm` applies.
    ('features_0/conv1/norm/scale', True),
  ],
)
def test_weight_decay(name, decays):
  optimizer = load('cascade_T_1x')['task']['optimizer']
  factor = next(
    factor for rule, factor in optimizer['decay_rules'] if re.fullmatch(rule, name)
  )
  assert optimizer['weight_decay'] * factor == (0.05 if decays else 0)


def test_losses_of_both_kinds():
  mask, cascade = (load(name)['task'] for name in ('mask_S_3x', 'cascade_S_3x'))
  assert not {'box_loss', 'weights', 'proposal_beta', 'ious'} & mask.keys()
  assert cascade['box_loss'] == 'giou' and cascade['weights'] == {'box': 10.0}
  assert cascade['proposal_beta'] == 1 / 9
  assert cascade['ious'] == (0.5, 0.6, 0.7)
  assert cascade['head_weights'] == (1.0, 0.5, 0.25)
  assert cascade['model']['rpn']['proposals'] == (2000, 1000)
  for task, rate in ((mask, 0.2), (cascade, 0.2)):
    assert task['model']['backbone']['drop_path'] == rate
