import json
import re

import jax
import numpy as np
import pytest
import random_weights
import torch_archives
from random_weights import assert_same, run_of

from big_vision_like import spec
from big_vision_like.data.transforms import image
from big_vision_like.inference import classes, loading
from big_vision_like.models import vit
from big_vision_like.run import experiment
from big_vision_like.weights import (
  bit,
  detr,
  files,
  published,
  torchvision_resnet,
  tree,
  vision_transformer,
)
from big_vision_like.weights.families import vit as vit_family
from tools import convert_weights as tool

IMAGES = classes.Preprocessing((224, 224))


def convert(*words):
  return tool.main([str(word) for word in words])


@pytest.mark.parametrize(
  'other, out, to',
  [
    ({}, 'out.safetensors', 'timm'),
    ({}, 'out', 'timm'),
    ({}, 'out', 'transformers'),
    (dict(pool='map'), 'out', 'timm'),
    (dict(resnet=(2, 1), patch=1), 'out.safetensors', 'timm'),
    (dict(resnet=(), patch=2), 'out', 'timm'),
    (dict(pool='gap', rep_size=8), 'out.npz', 'big_vision'),
  ],
)
def test_vit_round_trip(other, out, to, tmp_path, capsys):
  params = random_weights.small_vit(**other)
  flat = vision_transformer.to_npz(params)
  files.write(tmp_path / 'in.npz', flat)
  assert convert(tmp_path / 'in.npz', tmp_path / out, f'--to={to}') == 0
  assert convert(tmp_path / out, tmp_path / 'back.npz') == 0
  assert_same(files.read(tmp_path / 'back.npz'), flat)
  told = capsys.readouterr()
  count = sum(array.size for array in flat.values())
  assert f'5 classes, {count:,} parameters' in told.out
  assert 'width=36' in told.out and 'back.npz' in told.out and not told.err
  assert 'assumed' not in told.out
  assert not list(tmp_path.glob('*.part'))


@pytest.mark.parametrize(
  'to, out', [('timm', 'out.safetensors'), ('transformers', 'out')]
)
@pytest.mark.parametrize(
  'family, write',
  [('bit', bit.BIG_TRANSFER.write), ('bit_v1', bit.BIG_VISION_V1.write)],
)
def test_bit_round_trip(family, write, to, out, tmp_path):
  flat = write(random_weights.small_bit(family))
  files.write(tmp_path / 'in.npz', flat)
  assert convert(tmp_path / 'in.npz', tmp_path / out, f'--to={to}') == 0
  assert convert(tmp_path / out, tmp_path / 'back.npz') == 0
  assert_same(files.read(tmp_path / 'back.npz'), flat)


def test_settings_from_timm_are_kept(tmp_path):
  flat = vision_transformer.to_npz(random_weights.small_vit())
  files.write(tmp_path / 'in.npz', flat)
  assert convert(tmp_path / 'in.npz', tmp_path / 'out') == 0
  config = json.loads((tmp_path / 'out/config.json').read_text())
  assert config['pretrained_cfg']['input_size'] == [3, 24, 24]
  config['label_names'] = ['cat', 'dog', 'cow', 'owl', 'eel']
  config['pretrained_cfg'] |= {'mean': [0.1, 0.2, 0.3], 'crop_pct': 0.9}
  (tmp_path / 'out/config.json').write_text(json.dumps(config))
  assert convert(tmp_path / 'out', tmp_path / 'kept.npz') == 0
  assert published.read(tmp_path / 'kept.npz').metadata['config.json'] == config
  assert convert(tmp_path / 'kept.npz', tmp_path / 'again') == 0
  assert json.loads((tmp_path / 'again/config.json').read_text()) == config


def test_settings_from_transformers_are_kept(tmp_path):
  files.write(
    tmp_path / 'in.npz', vision_transformer.to_npz(random_weights.small_vit())
  )
  to = '--to=transformers'
  assert convert(tmp_path / 'in.npz', tmp_path / 'out', to) == 0
  images = json.loads((tmp_path / 'out/preprocessor_config.json').read_text())
  images['image_mean'] = [0.1, 0.2, 0.3]
  (tmp_path / 'out/preprocessor_config.json').write_text(json.dumps(images))
  config = json.loads((tmp_path / 'out/config.json').read_text())
  names = {'0': 'cat', '1': 'dog', '2': 'ox', '3': 'ass', '4': 'sheep'}
  config |= {'id2label': names, 'label2id': {name: int(i) for i, name in names.items()}}
  (tmp_path / 'out/config.json').write_text(json.dumps(config))
  assert convert(tmp_path / 'out', tmp_path / 'again', to) == 0
  assert json.loads((tmp_path / 'again/preprocessor_config.json').read_text()) == images
  again = json.loads((tmp_path / 'again/config.json').read_text())
  assert again['id2label'] == names and 'num_labels' not in again
  assert again['label2id'] == config['label2id']


def test_computed_positions_are_written_out(tmp_path):
  params = random_weights.small_vit(pool='gap', posemb='sincos2d')
  files.write(tmp_path / 'in.npz', vision_transformer.to_npz(params))
  with pytest.raises(ValueError, match='computed from the size .*--image-size'):
    vit_family.image_size(published.read(tmp_path / 'in.npz'), IMAGES, None)
  words = ['--image-size', '16', '24']
  assert convert(tmp_path / 'in.npz', tmp_path / 'out', *words) == 0
  got = published.read(tmp_path / 'out')
  image_BHWC = np.random.default_rng(0).normal(size=(2, 16, 24, 3)).astype('float32')
  args = random_weights.VIT | dict(num_classes=5, pool='gap')
  before, after = (
    jax.jit(vit.ViT(**args, posemb=posemb).apply)({'params': found}, image_BHWC)
    for posemb, found in (('sincos2d', params), ('learned', got.params))
  )
  np.testing.assert_allclose(after['logits'], before['logits'], rtol=0, atol=1e-5)


@pytest.fixture
def workdir(tmp_path):
  """Returns a run of the config for tests."""
  config = spec.load('tests/tiny_config.py', root=experiment.Settings)
  return tmp_path / 'run', run_of(config, tmp_path / 'run')


def test_the_average_of_a_run_into_timm_and_back(workdir, tmp_path, capsys):
  folder, average = workdir
  assert convert(folder, tmp_path / 'out', '--image-size=8') == 0
  assert 'run, step 7' in capsys.readouterr().out
  got = published.read(tmp_path / 'out')
  assert got.channels == 1 and got.assumed == ()
  flat, want = tree.flatten(got.params), tree.flatten(average)
  for name in want:
    np.testing.assert_array_equal(flat[name], want[name])


@pytest.mark.parametrize('out', ['out.npz', 'out.safetensors', 'out'])
def test_a_run_on_wide_images_writes_their_size(out, tmp_path, capsys):
  config = spec.load('tests/tiny_config.py', root=experiment.Settings)
  config.train_data.transforms.append(spec.spec(image.Resize, size=(16, 64)))
  average = run_of(config, tmp_path / 'run', (16, 64))
  assert convert(tmp_path / 'run', tmp_path / out) == 0
  model, variables, images = loading.load(tmp_path / out)
  assert images.size == (16, 64) and model.grid(images.size) == (8, 32)
  assert_same(variables['params']['pos_embedding'], average['pos_embedding'])
  square = ['--image-size', '32', '32']  # equally many tokens
  assert convert(tmp_path / 'run', tmp_path / 'no', *square) == 1
  words = 'a grid of 16x16, but the positions of the weights are for 8x32'
  assert words in capsys.readouterr().err


@pytest.mark.parametrize('out, to', [('o.npz', 'published'), ('o', 'timm')])
def test_preprocessing_of_a_run_is_written(tmp_path, out, to):
  config = spec.load('tests/tiny_config.py', root=experiment.Settings)
  config.task.update(mean=0.3, std=0.2)
  config.evals.val.data.transforms = [
    spec.spec(image.Decode, channels=1),
    spec.spec(image.ResizeSmall, size=10, method='bilinear'),
    spec.spec(image.CentralCrop, size=8),
  ]
  run_of(config, tmp_path / 'run')
  assert convert(tmp_path / 'run', tmp_path / out, f'--to={to}') == 0
  _, _, images = loading.load(tmp_path / out)
  assert (images.size, images.resize) == ((8, 8), 10)
  assert (images.mean, images.std) == ((0.3,), (0.2,))
  assert images.interpolation.endswith('bilinear')


def test_settings_from_timm_are_written_for_transformers(tmp_path):
  flat = vision_transformer.to_npz(random_weights.small_vit())
  files.write(tmp_path / 'in.npz', flat)
  assert convert(tmp_path / 'in.npz', tmp_path / 'timm') == 0
  config = json.loads((tmp_path / 'timm/config.json').read_text())
  config['label_names'] = ['cat', 'dog', 'cow', 'owl', 'eel']
  images = {'mean': [0.1, 0.2, 0.3], 'crop_pct': 0.75, 'crop_mode': 'center'}
  config['pretrained_cfg'] |= images
  (tmp_path / 'timm/config.json').write_text(json.dumps(config))
  to = '--to=transformers'
  assert convert(tmp_path / 'timm', tmp_path / 'theirs', to) == 0
  _, _, got = loading.load(tmp_path / 'theirs')
  assert (got.mean, got.resize, got.size) == ((0.1, 0.2, 0.3), 32, (24, 24))
  assert got.label_names == ('cat', 'dog', 'cow', 'owl', 'eel')


def test_runs_of_other_models(tmp_path, capsys):
  config = spec.load('configs/transformer/reverse.py', root=experiment.Settings)
  random_weights.save_run(tmp_path / 'run', config, {'a': np.ones(2)})
  assert convert(tmp_path / 'run', tmp_path / 'out') == 1
  words = 'is a run of Transformer, which cannot be converted; models that can: '
  assert words in capsys.readouterr().err


def test_half_a_file_leaves_nothing(tmp_path, monkeypatch):
  def full(path, arrays):
    raise OSError('no space left')

  weights = published.describe(random_weights.small_vit(), 'vit')
  monkeypatch.setattr(files, 'write', full)
  with pytest.raises(OSError, match='no space'):
    tool.write(weights, IMAGES, tmp_path / 'out.npz', 'published', None)
  assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
  'words, message',
  [
    (['out.pth'], 'OUT must end in .npz or .safetensors, or be a folder'),
    (
      ['out.npz', '--to=timm'],
      '--to=timm cannot be written to .*published or big_vision',
    ),
    (['out', '--to=published'], '--to=published cannot .*timm or transformers'),
    (['in.npz'], 'in.npz already exists: name a new OUT'),
    (['taken.npz'], 'taken.json already exists'),
    (['out', '--to=transformers'], 'has a class token and learned positions'),
    (['out', '--image-size=32'], 'a grid of 4x4, but the weights have 9 positions'),
    (['out.npz', '--image-size=25'], '25x25 does not divide into tokens of 8x8'),
    (
      ['out', '--image-size', '8', '8', '8'],
      '--image-size 8 8 8 must be a side, or height',
    ),
    (['out', '--image-size=0'], '--image-size 0 must be a side'),
    ([''], 'already exists: name a new OUT'),
  ],
)
def test_unsupported_conversions(words, message, tmp_path, capsys):
  params = random_weights.small_vit(pool='gap')
  files.write(tmp_path / 'in.npz', vision_transformer.to_npz(params))
  (tmp_path / 'taken.json').write_text('{}')
  before = sorted(tmp_path.iterdir())
  out, *rest = words
  assert convert(tmp_path / 'in.npz', tmp_path / out, *rest) == 1
  error = capsys.readouterr().err
  assert error.startswith('error: ')
  assert re.search(message, error)
  assert sorted(tmp_path.iterdir()) == before


@pytest.mark.parametrize(
  'other, message',
  [
    (dict(posemb_at='every'), 'no other code adds positions'),
    (dict(rep_size=4), 'no place for a layer before the head'),
    (dict(posemb='learned2d'), "no other code has posemb='learned2d'"),
  ],
)
def test_models_that_no_other_code_has(other, message, tmp_path):
  weights = published.describe(random_weights.small_vit(**other), 'vit')
  with pytest.raises(ValueError, match=message):
    tool.write(weights, IMAGES, tmp_path / 'out', 'timm', None)
  assert not list(tmp_path.iterdir())


@pytest.mark.parametrize('out', ['out', 'out.safetensors', 'out.npz'])
def test_a_non_square_grid_round_trip(out, tmp_path):
  model = vit.ViT(num_classes=5, **random_weights.VIT)
  flat = vision_transformer.to_npz(random_weights.params_of(model, (16, 40)))
  files.write(tmp_path / 'in.npz', flat)
  size = ['--image-size', '16', '40']
  assert convert(tmp_path / 'in.npz', tmp_path / out, *size) == 0
  assert loading.load(tmp_path / out)[2].size == (16, 40)
  assert convert(tmp_path / out, tmp_path / 'back.npz', *size) == 0
  assert_same(files.read(tmp_path / 'back.npz'), flat)


def test_the_grid_of_positions_is_stored_or_given(tmp_path, capsys):
  model = vit.ViT(num_classes=5, **random_weights.VIT)
  for size, grid in (((16, 24), '2x3'), ((32, 32), '2x8')):
    params = random_weights.params_of(model, size)
    files.write(tmp_path / f'{grid}.npz', vision_transformer.to_npz(params))
  assert convert(tmp_path / '2x3.npz', tmp_path / 'a.npz') == 1
  told = '6 positions do not form a square: give the size of their images with --image'
  assert told in capsys.readouterr().err
  for grid, size in (('2x3', (16, 24)), ('2x8', (16, 64))):
    out = tmp_path / f'{grid}-out.safetensors'
    assert convert(tmp_path / f'{grid}.npz', out, f'--source-grid={grid}') == 0
    assert 'a square' not in capsys.readouterr().out
    assert loading.load(out)[2].size == size
  assert convert(tmp_path / '2x8.npz', tmp_path / 'b.npz') == 0
  assert '4x4 tokens: a square, as no other' in capsys.readouterr().out


def test_a_non_square_grid_requires_the_size():
  params = random_weights.small_vit()
  params['pos_embedding'] = params['pos_embedding'][:, :7]
  weights = published.describe(params, 'vit')
  with pytest.raises(ValueError, match='6 positions do not form a s.*--image-size'):
    vit_family.image_size(weights, IMAGES, None)
  assert vit_family.image_size(weights, IMAGES, (16, 24)) == (16, 24)
  hybrid = published.describe(random_weights.small_vit(resnet=(2, 1), patch=1), 'vit')
  assert vit_family.image_size(hybrid, IMAGES, None) == (24, 24)


@pytest.mark.parametrize(
  'out, to', [('o', 'transformers'), ('o.safetensors', 'transformers')]
)
@pytest.mark.parametrize('masks', [True, False])
def test_detr_round_trip(masks, out, to, tmp_path):
  variables = random_weights.variables_of(random_weights.small_detr(masks=masks))
  state = detr.to_facebook(variables)
  torch_archives.save(tmp_path / 'detr-r50-1.pth', {'model': state})
  heads = '--num-heads=4'
  source = tmp_path / 'detr-r50-1.pth'
  assert convert(source, tmp_path / out, f'--to={to}', heads) == 0
  found = published.read(tmp_path / out)
  assert (found.source, found.assumed) == ('transformers DETR', ())
  assert_same(found.variables, variables)
  back = tmp_path / 'back.safetensors'
  assert convert(tmp_path / out, back, '--to=published') == 0
  assert_same(files.read(back), state)
  assert published.read(back).architecture == found.architecture
  _, _, images = loading.load(tmp_path / out)
  assert (images.short, images.longest) == (800, 1333)


@pytest.mark.parametrize('out, to', [('o.safetensors', 'timm'), ('o', 'transformers')])
def test_resnet_round_trip(out, to, tmp_path):
  model = random_weights.small_resnet(num_classes=5)
  variables = random_weights.variables_of(model)
  state = torchvision_resnet.to_torchvision(variables, 'frozen')
  torch_archives.save(tmp_path / 'resnet.pth', state)
  assert convert(tmp_path / 'resnet.pth', tmp_path / out, f'--to={to}') == 0
  back = tmp_path / 'back.safetensors'
  assert convert(tmp_path / out, back) == 0
  assert_same(files.read(back), state)
  assert published.read(back).metadata['back.json']['preprocessing']['resize'] == 256


def test_a_run_of_detr(tmp_path, capsys):
  config = spec.load('configs/detr/small.py', root=experiment.Settings)
  backbone = dict(norm='frozen', dilated=True, depths=(1, 1), root=4, channels=(8, 4))
  config.task.model.backbone.update(backbone)
  model = spec.build(config.task.to_dict()['model'], 'model')
  variables = random_weights.variables_of(model)
  params = variables.pop('params')
  folder = tmp_path / 'run'
  random_weights.save_run(folder, config, params, mutable=variables)
  assert convert(folder, tmp_path / 'o') == 1
  assert "transformers' own ResNet has no such stage" in capsys.readouterr().err
  out = tmp_path / 'o.safetensors'
  assert convert(folder, out, '--to=published') == 0
  found = published.read(out)
  assert found.architecture['backbone']['dilated'] is True
  assert_same(found.variables, {'params': params, **variables})
  for out, words in (
    ('n.npz', 'a detr can be written to .safetensors or a folder'),
    ('p', '--to=timm cannot be written to .*transformers or published'),
  ):
    assert convert(folder, tmp_path / out, *['--to=timm'] * (out == 'p')) == 1
    assert re.search(words, capsys.readouterr().err)
  config.task.model.queries_attend = False
  (folder / 'config.json').write_text(config.to_json())
  assert convert(folder, tmp_path / 'q.safetensors') == 1
  assert 'no other code has queries_attend=False' in capsys.readouterr().err


def test_a_training_checkpoint_with_a_prefix(tmp_path, capsys):
  params = random_weights.small_vit()
  files.write(tmp_path / 'in.npz', vision_transformer.to_npz(params))
  assert convert(tmp_path / 'in.npz', tmp_path / 'timm.safetensors') == 0
  state = files.read(tmp_path / 'timm.safetensors')
  wrapped = {f'_orig_mod.{name}': array for name, array in state.items()}
  torch_archives.save(tmp_path / 'w.pth', {'model': wrapped, 'model_ema': state})
  out = tmp_path / 'out.npz'
  assert convert(tmp_path / 'w.pth', out, '--num-heads=3') == 0
  told = capsys.readouterr().out
  assert "'model' of the file is read, not 'model_ema'" in told
  assert "names without the prefix '_orig_mod.'" in told
  assert_same(published.read(out).params, params)
