import json
import subprocess
import sys
import types

import jax
import ml_collections as mlc
import numpy as np
import pytest
import random_weights

import big_vision_like
from big_vision_like import spec
from big_vision_like.data.input import pipeline
from big_vision_like.data.sources import coco_classes, tfds
from big_vision_like.data.sources.base import InMemory
from big_vision_like.data.transforms import boxes, image
from big_vision_like.errors import UserError
from big_vision_like.inference import classes, loading, objects
from big_vision_like.models import bit, resnet, vit
from big_vision_like.ops import positions
from big_vision_like.run import experiment
from big_vision_like.weights import bit as bit_weights
from big_vision_like.weights import detr as detr_weights
from big_vision_like.weights import (
  files,
  timm_vit,
  torchvision_resnet,
  vision_transformer,
)


def picture(height=30, width=40):
  rng = np.random.default_rng(0)
  return rng.integers(0, 256, (height, width, 3), dtype=np.uint8)


def shapes(model, variables, preprocess):
  return jax.eval_shape(model.apply, variables, preprocess(picture())[None])


def tiny_run(folder, size=(8, 8), transforms=(), model=None, **task):
  """Writes a run of the test config; its averaged parameters differ from the others."""
  config = spec.load('tests/tiny_config.py', root=experiment.Settings)
  config.task.update(task)
  config.task.model.update(model or {})
  config.train_data.transforms += list(transforms)
  return random_weights.run_of(config, folder, size)


def test_published_weights_in_three_lines(tmp_path):
  params = random_weights.small_vit()
  files.write(tmp_path / 'a.npz', vision_transformer.to_npz(params))
  model, variables, preprocess = big_vision_like.load(tmp_path / 'a.npz')
  assert preprocess.size == (24, 24) and preprocess.mean == (0.5,) * 3
  image_1HWC = preprocess(picture())[None]
  logits_C = model.apply(variables, image_1HWC)['logits'][0]
  want = vit.ViT(num_classes=5, **random_weights.VIT).apply(
    {'params': params}, image_1HWC
  )
  np.testing.assert_allclose(logits_C, want['logits'][0], rtol=0, atol=1e-5)
  assert preprocess.top(logits_C, 1)[0][0] == str(logits_C.argmax())


@pytest.mark.parametrize('size, grid', [(40, (5, 5)), ((16, 40), (2, 5))])
def test_another_size_resizes_positions(size, grid, tmp_path):
  params = random_weights.small_vit()
  files.write(tmp_path / 'a.npz', vision_transformer.to_npz(params))
  model, variables, preprocess = loading.load(tmp_path / 'a.npz', image_size=size)
  assert preprocess.size == (grid[0] * 8, grid[1] * 8)
  want = positions.resize(params['pos_embedding'], (3, 3), grid, num_prefix=1)
  np.testing.assert_array_equal(variables['params']['pos_embedding'], want)
  assert shapes(model, variables, preprocess)['logits'].shape == (1, 5)


def test_an_unrequested_other_size_names_both_grids(tmp_path):
  params = random_weights.small_vit()
  files.write(tmp_path / 'a.npz', vision_transformer.to_npz(params))
  model, variables, preprocess = loading.load(tmp_path / 'a.npz')
  with pytest.raises(UserError, match=r'\(1, 10, 36\).*5x5.*\(1, 26, 36\).*image_size'):
    shapes(model, variables, preprocess.with_size(40))


@pytest.mark.parametrize(
  'other, stride',
  [(dict(resnet=(2, 1), patch=1), 8), (dict(resnet=(), patch=2), 8)],
)
def test_hybrids(other, stride, tmp_path):
  params = random_weights.small_vit(**other)
  files.write(tmp_path / 'a.npz', vision_transformer.to_npz(params))
  model, variables, preprocess = loading.load(tmp_path / 'a.npz', 4 * stride)
  assert model.grid(preprocess.size) == (4, 4)
  assert shapes(model, variables, preprocess)['logits'].shape == (1, 5)


def wide_file(folder, size=(16, 24)):
  """Writes published weights for wide images; returns the file and the parameters."""
  params = random_weights.params_of(vit.ViT(num_classes=5, **random_weights.VIT), size)
  files.write(folder / 'a.npz', vision_transformer.to_npz(params))
  return folder / 'a.npz', params['pos_embedding']


def test_positions_that_are_not_square(tmp_path):
  path, table = wide_file(tmp_path)
  with pytest.raises(UserError, match=r'6 positions are not a square.*source_grid=\('):
    loading.load(path)
  _, variables, preprocess = loading.load(path, source_grid=(2, 3))
  assert preprocess.size == (16, 24)
  np.testing.assert_array_equal(variables['params']['pos_embedding'], table)
  _, variables, preprocess = loading.load(path, (32, 24), source_grid=(2, 3))
  want = positions.resize(table, (2, 3), (4, 3), num_prefix=1)
  np.testing.assert_array_equal(variables['params']['pos_embedding'], want)
  with pytest.raises(UserError, match='not a grid of 4x3 with 0 to 2 leading tokens'):
    loading.load(path, (32, 24), source_grid=(4, 3))


def test_grids_with_equally_many_tokens_are_not_confused(tmp_path):
  path, table = wide_file(tmp_path, (32, 32))
  with pytest.raises(UserError, match='16 positions may be a grid of 2x8 or 4x4: give'):
    loading.load(path, (16, 64))
  for grid, size in (((4, 4), (16, 64)), ((2, 8), (32, 32)), ((2, 8), (32, 128))):
    model, variables, preprocess = loading.load(path, size, source_grid=grid)
    want = positions.resize(table, grid, model.grid(size), num_prefix=1)
    np.testing.assert_array_equal(variables['params']['pos_embedding'], want)
    assert preprocess.size == size


def test_files_that_say_their_size_are_believed(tmp_path):
  path, table = wide_file(tmp_path, (16, 64))
  images = classes.Preprocessing((16, 64))
  path.with_suffix('.json').write_text(json.dumps({'preprocessing': images.to_json()}))
  _, variables, preprocess = loading.load(path, (32, 128))
  want = positions.resize(table, (2, 8), (4, 16), num_prefix=1)
  np.testing.assert_array_equal(variables['params']['pos_embedding'], want)
  images = classes.Preprocessing((24, 24))
  path.with_suffix('.json').write_text(json.dumps({'preprocessing': images.to_json()}))
  told = 'record images of 24x24, a grid of 3x3, but there are 16 positions'
  with pytest.raises(UserError, match=told):
    loading.load(path)


@pytest.mark.parametrize('size', [0, -8, (8,), 7, 8.5, 'x', True, (8, 10**6)])
def test_invalid_sizes(size, tmp_path):
  flat = vision_transformer.to_npz(random_weights.small_vit())
  files.write(tmp_path / 'a.npz', flat)
  words = 'is not a positive height and width|7x7 do not divide into patches'
  with pytest.raises(UserError, match=words):
    loading.load(tmp_path / 'a.npz', size)


def test_a_run_knows_the_size_of_its_images(tmp_path, data_dir):
  size = spec.spec(image.Resize, size=(16, 64))  # as many tokens as 32x32
  average = tiny_run(tmp_path / 'run', (16, 64), transforms=[size])
  model, variables, preprocess = loading.load(tmp_path / 'run')
  assert preprocess.size == (16, 64)
  assert shapes(model, variables, preprocess)['logits'].shape == (1, 10)
  model, variables, preprocess = loading.load(tmp_path / 'run', image_size=32)
  assert preprocess.size == (32, 32)
  want = positions.resize(average['pos_embedding'], (8, 32), (16, 16), num_prefix=1)
  np.testing.assert_array_equal(variables['params']['pos_embedding'], want)
  model, variables, preprocess = loading.load(tmp_path / 'run', image_size=(32, 128))
  want = positions.resize(average['pos_embedding'], (8, 32), (16, 64), num_prefix=1)
  np.testing.assert_array_equal(variables['params']['pos_embedding'], want)
  assert shapes(model, variables, preprocess)['logits'].shape == (1, 10)


def test_positions_of_rows_and_columns_are_resized_alone(tmp_path, data_dir):
  average = tiny_run(tmp_path / 'run', model={'posemb': 'learned2d'})
  _, variables, _ = loading.load(tmp_path / 'run', image_size=8)
  random_weights.assert_same(variables['params'], average)
  _, variables, _ = loading.load(tmp_path / 'run', image_size=(12, 8))
  got, want = variables['params'], positions.resize(average['pos_rows'], (4, 1), (6, 1))
  np.testing.assert_array_equal(got['pos_rows'], want)
  np.testing.assert_array_equal(got['pos_columns'], average['pos_columns'])


def test_relative_positions_are_not_resized(tmp_path, data_dir):
  kind = dict(posemb='relative', posemb_at='every')
  average = tiny_run(tmp_path / 'run', model=kind)
  _, variables, _ = loading.load(tmp_path / 'run', image_size=8)
  random_weights.assert_same(variables['params'], average)
  for size in ((8, 12), (4, 16)):
    with pytest.raises(UserError, match='relative positions cannot be resized from a'):
      loading.load(tmp_path / 'run', image_size=size)


def test_bit_has_its_size_by_name(tmp_path):
  params = random_weights.small_bit()
  path = tmp_path / 'BiT-M-R50x1-ILSVRC2012.npz'
  files.write(path, bit_weights.BIG_TRANSFER.write(params))
  model, variables, preprocess = loading.load(path)
  assert type(model) is bit.BiT and not loading.attends(model)
  assert preprocess.size == (384, 384)
  _, same, smaller = loading.load(path, image_size=32)
  assert smaller.size == (32, 32)
  random_weights.assert_same(variables, same)


def test_weights_without_a_head(tmp_path):
  params = random_weights.small_vit(rep_size=8)
  del params['head']
  files.write(tmp_path / 'a.npz', vision_transformer.to_npz(params))
  model, variables, preprocess = loading.load(tmp_path / 'a.npz')
  outputs = shapes(model, variables, preprocess)
  assert outputs['logits'].shape == (1, 0) and outputs['pre_logits'].shape == (1, 8)


def test_metadata_of_timm_next_to_its_weights(tmp_path, capsys):
  params = random_weights.small_vit()
  files.write(tmp_path / 'model.safetensors', timm_vit.to_timm(params))
  told = dict(input_size=[3, 24, 24], mean=[0.4] * 3, std=[0.2] * 3)
  told |= dict(interpolation='bicubic', crop_pct=0.75, crop_mode='center')
  names = ['a', 'b', 'c', 'd', 'e']
  beside = {
    'model_args': {'num_heads': 3, 'no_embed_class': False},
    'pretrained_cfg': told,
    'label_names': names,
  }
  (tmp_path / 'config.json').write_text(json.dumps(beside))
  _, _, preprocess = loading.load(tmp_path)
  assert (preprocess.size, preprocess.resize) == ((24, 24), 32)
  assert preprocess.mean == (0.4,) * 3 and preprocess.label_names == tuple(names)
  assert capsys.readouterr().out.startswith('assumed   ')


def test_a_run(tmp_path, data_dir):
  average = tiny_run(tmp_path / 'run', mean=0.3, std=[0.4], loss_type='binary')
  model, variables, preprocess = loading.load(tmp_path / 'run')
  random_weights.assert_same(variables['params'], average)
  assert preprocess.size == (8, 8) and preprocess.channels == 1
  assert (preprocess.mean, preprocess.std) == ((0.3,), (0.4,))
  assert preprocess.label_names == tuple('0123456789')
  assert preprocess.scores == 'sigmoid' and 'run, step 7' in preprocess.source
  model, variables, preprocess = loading.load(tmp_path / 'run', 12, step=7)
  assert shapes(model, variables, preprocess)['logits'].shape == (1, 10)


def finding_run(folder, ids=None, names=('a', 'b', 'c'), **source):
  """Writes a minimal run of a detector."""
  config = spec.load('configs/detr/small.py', root=experiment.Settings)
  config.task.model.update(width=8, num_heads=2, mlp_dim=8, decoder_depth=1)
  config.task.model.backbone.update(root=4, channels=(4, 4))
  data = config.evals.val.data
  data.transforms[1].ids = ids
  data.source = spec.spec(Scenes, **source)
  config.train_data.source = data.source
  config.evals.val.names = names
  model = spec.build(config.task.to_dict()['model'], 'model')
  variables = random_weights.calm(random_weights.variables_of(model, (48, 48)))
  params = variables.pop('params')
  random_weights.save_run(folder, config, params, mutable=variables)
  return {'params': params, **variables}


class Scenes(InMemory):
  """A data set that knows the sizes of its pictures and the names of its objects."""

  features = None

  def __init__(self, size=(48, 48)):
    super().__init__([])
    labels = types.SimpleNamespace(names=['x', 'y', 'z'], num_classes=3)
    image = types.SimpleNamespace(shape=(*size, 3))
    self.features = {'image': image, 'objects': {'label': labels}}


def test_a_run_that_finds_objects(tmp_path):
  variables = finding_run(tmp_path / 'run')
  model, loaded, preprocess = loading.load(tmp_path / 'run')
  random_weights.assert_same(loaded, variables)
  assert (preprocess.size, preprocess.shapes) == ((48, 48), ())
  assert preprocess.label_names == ('a', 'b', 'c')
  assert 'run, step 7' in preprocess.source
  image_HWC, size, original_size = preprocess(picture())
  outputs = jax.jit(model.apply)(loaded, image_HWC[None], size[None])
  found = preprocess.objects(outputs, original_size, threshold=-1.0)
  assert sorted(one.query for one in found) == list(range(6))
  _, _, larger = loading.load(tmp_path / 'run', image_size=96)
  assert larger.size == (96, 96)


@pytest.mark.parametrize(
  'change, want',
  [
    (dict(names=()), ('x', 'y', 'z')),
    (dict(names=(), ids=(5, 6, 7)), ()),
    (dict(names=(), ids=coco_classes.IDS), ('0', 'person', 'bicycle')),
  ],
)
def test_names_of_objects(change, want, tmp_path):
  finding_run(tmp_path / 'run', **change)
  _, _, preprocess = loading.load(tmp_path / 'run')
  assert preprocess.label_names == want


def test_pictures_of_any_size_are_padded(tmp_path):
  finding_run(tmp_path / 'run', size=(None, None))
  _, _, preprocess = loading.load(tmp_path / 'run')
  assert (preprocess.size, preprocess.shapes) == (None, ((48, 48),))


def test_sizes_after_detection_transforms():
  steps = [boxes.Objects(), boxes.ResizeShort(60, 90), boxes.Pad([[64, 96]], 3)]
  want = {'short': 60, 'longest': 90, 'shapes': ((64, 96),)}
  assert objects.sizing(steps) == want
  with pytest.raises(UserError, match='not by RandomSizeCrop: use a config'):
    objects.sizing([boxes.RandomSizeCrop(3, 5), *steps])


def test_published_detectors(detector, tmp_path):
  path, same, variables = detector
  model, loaded, preprocess = loading.load(path)
  assert model == same and model.masks
  random_weights.assert_same(loaded, variables)
  assert (preprocess.short, preprocess.longest, preprocess.shapes) == (800, 1333, ())
  state = detr_weights.to_transformers(variables)
  files.write(tmp_path / 'model.safetensors', state)
  (tmp_path / 'config.json').write_text((path.parent / 'config.json').read_text())
  told = {'size': {'shortest_edge': 64, 'longest_edge': 96}}
  (tmp_path / 'preprocessor_config.json').write_text(json.dumps(told))
  again, loaded, preprocess = loading.load(tmp_path)
  assert again == model and (preprocess.short, preprocess.longest) == (64, 96)
  random_weights.assert_same(loaded, variables)


def test_published_resnets(tmp_path):
  variables = random_weights.variables_of(random_weights.small_resnet(num_classes=5))
  state = torchvision_resnet.to_torchvision(variables, norm='frozen')
  files.write(tmp_path / 'resnet.safetensors', state)
  model, loaded, preprocess = loading.load(tmp_path / 'resnet.safetensors', 32)
  assert type(model) is resnet.ResNet and preprocess.size == (32, 32)
  random_weights.assert_same(loaded, variables)
  assert shapes(model, loaded, preprocess)['logits'].shape == (1, 5)


def test_runs_that_do_something_else(tmp_path):
  config = spec.load('configs/transformer/reverse.py', root=experiment.Settings)
  random_weights.save_run(tmp_path / 'run', config, {'a': np.ones(2)})
  with pytest.raises(UserError, match='a run of Seq2Seq: load.. is for tasks whose'):
    loading.load(tmp_path / 'run')


def test_a_step_of_a_file(tmp_path):
  with pytest.raises(UserError, match='not a run: it has no checkpoint of step 3'):
    loading.load(tmp_path / 'a.npz', step=3)


RESIZE, CROP = image.Resize(8), image.CentralCrop(6)


@pytest.mark.parametrize(
  'steps, want',
  [
    ([], (None, 'squash', 'bilinear', ('nearest', 'down'))),
    ([image.Brighten(), RESIZE], ((8, 8), 'squash', 'bilinear', ('nearest', 'down'))),
    ([RESIZE, CROP], ((6, 6), (8, 8), 'bilinear', ('nearest', 'down'))),
    ([image.ResizeSmall(8), CROP], ((6, 6), 8, 'area', ('nearest', 'down'))),
    (
      [image.ResizeSmall(8, rounding='down'), image.CentralCrop(6, rounding='up')],
      ((6, 6), 8, 'area', ('down', 'up')),
    ),
  ],
)
def test_sizes_after_transforms(steps, want):
  assert classes.sizing(steps) == want


def test_transforms_that_come_to_no_size():
  with pytest.raises(UserError, match='CentralCrop, not CentralCrop, Resize'):
    classes.sizing([CROP, RESIZE])


def test_the_input_that_tells():
  """Checks that evaluation precedes training, and that an input must decode images."""

  def read(split, *transforms):
    source = spec.spec(tfds.Tfds, name='digits', split=split)
    return spec.spec(
      pipeline.EvalInput, source=source, batch_size=2, transforms=transforms
    )

  decode = spec.spec(image.Decode)
  config = mlc.ConfigDict(dict(train_data=read('train', decode), evals={}))
  assert loading.encoded_images(config).source.split == 'train'
  config.evals = dict(a=read('a'), b=read('b', decode))
  assert loading.encoded_images(config).source.split == 'b'
  config = mlc.ConfigDict(dict(train_data=read('train')))
  with pytest.raises(UserError, match='no input of the config decodes images'):
    loading.encoded_images(config)


def test_the_package_itself_stays_light():
  program = (
    'import sys, big_vision_like\n'
    'print({n for n in ("jax", "numpy", "grain") if n in sys.modules})\n'
  )
  done = subprocess.run(
    [sys.executable, '-c', program], capture_output=True, text=True, check=True
  )
  assert done.stdout == 'set()\n'
  with pytest.raises(AttributeError, match="no attribute 'lod'"):
    big_vision_like.lod  # noqa: B018
