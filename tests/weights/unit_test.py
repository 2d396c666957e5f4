"""UniT in the names of mmf."""

import numpy as np
import pytest
from battery import unit as cases
from battery import variables

from big_vision_like.errors import UserError
from big_vision_like.models import unit
from big_vision_like.weights import tree, unit_names

TASKS = ('detection_visual_genome', 'vqa2', 'glue_sst2')
HEADS = 3


def whole(own):
  """Returns random variables of three tasks; `own` are patterns of a task's names."""
  text = cases.text().clone(num_heads=HEADS, width=15)
  answers = cases.CASES['unit_answers']
  models = {
    TASKS[0]: (cases.OBJECTS.model, answers.inputs[:2]),
    TASKS[1]: (answers.model.clone(text=text), answers.inputs),
    TASKS[2]: (
      answers.model.clone(text=text, backbone=None, head=unit.Labels(2)),
      answers.inputs[2:],
    ),
  }
  flat = {}
  for name, (model, inputs) in models.items():
    for path, array in tree.flatten(variables(model, *inputs)).items():
      kind, rest = path.split('/', 1)
      part = name if rest.split('/')[0] in own else 'shared'
      flat.setdefault(f'{kind}/{part}/{rest}', np.asarray(array))
  return flat


@pytest.fixture(scope='module')
def shared():
  return whole({'queries', 'head'})


def test_a_file_is_read_as_it_was_written(shared):
  state = unit_names.to_mmf(tree.unflatten(shared))
  base = 'unit_base_model.'
  assert {
    f'{base}backbone.0.body.conv1.weight',
    f'{base}backbone.0.body.bn1.running_mean',
    f'{base}input_proj.weight',
    f'{base}transformer.encoder.layers.0.self_attn.in_proj_weight',
    f'{base}transformer.decoder.norm.weight',
    f'{base}transformer.task_embeddings_enc.weight',
    f'{base}query_embeds.vl.vqa2.weight',
    'bert_model.module.encoder.layer.0.attention.self.query.weight',
    'task_embeddings_lang.weight',
    'class_embeds.detection_visual_genome.bias',
    'classifiers.glue.glue_sst2.0.LayerNorm.weight',
    'det_losses.detection_visual_genome.attribute_head.cls_embed.weight',
  } <= state.keys()
  found = tree.flatten(unit_names.from_mmf(state, HEADS, HEADS))
  assert found.keys() == shared.keys()
  for name, array in shared.items():
    np.testing.assert_array_equal(found[name], array, err_msg=name)


def test_arrays_that_files_hold_twice_and_old_names(shared):
  state = unit_names.to_mmf(tree.unflatten(shared))
  base = 'unit_base_model.transformer.'
  twice = {
    name.replace('.decoder.', f'.decoders.{kind}.'): array
    for name, array in state.items()
    if name.startswith(f'{base}decoder.')
    for kind in ('vl.vqa2', 'glue.glue_sst2')
  }
  twice |= {
    name.replace('.module.', '.'): array
    for name, array in state.items()
    if name.startswith('bert_model.module.embeddings.')
  }
  twice['det_losses.detection_visual_genome.empty_weight'] = np.ones(5)
  old = {
    name.replace('unit_base_model.', 'detr_model.'): array
    for name, array in (state | twice).items()
  }
  found = tree.flatten(unit_names.from_mmf(old, HEADS, HEADS))
  assert found.keys() == shared.keys()


def test_separate_decoders():
  flat = whole({'queries', 'head', 'decoder'})
  state = unit_names.to_mmf(tree.unflatten(flat))
  start = 'unit_base_model.transformer.decoders.glue.glue_sst2.'
  assert {f'{start}norm.weight', f'{start}layers.1.linear1.bias'} <= state.keys()
  found = tree.flatten(unit_names.from_mmf(state, HEADS, HEADS))
  assert found.keys() == flat.keys()


def test_a_missing_or_unknown_array_is_named(shared):
  state = unit_names.to_mmf(tree.unflatten(shared))
  state['extra.weight'] = state.pop('bert_projection.bias')
  with pytest.raises(UserError) as error:
    unit_names.from_mmf(state, HEADS, HEADS)
  assert 'extra.weight' in str(error.value)
  assert 'bert_projection.bias' in str(error.value)
