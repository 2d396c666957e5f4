"""UniT in the names of mmf."""

import jax
import numpy as np
import pytest
import torch_archives
from battery import unit as cases
from battery import variables

import big_vision_like
from big_vision_like.errors import UserError
from big_vision_like.inference import predict_detection
from big_vision_like.models import unit
from big_vision_like.weights import published, tree, unit_names
from tools import convert_weights

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


@pytest.fixture(scope='module')
def flat(shared):
  """Returns variables with rows for all published tokens of tasks."""
  found = dict(shared)
  for name in ('image_task', 'text_task'):
    path = f'params/shared/{name}/embedding'
    found[path] = np.repeat(found[path], 5, axis=0)
  return found


@pytest.fixture(scope='module')
def saved(flat, tmp_path_factory):
  path = tmp_path_factory.mktemp('mmf') / 'unit.pth'
  torch_archives.save(path, unit_names.to_mmf(tree.unflatten(flat)))
  return path


def test_a_file_is_loaded_with_all_tasks(saved):
  found = published.read(saved, num_heads=HEADS)
  assert found.source == 'mmf UniT' and found.family.name == 'unit'
  assert found.architecture['tasks'] == TASKS
  assert found.architecture['outputs'] == (4, 6, 2) and found.num_classes == 4
  assert any('dilated=True' in text for text in found.assumed)
  tasks = found.model.tasks
  assert [tasks[name].task for name in TASKS] == [1, 3, 7]
  assert [tasks[name].first_token_only for name in TASKS] == [True, False, True]
  assert tasks[TASKS[0]].num_attributes == 12 and tasks[TASKS[2]].backbone is None
  model = tasks[TASKS[1]]
  image_and_text = cases.CASES['unit_answers'].inputs
  own = {
    kind: {**x['shared'], **x.get(TASKS[1], {})} for kind, x in found.variables.items()
  }
  want = model.apply(own, *image_and_text)['logits']
  have = found.model.apply(found.variables, *image_and_text)['logits']
  np.testing.assert_array_equal(have, want)


def test_a_file_answers_and_finds_objects(saved, monkeypatch):
  monkeypatch.setattr('big_vision_like.weights.families.unit.NUM_HEADS', HEADS)
  model, state, preprocess = big_vision_like.load(saved)
  assert preprocess.source == 'as published with UniT' and preprocess.short == 800
  small = preprocess.with_size(32)
  picture = np.random.default_rng(0).integers(0, 255, (40, 50, 3), np.uint8)
  detector = predict_detection.Detector(model, state, small, threshold=0.0)
  rows, found, _ = detector(picture)
  assert len(rows) == len(found) == 5 and rows[0][0] in {'0', '1', '2', '3'}
  image_HWC, size, _ = small(picture)
  tokens = cases.TEXT[0][:1], cases.TEXT[1][:1], cases.TEXT[2][:1]
  answers = jax.jit(model.apply)(state, image_HWC[None], size[None], *tokens)
  assert answers['logits'].shape == (1, 6)
  wrong = model.apply(state, *tokens)['logits']
  assert wrong.shape == (1, 2)
  with pytest.raises(UserError, match="no task 'vqa': choose from detection_visual"):
    model.apply(state, *tokens, task='vqa')
  with pytest.raises(UserError, match='takes 1 arrays'):
    model.apply(state, tokens[0])


def test_a_file_is_converted_unchanged(saved, tmp_path):
  out = tmp_path / 'unit.safetensors'
  convert_weights.main([str(saved), str(out), '--num-heads', str(HEADS)])
  first, again = (published.read(path, num_heads=HEADS) for path in (saved, out))
  jax.tree.map(np.testing.assert_array_equal, first.variables, again.variables)
  assert first.architecture == again.architecture


def test_files_that_do_not_fit_are_refused(flat):
  def read(change):
    changed = dict(flat)
    change(changed)
    variables = tree.unflatten(changed)
    return published.describe(family='unit', **variables, source='unit.pth')

  with pytest.raises(UserError, match='unit.pth: shapes that do not fit'):
    read(lambda x: x.update({'params/vqa2/head/norm/bias': np.zeros(3)}))

  def rename(flat):
    for name in [n for n in flat if '/vqa2/' in n]:
      flat[name.replace('/vqa2/', '/hateful_memes/')] = flat.pop(name)

  with pytest.raises(UserError, match="token of the task 'hateful_memes' is in an un"):
    read(rename)
