"""How weights are read and fitted to a model."""

import json

import jax
import ml_collections as mlc
import numpy as np
import pytest
import random_weights
import torch_archives
from random_weights import assert_same

from big_vision_like import checkpoint, experiment, init_from, optim, spec
from big_vision_like import mesh as meshes
from big_vision_like.data import preprocessing
from big_vision_like.data.preprocessing import IMAGENET_MEAN, IMAGENET_STD
from big_vision_like.errors import UserError
from big_vision_like.init_from import InitFrom, Weights
from big_vision_like.models import vit
from big_vision_like.tasks import classification, detection
from big_vision_like.tasks.task import State
from big_vision_like.weights import (
  detr,
  files,
  timm_vit,
  torchvision_resnet,
  vision_transformer,
)
from big_vision_like.weights import tree as trees

SMALL = dict(patch=4, width=16, depth=2, num_heads=2, mlp_dim=24)


def small(num_classes=5, **change) -> vit.ViT:
  return vit.ViT(num_classes=num_classes, **SMALL | change)


def params_of(size=16, seed=0, **change) -> dict:
  """Random parameters of a small ViT, for images of a side or height and width."""
  size = (size, size) if isinstance(size, int) else size
  return random_weights.params_of(small(**change), size, seed=seed)


def fit(source, params, size=16, **change) -> dict:
  """The parameters of a small ViT with those of a source."""
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
  assert 'starting anew: head/bias, head/kernel' in text
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
  for end in (0, -1):  # corners stay where they are
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
  """A small DETR, and random variables."""
  model = random_weights.small_detr(**change)
  return model, random_weights.calm(random_weights.variables_of(model))


def classifier():
  """A ResNet of the size of its backbone, in torchvision's names."""
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
  """Stands for the training data of an experiment: the shapes of a batch."""

  batch_size = 8

  def example(self, shape=None):
    return dict(
      image=np.zeros((64, 96, 3), np.uint8),
      size=np.array([64, 96], np.int32),
      boxes=np.zeros((3, 4), np.float32),
      box_labels=np.zeros(3, np.int32),
      box_mask=np.zeros(3, bool),
    )


def experiment_of(model, **settings):
  optimizer = optim.adamw(0.1)
  task = detection.Detection(model=model, optimizer=optimizer, ema=optim.Ema(decay=0.5))
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
  assert np.std(first.params['queries']) > 0.5  # begun anew
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
  with pytest.raises(UserError, match=r'mean=\(0.4, .*does it with mean=0.5 and std'):
    InitFrom(weights).check(half.images)
  InitFrom(weights, allow_other_normalization=True).check(half.images)
  for anything in ({}, Weights({})):  # which know no images
    InitFrom(anything).check(own.images)
  InitFrom(weights).check(None)  # a task of no images


def test_a_file_brings_its_normalisation(tmp_path):
  weights = params_of(seed=1)
  np.savez(tmp_path / 'a.npz', **vision_transformer.to_npz(weights))
  found = init_from.from_file(str(tmp_path / 'a.npz'))
  assert (found.mean, found.std) == ((0.5,) * 3, (0.5,) * 3)
  told = dict(size=(16, 16), mean=(0.1,) * 3, std=(0.2,) * 3)
  found = preprocessing.Preprocessing(**told)
  beside = {'preprocessing': found.to_json()}
  (tmp_path / 'a.json').write_text(json.dumps(beside))
  found = init_from.from_file(str(tmp_path / 'a.npz'))
  assert (found.mean, found.std) == ((0.1,) * 3, (0.2,) * 3)
  fitted = fit(InitFrom(found, leave_out=[]), params_of())
  for name, value in trees.flatten(weights).items():
    np.testing.assert_array_equal(trees.flatten(fitted)[name], value, err_msg=name)


@pytest.mark.parametrize('fields, mean', [({}, 0.5), ({'mean': 0.3}, 0.3)])
def test_a_run_brings_its_normalisation(fields, mean, tmp_path):
  task = spec.spec(classification.Classification, **fields)
  with checkpoint.Checkpoints(tmp_path) as checkpoints:
    checkpoints.save(7, state_of(7), {'examples': 70}, 12.5)
  (tmp_path / 'config.json').write_text(mlc.ConfigDict(dict(task=task)).to_json())
  found = init_from.from_run(str(tmp_path))
  assert (found.mean, found.std) == (mean, 0.5)
  np.testing.assert_array_equal(found.params['w'], np.full(3, 7.0))
