"""The published recipes of UniT: parameters, tasks and shares."""

import runpy

import jax
import numpy as np
import pytest

from big_vision_like import spec
from big_vision_like.data.input import alternating

CONFIG = runpy.run_path('configs/unit/published.py')


def batch_of(name):
  """Returns shapes of a batch of one example."""
  found = {}
  if not name.startswith('glue'):
    found = {'image': ((1, 64, 64, 3), 'uint8'), 'size': ((1, 2), 'int32')}
  if name in CONFIG['TEXTS']:
    length = CONFIG['TEXTS'][name][1]
    arrays = ('tokens', 'token_types', 'token_mask')
    found |= {array: ((1, length), 'int32') for array in arrays}
  return {key: jax.ShapeDtypeStruct(*x) for key, x in found.items()}


def params_of(which):
  task = spec.build(CONFIG['get_config'](which).task.to_dict(), 'task')
  batch = {name: batch_of(name) for name in task.tasks}
  return jax.eval_shape(task.init, jax.random.key(0), batch).params


def size(tree):
  return sum(x.size for x in jax.tree.leaves(tree))


def test_parameters_of_all_tasks_with_a_shared_decoder():
  params = params_of('all8_shared')
  shared = params['shared']
  parts = ('encoder', 'decoder', 'image_proj', 'image_position_proj', 'image_task')
  assert sum(size(shared[name]) for name in parts) == 55_619_584
  assert size(shared['input_proj']) == 524_544
  assert size(shared['text']) == 109_482_240
  assert size(shared['text_proj']) + size(shared['text_position_proj']) == 1_181_184
  assert size(shared['text_task']) == 196_608
  own = [params[name] for name in params if name != 'shared']
  assert sum(x['queries'].size for x in own) == 268_800
  assert sum(size(x['head']) for x in own) == 10_780_028
  assert size(shared['backbone']) == 23_454_912
  assert size(params) == 201_507_900


def test_parameters_of_separate_decoders():
  params = params_of('coco_vg_vqa2_separate')
  decoders = [size(params[x]['decoder']) for x in params if x != 'shared']
  assert 'decoder' not in params['shared'] and len({*decoders}) == 1
  parts = ('encoder', 'image_proj', 'image_position_proj', 'image_task')
  rest = sum(size(params['shared'][name]) for name in parts)
  assert rest + 8 * decoders[0] == 386_501_632


@pytest.mark.parametrize('which', CONFIG['MODELS'])
def test_shares_of_steps_sum_to_one(which):
  data = CONFIG['get_config'](which).train_data
  assert spec.symbol(data) is alternating.Alternating
  np.testing.assert_allclose(sum(data.shares.values()), 1)
  if which.startswith('all8'):
    assert data.shares.to_dict() == pytest.approx(CONFIG['SHARES'])
