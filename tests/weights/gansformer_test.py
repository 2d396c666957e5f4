"""Tests of the reader of published generators, on golden parameters in their names."""

import jax
import numpy as np
import pytest

from big_vision_like.errors import UserError
from big_vision_like.models import discriminator, gansformer
from big_vision_like.weights import files, published, tree
from big_vision_like.weights import gansformer_names as names

GOLDEN = 'tests/golden/gansformer_duplex16.npz'


@pytest.fixture(scope='module')
def state():
  """Returns the arrays of a generator and of a discriminator, in published names."""
  with np.load(GOLDEN) as file:
    flat = {
      name.split('/', 1)[1]: file[name]
      for name in file.files
      if name.startswith(('param/', 'buffer/'))
    }
  return [
    {name[2:]: x for name, x in flat.items() if name.startswith(start)}
    for start in ('G.', 'D.')
  ]


@pytest.mark.parametrize('suffix', ['.npz', '.safetensors'])
def test_a_file_becomes_a_generator(state, tmp_path, suffix):
  path = tmp_path / f'ffhq{suffix}'
  if suffix == '.npz':
    np.savez(path, **state[0])
  else:
    files.write(path, state[0])
  found = published.read(path)
  assert found.source == 'dorarad/gansformer' and found.channels == 3
  want = dict(
    resolution=16,
    components=3,
    latent_width=8,
    channel_base=128,
    channel_max=16,
    style=True,
  )
  assert want.items() <= found.architecture.items()
  assert found.architecture['attention']['duplex']
  assert any('modulated (style=True)' in text for text in found.assumed)
  assert found.images('ffhq').size == (16, 16)
  assert isinstance(found.model, gansformer.Generator)
  again = names.to_generator(found.variables)
  for name, array in again.items():
    np.testing.assert_array_equal(array, state[0][name], err_msg=name)
  assert set(again) == set(names.kept(state[0]))


def test_all_names_are_inverted():
  """Checks a generator with many options, and a discriminator."""
  generator = gansformer.Generator(
    8,
    components=3,
    latent_width=8,
    channel_base=64,
    stem='latent',
    style=False,
    architecture='skip',
    mapping=dict(residual=False, layers=3, attention=False),
    attention=dict(gate_from=True, gate_to=True, integration='both'),
  )
  judge = discriminator.Discriminator(8, channel_base=64)
  cases = [
    (generator, (1, 4, 8), names.to_generator, names.generator),
    (judge, (1, 8, 8, 3), names.to_discriminator, names.discriminator),
  ]
  rng = np.random.default_rng(0)
  for model, shape, write, read in cases:
    like = jax.eval_shape(model.init, jax.random.key(0), np.zeros(shape, np.float32))
    ours = jax.tree.map(lambda x: rng.normal(size=x.shape).astype(np.float32), like)
    back = tree.flatten(read(write(ours)))
    for name, array in tree.flatten(ours).items():
      np.testing.assert_array_equal(back[name], array, err_msg=name)


def test_the_discriminator_is_read(state):
  ours = names.discriminator(state[1])
  again = names.to_discriminator(ours)
  for name, array in state[1].items():
    np.testing.assert_array_equal(again[name], array, err_msg=name)


def test_files_that_do_not_fit_are_refused(state, tmp_path):
  path = tmp_path / 'x.npz'
  np.savez(path, **state[0], **{'synthesis.b16.other.weight': np.zeros(3)})
  with pytest.raises(UserError, match='unknown synthesis.b16.other.weight'):
    published.read(path)
  name = 'synthesis.b8.conv0.affine.bias'
  np.savez(path, **(state[0] | {name: np.zeros(3, np.float32)}))
  with pytest.raises(UserError, match=r'do not fit: .*b8/conv0/affine/bias \(3,\)'):
    published.read(path)
  np.savez(path, **{k: x for k, x in state[0].items() if k != name})
  with pytest.raises(UserError, match='b8/conv0/affine/bias'):
    published.read(path)
