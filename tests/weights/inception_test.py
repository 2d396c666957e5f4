"""Tests of the reader of Inception's published weights."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from big_vision_like.errors import UserError
from big_vision_like.models import inception
from big_vision_like.weights import files, published, tree
from big_vision_like.weights import inception as names
from big_vision_like.weights.families import inception as family


@pytest.fixture(scope='module')
def state():
  """Returns random arrays in pytorch-fid's names, with an eighth of the channels."""
  model = inception.Inception(width=0.125)
  image = jnp.zeros((1, 75, 75, 3))
  like = jax.eval_shape(model.init, jax.random.key(0), image)
  rng = np.random.default_rng(0)
  variables = jax.tree.map(lambda x: rng.uniform(0.5, 1, x.shape), like)
  return names.to_pytorch_fid(variables, family.places())


def saved(path, state):
  files.write(path, state)
  return str(path)


def test_a_file_becomes_a_model(state, tmp_path):
  found = published.read(saved(tmp_path / 'x.safetensors', state))
  assert found.source == 'pytorch-fid Inception' and found.num_classes == 1008
  assert found.architecture == {'width': 0.125} and found.channels == 3
  image = jnp.zeros((1, 75, 75, 3))
  like = jax.eval_shape(found.model.init, jax.random.key(0), image)
  flat, want = tree.flatten(found.variables), tree.flatten(like)
  assert {k: x.shape for k, x in flat.items()} == {k: x.shape for k, x in want.items()}
  again = names.to_pytorch_fid(found.variables, family.places())
  for name, array in state.items():
    np.testing.assert_array_equal(again[name], array.astype(np.float32), err_msg=name)
  images = found.images('x')
  assert images.size == (299, 299) and images.scores == 'softmax'


def test_their_names():
  assert 'Mixed_7c.branch3x3dbl_3b.bn.running_var' in names.table(family.places(), True)
  counted = len(names.table(family.places(), head=True))
  assert counted == 94 * 5 + 2  # convolutions and norms, and the head


def test_torchvision_s_classifier_is_refused(state, tmp_path):
  others = state | {'fc.weight': state['fc.weight'][:1000], 'fc.bias': np.zeros(1000)}
  with pytest.raises(UserError, match='1,000 classes are those of torchvision, whose'):
    published.read(saved(tmp_path / 'x.safetensors', others))


def test_other_shapes_and_names_are_refused(state, tmp_path):
  name = 'Mixed_6b.branch7x7_2.conv.weight'
  turned = state | {name: state[name].swapaxes(2, 3)}
  with pytest.raises(UserError, match=r'do not fit: .*branch7x7_2/conv/kernel'):
    published.read(saved(tmp_path / 'x.safetensors', turned))
  missing = {k: x for k, x in state.items() if k != name}
  with pytest.raises(UserError, match='branch7x7_2'):
    published.read(saved(tmp_path / 'y.safetensors', missing))
