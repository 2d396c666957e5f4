"""Tests of T2T-ViTs with the names and files of their authors."""

import dataclasses
import json
import pathlib

import jax
import numpy as np
import pytest
import torch_archives
from random_weights import assert_same, variables_of

import big_vision_like
from big_vision_like.errors import UserError
from big_vision_like.inference.classes import Preprocessing
from big_vision_like.models import t2t_vit
from big_vision_like.ops import positions
from big_vision_like.run import init_from
from big_vision_like.weights import beside, files, published
from big_vision_like.weights import t2t_vit as weights
from tools import convert_weights as tool

GOLDEN = pathlib.Path(__file__).parent.parent / 'golden'
SIZES = dict(num_classes=5, width=32, depth=2, num_heads=2, mlp_dim=96, token_dim=16)
KINDS = {
  'performer': {},
  'transformer': dict(tokens='transformer'),
  'se': dict(backbone='se'),
  'ghost': dict(backbone='ghost'),
  'dense': dict(depth=3, groups=(2, 1), growth=8),
}


def model_of(kind, **changes):
  return t2t_vit.T2TViT(**SIZES | KINDS[kind] | changes)


def of_golden(name):
  """Returns the state dict of a golden file, its images (NHWC) and logits."""
  with np.load(GOLDEN / f'{name}.npz') as arrays:
    state = {
      key.removeprefix('param/'): arrays[key] for key in arrays if key[:6] == 'param/'
    }
    image_BHWC = arrays['input/image'].transpose(0, 2, 3, 1)
    return state, image_BHWC, arrays['output/logits']


@pytest.mark.parametrize(
  'content',
  [
    lambda mine, other: {'state_dict_ema': mine, 'state_dict': other, 'epoch': 310},
    lambda mine, other: {'state_dict': mine},
    lambda mine, other: mine,
    lambda mine, other: {'net': mine, 'acc': 98.3, 'epoch': 59},
  ],
)
@pytest.mark.parametrize('name', ['t2t_vit_performer', 't2t_vit_transformer'])
def test_a_published_file_to_the_logits_of_the_original(name, content, tmp_path):
  state, image_BHWC, logits_BC = of_golden(name)
  mine = {f'module.{key}': array for key, array in state.items()}
  other = {key: np.zeros_like(array) for key, array in mine.items()}
  path = tmp_path / '81.5_T2T_ViT.pth.tar'
  torch_archives.save(path, content(mine, other))
  config = json.loads((GOLDEN / f'{name}.json').read_text())['config']
  found = published.read(path, num_heads=config['num_heads'])
  assert found.family.name == 't2t_vit'
  assert "names without the prefix 'module.'" in ' '.join(found.assumed)
  assert found.model.depth == config['depth']
  got = jax.jit(found.model.apply)(found.variables, image_BHWC)['logits']
  np.testing.assert_allclose(got, logits_BC, rtol=0, atol=1e-5)


@pytest.mark.parametrize('kind', KINDS)
def test_written_and_read(kind, tmp_path, capsys):
  model = model_of(kind)
  variables = variables_of(model, (32, 32))
  found = published.describe(
    variables['params'], 't2t_vit', constants=variables['constants']
  )
  assert found.model == model
  images = Preprocessing((32, 32), mean=(0.5,) * 3, std=(0.2,) * 3)
  out = tmp_path / 'out.safetensors'
  tool.write(found, images, out, 'published', None)
  got, again, prepare = big_vision_like.load(out)
  assert got == model
  assert_same(jax.device_get(again), variables)
  assert prepare.size == (32, 32) and prepare.std == (0.2,) * 3


def test_queries_come_second_in_the_performer():
  variables = variables_of(model_of('performer'), (32, 32))
  kernel = variables['params']['tokens_to_token']['layer1']['qkv']['kernel']
  theirs = weights.write(variables)['tokens_to_token.attention1.kqv.weight']
  np.testing.assert_array_equal(theirs[:16], kernel[:, 16:32].T)
  np.testing.assert_array_equal(theirs[16:32], kernel[:, :16].T)
  np.testing.assert_array_equal(theirs[32:], kernel[:, 32:].T)


@pytest.mark.parametrize(
  'kind, name, changes, heads',
  [
    ('performer', '81.5_T2T_ViT_14', dict(width=384, mlp_dim=1152), 6),
    ('performer', 't2t_vit_14_resnext', dict(width=384, mlp_dim=1152), 32),
    ('dense', 'dense', {}, 8),
  ],
)
def test_heads_match_published_models(kind, name, changes, heads, tmp_path):
  model = model_of(kind, num_heads=heads, **changes)
  files.write(
    tmp_path / f'{name}.safetensors', weights.write(variables_of(model, (32, 32)))
  )
  found = published.read(tmp_path / f'{name}.safetensors')
  assert found.model == model
  assert found.assumed[0].startswith(f'num_heads={heads}: ')


def test_positions_for_larger_images_match_torch(tmp_path):
  """Checks bicubic resizing from 224 to 384 pixels, without the class token's row."""
  with np.load(GOLDEN / 'torch_resize.npz') as arrays:
    names = [key for key in arrays if 'grid0' in key]
    table_1GD = next(arrays[key] for key in names if key.startswith('input'))
    want_1MD = next(arrays[key] for key in names if key.startswith('output'))
  width = table_1GD.shape[-1] // 2 * 2
  model = t2t_vit.T2TViT(**SIZES | dict(width=width, num_heads=1, mlp_dim=4))
  variables = variables_of(model, (224, 224))
  table_1GD, want_1MD = table_1GD[..., :width], want_1MD[..., :width]
  first_11D = np.full((1, 1, width), 7.0, np.float32)
  variables['constants']['pos_embedding'] = np.concatenate([first_11D, table_1GD], 1)
  path = tmp_path / '81.5_T2T_ViT_14.safetensors'
  files.write(path, weights.write(variables))
  _, _, prepare = big_vision_like.load(path)
  assert (prepare.size, prepare.resize) == ((224, 224), 248)
  assert prepare.interpolation == 'pillow_bicubic'
  _, got, prepare = big_vision_like.load(path, image_size=384)
  assert prepare.size == (384, 384)
  table_1ND = np.asarray(got['constants']['pos_embedding'])
  np.testing.assert_array_equal(table_1ND[:, :1], first_11D)
  np.testing.assert_allclose(table_1ND[:, 1:], want_1MD, rtol=0, atol=1e-5)


def test_starting_a_run_at_another_size(tmp_path, capsys):
  """Checks that the loaded table is resized; a sinusoid of the new size differs."""
  model = model_of('performer')
  variables = variables_of(model, (48, 48))
  path = tmp_path / 't2t.safetensors'
  files.write(path, weights.write(variables))
  source = init_from.InitFrom(init_from.from_file(str(path), num_heads=2))
  image = jax.ShapeDtypeStruct((1, 64, 64, 3), 'float32')
  like = jax.tree.map(
    lambda x: np.zeros(x.shape, x.dtype),
    jax.eval_shape(model.init, jax.random.key(0), image),
  )
  filled = source.fit(like, *init_from.tables_of(model, image))
  table = variables['constants']['pos_embedding']
  want = positions.resize(table, (3, 3), (4, 4), 1, 'cubic_torch')
  np.testing.assert_array_equal(filled['constants']['pos_embedding'], want)
  assert not filled['params']['head']['kernel'].any()
  assert 'constants' in capsys.readouterr().out


def test_cifar_files_have_images_of_their_own():
  variables = variables_of(model_of('performer'), (224, 224))
  found = published.describe(
    variables['params'], 't2t_vit', constants=variables['constants']
  )
  images = found.images('cifar10_t2t-vit_14_98.3', (224, 224))
  assert (images.size, images.resize) == ((224, 224), 'squash')
  assert images.mean == (0.4914, 0.4822, 0.4465)
  images = found.images('83.3_T2T_ViT_14', (384, 384))
  assert (images.size, images.resize) == ((384, 384), 426)
  assert images.mean == (0.485, 0.456, 0.406)


@pytest.mark.parametrize(
  'change, words',
  [
    ({'tokens_to_token.attention2.w': None}, 'missing tokens_to_token.attention2.w'),
    ({'blocks.1.attn.qkv.bias': (96,)}, 'unknown blocks.1.attn.qkv.bias'),
    ({'tokens_to_token.attention1.w': (9, 16)}, r'layer1/w \(9, 16\) is not \(8, 16\)'),
    ({'head.bias': (4,)}, r'head/(bias|kernel) .* is not'),
  ],
)
def test_files_that_do_not_fit(change, words, tmp_path):
  state = weights.write(variables_of(model_of('performer'), (32, 32)))
  for name, shape in change.items():
    state.pop(name, None)
    if shape:
      state[name] = np.ones(shape, np.float32)
  files.write(tmp_path / 't2t.safetensors', state)
  with pytest.raises(UserError, match=words):
    published.read(tmp_path / 't2t.safetensors', num_heads=2)


@pytest.mark.parametrize('kind', KINDS)
def test_no_larger_array_gets_through(kind):
  state = weights.write(variables_of(model_of(kind), (32, 32)))
  known = beside.Beside(pathlib.Path('t2t.safetensors'), {}, num_heads=2)
  assert published.of_arrays(state, known).model == model_of(kind)
  for name, array in state.items():
    for axis in range(array.ndim):
      if (name, axis) == ('pos_embed', 1):  # allowed for larger images
        continue
      shape = [size + (i == axis) for i, size in enumerate(array.shape)]
      with pytest.raises(UserError, match='is not|does not|do not fit'):
        published.of_arrays(state | {name: np.ones(shape, np.float32)}, known)


def test_models_that_cannot_be_written_or_folded(tmp_path, capsys):
  model = model_of('performer')
  found = published.describe(variables_of(model, (32, 32))['params'], 't2t_vit')
  with pytest.raises(UserError, match='missing pos_embedding'):
    weights.write(found.variables)
  with pytest.raises(UserError, match="no place for posemb='learned'"):
    found.family.check(model.clone(posemb='learned'), 'runs/t2t')
  files.write(tmp_path / 'in.safetensors', weights.write(variables_of(model, (32, 32))))
  words = [str(tmp_path / 'in.safetensors'), str(tmp_path / 'out.safetensors')]
  words += ['--fold-normalization', '0.5', '0.5', '--num-heads=2']
  assert tool.main(words) != 0
  assert 'read it through a norm' in capsys.readouterr().err


def test_an_epsilon_that_files_lack_is_kept(tmp_path):
  variables = variables_of(model_of('performer'), (32, 32))
  found = published.describe(
    variables['params'], 't2t_vit', constants=variables['constants']
  )
  told = found.architecture | dict(epsilon=1e-6, activation='gelu')
  images = Preprocessing((32, 32))
  found = dataclasses.replace(found, architecture=told)
  tool.write(found, images, tmp_path / 'out.safetensors', 'published', None)
  model, _, _ = big_vision_like.load(tmp_path / 'out.safetensors')
  assert (model.epsilon, model.activation) == (1e-6, 'gelu')
