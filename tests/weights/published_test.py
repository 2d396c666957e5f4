import json
import re

import jax
import ml_dtypes
import numpy as np
import pytest
import random_weights
import torch_archives
from random_weights import VIT, assert_same, small_detr, small_resnet, variables_of

from big_vision_like.errors import UserError
from big_vision_like.models import detr as detr_models
from big_vision_like.models import resnet
from big_vision_like.weights import (
  bit,
  detr,
  files,
  published,
  timm_bit,
  timm_vit,
  torchvision_resnet,
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
  torch_archives.save(tmp_path / 'pytorch_model.bin', state | {'cls_token': np.ones(3)})
  with pytest.raises(UserError, match='pytorch_model.bin: shapes that do not fit'):
    published.read(tmp_path)
  torch_archives.save(tmp_path / 'pytorch_model.bin', state)
  assert published.read(tmp_path).source == 'timm ViT'
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


def to_torchvision(variables):
  counts = {'bn1.num_batches_tracked': np.array(7)}
  return torchvision_resnet.to_torchvision(variables, 'frozen') | counts


def to_transformers(variables):
  return torchvision_resnet.to_transformers(variables, 'frozen')


# Source, writer, and the model.
RESNETS = [
  ('torchvision or timm ResNet', to_torchvision, small_resnet(num_classes=5)),
  ('torchvision or timm ResNet', to_torchvision, small_resnet(bottleneck=False)),
  ('transformers ResNet', to_transformers, small_resnet(num_classes=5)),
  ('transformers ResNet', to_transformers, small_resnet()),
]
DETRS = [
  ('facebookresearch DETR', detr.to_facebook, small_detr()),
  ('facebookresearch DETR', detr.to_facebook, small_detr(masks=True)),
  ('facebookresearch DETR', detr.to_facebook, small_detr(norm='pre')),
  (
    'facebookresearch DETR',
    detr.to_facebook,
    small_detr(bottleneck=False, positions='learned'),
  ),
  ('transformers DETR', detr.to_transformers, small_detr()),
  (
    'transformers DETR',
    lambda variables: detr.to_transformers(variables, 'transformers'),
    small_detr(masks=True),
  ),
]


def rebuilt(found):
  """The model that weights say they are of."""
  told = found.architecture
  if found.family == 'resnet':
    return resnet.ResNet(num_classes=found.num_classes, **told)
  told = told | {'backbone': resnet.ResNet(**told['backbone'])}
  return detr_models.DETR(num_classes=found.num_classes, **told)


@pytest.mark.parametrize('suffix', ['.safetensors', '.pth'])
@pytest.mark.parametrize('source, write, model', RESNETS + DETRS)
def test_detectors_and_their_backbones(source, write, model, suffix, tmp_path):
  variables = variables_of(model)
  path, state = tmp_path / f'detr-r50{suffix}', write(variables)
  if suffix == '.pth':
    torch_archives.save(path, {'model': state} if 'DETR' in source else state)
  else:
    files.write(path, state)
  found = published.read(path, num_heads=4)
  assert (found.source, found.assumed, found.channels) == (source, (), 3)
  assert found.num_classes == model.num_classes
  assert_same(found.variables, variables)
  # A copy but for the names and parents that Flax gives.
  assert rebuilt(found).clone(parent=None) == model.clone(parent=None)


@pytest.mark.parametrize('classes, masks', [(91, False), (250, True)])
def test_published_sizes(classes, masks):
  backbone = resnet.ResNet(**resnet.variant('R50'), norm='frozen')
  model = detr_models.DETR(classes, backbone, masks=masks)
  image = jax.ShapeDtypeStruct((1, 64, 64, 3), 'float32')
  shapes = jax.eval_shape(model.init, jax.random.key(0), image)
  variables = jax.tree.map(lambda x: np.broadcast_to(np.float32(0), x.shape), shapes)
  found = published.describe(
    variables['params'], 'detr', constants=variables['constants']
  )
  assert (found.num_classes, found.architecture['num_queries']) == (classes, 100)
  assert rebuilt(found).clone(parent=None) == model.clone(parent=None)


def test_what_files_of_detectors_do_not_tell(tmp_path):
  variables = variables_of(small_detr(num_heads=8))
  path = tmp_path / 'mine.pth'
  torch_archives.save(path, {'model': detr.to_facebook(variables)})
  found = published.read(path)
  assert [text.split('=')[0] for text in found.assumed] == [
    'num_heads',
    'backbone.dilated',
  ]
  assert found.architecture['num_heads'] == 8
  assert found.architecture['backbone']['dilated'] is False
  assert len(published.read(path, num_heads=4).assumed) == 1
  dilated = {'detr-r50-dc5-f0fb7ef5': True, 'detr-r101-2c7b67e5': False}
  for name, told in dilated.items():
    found = published.read(path.rename(tmp_path / f'{name}.pth'))
    path = tmp_path / f'{name}.pth'
    assert found.architecture['backbone']['dilated'] is told
    assert len(found.assumed) == 1
  folder = tmp_path / 'detr-resnet-50'
  folder.mkdir()
  config = dict(encoder_attention_heads=2, decoder_attention_heads=2, dilation=True)
  files.write(folder / 'model.safetensors', detr.to_transformers(variables))
  assert published.read(folder, num_heads=4).assumed == ()
  (folder / 'config.json').write_text(json.dumps(config))
  found = published.read(folder)
  assert found.assumed == ()
  assert found.architecture['num_heads'] == 2
  assert found.architecture['backbone']['dilated'] is True
  for change, words in (
    (dict(decoder_attention_heads=4), '2 heads in the encoder and 4 in the decoder'),
    (dict(activation_function='gelu'), "our DETR has relu, not 'gelu'"),
  ):
    (folder / 'config.json').write_text(json.dumps(config | change))
    with pytest.raises(UserError, match=words):
      published.read(folder)


def test_our_writer_knows_what_a_detector_is(tmp_path):
  variables = variables_of(small_detr())
  path = save(tmp_path, detr.to_facebook(variables))
  told = published.read(path, num_heads=4).architecture
  told['backbone']['dilated'] = True
  about = dict(family='detr', architecture=told, assumed=[], metadata={})
  path = save(tmp_path, detr.to_facebook(variables), weights=about)
  found = published.read(path)
  assert (found.architecture, found.assumed) == (told, ())
  told['backbone']['root'] = 5
  path = save(tmp_path, detr.to_facebook(variables), weights=about)
  with pytest.raises(UserError, match='backbone/root is 5, but 4 in the weights'):
    published.read(path)


@pytest.mark.parametrize(
  'config, words',
  [
    (dict(architecture='resnetblur50'), "'resnetblur50' makes other ResNets than ours"),
    (dict(downsample_in_bottleneck=True), 'downsample_in_bottleneck makes other ResNe'),
  ],
)
def test_resnets_with_the_same_arrays(config, words, tmp_path):
  state = to_torchvision(variables_of(small_resnet(num_classes=5)))
  assert published.read(save(tmp_path, state, config=dict(architecture='resnet50')))
  with pytest.raises(UserError, match=words):
    published.read(save(tmp_path, state, config=config))


@pytest.mark.parametrize('shape', [(), (9,), (0, 2), (1, 1, 1, 1, 1)])
@pytest.mark.parametrize('source, write, model', [RESNETS[0], DETRS[1], DETRS[3]])
def test_no_shape_gets_through_of_detectors(source, write, model, shape, tmp_path):
  state = write(variables_of(model))
  firsts = {}  # of each kind
  for name in state:
    firsts.setdefault(re.sub(r'\d', '', name), name)
  assert len(firsts) > 15
  for name in firsts.values():
    if state[name].size == 1:  # the count of steps, and the bias of a mask
      continue
    bad = state | {name: np.ones(shape, np.float32)}
    with pytest.raises(UserError, match='.'):
      print(name, published.read(save(tmp_path, bad), num_heads=4).source)
