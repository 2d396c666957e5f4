import json

import ml_dtypes
import numpy as np
import pytest
import random_weights
from random_weights import VIT, assert_same

from big_vision_like.errors import UserError
from big_vision_like.weights import (
  bit,
  files,
  published,
  timm_bit,
  timm_vit,
  transformers_bit,
  transformers_vit,
  tree,
  vision_transformer,
)

V1 = dict(version=1)
V2 = dict(version=2)
# Source, writer with its arguments, and the model.
FILES = [
  ('vision_transformer or big_vision ViT', vision_transformer.to_npz, {}, 'vit'),
  ('big_transfer BiT', bit.to_big_transfer, {}, 'bit'),
  ('big_vision BiT', bit.to_big_vision_v2, {}, 'bit'),
  ('big_vision BiT v1', bit.to_big_vision_v1, {}, 'bit_v1'),
  ('timm ViT', timm_vit.to_timm, {}, 'vit'),
  ('timm BiT', timm_bit.to_timm, V2, 'bit'),
  ('timm BiT v1', timm_bit.to_timm, V1, 'bit_v1'),
  ('transformers ViT', transformers_vit.to_transformers, {}, 'vit'),
  ('transformers BiT', transformers_bit.to_transformers, V2, 'bit'),
  ('transformers BiT v1', transformers_bit.to_transformers, V1, 'bit_v1'),
]
ARCHITECTURE = VIT | dict(
  pool='token',
  posemb='learned',
  posemb_at='stem',
  resnet=None,
  registers=0,
  rep_size=0,
  activation='gelu',
  epsilon=1e-6,
)
# What is computed otherwise where these come from.
COMPUTED = {
  'timm ViT': dict(activation='gelu_exact'),
  'transformers ViT': dict(activation='gelu_exact', epsilon=1e-12),
}


def save(tmp_path, arrays, suffix='.safetensors', **beside):
  path = tmp_path / f'weights{suffix}'
  files.write(path, arrays)
  for name, content in beside.items():
    (tmp_path / f'{name}.json').write_text(json.dumps(content))
  return path


@pytest.mark.parametrize('source, write, args, family', FILES)
def test_sources_are_told_apart(source, write, args, family, tmp_path):
  small = random_weights.small_bit
  params = random_weights.small_vit() if family == 'vit' else small(family)
  suffix = '.safetensors' if source.startswith(('timm', 'trans')) else '.npz'
  path = save(tmp_path, write(params, **args), suffix)
  got = published.read(path, num_heads=3)
  assert (got.source, got.family, got.num_classes) == (source, family, 5)
  want = dict(depths=(2, 1), width=1)
  if family == 'vit':
    want = ARCHITECTURE | COMPUTED.get(source, {})
  assert got.architecture == want
  assert (got.metadata, got.channels) == ({}, 3)
  assert_same(got.params, params)


@pytest.mark.parametrize(
  'other',
  [
    dict(pool='gap'),
    dict(pool='map', posemb='none'),
    dict(rep_size=20),
    dict(patch=(8, 12)),
    dict(registers=2),
    dict(resnet=(), patch=2),
    dict(resnet=(2, 1), patch=1),
    dict(posemb='learned2d'),
    dict(posemb='learned2d', posemb_at='every'),
    dict(posemb_at='every'),
    dict(posemb='relative', posemb_at='every'),
    dict(posemb='relative', posemb_at='shared'),
  ],
)
def test_shapes_tell_the_architecture(other):
  square = {k: v for k, v in other.items() if v != (8, 12)}
  params = random_weights.small_vit(**square)
  if square != other:
    params['embed']['kernel'] = np.ones((8, 12, 3, 36), np.float32)
  got = published.describe(tree.stack_blocks(params), 'vit', without='none')
  assert got.architecture == ARCHITECTURE | other
  assert_same(got.params, params)


def test_computed_positions_are_assumed(tmp_path):
  params = random_weights.small_vit(pool='gap', posemb='sincos2d')
  path = save(tmp_path, vision_transformer.to_npz(params), '.npz')
  got = published.read(path)
  assert got.architecture['posemb'] == 'sincos2d'
  assert "posemb='sincos2d'" in got.assumed[0]
  # Our writer knows.
  told = got.architecture | {'posemb': 'none'}
  path = save(
    tmp_path,
    vision_transformer.to_npz(params),
    '.npz',
    weights={
      'family': 'vit',
      'architecture': told,
      'assumed': ['something else'],
      'metadata': {'config.json': {'a': 1}},
    },
  )
  got = published.read(path)
  assert (got.architecture['posemb'], got.assumed) == ('none', ('something else',))
  assert got.metadata.keys() == {'weights.json', 'config.json'}
  ours = got.metadata['weights.json']
  ours['architecture']['depth'] = 3
  save(tmp_path, vision_transformer.to_npz(params), '.npz', weights=ours)
  with pytest.raises(UserError, match='weights.json: depth is 3, but 2 in the weights'):
    published.read(path)


def test_heads_come_from_beside_or_are_assumed(tmp_path):
  state = timm_vit.to_timm(random_weights.small_vit(width=128, num_heads=2))
  assumed = published.read(save(tmp_path, state))
  assert assumed.architecture['num_heads'] == 2  # one for 64
  assert any('num_heads=2' in text for text in assumed.assumed)
  assert (
    published.read(save(tmp_path, state), num_heads=4).architecture['num_heads'] == 4
  )
  config = {'model_args': {'num_heads': 8, 'act_layer': 'gelu_tanh'}}
  told = published.read(save(tmp_path, state, config=config))
  assert (told.architecture['num_heads'], told.assumed) == (8, ())
  assert told.architecture['activation'] == 'gelu'
  assert told.metadata == {'config.json': config}

  state = transformers_vit.to_transformers(random_weights.small_vit())
  config = {
    'num_attention_heads': 4,
    'hidden_act': 'gelu',
    'layer_norm_eps': 1e-12,
  }
  path = save(tmp_path, state, config=config, preprocessor_config={'size': 3})
  told = published.read(path)
  assert told.architecture['num_heads'] == 4
  assert told.metadata['preprocessor_config.json'] == {'size': 3}
  assert told.assumed == ()
  assert told.architecture['activation'] == 'gelu_exact'
  assert told.architecture['epsilon'] == 1e-12
  path = save(tmp_path, state, config=config | {'hidden_act': 'silu'})
  assert published.read(path).architecture['activation'] == 'silu'
  path = save(tmp_path, state, config=config | {'hidden_act': 'quick_gelu'})
  with pytest.raises(UserError, match="the activation 'quick_gelu' is not one of our"):
    published.read(path)


@pytest.mark.parametrize(
  'config, words',
  [
    (dict(num_attention_heads='3'), "'3' is no number of heads"),
    (dict(model_args=[3]), r'model_args=\[3\] are no arguments by name'),
  ],
)
def test_configs_that_say_something_else(config, words, tmp_path):
  state = timm_vit.to_timm(random_weights.small_vit())
  with pytest.raises(UserError, match=words):
    published.read(save(tmp_path, state, config=config))


def test_the_published_giants_have_sixteen_heads(tmp_path):
  params = random_weights.small_vit(width=1280, num_heads=16, depth=1, mlp_dim=8)
  got = published.read(save(tmp_path, timm_vit.to_timm(params)))
  assert got.architecture['num_heads'] == 16


def test_whether_the_class_token_has_a_position(tmp_path):
  params = random_weights.small_vit()
  state = timm_vit.to_timm(params)
  without = state | {'pos_embed': state['pos_embed'][:, 1:]}
  got = published.read(save(tmp_path, without), num_heads=3).params['pos_embedding']
  assert got.shape == (1, 10, 36) and not got[:, 0].any()
  either = state | {'pos_embed': state['pos_embed'][:, :7]}
  path = save(tmp_path, either)
  with pytest.raises(UserError, match='7 positions may or may not.*no_embed_class'):
    published.read(path, num_heads=3)
  for answer, rows in ((False, 7), (True, 8)):
    got = published.read(path, num_heads=3, no_embed_class=answer)
    assert got.params['pos_embedding'].shape == (1, rows, 36)
  config = {'model_args': {'no_embed_class': True}}
  got = published.read(save(tmp_path, either, config=config), num_heads=3)
  assert got.params['pos_embedding'].shape == (1, 8, 36)


def test_another_pooling_with_the_same_arrays(tmp_path):
  state = timm_vit.to_timm(random_weights.small_vit())
  path = save(tmp_path, state, config={'global_pool': 'avg'})
  with pytest.raises(UserError, match="global_pool='avg', our ViT .* pools by 'token'"):
    published.read(path)


def test_a_folder(tmp_path):
  state = timm_vit.to_timm(random_weights.small_vit())
  with pytest.raises(UserError, match='has no model.safetensors: name a file'):
    published.read(tmp_path)
  (tmp_path / 'pytorch_model.bin').write_bytes(b'')
  with pytest.raises(UserError, match='pytorch_model.bin is a pickle.*safetensors'):
    published.read(tmp_path)
  files.write(tmp_path / 'model.safetensors', state)
  assert published.read(tmp_path).source == 'timm ViT'
  (tmp_path / 'config.json').write_text('{')
  with pytest.raises(UserError, match='config.json is not JSON'):
    published.read(tmp_path)
  (tmp_path / 'config.json').write_text('[]')
  with pytest.raises(UserError, match='config.json holds a list'):
    published.read(tmp_path)


def test_another_architecture_is_refused_with_ten_differences(tmp_path):
  swin = {
    'patch_embed.proj.weight': np.ones((8, 3, 4, 4)),
    'patch_embed.proj.bias': np.ones(8),
    'norm.weight': np.ones(8),
    'norm.bias': np.ones(8),
    'head.fc.bias': np.ones(5),
  }
  for i in range(6):
    swin[f'layers.{i}.blocks.0.attn.relative_position_bias_table'] = np.ones((9, 3))
    swin[f'layers.{i}.blocks.0.attn.qkv.weight'] = np.ones((24, 8))
  with pytest.raises(UserError, match='weights of another architecture') as told:
    published.read(save(tmp_path, swin))
  first, *lines = str(told.value).split('\n')
  assert 'nearest to timm ViT, but differs in 25 names' in first
  assert len(lines) == 10
  assert lines[0] == '  unknown head.fc.bias'
  assert lines[-1] == '  missing blocks.0.mlp.fc1.bias'
  with pytest.raises(UserError, match='nearest to big_vision BiT, .*\n  unknown a\n'):
    published.read(save(tmp_path, {'a': np.ones(2), 'head/bias': np.ones(2)}, '.npz'))


@pytest.mark.parametrize('half', [False, True])
def test_nan_is_refused_by_name(half, tmp_path):
  flat = vision_transformer.to_npz(random_weights.small_vit())
  flat['head/bias'][1] = np.nan
  flat['cls'][0, 0, 3] = np.inf
  if half:
    flat = {name: a.astype(ml_dtypes.bfloat16) for name, a in flat.items()}
  with pytest.raises(UserError, match='NaN or infinities in cls, head/bias$'):
    published.read(save(tmp_path, flat, '.npz'))


@pytest.mark.parametrize(
  'name, shape, words',
  [
    ('head/kernel', (35, 5), r'head/kernel \(35, 5\) is not \(36, 5\)'),
    ('Transformer/encoderblock_1/LayerNorm_0/bias', (9,), r'norm1/bias \(9,\) is not'),
    ('embedding/kernel', (8, 36), r'embed/kernel \(8, 36\) is not \(P, Q, I, 36\)'),
  ],
)
def test_shapes_that_do_not_fit_each_other(name, shape, words, tmp_path):
  flat = vision_transformer.to_npz(random_weights.small_vit())
  flat[name] = np.ones(shape)
  with pytest.raises(UserError, match=f'shapes that do not fit: .*{words}'):
    published.read(save(tmp_path, flat, '.npz'))


@pytest.mark.parametrize('source, write, args, family', FILES)
@pytest.mark.parametrize('shape', [(), (3,), (0,), (1, 1, 1, 1, 1)])
def test_no_shape_gets_through(source, write, args, family, shape, tmp_path):
  model = random_weights.small_vit if family == 'vit' else random_weights.small_bit
  if family == 'vit':
    params = model()
    firsts = 'cls', 'pos', 'embed', 'attn', 'query', 'head'
  else:
    params = model(family)
    firsts = 'root', 'stem', 'embedder', 'head'
  arrays = write(params, **args)
  torch = source.startswith(('timm', 'transformers'))
  suffix = '.safetensors' if torch else '.npz'
  for first in firsts:
    for name in [name for name in arrays if first in name and 'block1' not in name][:2]:
      bad = arrays | {name: np.ones(shape, np.float32)}
      with pytest.raises(UserError):
        published.read(save(tmp_path, bad, suffix), num_heads=3)


def test_shapes_of_other_layouts_that_do_not_fit(tmp_path):
  state = timm_vit.to_timm(random_weights.small_vit())
  state['blocks.0.attn.qkv.weight'] = np.ones((108, 35), np.float32)
  with pytest.raises(UserError, match='shapes that do not fit'):
    published.read(save(tmp_path, state), num_heads=3)
  flat = bit.to_big_transfer(random_weights.small_bit())
  flat['resnet/group_norm/beta'] = np.ones(3)
  with pytest.raises(UserError, match=r'resnet/norm/bias \(3,\) is not \(512,\)'):
    published.read(save(tmp_path, flat, '.npz'))
