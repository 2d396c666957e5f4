"""Tests of networks that compare images, with small weights of the published kinds."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from big_vision_like import spec, train
from big_vision_like.errors import UserError
from big_vision_like.evals import generation
from big_vision_like.models import inception, vgg
from big_vision_like.run import features
from big_vision_like.weights import files
from big_vision_like.weights import inception as inception_names
from big_vision_like.weights import vgg as vgg_names
from big_vision_like.weights.families import inception as family

GREY = np.arange(2 * 12 * 10, dtype=np.uint8).reshape(2, 12, 10, 1)


def random(like):
  rng = np.random.default_rng(0)
  return jax.tree.map(
    lambda x: rng.uniform(0.01, 0.3, x.shape).astype(np.float32), like
  )


@pytest.fixture(scope='module')
def inception_file(tmp_path_factory):
  model = inception.Inception(width=0.125)
  like = jax.eval_shape(model.init, jax.random.key(0), jnp.zeros((1, 75, 75, 3)))
  variables = random(like)
  path = tmp_path_factory.mktemp('inception') / 'fid.safetensors'
  files.write(path, inception_names.to_pytorch_fid(variables, family.places()))
  return str(path), model, variables


def test_inception_resizes_as_tensorflow_1_does(inception_file):
  path, model, variables = inception_file
  network = features.Inception(path)
  got = jax.jit(network.outputs)(network.variables, GREY)
  # Bilinear weights around i * size / 299, written out.
  wide = np.repeat(GREY.astype(np.float64), 3, axis=-1)
  for axis, size in (1, 12), (2, 10):
    place = np.arange(299) * size / 299
    low = np.floor(place).astype(int)
    high, share = np.minimum(low + 1, size - 1), place - low
    share = share.reshape([-1 if a == axis else 1 for a in range(4)])
    wide = wide.take(low, axis) * (1 - share) + wide.take(high, axis) * share
  image = ((wide - 128) / 128).astype(np.float32)
  want = jax.jit(model.apply)(variables, image)
  scale = np.abs(want['pre_logits']).max()
  np.testing.assert_allclose(got['features'], want['pre_logits'], atol=1e-4 * scale)
  scale = np.abs(want['logits_unbiased']).max()
  np.testing.assert_allclose(got['logits'], want['logits_unbiased'], atol=1e-4 * scale)


def test_vgg_has_the_units_of_its_second_layer(tmp_path):
  model = vgg.VGG((1, 1), num_classes=5, channels=(3, 4), hidden=6)
  variables = random(
    jax.eval_shape(model.init, jax.random.key(0), jnp.zeros((1, 32, 32, 3)))
  )
  path = tmp_path / 'vgg.safetensors'
  files.write(path, vgg_names.to_torchvision(variables['params']))
  network = features.Vgg16(str(path))
  got = jax.jit(network.outputs)(network.variables, np.zeros((2, 20, 20, 3), np.uint8))
  black = -np.divide((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
  image = np.broadcast_to(black, (2, 224, 224, 3)).astype(np.float32)
  want = jax.jit(model.apply)(variables, image)
  np.testing.assert_allclose(got['features'], want['pre_logits'], rtol=1e-4, atol=1e-4)
  assert got.keys() == {'features'} and got['features'].shape == (2, 6)
  bare = {k: x for k, x in vgg_names.to_torchvision(variables['params']).items()}
  bare = {k: x for k, x in bare.items() if k.startswith('features')}
  files.write(path, bare)
  with pytest.raises(UserError, match='no fully connected layers'):
    features.Vgg16(str(path)).variables  # noqa: B018 - reads them


def test_weights_of_another_kind_are_refused(inception_file):
  path, *_ = inception_file
  with pytest.raises(UserError, match='is a pytorch-fid Inception, not weights of vgg'):
    features.Vgg16(path).variables  # noqa: B018 - reads them


def test_fingerprints_are_those_of_the_weights(inception_file):
  path, *_ = inception_file
  one, again = features.Inception(path), features.Inception(path)
  assert one.fingerprint() == again.fingerprint()
  changed = jax.tree.map(np.copy, one.variables)
  changed['params']['head']['bias'][0] += 1
  other = features.Inception(path)
  other.__dict__['_found'] = type('Found', (), {'variables': changed})
  assert other.fingerprint() != one.fingerprint()


def test_missing_weights_are_told_before_a_run():
  (told,) = features.Inception('weights/none.pth').problems()
  assert told.startswith('weights/none.pth, the weights of Inception, does not exist')
  (told,) = spec.build(features.digits16('runs/none')).problems()
  assert told.endswith(
    'run python -m big_vision_like.train --config=configs/vgg/digits16.py'
    ' --workdir=runs/none'
  )
  with pytest.raises(UserError, match='runs/none has no checkpoint of a classifier'):
    spec.build(features.digits16('runs/none')).variables  # noqa: B018 - reads them


def test_a_run_of_ours_compares_digits(data_dir, tmp_path, monkeypatch):
  monkeypatch.setenv('HOME', str(tmp_path))
  config = spec.load('configs/vgg/digits16.py')
  config.update(total_steps=130, evals={})
  train.train(config, tmp_path / 'run')
  node = features.digits16(str(tmp_path / 'run'))
  network = spec.build(node)
  assert network.problems() == []
  from big_vision_like.data import generation as data

  test = spec.build(data.digits16().eval_input(64, 'test', workers=0))
  batch = next(test.epoch())
  got = jax.jit(network.outputs)(network.variables, batch['image'])
  assert got['features'].shape == (64, 32) and got['logits'].shape == (64, 10)

  def copies(state, batch, key):
    return {'image': batch['image']}

  def noise(state, batch, key):
    return {'image': jax.random.uniform(key, batch['image'].shape, minval=-1)}

  # The first samples are real digits themselves; noise is further away.
  evaluator = generation.Fid(data=test, network=network, samples=64, confident=0.5)
  near, far = (evaluator.run(p, None).scalars['fid'] for p in (copies, noise))
  assert near < 0.2 * far


def test_trials_need_no_weights():
  for kind in (features.Inception, features.Vgg16, features.Classifier):
    network = spec.build(kind.stand_in({}))
    got = network.outputs(network.variables, GREY)
    assert got['features'].shape == (2, 8) and got['logits'].shape == (2, 10)
    assert np.abs(got['features'][0] - got['features'][1]).max() > 0
