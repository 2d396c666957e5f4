"""BERT, ViLBERT and VisualBERT in the names of their sources.

`make parity` compares their outputs with transformers.
"""

import battery
import numpy as np
import pytest
import safetensors.numpy
from battery import bert as bert_cases
from battery import vilbert as cases

from big_vision_like import load
from big_vision_like.errors import UserError
from big_vision_like.inference import loading
from big_vision_like.layers import pairs
from big_vision_like.models import bert, vilbert, visual_bert
from big_vision_like.run import init_from
from big_vision_like.weights import published, tree, vilbert_names
from big_vision_like.weights.families import bert as bert_family
from big_vision_like.weights.families import vilbert as vilbert_family
from big_vision_like.weights.families import visual_bert as visual_bert_family

# Heads of width 64, as published, which files do not record.
WIDE = dict(width=128, num_heads=2)
HEADS = {
  'words': pairs.Words(),
  'regions': pairs.Regions(9),
  'alignment': pairs.Classes(2),
  'vqa': pairs.Answers(7),
  'gqa': pairs.Answers(5),
  'nlvr2': pairs.Answers(2, images=2),
  'match': pairs.Classes(1),
  'entailment': pairs.Classes(3),
  'region_scores': pairs.RegionScores(),
  'word_scores': pairs.WordScores(),
}
IMAGE = dict(image_heads=8, joint_heads=8, joint_width=32, image_width=24)
# Connections precede the last blocks, as published.
PLACES = dict(text_places=(1, 2), image_places=(0, 1))
VILBERT = cases.SMALL | WIDE | IMAGE | PLACES


def drawn(model, inputs):
  found = battery.variables(model, *inputs)['params']
  return {name: np.asarray(x) for name, x in tree.flatten(found).items()}


def saved(path, state):
  safetensors.numpy.save_file(state, path)
  return path


def assert_same(params, want):
  have = tree.flatten(params)
  assert have.keys() == want.keys()
  for name, array in want.items():
    np.testing.assert_array_equal(have[name], array, err_msg=name)


@pytest.fixture(scope='module')
def small_bert():
  model = bert.Bert(**bert_cases.SMALL | WIDE, heads=bert.HEADS)
  return drawn(model, bert_cases.CASES['bert'].inputs)


def bert_state(params, **options):
  found = published.describe(tree.unflatten(params), 'bert', **options)
  [source] = bert_family.FAMILY.sources
  return source.writes['transformers'](found), found


def test_bert_there_and_back(small_bert, tmp_path):
  state, found = bert_state(small_bert)
  assert found.architecture['heads'] == bert.HEADS and found.architecture['pooler']
  again = published.read(saved(tmp_path / 'bert.safetensors', state))
  assert_same(again.params, small_bert)
  assert again.architecture == found.architecture
  assert again.model == bert.Bert(**bert_cases.SMALL | WIDE, heads=bert.HEADS)
  assert again.source == 'transformers BERT'
  assert any('num_heads=2' in text for text in again.assumed)


def test_old_names_of_norms_and_prefixes(small_bert, tmp_path):
  state, _ = bert_state(small_bert)
  old = {
    name.replace('LayerNorm.weight', 'LayerNorm.gamma').replace(
      'LayerNorm.bias', 'LayerNorm.beta'
    ): array
    for name, array in state.items()
  }
  assert old.keys() != state.keys()
  embedding = old['bert.embeddings.word_embeddings.weight']
  old['cls.predictions.decoder.weight'] = embedding  # stored twice
  for name, prefix in (('old', ''), ('parallel', 'module.')):
    path = saved(
      tmp_path / f'{name}.safetensors', {prefix + k: x for k, x in old.items()}
    )
    assert_same(published.read(path).params, small_bert)
  old['cls.predictions.decoder.weight'] = embedding + 1
  with pytest.raises(UserError, match='our models use one matrix for both'):
    published.read(saved(tmp_path / 'two.safetensors', old))


def test_parts_of_bert(small_bert, tmp_path):
  for start, name, missing in (
    (('words/', 'next_text/'), 'encoder', 'embeddings.LayerNorm.bias'),
    (('next_text/', 'pooler/'), 'masked', 'cls.predictions.bias'),
  ):
    part = {k: x for k, x in small_bert.items() if not k.startswith(start)}
    state, found = bert_state(part)
    assert_same(
      published.read(saved(tmp_path / f'{name}.safetensors', state)).params, part
    )
    assert found.architecture['pooler'] == ('pooler/' not in start)
    del state[missing]
    with pytest.raises(UserError, match=f'missing {missing}'):
      published.read(saved(tmp_path / f'{name}_less.safetensors', state))


def test_bert_with_its_config(small_bert, tmp_path):
  state, found = bert_state(small_bert)
  [source] = bert_family.FAMILY.sources
  [(name, config)] = source.config(found, None).items()
  assert config['architectures'] == ['BertForPreTraining']
  saved(tmp_path / 'model.safetensors', state)
  changed = config | {'num_attention_heads': 4, 'hidden_act': 'relu'}
  (tmp_path / name).write_text(str(changed).replace("'", '"'))
  again = published.read(tmp_path)
  assert again.architecture['num_heads'] == 4
  assert again.architecture['activation'] == 'relu' and not again.assumed
  changed['hidden_act'] = 'mish'
  (tmp_path / name).write_text(str(changed).replace("'", '"'))
  with pytest.raises(UserError, match="hidden_act='mish' is not one of gelu"):
    published.read(tmp_path)


def test_loading_has_no_images(small_bert, tmp_path):
  state, _ = bert_state(small_bert)
  path = saved(tmp_path / 'bert.safetensors', state)
  model, variables, preprocess = load(path)
  outputs = model.apply(variables, *bert_cases.CASES['bert'].inputs)
  assert outputs['words'].shape == (4, 5, 23)
  with pytest.raises(UserError, match='takes token ids and features of regions'):
    preprocess(np.zeros((8, 8, 3), np.uint8))
  weights = init_from.from_file(str(path))
  assert tree.flatten(weights.params).keys() == small_bert.keys()


def test_text_of_vilbert_starts_from_bert(small_bert):
  model = vilbert.ViLBERT(**VILBERT | dict(num_types=3), heads={})
  like = tree.unflatten(drawn(model, cases.inputs()))
  source = init_from.InitFrom(
    weights=tree.unflatten(small_bert),
    rename=[(r'(embeddings|encoder)/(.*)', r'text_\1/\2')],
    leave_out=('pooler/.*', 'words/.*', 'next_text/.*'),
    allow_missing=('image_.*', 'connection_.*', 'text_pooler/.*', '.*/block_2/.*'),
  )
  filled = tree.flatten(source.fit({'params': like}, {})['params'])
  for name, array in small_bert.items():
    if name.startswith(('embeddings/', 'encoder/')):
      np.testing.assert_array_equal(filled[f'text_{name}'], array, err_msg=name)


@pytest.fixture(scope='module')
def small_vilbert():
  model = vilbert.ViLBERT(**VILBERT, heads=HEADS, num_tasks=3)
  inputs = *cases.inputs(), np.zeros(4, np.int32)
  return model, drawn(model, inputs)


def vilbert_state(params):
  found = published.describe(tree.unflatten(params), 'vilbert')
  [source] = vilbert_family.FAMILY.sources
  return source.writes['published'](found), found


def test_vilbert_there_and_back(small_vilbert, tmp_path):
  model, params = small_vilbert
  state, _ = vilbert_state(params)
  unused = [name for name in state if 'q_dense' in name]
  assert len(unused) == 2 * 2 * 2 and not any(state[name].any() for name in unused)
  again = published.read(saved(tmp_path / 'vilbert.safetensors', state))
  assert_same(again.params, params)
  assert again.model == model
  count = f'{sum(state[name].size for name in unused):,}'
  assert any(text.startswith(f'{count} parameters q_dense1') for text in again.assumed)


def test_vilbert_with_its_config(small_vilbert, tmp_path):
  _, params = small_vilbert
  state, _ = vilbert_state(params)
  saved(tmp_path / 'model.safetensors', state)
  (tmp_path / 'config.json').write_text(
    '{"num_attention_heads": 4, "v_num_attention_heads": 3,'
    ' "bi_num_attention_heads": 2,'
    ' "t_biattention_id": [0, 1], "v_biattention_id": [0, 1], "fusion_method": "sum",'
    ' "hidden_act": "gelu", "v_hidden_act": "gelu"}'
  )
  again = published.read(tmp_path)
  assert again.architecture['image_heads'] == 3
  assert again.architecture['text_places'] == (0, 1)
  assert again.architecture['fusion'] == 'sum'
  assert len(again.assumed) == 1  # the skipped arrays


def test_answers_with_weight_norm(tmp_path):
  heads = {'vqa': pairs.NormedAnswers(7)}
  model = vilbert.ViLBERT(**VILBERT, heads=heads)
  params = drawn(model, cases.inputs())
  state, _ = vilbert_state(params)
  assert state['vil_prediction.main.0.weight_g'].shape == ()
  assert state['vil_prediction.main.3.weight_v'].shape == (7, 64)
  again = published.read(saved(tmp_path / 'vqa.safetensors', state))
  assert_same(again.params, params)
  assert again.model == model


def test_shapes_that_do_not_fit_are_named(small_vilbert, tmp_path):
  _, params = small_vilbert
  state, _ = vilbert_state(params)
  name = 'bert.encoder.c_layer.1.biattention.key2.weight'
  state[name] = np.zeros((32, 100), np.float32)
  with pytest.raises(UserError, match='connection_1/image/cross_attention/key/kernel'):
    published.read(saved(tmp_path / 'a.safetensors', state))
  del state[name]
  with pytest.raises(UserError, match=f'missing {name}'):
    published.read(saved(tmp_path / 'b.safetensors', state))
  assert vilbert_names.differences(state)[1] == {name}


@pytest.mark.parametrize('heads', [{}, cases.PRETRAINING])
def test_visual_bert_there_and_back(heads, tmp_path):
  heads = {name: head for name, head in heads.items() if name != 'regions'}
  model = visual_bert.VisualBert(**cases.STREAM | WIDE, heads=heads)
  params = drawn(model, cases.inputs())
  found = published.describe(tree.unflatten(params), 'visual_bert')
  [source] = visual_bert_family.FAMILY.sources
  state = source.writes['transformers'](found)
  again = published.read(saved(tmp_path / 'a.safetensors', state))
  assert_same(again.params, params)
  assert again.model == model and again.source == 'transformers VisualBERT'
  config = source.config(found, None)['config.json']
  kind = 'VisualBertForPreTraining' if heads else 'VisualBertModel'
  assert config['architectures'] == [kind] and config['visual_embedding_dim'] == 11
  with pytest.raises(UserError, match='locations=True'):
    visual_bert_family.check(model.clone(locations=True), 'runs/a')


def test_runs_have_no_images_either():
  class Run:
    workdir = 'runs/a'
    task = type('Task', (), {'predicts': 'pairs'})

  assert 'token ids' in str(loading.preprocessing_of(Run))
