"""Tests of reading weights and fitting them to a model."""

import dataclasses
import json

import jax
import ml_collections as mlc
import numpy as np
import pytest
import random_weights
import torch_archives
from hypothesis import given, settings
from hypothesis import strategies as st
from random_weights import assert_same

from big_vision_like import optim, spec
from big_vision_like.data.input import base
from big_vision_like.data.transforms import image
from big_vision_like.devices import mesh as meshes
from big_vision_like.errors import UserError
from big_vision_like.inference.classes import Preprocessing
from big_vision_like.inference.preprocessing import IMAGENET_MEAN, IMAGENET_STD
from big_vision_like.models import detr as detrs
from big_vision_like.models import resnet, vit
from big_vision_like.ops import positions
from big_vision_like.ops.images import Normalization
from big_vision_like.run import checkpoint, experiment, init_from, provenance
from big_vision_like.run.init_from import InitFrom, Weights
from big_vision_like.tasks import classification, set_detection
from big_vision_like.tasks.task import Network, State
from big_vision_like.weights import (
  detr,
  files,
  published,
  timm_vit,
  torchvision_resnet,
  vision_transformer,
)
from big_vision_like.weights import tree as trees

SMALL = dict(patch=4, width=16, depth=2, num_heads=2, mlp_dim=24)


def small(num_classes=5, **change) -> vit.ViT:
  return vit.ViT(num_classes=num_classes, **SMALL | change)


def params_of(size=16, seed=0, **change) -> dict:
  """Returns random parameters of a small ViT, for a side or a height and width."""
  size = (size, size) if isinstance(size, int) else size
  return random_weights.params_of(small(**change), size, seed=seed)


def fit(source, params, size=16, **change) -> dict:
  """Returns the parameters of a small ViT, filled from a source."""
  tables = init_from.tables_of(small(**change), image_of(size))
  return source.fit({'params': params}, *tables)['params']


def image_of(size) -> jax.ShapeDtypeStruct:
  size = (size, size) if isinstance(size, int) else size
  return jax.ShapeDtypeStruct((1, *size, 3), 'float32')


def state_of(step: int) -> State:
  return State(
    step=np.int32(step), params={'w': np.full(3, step, np.float32)}, opt_state=()
  )


def test_fit_takes_all_but_the_head(capsys):
  weights, ours = params_of(seed=1, num_classes=7), params_of()
  fitted = fit(InitFrom(weights), ours)
  flat, theirs, before = map(trees.flatten, (fitted, weights, ours))
  for name in flat:
    wanted = before if name.startswith('head/') else theirs
    np.testing.assert_array_equal(flat[name], wanted[name], err_msg=name)
  text = capsys.readouterr().out
  assert 'newly initialized: head/bias, head/kernel' in text
  assert f'loaded {len(flat) - 2} of {len(flat)} parameters' in text


def test_fit_resizes_positions_and_says_so(capsys):
  fitted = fit(InitFrom(params_of(16, seed=1)), params_of(24), 24)
  assert fitted['pos_embedding'].shape == (1, 37, 16)
  text = capsys.readouterr().out
  assert 'resized: pos_embedding (1, 17, 16) -> (1, 37, 16)' in text
  assert 'grid of tokens: a square (assumed) -> 6x6' in text


def test_fit_resizes_positions_of_rows_and_columns():
  weights = params_of(16, seed=1, posemb='learned2d')
  ours = params_of(24, posemb='learned2d')
  fitted = fit(InitFrom(weights), ours, 24)
  assert fitted['pos_rows'].shape == fitted['pos_columns'].shape == (1, 6, 8)
  for end in (0, -1):  # corners are unchanged
    a, b = fitted['pos_rows'][0, end], weights['pos_rows'][0, end]
    np.testing.assert_allclose(a, b, rtol=1e-6)


def test_fit_resizes_nothing_unless_asked():
  init = InitFrom(params_of(16), resize=None)
  with pytest.raises(UserError, match='for a grid of 4x4, the model has one of 6x6'):
    fit(init, params_of(24), 24)


def test_fit_drops_or_adds_the_class_token_position():
  token, gap = params_of(seed=1), params_of(pool='gap')
  taken = fit(InitFrom(token, leave_out=['head/.*', 'cls']), gap)
  np.testing.assert_array_equal(taken['pos_embedding'], token['pos_embedding'][:, 1:])
  back = fit(InitFrom(gap, leave_out=['head/.*', 'cls']), token)
  np.testing.assert_array_equal(back['pos_embedding'][:, 1:], gap['pos_embedding'])
  np.testing.assert_array_equal(back['pos_embedding'][:, 0], np.zeros((1, 16)))


@pytest.mark.parametrize('from_scanned', [False, True])
def test_fit_between_layouts(from_scanned):
  weights, ours = params_of(seed=1), params_of(scan=True)
  if from_scanned:
    weights, ours = trees.stack_blocks(weights), params_of()
  fitted = fit(InitFrom(weights, leave_out=[]), ours)
  assert jax.tree.structure(fitted) == jax.tree.structure(ours)
  a = trees.flatten(trees.unstack_blocks(fitted))
  b = trees.flatten(trees.unstack_blocks(weights))
  for name in a:
    np.testing.assert_array_equal(a[name], b[name])


def test_fit_lists_all_that_does_not_fit():
  weights = params_of(seed=1, mlp_dim=32)
  del weights['cls']
  weights['extra'] = np.zeros(3)
  with pytest.raises(UserError) as error:
    fit(InitFrom(weights), params_of())
  text = str(error.value)
  assert 'shape of encoder/block_1/mlp/fc1/kernel: (16, 32) in the weights' in text
  assert 'not in the weights: cls' in text and 'not in the model: extra' in text
  allowed = InitFrom(
    weights,
    leave_out=['head/.*', '.*/mlp/.*'],
    allow_missing=['cls'],
    allow_unused=['extra'],
  )
  assert 'cls' in fit(allowed, params_of())


@pytest.mark.parametrize('kind', ['npz', 'safetensors'])
def test_fit_published_files_through_a_config(kind, tmp_path):
  import safetensors.numpy

  weights = params_of(seed=1)
  path = tmp_path / f'weights.{kind}'
  if kind == 'npz':
    np.savez(path, **vision_transformer.to_npz(weights))
    reader = spec.spec(vision_transformer.read_npz, path=str(path))
  else:
    safetensors.numpy.save_file(timm_vit.to_timm(weights), path)
    reader = spec.spec(timm_vit.read_safetensors, path=str(path), num_heads=2)
  source = spec.build(spec.spec(InitFrom, weights=reader, leave_out=[]))
  fitted, expected = map(trees.flatten, (fit(source, params_of()), weights))
  for name in expected:
    np.testing.assert_array_equal(fitted[name], expected[name], err_msg=name)


def detector(**change):
  """Returns a small DETR and random variables."""
  model = random_weights.small_detr(**change)
  return model, random_weights.calm(random_weights.variables_of(model))


def classifier():
  """Returns a ResNet of the size of its backbone, with torchvision's names."""
  model = random_weights.small_resnet(num_classes=9)
  variables = random_weights.calm(random_weights.variables_of(model))
  state = torchvision_resnet.to_torchvision(variables, 'frozen')
  return variables, state | {'bn1.num_batches_tracked': np.array(7)}


def test_fit_takes_constants_too(capsys):
  _, theirs = detector()
  _, ours = detector()
  ours = jax.tree.map(np.zeros_like, ours)
  source = InitFrom(Weights(theirs))
  assert_same(source.fit(ours, {}), theirs)
  count = len(trees.flatten(theirs['constants']))
  assert f'and {count} of {count} constants' in capsys.readouterr().out
  scanned = ours | {'params': trees.stack_blocks(ours['params'])}
  got = source.fit(scanned, {})
  assert_same(trees.unstack_blocks(got['params']), theirs['params'])
  assert_same(got['constants'], theirs['constants'])
  anew = InitFrom(Weights(theirs), leave_out=['.*/norm_root/mean'])
  constants = anew.fit(ours, {})['constants']
  assert not constants['backbone']['norm_root']['mean'].any()
  assert constants['backbone']['norm_root']['var'].all()


def test_fit_says_which_constants_do_not_fit():
  _, ours = detector()
  with pytest.raises(UserError) as error:
    InitFrom(ours['params']).fit(ours, {})
  assert 'in the weights: backbone/norm_root/mean (a constant)' in str(error.value)
  params = {'params': ours['params']}
  with pytest.raises(UserError) as error:
    InitFrom(ours).fit(params, {})
  assert 'not in the model: backbone/norm_root/mean (a constant)' in str(error.value)
  kept = InitFrom(ours, allow_unused=['.*/norm.*']).fit(params, {})
  assert_same(kept, params)
  _, other = detector()
  other['constants']['backbone']['norm_root']['mean'] = np.zeros(3)
  with pytest.raises(UserError, match=r'norm_root/mean: \(4,\) in the weights'):
    InitFrom(ours).fit(other, {})


@pytest.mark.parametrize('suffix', ['.pth', '.safetensors'])
def test_a_backbone_brings_all_but_its_classifier(suffix, tmp_path):
  variables, state = classifier()
  path = tmp_path / f'resnet{suffix}'
  torch_archives.save(path, state) if suffix == '.pth' else files.write(path, state)
  found = init_from.from_backbone(str(path), at='trunk')
  assert (found.mean, found.std) == (IMAGENET_MEAN, IMAGENET_STD)
  del variables['params']['head']
  assert_same(found.params, {'trunk': variables['params']})
  assert_same(found.constants, {'trunk': variables['constants']})
  _, whole = detector()
  files.write(tmp_path / 'detr.safetensors', detr.to_facebook(whole))
  with pytest.raises(UserError, match='is a facebookresearch DETR: a backbone is a'):
    init_from.from_backbone(str(tmp_path / 'detr.safetensors'))


class TwoImages:
  """A stand-in for the training data of an experiment: the shapes of a batch."""

  batch_size = 8

  def abstract(self, signature=None):
    example = dict(
      image=np.zeros((64, 96, 3), np.uint8),
      size=np.array([64, 96], np.int32),
      boxes=np.zeros((3, 4), np.float32),
      box_labels=np.zeros(3, np.int32),
      box_mask=np.zeros(3, bool),
    )
    return base.with_rows(example, self.batch_size)


def experiment_of(model, **settings):
  optimizer = optim.adamw(0.1)
  task = set_detection.Detection(
    model=model, optimizer=optimizer, ema=optim.Ema(decay=0.5)
  )
  made = experiment.Settings(task=None, train_data=None, total_steps=1, **settings)
  mesh = meshes.make_mesh(fsdp=2, devices=jax.devices()[:2])
  return experiment.Experiment(made, task, {}, mesh, TwoImages())


def test_a_run_from_a_backbone_has_its_kernels_and_frozen_norms(tmp_path):
  variables, state = classifier()
  torch_archives.save(tmp_path / 'resnet.pth', state)
  reader = spec.spec(init_from.from_backbone, path=str(tmp_path / 'resnet.pth'))
  source = dict(weights=reader, allow_missing=['(?!backbone/).*'])
  run = experiment_of(
    random_weights.small_detr(encoder_depth=0, decoder_depth=1),
    init_from=spec.spec(InitFrom, **source),
  )
  first = run.first_state()
  like = jax.tree.map(lambda x, s: x.sharding == s, first, run.shardings)
  assert all(jax.tree.leaves(like))
  del variables['params']['head']
  assert_same(jax.device_get(first.params['backbone']), variables['params'])
  assert_same(jax.device_get(first.ema['params']['backbone']), variables['params'])
  theirs = {'constants': {'backbone': variables['constants']}}
  assert_same(jax.device_get(first.mutable), theirs)
  assert np.std(first.params['queries']) > 0.5  # newly initialized
  image = np.random.default_rng(0).normal(size=(2, 64, 96, 3)).astype(np.float32)
  inside = {
    kind: tree['backbone'] for kind, tree in jax.device_get(first.variables).items()
  }
  apply = jax.jit(random_weights.small_resnet().apply)
  assert_same(apply(inside, image), apply(variables, image))


def test_images_must_be_normalised_as_the_weights_know_them(tmp_path):
  half = classification.Classification(model=None, optimizer=None)
  own = classification.Classification(model=None, optimizer=None, mean=0.4, std=(0.2,))
  weights = Weights({}, mean=(0.4, 0.4, 0.4), std=(0.2, 0.2, 0.2))
  InitFrom(weights).check(own.images)
  with pytest.raises(UserError, match=r'mean=\(0.4, .*the task uses mean=0.5 and std'):
    InitFrom(weights).check(half.images)
  InitFrom(weights, allow_other_normalization=True).check(half.images)
  for anything in ({}, Weights({})):  # these weights have no images
    InitFrom(anything).check(own.images)
  InitFrom(weights).check(None)  # a task without images


def test_a_file_brings_its_normalisation(tmp_path):
  weights = params_of(seed=1)
  np.savez(tmp_path / 'a.npz', **vision_transformer.to_npz(weights))
  found = init_from.from_file(str(tmp_path / 'a.npz'))
  assert (found.mean, found.std) == ((0.5,) * 3, (0.5,) * 3)
  told = dict(size=(16, 16), mean=(0.1,) * 3, std=(0.2,) * 3)
  found = Preprocessing(**told)
  beside = {'preprocessing': found.to_json()}
  (tmp_path / 'a.json').write_text(json.dumps(beside))
  found = init_from.from_file(str(tmp_path / 'a.npz'))
  assert (found.mean, found.std) == ((0.1,) * 3, (0.2,) * 3)
  fitted = fit(InitFrom(found, leave_out=[]), params_of())
  for name, value in trees.flatten(weights).items():
    np.testing.assert_array_equal(trees.flatten(fitted)[name], value, err_msg=name)


@pytest.mark.parametrize('fields, mean', [({}, 0.5), ({'mean': 0.3}, 0.3)])
def test_a_run_brings_its_normalisation(fields, mean, tmp_path):
  model = spec.spec(vit.ViT, num_classes=5, **SMALL)
  fields = dict(model=model, optimizer=None, **fields)
  task = spec.spec(classification.Classification, **fields)
  with checkpoint.Checkpoints(tmp_path) as checkpoints:
    checkpoints.save(7, state_of(7), {'examples': 70}, 12.5)
  (tmp_path / 'config.json').write_text(mlc.ConfigDict(dict(task=task)).to_json())
  found = init_from.from_run(str(tmp_path))
  assert (found.mean, found.std) == (mean, 0.5)
  np.testing.assert_array_equal(found.params['w'], np.full(3, 7.0))


# Architecture


def timm_file(folder, **change):
  """Writes a ViT with 4 heads of 16 in timm's format, which lacks their number."""
  sizes = SMALL | dict(width=64, num_heads=4) | change
  flat = timm_vit.to_timm(params_of(**sizes))
  path = folder / 'a.safetensors'
  files.write(path, {k: np.ascontiguousarray(v) for k, v in flat.items()})
  return str(path), sizes


def filled(source, **sizes):
  """Fills a classifier of that model as a config does."""
  model = vit.ViT(num_classes=5, **sizes)
  task = classification.Classification(model=model, optimizer=None)
  batch = dict(image=image_of(16), label=jax.ShapeDtypeStruct((1,), np.int32))
  variables = {'params': params_of(**sizes)}
  return init_from.fill(source, variables, task, batch)


def test_another_activation_is_refused(tmp_path, capsys):
  path, sizes = timm_file(tmp_path)
  found = init_from.from_file(path, num_heads=4)
  told = (
    r"the weights need activation='gelu_exact' \(assumed; the default of timm"
    r" ViTs\), but the model has 'gelu': set task.model.activation='gelu_exact', or"
  )
  with pytest.raises(UserError, match=told):
    filled(InitFrom(found), **sizes)
  filled(InitFrom(found, allow_other_activation=True), **sizes)
  assert "from the model of the weights: activation 'gelu', not 'gelu_exact'" in (
    capsys.readouterr().out
  )
  filled(InitFrom(found), **sizes, activation='gelu_exact', dropout=0.5, epsilon=1e-5)
  out = capsys.readouterr().out
  hint = 'epsilon 1e-05, not 1e-06 (to match: --config.task.model.epsilon=1e-06)'
  assert f'different from the model of the weights: {hint}\n' in out
  (tmp_path / 'config.json').write_text('{"model_args": {"act_layer": "relu"}}')
  found = init_from.from_file(path, num_heads=4)
  with pytest.raises(UserError, match="activation='relu', but the model has 'gelu'"):
    filled(InitFrom(found), **sizes)


def test_another_number_of_heads_names_its_remedy(tmp_path):
  path, sizes = timm_file(tmp_path)
  sizes['activation'] = 'gelu_exact'
  told = (
    'does not fit the model: the model has 4 heads, the weights 1 (assumed; as in'
    ' published ViTs of width 64; neither the file nor a config.json records it): set'
    ' init_from.weights.num_heads=4 if that is what they have'
    ' (--config.init_from.weights.num_heads=4)'
  )
  with pytest.raises(UserError) as error:
    filled(InitFrom(init_from.from_file(path)), **sizes)
  assert told in str(error.value) and 'shape' not in str(error.value)
  filled(InitFrom(init_from.from_file(path, num_heads=4)), **sizes)
  (tmp_path / 'config.json').write_text('{"model_args": {"num_heads": 2}}')
  found = init_from.from_file(path)
  told = 'the model has 4 heads, the weights 2: set task.model.num_heads=2$'
  with pytest.raises(UserError, match=told):
    filled(InitFrom(found), **sizes)
  with pytest.raises(UserError, match='shape of embed/bias'):  # another width, too
    filled(InitFrom(found), **sizes | dict(width=32))


def test_a_run_tells_its_architecture(tmp_path):
  run_of(tmp_path, 16, activation='gelu_exact')
  found = init_from.from_run(str(tmp_path))
  with pytest.raises(UserError, match="the weights need activation='gelu_exact', but"):
    filled(InitFrom(found), **WIDE)


def test_architectures_of_modules_in_modules():
  trunk = resnet.ResNet(depths=(1,), num_classes=0)
  found = provenance.architecture(detrs.DETR(num_classes=3, backbone=trunk))
  assert found['backbone/depths'] == (1,) and 'num_classes' not in found
  differ = provenance.differences(
    {'backbone/depths': [2], 'patch': (8, 8), 'x': 1}, found | {'patch': [8, 8]}
  )
  assert differ == {'backbone/depths': ([2], (1,))}


# Grids

WIDE = dict(patch=8, width=8, depth=1, num_heads=2, mlp_dim=16, pool='gap')


@pytest.mark.parametrize('grid', [None, (2, 8)])
def test_positions_of_other_grids_with_equally_many_tokens_are_resized(grid):
  old, new = params_of(32, **WIDE), params_of((16, 64), 1, **WIDE)
  table = old['pos_embedding']
  assert table.shape == new['pos_embedding'].shape
  source = InitFrom(old, grid=grid, source_grid=(4, 4))
  got = fit(source, new, (16, 64), **WIDE)['pos_embedding']
  assert not np.array_equal(got, table)
  np.testing.assert_array_equal(got, positions.resize(table, (4, 4), (2, 8)))
  with pytest.raises(UserError) as error:
    fit(InitFrom(old, grid=grid), new, (16, 64), **WIDE)
  assert str(error.value) == (
    'init_from does not fit the model: pos_embedding: 16 positions may be a grid of 2x8'
    ' or 4x4: give source_grid=(rows, columns) (programs:'
    ' --source-grid=ROWSxCOLUMNS)'
  )
  with pytest.raises(UserError, match=r'init_from.grid=\(4, 4\), but .* a grid of 2x8'):
    fit(InitFrom(old, grid=(4, 4)), new, (16, 64), **WIDE)


@pytest.mark.parametrize('grid', [(2, 4), (2, 8)])
def test_positions_that_are_not_square_are_resized_from_their_own_grid(grid):
  size, large = [
    (rows * 8, columns * 8) for rows, columns in (grid, np.array(grid) * 2)
  ]
  large_grid = grid[0] * 2, grid[1] * 2
  old, new = params_of(size, **WIDE), params_of(large, 1, **WIDE)
  want = positions.resize(old['pos_embedding'], grid, large_grid)
  for told in (None, large_grid):
    source = InitFrom(old, grid=told, source_grid=grid)
    got = fit(source, new, large, **WIDE)
    np.testing.assert_array_equal(got['pos_embedding'], want)
    with pytest.raises(UserError, match=r'positions .*give .*source_grid=\(rows,'):
      fit(InitFrom(old, grid=told), new, large, **WIDE)
    with pytest.raises(UserError, match='the grid of the model is unknown'):
      InitFrom(old).fit({'params': new}, small().resizes)
  source = InitFrom(Weights({'params': old}, grid=grid))
  got = fit(source, new, large, **WIDE)
  np.testing.assert_array_equal(got['pos_embedding'], want)


def run_of(folder, size, *transforms, **change):
  """Writes a run of a small ViT on images of a size; returns its parameters."""
  config = spec.load('tests/tiny_config.py', root=experiment.Settings)
  config.task.model.update(WIDE | {'num_classes': 5} | change)
  config.train_data.transforms = [spec.spec(image.Decode), *transforms]
  params = params_of(size, 7, **WIDE | change)
  with checkpoint.Checkpoints(folder) as checkpoints:
    state = State(step=np.int32(1), params=params, opt_state=())
    checkpoints.save(1, state, {'examples': 1}, 1.0)
  (folder / 'config.json').write_text(config.to_json())
  return params


@pytest.mark.parametrize('size, large', [((16, 64), 32), ((16, 32), (32, 64))])
def test_a_run_knows_its_grid(size, large, tmp_path, capsys):
  resize = spec.spec(image.Resize, size=size)
  params = run_of(tmp_path, size, resize, spec.spec(image.Flip))
  found = init_from.from_run(str(tmp_path))
  grid = size[0] // 8, size[1] // 8
  assert found.grid == grid
  got = fit(InitFrom(found), params_of(large, **WIDE), large, **WIDE)
  grid_to = small(**WIDE).grid(image_of(large).shape[1:3])
  want = positions.resize(params['pos_embedding'], grid, grid_to)
  np.testing.assert_array_equal(got['pos_embedding'], want)
  told = f'grid of tokens: {grid[0]}x{grid[1]} -> {grid_to[0]}x{grid_to[1]}\n'
  assert told in capsys.readouterr().out
  wrong = InitFrom(found, source_grid=grid[::-1])
  with pytest.raises(UserError, match='but the weights are for a grid of 2x.*leave it'):
    fit(wrong, params_of(large, **WIDE), large, **WIDE)


@pytest.mark.parametrize(
  'transforms, size',
  [
    ([], (8, 8)),  # the size of the first image
    ([spec.spec(image.InceptionCrop, size=24)], (24, 24)),
    (
      [spec.spec(image.ResizeSmall, size=40), spec.spec(image.RandomCrop, size=32)],
      (32, 32),
    ),
    ([spec.spec(image.Resize, size=24), spec.spec(image.ReflectPad, size=4)], None),
    ([spec.spec(image.ResizeSmall, size=24)], None),
  ],
)
def test_the_size_that_a_config_trains_on(transforms, size, data_dir):
  config = spec.load('tests/tiny_config.py', root=experiment.Settings)
  config.train_data.transforms = [spec.spec(image.Decode), *transforms]
  assert provenance.trained_size(config) == size
  if size == (8, 8):
    config.train_data.source.data_dir = '/nowhere'
    assert provenance.trained_size(config) is None


def test_the_size_that_a_crop_while_decoding_makes():
  config = spec.load('tests/tiny_config.py', root=experiment.Settings)
  crop = spec.spec(image.InceptionCrop, size=16)
  config.train_data.transforms = [spec.spec(image.DecodeCrop, crop=crop)]
  assert provenance.trained_size(config) == (16, 16)
  assert provenance.trained_size({'train_data': {}}) is None


def test_a_file_that_tells_no_grid_has_a_square(tmp_path, capsys):
  weights = params_of(seed=1)
  np.savez(tmp_path / 'a.npz', **vision_transformer.to_npz(weights))
  found = init_from.from_file(str(tmp_path / 'a.npz'))
  assert (found.grid, found.tokens) == (None, 16)
  gap = params_of(24, pool='gap')  # without the position of the class token
  fit(InitFrom(found), params_of())  # also 4x4, but this grid is assumed
  assert 'grid of tokens: 4x4 (assumed) -> 4x4' in capsys.readouterr().out
  source = InitFrom(found, leave_out=['head/.*', 'cls'])
  got = fit(source, gap, 24, pool='gap')['pos_embedding']
  want = positions.resize(weights['pos_embedding'][:, 1:], (4, 4), (6, 6))
  np.testing.assert_array_equal(got, want)
  assert 'grid of tokens: 4x4 (assumed) -> 6x6' in capsys.readouterr().out
  ours = params_of((8, 32))
  with pytest.raises(UserError, match='16 positions may be a grid of 2x8 or 4x4'):
    fit(InitFrom(found), ours, (8, 32))
  found = init_from.from_file(str(tmp_path / 'a.npz'), source_grid=(2, 8))
  got = fit(InitFrom(found), ours, (8, 32))['pos_embedding']
  np.testing.assert_array_equal(got, weights['pos_embedding'])


@pytest.mark.parametrize(
  'told',
  [
    {'config.json': {'image_size': [8, 32]}},
    {'config.json': {'image_size': 384}, 'preprocessor_config.json': {'size': [8, 32]}},
    {'config.json': {'model_args': {'img_size': [8, 32]}}},
    {'config.json': {'pretrained_cfg': {'input_size': [3, 8, 32]}}},
    {'preprocessor_config.json': {'crop_size': {'height': 8, 'width': 32}}},
    {'a.json': {'preprocessing': {'size': [8, 32]}}},
  ],
)
def test_files_that_tell_the_size_of_images(told):
  found = published.describe(params_of((8, 32)), 'vit')
  found = dataclasses.replace(found, metadata=told)
  assert provenance.published_grid(found) == (2, 8)
  with pytest.raises(UserError, match=r'=\(4, 4\), but the weights are for .* of 2x8'):
    provenance.published_grid(found, (4, 4))
  wide = dataclasses.replace(found, params=params_of((8, 40)))
  with pytest.raises(UserError, match='but there are 20 positions: give their grid'):
    provenance.published_grid(wide)
  assert provenance.published_grid(wide, [2, 10]) == (2, 10)


# Renaming


def test_one_array_fills_two(capsys):
  """Checks rules that load a ViT's attention into both attentions of a TimeSformer."""
  weights, ours = params_of(seed=1), params_of()
  for i in range(2):
    block = ours['encoder'][f'block_{i}']
    block['temporal_attention'] = jax.tree.map(np.zeros_like, block['attention'])
  rules = [
    (r'encoder/(block_\d+)/attention/(.*)', r'encoder/\1/temporal_attention/\2'),
    (r'(encoder/.*/attention/.*)', r'\1'),
  ]
  got = fit(InitFrom(weights, leave_out=[], rename=rules), ours)
  block, theirs = got['encoder']['block_1'], weights['encoder']['block_1']
  assert_same(block['temporal_attention'], theirs['attention'])
  assert_same(
    block | {'temporal_attention': None}, theirs | {'temporal_attention': None}
  )
  # Without the second rule, the original names are missing.
  with pytest.raises(
    UserError, match='not in the weights: encoder/block_0/attention/key'
  ):
    fit(InitFrom(weights, leave_out=[], rename=rules[:1]), ours)


@pytest.mark.parametrize(
  'rules, words',
  [
    (
      [('encodr/(.*)', r'\1')],
      r"'encodr/\(.\*\)' matches no name .* are encod",
    ),
    ([('encoder', 'a')], "'encoder' matches no name"),  # matches only a part
    (
      [('(.*)kernel', r'\2')],
      r'is not a regular expression and a template \(inv',
    ),
    ([('(', '')], 'is not a regular expression and a template'),
    ([('a', 'b', 'c')], 'is not a regular expression and a template'),
    ([('encoder/block_./(.*)', r'b/\1')], 'block_0/.* and encoder/block_1/.* both bec'),
    (
      [('cls', 'pos_embedding')],
      'cls and pos_embedding of the weights both become|pos',
    ),
  ],
)
def test_rules_that_do_not_work(rules, words):
  with pytest.raises(UserError, match=words):
    fit(InitFrom(params_of(), rename=rules), params_of())


NAME = st.text('ab/', min_size=1, max_size=4)
RULE = st.sampled_from(
  [('(.*)', r'x\1'), ('(.*)', r'\1'), ('a(.*)', r'\1y'), ('(.*)b', r'z\1'), ('a', 'q')]
)


@settings(max_examples=200, deadline=None)
@given(st.sets(NAME, min_size=1), st.lists(RULE), st.randoms())
def test_the_order_of_rules_does_not_matter(names, rules, random):
  def outcome(rules):
    try:
      return init_from.renamed(sorted(names), rules)
    except UserError:
      return None

  shuffled = list(rules)
  random.shuffle(shuffled)
  assert outcome(shuffled) == outcome(rules)
  if not rules:
    assert outcome(rules) == {name: name for name in names}


# Several sources, and frozen networks


def parts_of(params, *names):
  return {name: params[name] for name in names}


def test_several_sources(capsys):
  a, b, ours = params_of(seed=1), params_of(seed=2, num_classes=7), params_of()
  body = parts_of(a, 'embed', 'cls', 'pos_embedding')
  sources = [
    InitFrom(body, leave_out=[]),
    InitFrom(parts_of(b, 'encoder', 'head')),
  ]
  tables = init_from.tables_of(small(), image_of(16))
  got = init_from.fitted(sources, {'params': ours}, *tables)['params']
  assert_same(got, body | {'encoder': b['encoder'], 'head': ours['head']})
  text = capsys.readouterr().out
  assert 'source 1: loaded 4 of' in text and 'source 2: loaded' in text
  assert 'newly initialized: head/bias, head/kernel\n' in text
  sources[0] = InitFrom(parts_of(a, 'embed', 'cls'), leave_out=[])
  with pytest.raises(UserError, match='model: not in the weights: pos_embedding\nName'):
    init_from.fitted(sources, {'params': ours}, *tables)
  sources[0] = InitFrom(body | parts_of(a, 'encoder'), leave_out=[])
  twice = 'source 2: encoder/block_0/attention/key/bias is filled by source 1 already'
  with pytest.raises(UserError, match=twice):
    init_from.fitted(sources, {'params': ours}, *tables)


def test_a_config_with_several_sources():
  task = classification.Classification(model=small(), optimizer=None)
  a = params_of(seed=1)
  config = mlc.ConfigDict(
    dict(
      init_from=[
        spec.spec(InitFrom, weights=parts_of(a, 'embed', 'cls', 'pos_embedding')),
        spec.spec(InitFrom, weights=parts_of(a, 'encoder'), rename=[('(.*)', r'\1')]),
      ]
    )
  )
  sources = spec.build(spec.in_steps(config, 10, 1)['init_from'])
  variables, batch = {'params': params_of()}, {'image': image_of(16)}
  got = init_from.fill(sources, variables, task, batch)['params']
  assert_same(got, a | {'head': variables['params']['head']})
  with pytest.raises(UserError, match='init_from is Weights, not an InitFrom'):
    init_from.fill(Weights({}), variables, task, batch)


def test_frozen_networks_take_everything():
  teacher = small()
  like = jax.eval_shape(teacher.init, jax.random.key(0), image_of(24))
  tables = init_from.tables_of(teacher, image_of(24))
  weights = params_of(seed=1)
  got = init_from.complete(weights, like, *tables)['params']
  want = positions.resize(weights['pos_embedding'], (4, 4), (6, 6), 1)
  assert_same(got, weights | {'pos_embedding': want})
  assert_same(got, init_from.complete(InitFrom(weights), like, *tables)['params'])
  wrong = params_of(seed=1, num_classes=100) | {'extra': np.zeros(2)}
  del wrong['cls']
  with pytest.raises(UserError) as error:
    init_from.complete(wrong, like, *tables, what='the teacher of 100 classes')
  lines = str(error.value).split('\n  ')
  assert lines[0] == 'the teacher of 100 classes do not fit the model:'
  assert sorted(lines[1:]) == [
    'not in the model: extra',
    'not in the weights: cls',
    'shape of head/bias: (100,) in the weights, (5,) in the model',
    'shape of head/kernel: (16, 100) in the weights, (16, 5) in the model',
  ]


def frozen(source, size=16, mean=0.5, classes=None) -> dict:
  """Returns the variables of a small frozen ViT for images of this size."""
  shown = Normalization(mean, 0.5)
  network = Network(small(), lambda batch: (batch['image'],), None, shown, frozen=True)
  like = jax.eval_shape(small().init, jax.random.key(0), image_of(size))
  batch = {'image': image_of(size)}
  return init_from.complete_network(source, network, like, batch, 'teacher', classes)


def test_a_frozen_network_sees_the_images_that_it_was_trained_with():
  weights = Weights({'params': params_of(seed=1)}, mean=0.4, std=0.5)
  with pytest.raises(UserError, match='mean=0.4 .* set teacher_images of the task to'):
    frozen(weights)
  assert_same(frozen(weights, mean=0.4), weights.variables)


def test_positions_of_a_frozen_network_are_resized_only_if_asked():
  weights = Weights({'params': params_of(seed=1)}, grid=(4, 4))
  assert_same(frozen(weights), weights.variables)
  with pytest.raises(UserError) as error:
    frozen(weights, size=24)
  text = 'for a grid of 4x4, the model has one of 6x6, and resizing is turned off; give'
  assert text in str(error.value) and '\n' not in str(error.value)
  assert 'images of the size that it was trained with, or' in str(error.value)
  with pytest.raises(UserError, match='for a grid of 4x4, the model has one of 2x8'):
    frozen(weights, size=(8, 32))  # equally many tokens
  got = frozen(InitFrom(weights), size=24)['params']['pos_embedding']
  want = positions.resize(weights.params['pos_embedding'], (4, 4), (6, 6), 1)
  np.testing.assert_array_equal(got, want)


def test_a_frozen_network_of_a_file_has_the_classes_of_the_data(tmp_path):
  params, names = params_of(seed=1), ('ant', 'bee', 'cat', 'dog', 'elk')
  folder = tmp_path / 'hub'
  folder.mkdir()
  arrays = timm_vit.to_timm(params)
  torch_archives.save(folder / 'pytorch_model.bin', arrays)
  size = dict(
    input_size=[3, 16, 16],
    mean=[0.5] * 3,
    std=[0.5] * 3,
    interpolation='bicubic',
    crop_pct=1.0,
  )
  config = dict(architecture='vit_small', label_names=names, pretrained_cfg=size)
  (folder / 'config.json').write_text(json.dumps(config))
  weights = init_from.from_file(str(folder), num_heads=2)
  assert weights.label_names == names
  allowed = InitFrom(weights, allow_other_activation=True)
  for same in (names, ('ant, insect', *names[1:]), tuple('01234')):
    frozen(allowed, classes=dict(enumerate(same)))
  with pytest.raises(
    UserError, match="in another order than in the weights: 'ant', 'b"
  ):
    frozen(allowed, classes=dict(enumerate(reversed(names))))
  with pytest.raises(
    UserError, match="not those of the weights; new are 'yak'; missing"
  ):
    frozen(allowed, classes=dict(enumerate(('yak', *names[1:]))))


def test_statistics_of_batch_norm_are_loaded(capsys):
  model = random_weights.small_resnet(norm='batch', num_classes=5)
  old, new = (
    random_weights.calm(random_weights.variables_of(model, seed=seed))
    for seed in (0, 1)
  )
  assert 'batch_stats' in old
  got = InitFrom(old, leave_out=[]).fit(new, {})
  assert_same(got, old)
  assert f'and {len(trees.flatten(old["batch_stats"]))} of' in capsys.readouterr().out
  # Frozen norms fill trained ones: their arrays have the same names.
  frozen = random_weights.variables_of(random_weights.small_resnet(num_classes=5))
  got = InitFrom(frozen, leave_out=[]).fit(new, {})
  theirs = frozen['constants']['norm_root']
  np.testing.assert_array_equal(got['params']['norm_root']['scale'], theirs['scale'])
  np.testing.assert_array_equal(got['batch_stats']['norm_root']['var'], theirs['var'])


def test_a_prefix_and_assumptions_are_printed(tmp_path, capsys):
  weights = params_of(seed=1)
  state = timm_vit.to_timm(weights)
  state = {f'module.{name}': array for name, array in state.items()}
  torch_archives.save(tmp_path / 'a.pth', {'model': state})
  found = init_from.from_file(str(tmp_path / 'a.pth'), num_heads=2)
  assert_same(found.params, weights)
  told = capsys.readouterr().out
  assert "assumed   names without the prefix 'module.'" in told and 'gelu_exact' in told
