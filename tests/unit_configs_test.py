"""The published recipes of UniT: parameters, tasks and shares."""

import runpy

import jax
import numpy as np
import pytest
from battery import unit as cases
from battery import variables
from random_weights import assert_same

from big_vision_like import optim, spec
from big_vision_like.data.input import alternating
from big_vision_like.models import bert, detr, unit
from big_vision_like.run import init_from
from big_vision_like.tasks import multi_task, set_detection
from big_vision_like.tasks import unit as tasks
from big_vision_like.weights import bert_names, files
from big_vision_like.weights import detr as detr_files

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
  else:
    assert len({*data.shares.to_dict().values()}) == 1


@pytest.mark.parametrize('which', CONFIG['MODELS'])
def test_optimizers_skip_as_published(which):
  skips = which in ('coco_vqa2_shared', 'vg_vqa2_shared', 'coco_vg_vqa2_shared')
  optimizer = spec.symbol(CONFIG['get_config'](which).task.optimizer)
  assert (optimizer is optim.skipping_adamw) == skips


def test_detr_and_bert_start_a_run_together(tmp_path):
  text = bert.Bert(20, 16, 1, 2, 24, max_length=6)
  sizes = dict(width=12, encoder_depth=1, decoder_depth=1, num_heads=3, mlp_dim=20)
  finder = detr.DETR(num_classes=4, num_queries=5, backbone=cases.backbone(), **sizes)
  image_and_text = cases.CASES['unit_answers'].inputs
  found = jax.device_get(variables(finder, *image_and_text[:2]))
  read = jax.device_get(variables(text, *image_and_text[2:]))
  files.write(tmp_path / 'detr.safetensors', detr_files.to_facebook(found))
  files.write(tmp_path / 'bert.safetensors', bert_names.to_state(read['params']))
  parts = {
    'objects': set_detection.Detection(model=cases.OBJECTS.model, optimizer=None),
    'answers': tasks.TextClassification(
      model=cases.CASES['unit_answers'].model.clone(text=text), optimizer=None
    ),
  }
  task = multi_task.MultiTask(tasks=parts, own=unit.OWN, optimizer=optim.momentum(0.1))
  seen = dict(zip(('image', 'size'), image_and_text[:2], strict=True))
  texts = dict(zip(tasks.TEXT, image_and_text[2:], strict=True))
  batch = {'objects': seen, 'answers': seen | texts}
  state = jax.device_get(jax.jit(task.init)(jax.random.key(0), batch))
  nodes = CONFIG['published']()
  for node, name in zip(nodes, ('detr', 'bert'), strict=True):
    node.weights.path = str(tmp_path / f'{name}.safetensors')
    node.weights.num_heads = {'detr': 3, 'bert': 2}[name]
  before = {'params': state.params, **state.mutable}
  after = init_from.fill([spec.build(x, 'x') for x in nodes], before, task, batch)
  shared = after['params']['shared']
  assert_same(shared['backbone'], found['params']['backbone'])
  assert_same(after['constants']['shared']['backbone'], found['constants']['backbone'])
  assert_same(shared['text'], read['params'])
  for name in ('encoder', 'decoder', 'input_proj', 'text_proj'):
    assert_same(shared[name], state.params['shared'][name])
  assert_same(after['params']['answers'], state.params['answers'])
