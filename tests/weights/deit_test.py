"""Tests of DeiT and DeiT III in files of other libraries (see also tests/parity)."""

import dataclasses
import json

import jax
import numpy as np
import pytest
import random_weights
import torch_archives
from random_weights import VIT, assert_same, calm, params_of

import big_vision_like
from big_vision_like.errors import UserError
from big_vision_like.inference.classes import Preprocessing
from big_vision_like.models import deit, vit
from big_vision_like.ops import positions
from big_vision_like.run import init_from
from big_vision_like.weights import (
  files,
  folding,
  published,
  timm_deit,
  timm_vit,
  tree,
)
from tools import convert_weights as tool

IMAGENET = dict(mean=(0.485, 0.456, 0.406), std=(0.229, 0.224, 0.225))
ARGUMENTS = dict(num_classes=5, **VIT)
KINDS = {'deit': deit.DeiT(**ARGUMENTS), 'deit3': deit.DeiT3(**ARGUMENTS)}
IMAGES = np.random.default_rng(0).normal(size=(2, 24, 24, 3)).astype('float32')


def logits_of(model, params, image_BHWC=IMAGES):
  return jax.jit(model.apply)({'params': params}, image_BHWC)['logits']


def facebook(params):
  """Returns the arrays under facebookresearch's names."""
  return {
    name.replace('ls1.gamma', 'gamma_1').replace('ls2.gamma', 'gamma_2'): array
    for name, array in timm_deit.to_timm(params).items()
  }


@pytest.mark.parametrize('family', KINDS)
@pytest.mark.parametrize('names', [timm_deit.to_timm, facebook])
def test_a_file_to_parameters(family, names, tmp_path):
  params = params_of(KINDS[family])
  torch_archives.save(
    tmp_path / 'model.pth', {'model': names(tree.stack_blocks(params))}
  )
  weights = published.read(tmp_path / 'model.pth', num_heads=3)
  assert weights.family.name == family
  assert weights.model == KINDS[family]
  assert_same(weights.params, params)
  assert [text.partition(':')[0] for text in weights.assumed] == [
    "activation='gelu_exact'"
  ]


def test_names_of_both_authors():
  state = facebook(params_of(KINDS['deit3']))
  assert state['blocks.1.gamma_2'].shape == (36,)
  assert state['pos_embed'].shape == (1, 9, 36)  # none for the class token
  state = facebook(params_of(KINDS['deit']))
  assert state['dist_token'].shape == (1, 1, 36)
  assert state['pos_embed'].shape == (1, 11, 36)
  assert state['head_dist.weight'].shape == (5, 36)


@pytest.mark.parametrize(
  'family, out, to, changes',
  [
    ('deit', 'out', 'timm', {}),
    ('deit', 'out.safetensors', 'timm', dict(distilled=False)),
    ('deit', 'out', 'transformers', dict(epsilon=1e-12)),
    ('deit3', 'out', 'timm', {}),
    ('deit3', 'out.safetensors', 'timm', dict(activation='gelu')),
  ],
)
def test_written_and_read(family, out, to, changes, tmp_path, capsys):
  model = KINDS[family].clone(**changes)
  params = params_of(model)
  weights = published.describe(tree.stack_blocks(params), family)
  told = {k: v for k, v in changes.items() if k in weights.family.untold}
  weights = dataclasses.replace(weights, architecture=weights.architecture | told)
  images = Preprocessing((24, 24), resize=27, **IMAGENET)
  tool.write(weights, images, tmp_path / out, to, None)
  got, variables, prepare = big_vision_like.load(tmp_path / out)
  plain = isinstance(model, deit.DeiT) and not model.distilled
  assert type(got) is (vit.ViT if plain else type(model))
  assert (got.activation, got.epsilon) == (model.activation, model.epsilon)
  assert_same(jax.device_get(variables['params']), params)
  assert (prepare.mean, prepare.std) == tuple(IMAGENET.values())
  assert prepare.resize == 27 and 'assumed' not in capsys.readouterr().out


def test_models_that_timm_cannot_represent():
  params = params_of(deit.DeiT(**ARGUMENTS, rep_size=8))
  with pytest.raises(UserError, match='no place for a layer before the head'):
    timm_deit.to_timm(params)
  params = params_of(deit.DeiT3(**ARGUMENTS, posemb='none'))
  with pytest.raises(UserError, match='missing pos_embedding'):
    timm_deit.to_timm(params)


def test_a_folder_names_the_function_of_timm():
  expected = {
    ('deit', 384): 'deit_small_distilled_patch16_224',
    ('deit3', 512): 'deit3_medium_patch16_224',
    ('deit3', 36): 'deit3_base_patch16_224',
  }
  configs = dict(deit=timm_deit.distilled_config, deit3=timm_deit.scaled_config)
  for (family, width), name in expected.items():
    architecture = VIT | dict(width=width, num_heads=2, mlp_dim=2 * width)
    architecture |= dict(pool='token', posemb='learned', resnet=None, registers=0)
    architecture |= dict(activation='gelu_exact', epsilon=1e-6)
    told = configs[family](architecture, 5, (24, 24), 3)
    assert told['architecture'] == name
    assert told['model_args']['no_embed_class'] is (family == 'deit3')
    classifier = ['head', 'head_dist'] if family == 'deit' else 'head'
    assert told['pretrained_cfg']['classifier'] == classifier


def test_no_position_of_either_token(tmp_path):
  """Checks that distilled models of timm may have positions only for patches."""
  state = timm_deit.to_timm(params_of(KINDS['deit']))
  state['pos_embed'] = state['pos_embed'][:, 2:]
  files.write(tmp_path / 'deit.safetensors', state)
  params = published.read(tmp_path / 'deit.safetensors').params
  assert not params['pos_embedding'][:, :2].any()
  np.testing.assert_array_equal(params['pos_embedding'][:, 2:], state['pos_embed'])


@pytest.mark.parametrize(
  'change, words',
  [
    (dict(dist_token=None), 'missing dist_token'),
    (dict(head_dist=None), 'missing head_dist'),
    ({'head_dist.bias': (4,)}, r'head_dist/bias \(4,\) is not \(5\)'),
  ],
)
def test_files_that_do_not_fit(change, words, tmp_path):
  state = timm_deit.to_timm(params_of(KINDS['deit']))
  for start, shape in change.items():
    for name in [name for name in state if name.startswith(start)]:
      del state[name]
    if shape:
      state[start] = np.ones(shape, np.float32)
  files.write(tmp_path / 'deit.safetensors', state)
  with pytest.raises(UserError, match=words):
    published.read(tmp_path / 'deit.safetensors', num_heads=3)


def test_layer_scale_with_a_position_of_the_class_token_is_refused(tmp_path):
  state = timm_deit.to_timm(params_of(KINDS['deit3']))
  state['pos_embed'] = np.ones((1, 10, 36), np.float32)
  files.write(tmp_path / 'vit.safetensors', state)
  with pytest.raises(UserError, match='its class token has a position'):
    published.read(tmp_path / 'vit.safetensors', num_heads=3)


PUBLISHED = {
  'deit_small_patch16_224-cd65a155': (224, 256),
  'deit_base_patch16_384-8de9b5d1': (384, 438),
}


@pytest.mark.parametrize('name', PUBLISHED)
def test_plain_deits_are_vits_with_images_of_their_own(name):
  params = random_weights.small_vit()
  weights = published.describe(params, 'vit')
  side, resize = PUBLISHED[name]
  images = weights.images(name, (side, side))
  assert (images.size, images.resize) == ((side, side), resize)
  assert (images.mean, images.std) == tuple(IMAGENET.values())
  assert (images.interpolation, images.rounding) == (
    'pillow_bicubic',
    ('down', 'nearest'),
  )
  # Those of big_vision take [-1, 1], like all others.
  for other in ('bv_deit_3_small_224_1k', 'B_16'):
    assert weights.images(other, (224, 224)).mean == (0.5,) * 3


def test_the_crops_of_published_files():
  crops = {'deit': 256, 'deit3': 224}
  for family, resize in crops.items():
    weights = published.describe(params_of(KINDS[family]), family)
    assert weights.images('best', (224, 224)).resize == resize
    timm = {'config.json': {'pretrained_cfg': dict(**IMAGENET, crop_pct=0.9)}}
    timm['config.json']['pretrained_cfg'] |= dict(
      input_size=[3, 224, 224], interpolation='bicubic'
    )
    named = dataclasses.replace(weights, metadata=timm)
    assert named.images('best', (224, 224)).resize == 248


@pytest.mark.parametrize('family', KINDS)
def test_a_larger_grid(family, tmp_path):
  """Checks bicubic resizing, as published; rows outside of the grid do not change."""
  model, leading = KINDS[family], {'deit': 2, 'deit3': 0}[family]
  params = params_of(model)
  weights = published.describe(params, family)
  images = Preprocessing((24, 24), **IMAGENET)
  tool.write(weights, images, tmp_path / 'out', 'timm', None)
  got, variables, prepare = big_vision_like.load(tmp_path / 'out', image_size=40)
  table = params['pos_embedding']
  want = positions.resize(table, (3, 3), (5, 5), leading, 'cubic_torch')
  np.testing.assert_array_equal(variables['params']['pos_embedding'], want)
  assert prepare.size == (40, 40)
  linear = positions.resize(table, (3, 3), (5, 5), leading)
  assert np.abs(want - linear).max() > 1e-2
  larger = jax.eval_shape(model.init, jax.random.key(0), np.zeros((1, 40, 40, 3)))
  source = init_from.InitFrom(
    init_from.from_file(str(tmp_path / 'out')), leave_out=('head(_dist)?/.*',)
  )
  tables = init_from.tables_of(model, jax.ShapeDtypeStruct((1, 40, 40, 3), 'float32'))
  zeros = jax.tree.map(lambda x: np.zeros(x.shape, x.dtype), larger)
  filled = source.fit(zeros, *tables)['params']
  np.testing.assert_array_equal(filled['pos_embedding'], want)
  assert not filled['head']['kernel'].any()


def test_a_plain_deit_starts_a_distilled_one(capsys):
  params = random_weights.small_vit()
  weights = init_from.Weights({'params': params}, grid=(3, 3))
  source = init_from.InitFrom(
    weights, leave_out=(), allow_missing=('dist', 'head_dist/.*')
  )
  model = KINDS['deit']
  tables = init_from.tables_of(model, jax.ShapeDtypeStruct((1, 24, 24, 3), 'float32'))
  filled = source.fit({'params': params_of(model, seed=1)}, *tables)['params']
  table = filled['pos_embedding']
  np.testing.assert_array_equal(table[:, 2:], params['pos_embedding'][:, 1:])
  np.testing.assert_array_equal(table[:, 0], params['pos_embedding'][:, 0])
  assert not table[:, 1].any()


@pytest.mark.parametrize('family', [*KINDS, 'vit'])
def test_another_normalization_is_folded_into_the_first_layer(family, tmp_path, capsys):
  kinds = KINDS | {'vit': vit.ViT(**ARGUMENTS, activation='gelu_exact')}
  params = calm(params_of(kinds[family]))
  timm = timm_vit.to_timm if family == 'vit' else timm_deit.to_timm
  files.write(tmp_path / 'deit_in.safetensors', timm(params))
  words = [tmp_path / 'deit_in.safetensors', tmp_path / 'out', '--num-heads=3']
  words += ['--fold-normalization', '0.5', '0.5,0.4,0.25']
  assert tool.main([str(word) for word in words]) == 0
  model, variables, after = big_vision_like.load(tmp_path / 'out')
  assert (after.mean, after.std) == ((0.5, 0.5, 0.5), (0.5, 0.4, 0.25))
  told = json.loads((tmp_path / 'out' / 'config.json').read_text())['pretrained_cfg']
  assert told['mean'] == [0.5, 0.5, 0.5]
  # The same pictures, normalized in both ways.
  picture_BHWC = np.random.default_rng(1).integers(0, 256, (3, 24, 24, 3), np.uint8)
  before = Preprocessing((24, 24), **IMAGENET).normalized(picture_BHWC)
  want = logits_of(kinds[family], params, before)
  got = logits_of(model, variables['params'], after.normalized(picture_BHWC))
  np.testing.assert_allclose(got, want, rtol=0, atol=2e-5 * np.abs(want).max())
  # With the other normalization, logits differ.
  assert np.abs(logits_of(model, variables['params'], before) - want).max() > 1e-2
  # And back: the first layer is equal up to rounding, all others bit for bit.
  words = [tmp_path / 'out', tmp_path / 'back', '--fold-normalization']
  words += [','.join(map(str, values)) for values in IMAGENET.values()]
  assert tool.main([str(word) for word in words]) == 0
  back = tree.flatten(published.read(tmp_path / 'back').params)
  for name, array in tree.flatten(params).items():
    if name.startswith('embed/'):
      np.testing.assert_allclose(back[name], array, rtol=0, atol=1e-6)
    else:
      np.testing.assert_array_equal(back[name], array)


def test_normalizations_that_cannot_be_folded(tmp_path, capsys):
  flat = {'resnet': {'conv_root': {'kernel': np.ones((7, 7, 3, 4), np.float32)}}}
  half, imagenet = ((0.5,) * 3,) * 2, tuple(IMAGENET.values())
  with pytest.raises(UserError, match='resnet/conv_root has none'):
    folding.fold(flat, ('resnet/conv_root', 'embed'), half, imagenet)
  files.write(tmp_path / 'in.safetensors', timm_deit.to_timm(params_of(KINDS['deit'])))
  words = [str(tmp_path / 'in.safetensors'), str(tmp_path / 'out')]
  for values, sentence in {
    ('0.5', '0'): 'deviations must be above 0',
    ('0.5,0.5', '0.5'): '2 numbers for images of 3 channels',
    ('half', '0.5'): 'half is neither one number',
  }.items():
    try:
      assert tool.main([*words, '--fold-normalization', *values]) != 0
    except SystemExit as error:
      assert error.code
    assert sentence in capsys.readouterr().err
    assert not (tmp_path / 'out').exists()
