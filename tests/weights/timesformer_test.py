"""Files of TimeSformers, made up: read, written, loaded, refused."""

import json

import battery
import jax
import numpy as np
import pytest
import safetensors.numpy
import torch_archives

import big_vision_like
from big_vision_like.errors import UserError
from big_vision_like.models import timesformer
from big_vision_like.weights import published, timesformer_names, tree
from tools import convert_weights

SMALL = dict(num_classes=5, patch=4, width=24, depth=2, num_heads=1, mlp_dim=40)
CLIP = battery.images(1, 6, 8, 8, 3)


def small(attention='divided', **arguments):
  model = timesformer.TimeSformer(**SMALL, attention=attention, **arguments)
  params = battery.variables(model, CLIP)['params']
  return model, jax.tree.map(np.asarray, params)


def assert_same(got, want):
  got, want = tree.flatten(got), tree.flatten(want)
  assert got.keys() == want.keys()
  for name in want:
    np.testing.assert_array_equal(got[name], want[name], err_msg=name)


@pytest.mark.parametrize('attention', ['divided', 'joint'])
def test_a_published_file_is_read_without_running_it(attention, tmp_path):
  model, params = small(attention)
  path = tmp_path / 'TimeSformer_divST_6x8_224_K400.pyth'
  state = timesformer_names.PUBLISHED.written(params)
  content = {'model_state': {f'model.{k}': x for k, x in state.items()}, 'epoch': 3}
  torch_archives.save(path, content)
  weights = published.read(path, num_heads=1)
  assert weights.source == 'facebookresearch/TimeSformer'
  assert weights.assumed == ("names without the prefix 'model.', which all names have",)
  assert_same(weights.params, params)
  assert weights.model == model.clone(drop_path=0.1)
  images = weights.images(path.stem, (8, 8))
  assert (images.frames, images.size, images.bgr) == (6, (8, 8), False)
  assert (images.mean, images.std) == ((0.45,) * 3, (0.225,) * 3)


def test_names_of_published_files_tell_the_clips():
  _, params = small()
  weights = published.describe(params, 'timesformer')
  images = weights.images('TimeSformer_divST_6_224_SSv2', (8, 8))
  assert (images.stride, images.bgr) == (0, True)
  for frames, stride in ((8, 32), (16, 16), (96, 4), (32, 8)):
    longer = params | {'time_embedding': np.zeros((1, frames, 24), np.float32)}
    weights = published.describe(longer, 'timesformer')
    assert weights.images('a', (8, 8)).stride == stride


@pytest.mark.parametrize('to', ['transformers', 'published'])
@pytest.mark.parametrize('attention', ['divided', 'joint'])
def test_files_are_written_and_read_again(to, attention, tmp_path):
  model, params = small(attention)
  source = tmp_path / 'in.safetensors'
  safetensors.numpy.save_file(timesformer_names.TRANSFORMERS.written(params), source)
  out = tmp_path / ('out' if to == 'transformers' else 'out.safetensors')
  assert convert_weights.main([str(source), str(out), '--to', to]) == 0
  again = published.read(out)
  assert_same(again.params, params)
  if to == 'transformers':
    config = json.loads((out / 'config.json').read_text())
    assert config['attention_type'] == f'{attention}_space_time'
    assert (config['num_frames'], config['drop_path_rate']) == (6, 0)
    assert type(config['drop_path_rate']) is int
    processor = json.loads((out / 'preprocessor_config.json').read_text())
    assert processor['image_std'] == [0.225] * 3
  _, variables, preprocess = big_vision_like.load(out)
  assert (preprocess.frames, preprocess.size) == (6, (8, 8))
  assert_same(variables['params'], params)


def test_load_resizes_the_positions_of_the_frames(tmp_path):
  _, params = small()
  path = tmp_path / 'in.safetensors'
  safetensors.numpy.save_file(timesformer_names.TRANSFORMERS.written(params), path)
  model, variables, preprocess = big_vision_like.load(path, image_size=16)
  views = preprocess(np.zeros((6, 20, 30, 3), np.uint8))
  assert views.shape == (3, 6, 16, 16, 3)
  assert variables['params']['pos_embedding'].shape == (1, 17, 24)
  logits = model.apply(variables, views)['logits']
  assert logits.shape == (3, 5)


@pytest.mark.parametrize('attention', ['axial', 'space_only'])
def test_other_schemes_have_no_place_elsewhere(attention, tmp_path):
  _, params = small(attention)
  weights = published.describe(params, 'timesformer')
  assert weights.architecture['attention'] == attention
  images = weights.images('a', (8, 8))
  with pytest.raises(UserError, match=f'no other code has .*{attention}'):
    convert_weights.write(
      weights, images, tmp_path / 'a.safetensors', 'published', None
    )


def test_a_file_that_lacks_an_attention_is_refused(tmp_path):
  _, params = small()
  state = timesformer_names.PUBLISHED.written(params)
  del state['blocks.1.temporal_attn.proj.bias']
  path = tmp_path / 'a.safetensors'
  safetensors.numpy.save_file(state, path)
  with pytest.raises(UserError, match='missing blocks.1.temporal_attn.proj.bias'):
    published.read(path)
