"""Tests of DETR with the names of two libraries (the libraries: tests/parity)."""

import numpy as np
import pytest
from random_weights import assert_same, small_detr, small_resnet, variables_of

from big_vision_like.errors import UserError
from big_vision_like.models import detr, resnet
from big_vision_like.weights import detr as weights
from big_vision_like.weights import torchvision_resnet, tree


def published_names():
  """Returns the names of detr-r50, as listed in the published code."""

  def norm(name):
    return [f'{name}.{x}' for x in ('weight', 'bias', 'running_mean', 'running_var')]

  def both(*names):
    return [f'{name}.{x}' for name in names for x in ('weight', 'bias')]

  body = 'backbone.0.body'
  names = [f'{body}.conv1.weight', *norm(f'{body}.bn1')]
  for i, units in enumerate((3, 4, 6, 3), start=1):
    for j in range(units):
      unit = f'{body}.layer{i}.{j}'
      for k in (1, 2, 3):
        names += [f'{unit}.conv{k}.weight', *norm(f'{unit}.bn{k}')]
    first = f'{body}.layer{i}.0.downsample'
    names += [f'{first}.0.weight', *norm(f'{first}.1')]
  attentions = {'encoder': ['self_attn'], 'decoder': ['self_attn', 'multihead_attn']}
  for stack, kinds in attentions.items():
    for i in range(6):
      layer = f'transformer.{stack}.layers.{i}'
      for kind in kinds:
        names += [f'{layer}.{kind}.in_proj_{x}' for x in ('weight', 'bias')]
        names += both(f'{layer}.{kind}.out_proj')
      names += both(f'{layer}.linear1', f'{layer}.linear2')
      names += both(*(f'{layer}.norm{n + 1}' for n in range(len(kinds) + 1)))
  names += both('transformer.decoder.norm', 'class_embed', 'input_proj')
  return [
    *names,
    *both(*(f'bbox_embed.layers.{i}' for i in range(3))),
    'query_embed.weight',
  ]


def test_published_names_and_shapes():
  model = detr.DETR(91, resnet.ResNet(**resnet.variant('R50'), norm='frozen'))
  variables = variables_of(model)
  state = weights.to_facebook(variables)
  names = published_names()
  assert len(names) == 458
  assert set(state) == set(names)
  assert state['query_embed.weight'].shape == (100, 256)
  assert state['class_embed.bias'].shape == (92,)
  assert state['input_proj.weight'].shape == (256, 2048, 1, 1)
  layer = 'transformer.decoder.layers.5.multihead_attn'
  assert state[f'{layer}.in_proj_weight'].shape == (768, 256)
  assert_same(weights.from_facebook(state), variables)


@pytest.mark.parametrize('bottleneck', [True, False])
@pytest.mark.parametrize(
  'arguments', [{}, dict(norm='pre'), dict(positions='learned'), dict(masks=True)]
)
def test_facebook_round_trip(bottleneck, arguments):
  variables = variables_of(small_detr(bottleneck, **arguments))
  state = weights.to_facebook(variables)
  prefix = 'detr.' if 'masks' in arguments else ''
  assert f'{prefix}backbone.0.body.layer2.1.conv2.weight' in state
  assert ('mask_head.out_lay.bias' in state) == ('masks' in arguments)
  assert ('transformer.encoder.norm.bias' in state) == ('norm' in arguments)
  assert ('backbone.1.col_embed.weight' in state) == ('positions' in arguments)
  assert_same(weights.from_facebook(state, num_heads=4), variables)
  stacked = variables | {'params': tree.stack_blocks(variables['params'])}
  assert_same(weights.to_facebook(stacked), state)


def test_where_arrays_go():
  variables = variables_of(small_detr())
  state = weights.to_facebook(variables)
  block = variables['params']['decoder']['block_1']
  joined = state['transformer.decoder.layers.1.multihead_attn.in_proj_weight']
  key = block['cross_attention']['key']['kernel']
  np.testing.assert_array_equal(joined[32:64].T, key.reshape(32, 32))
  norm = variables['constants']['backbone']['stage1']['unit1']['norm_proj']
  theirs = state['backbone.0.body.layer1.0.downsample.1.running_var']
  np.testing.assert_array_equal(theirs, norm['var'])
  boxes = variables['params']['box_head']['fc3']['kernel']
  np.testing.assert_array_equal(state['bbox_embed.layers.2.weight'], boxes.T)


@pytest.mark.parametrize('backbone', ['timm', 'transformers'])
@pytest.mark.parametrize('masks', [True, False])
def test_transformers_round_trip(backbone, masks):
  variables = variables_of(small_detr(masks=masks))
  state = weights.to_transformers(variables, backbone)
  stem = {'timm': 'conv1', 'transformers': 'embedder.embedder.convolution'}[backbone]
  prefix = 'detr.' if masks else ''
  assert f'{prefix}model.backbone.conv_encoder.model.{stem}.weight' in state
  assert_same(weights.from_transformers(state, num_heads=4), variables)


@pytest.mark.parametrize(
  'arguments, words',
  [
    (dict(norm='pre'), 'unknown params/encoder/norm/bias'),
    (dict(positions='learned'), 'unknown params/pos_columns, params/pos_rows'),
  ],
)
def test_models_that_transformers_cannot_represent(arguments, words):
  with pytest.raises(UserError, match=words):
    weights.to_transformers(variables_of(small_detr(**arguments)))


def test_unknown_backbone():
  with pytest.raises(UserError, match="backbone='keras' is not one of timm, transf"):
    weights.to_transformers({}, 'keras')


def test_masks_alone():
  variables = variables_of(small_detr(masks=True))
  state = weights.to_facebook(variables)
  alone = {k: v for k, v in state.items() if not k.startswith('detr.')}
  params = weights.masks_from_facebook(alone, num_heads=4)
  names = ('mask_attention', 'mask_head')
  assert_same(params, {name: variables['params'][name] for name in names})


def test_nothing_published_is_unknown_or_missing():
  names = published_names()
  assert weights.facebook_differences(names) == (set(), set())
  masks = [f'detr.{name}' for name in names]
  for part in ('q_linear', 'k_linear'):
    masks += [f'bbox_attention.{part}.{x}' for x in ('weight', 'bias')]
  parts = [f'lay{i}' for i in range(1, 6)] + [f'gn{i}' for i in range(1, 6)]
  for part in (*parts, 'out_lay', 'adapter1', 'adapter2', 'adapter3'):
    masks += [f'mask_head.{part}.{x}' for x in ('weight', 'bias')]
  assert weights.facebook_differences(masks) == (set(), set())
  assert weights.facebook_differences(names[1:]) == (set(), {names[0]})
  assert weights.facebook_differences([*names, 'x']) == ({'x'}, set())


@pytest.mark.parametrize('norm', ['batch', 'frozen'])
@pytest.mark.parametrize('bottleneck', [True, False])
def test_resnets_of_torchvision_round_trip(bottleneck, norm):
  variables = variables_of(small_resnet(bottleneck, norm, num_classes=5))
  state = torchvision_resnet.to_torchvision(variables, norm)
  assert ('layer1.0.downsample.0.weight' in state) == bottleneck
  assert state['fc.weight'].shape == (5, 16 if bottleneck else 4)
  state['bn1.num_batches_tracked'] = np.array(3)
  assert_same(torchvision_resnet.from_torchvision(state, norm), variables)


@pytest.mark.parametrize('classes', [0, 5])
def test_resnets_of_transformers_round_trip(classes):
  variables = variables_of(small_resnet(norm='batch', num_classes=classes))
  state = torchvision_resnet.to_transformers(variables)
  prefix = 'resnet.' if classes else ''
  unit = f'{prefix}encoder.stages.1.layers.0.'
  assert state[f'{unit}layer.2.convolution.weight'].shape == (12, 3, 1, 1)
  assert f'{unit}shortcut.normalization.running_var' in state
  assert ('classifier.1.weight' in state) == (classes > 0)
  state['resnet.x.num_batches_tracked'] = np.array(3)
  assert_same(torchvision_resnet.from_transformers(state), variables)
