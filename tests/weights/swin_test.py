"""Tests of made-up files of Swin Transformers: read, written, resized, refused."""

import json

import jax
import numpy as np
import pytest
import random_weights
import safetensors.numpy

import big_vision_like
from big_vision_like.errors import UserError
from big_vision_like.models import swin
from big_vision_like.run import init_from
from big_vision_like.weights import published, swin_names, tree
from tools import convert_weights

SMALL = dict(width=8, depths=(2, 3), num_heads=(2, 4), window=2, mlp_ratio=2.0)
LAYOUTS = {
  'microsoft': ('microsoft/Swin-Transformer', swin_names.MICROSOFT),
  'timm': ('timm Swin', swin_names.TIMM),
  'transformers': ('transformers Swin', swin_names.transformers('swin.')),
  'before 5': ('transformers Swin', swin_names.old_transformers('swin.')),
}
IMAGE = np.random.default_rng(0).normal(size=(1, 16, 16, 3)).astype(np.float32)


def small(size=(16, 16), **arguments):
  model = swin.Swin(**dict(num_classes=5) | SMALL | arguments)
  params = random_weights.params_of(model, size)
  return model, jax.tree.map(lambda x: 0.2 * x, params)


def saved(path, params, layout, buffers=True):
  """Writes a file with the names and, by default, the buffers of a layout."""
  state = layout.written(tree.flatten(params))
  if buffers:
    block = layout.block.format(stage=0, block=1)
    index = f'{block}{layout.bias.replace("bias_table", "index")}'
    state[index] = np.zeros((4, 4), np.int64)
  safetensors.numpy.save_file(state, path)
  return path


def assert_same(got, want):
  got, want = tree.flatten(got), tree.flatten(want)
  assert got.keys() == want.keys()
  for name in want:
    np.testing.assert_array_equal(got[name], want[name], err_msg=name)


@pytest.mark.parametrize('layout', LAYOUTS)
def test_all_names_give_the_same_model(layout, tmp_path):
  source, names = LAYOUTS[layout]
  model, params = small()
  weights = published.read(saved(tmp_path / 'a.safetensors', params, names))
  assert (weights.source, weights.assumed) == (source, ())
  assert_same(weights.params, params)
  assert weights.model == model
  assert weights.channels == 3


@pytest.mark.parametrize('to', ['timm', 'transformers', 'published'])
def test_a_file_of_ours_says_all_of_the_model(to, tmp_path):
  model, params = small(activation='gelu')
  weights = published.describe(params, 'swin')
  told = weights.architecture | dict(activation='gelu')
  weights = published.Published(params, weights.family, told, 5)
  out = tmp_path / 'out.safetensors'
  images = weights.images('swin', (16, 16))
  convert_weights.write(weights, images, out, to, None)
  again = published.read(out)
  assert again.model == model
  assert_same(again.params, params)


def test_a_folder_of_timm_says_windows_and_heads(tmp_path):
  _, params = small()
  file = saved(tmp_path / 'a.safetensors', params, swin_names.MICROSOFT)
  assert convert_weights.main([str(file), str(tmp_path / 'out')]) == 0
  config = json.loads((tmp_path / 'out' / 'config.json').read_text())
  assert config['model_args']['num_heads'] == [2, 4]
  assert config['model_args']['img_size'] == [16, 16]
  assert published.read(tmp_path / 'out').source == 'timm Swin'


def test_a_larger_image_has_larger_windows(tmp_path, capsys):
  _, params = small()
  file = saved(tmp_path / 'a.safetensors', params, swin_names.MICROSOFT)
  model, variables, preprocess = big_vision_like.load(file)
  assert preprocess.size == (16, 16)  # with it, the last stage is one window
  model, variables, preprocess = big_vision_like.load(file, image_size=24)
  told = capsys.readouterr().out
  assert (model.window, preprocess.size) == (3, (24, 24))
  assert 'window 2 -> 3 for images of 24x24' in told
  assert 'stage2/block_1/window/relative_bias (9, 4) -> (25, 4)' in told
  image = np.zeros((1, 24, 24, 3), np.float32)
  assert model.apply(variables, image)['logits'].shape == (1, 5)
  with pytest.raises(UserError, match=r'28x28: windows of 2x2 do not divide the 7x7'):
    big_vision_like.load(file, image_size=28)


def test_new_runs_start_from_other_windows(capsys):
  _, params = small(posemb='both')
  model = swin.Swin(num_classes=7, **SMALL | dict(window=3, posemb='both'), scan=False)
  like = random_weights.variables_of(model, (24, 24))
  weights = init_from.Weights({'params': params}, grid=(4, 4))
  source = init_from.InitFrom(weights)
  filled = source.fit(like, model.resizes, model.grid((24, 24)))['params']
  told = capsys.readouterr().out
  assert 'stage1/block_0/window/relative_bias (9, 2) -> (25, 2)' in told
  assert 'pos_embedding (1, 16, 8) -> (1, 36, 8)' in told
  np.testing.assert_array_equal(
    filled['stage1']['block_0']['window']['norm1']['scale'],
    params['stage1']['block_0']['window']['norm1']['scale'],
  )
  fixed = init_from.InitFrom(weights, resize=None)
  with pytest.raises(
    UserError, match='grid of 3x3, the model has one of 5x5, and resi'
  ):
    fixed.fit(like, model.resizes, model.grid((24, 24)))


def test_rows_of_a_head(tmp_path, capsys):
  _, params = small()
  weights = init_from.Weights({'params': params})
  rows = tmp_path / 'map.txt'
  rows.write_text('4\n0\n4\n')
  picked = init_from.with_classes(weights, str(rows)).params['head']
  np.testing.assert_array_equal(picked['bias'], params['head']['bias'][[4, 0, 4]])
  np.testing.assert_array_equal(
    picked['kernel'], params['head']['kernel'][:, [4, 0, 4]]
  )
  assert '3 of 5 classes of the weights' in capsys.readouterr().out
  assert init_from.with_classes(weights, None) is weights
  rows.write_text('4\n5\n')
  with pytest.raises(UserError, match="entry 2 is '5', not a class from 0 to 4"):
    init_from.with_classes(weights, str(rows))
  with pytest.raises(UserError, match=r'nowhere.txt, .* does not exist'):
    init_from.with_classes(weights, str(tmp_path / 'nowhere.txt'))
  headless = {name: part for name, part in params.items() if name != 'head'}
  with pytest.raises(UserError, match='these have no head'):
    rows.write_text('0')
    init_from.with_classes(init_from.Weights({'params': headless}), str(rows))


def test_a_backbone_of_detection_has_a_grid_of_positions(tmp_path):
  model, params = small(
    num_classes=0, maps=(1, 2), padding='dense', posemb='both', pos_grid=(4, 4)
  )
  weights = published.describe(params, 'swin')
  weights.architecture['pos_grid'] = (4, 4)
  state = {
    f'backbone.{name}': array
    for name, array in weights.family.sources[-1].writes['published'](weights).items()
  }
  assert state['backbone.absolute_pos_embed'].shape == (1, 8, 4, 4)
  safetensors.numpy.save_file(state, tmp_path / 'a.safetensors')
  again = published.read(tmp_path / 'a.safetensors')
  assert again.model == model
  assert_same(again.params, params)


@pytest.mark.parametrize(
  ('change', 'to', 'message'),
  [
    (dict(posemb='both'), 'timm', "timm has no Swin with posemb='both'"),
    (dict(posemb='without_content'), 'published', 'no Swin with posemb'),
    (
      dict(maps=(1, 2), num_classes=0, padding='dense'),
      'timm',
      'timm rolls windows before it pads them',
    ),
  ],
)
def test_models_that_other_libraries_cannot_represent(change, to, message, tmp_path):
  _, params = small(**change)
  weights = published.describe(params, 'swin')
  images = weights.images('swin', (16, 16))
  with pytest.raises(UserError, match=message):
    convert_weights.write(weights, images, tmp_path / 'a.safetensors', to, None)


def test_transformers_has_no_smaller_windows_of_late_stages(tmp_path):
  _, params = small((16, 16), window=4)
  weights = published.describe(params, 'swin')
  assert weights.architecture['window'] == 4
  images = weights.images('swin', (16, 16))
  with pytest.raises(UserError, match=r'windows of one size, but these are \[2, 4\]'):
    convert_weights.write(
      weights, images, tmp_path / 'a.safetensors', 'transformers', None
    )


@pytest.mark.parametrize(
  ('name', 'shape', 'message'),
  [
    ('layers.0.blocks.0.attn.relative_position_bias_table', (8, 2), 'square window'),
    ('layers.0.downsample.reduction.weight', (16, 31), 'merge1/reduction/kernel'),
    ('layers.1.blocks.2.mlp.fc1.bias', (31,), 'shapes that do not fit'),
    ('head.weight', (5, 17), 'does not have 16 inputs'),
  ],
)
def test_shapes_that_do_not_fit(name, shape, message, tmp_path):
  _, params = small()
  state = swin_names.MICROSOFT.written(tree.flatten(params))
  state[name] = np.ones(shape, np.float32)
  safetensors.numpy.save_file(state, tmp_path / 'a.safetensors')
  with pytest.raises(UserError, match=message):
    published.read(tmp_path / 'a.safetensors')


def test_a_missing_block_is_named(tmp_path):
  _, params = small()
  state = swin_names.MICROSOFT.written(tree.flatten(params))
  del state['layers.1.blocks.0.attn.qkv.weight']
  safetensors.numpy.save_file(state, tmp_path / 'a.safetensors')
  with pytest.raises(UserError, match=r'missing layers\.1\.blocks\.0\.attn\.qkv\.wei'):
    published.read(tmp_path / 'a.safetensors')


def test_heads_of_stages_belong_to_models_with_stages(tmp_path):
  _, params = small()
  saved(tmp_path / 'model.safetensors', params, swin_names.TIMM)
  config = dict(model_args=dict(num_heads=[2, 4]))
  (tmp_path / 'config.json').write_text(json.dumps(config))
  with pytest.raises(UserError, match='a list is for a model with depths'):
    published.read(tmp_path)


@pytest.mark.parametrize(
  ('name', 'size', 'resize'),
  [
    ('swin_tiny_patch4_window7_224', 224, 256),
    ('swin_base_patch4_window12_384_22kto1k', 384, 'squash'),
    ('mine', 16, 18),
  ],
)
def test_images_of_published_files(name, size, resize, tmp_path):
  _, params = small()
  images = published.describe(params, 'swin').images(name, (16, 16))
  assert (images.size, images.resize) == ((size, size), resize)
  assert images.interpolation == 'pillow_bicubic'
