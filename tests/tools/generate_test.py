"""Tests of generated pictures, with the golden generator of 16x16 images."""

import io

import numpy as np
import pytest
from PIL import Image

from big_vision_like.errors import UserError
from tools import generate


@pytest.fixture(scope='module')
def weights(tmp_path_factory):
  path = tmp_path_factory.mktemp('weights') / 'golden.npz'
  with np.load('tests/golden/gansformer_duplex16.npz') as file:
    arrays = {
      name.split('/G.')[1]: file[name]
      for name in file.files
      if name.startswith(('param/G.', 'buffer/G.'))
    }
  np.savez(path, **arrays)
  return str(path)


def test_pictures_of_weights(weights, tmp_path, capsys):
  words = ['--seeds=0-2', '--truncation=1,0', '--steps=2', '--each']
  assert generate.main([f'--weights={weights}', f'--out={tmp_path}', *words]) == 0
  assert capsys.readouterr().out.startswith('3 seeds: wrote samples.png')
  pictures = {
    path.name: Image.open(io.BytesIO(path.read_bytes())) for path in tmp_path.iterdir()
  }
  assert set(pictures) == {
    *('samples.png', 'attention.png', 'interpolation.gif', 'swapped.png'),
    *('seed0.png', 'seed1.png', 'seed2.png'),
  }
  assert pictures['interpolation.gif'].n_frames == 6
  singles = [np.asarray(pictures[f'seed{i}.png']) for i in range(3)]
  assert singles[0].shape[:2] == (16, 16)
  assert np.any(singles[0] != singles[1])
  # Without distance to the average, all seeds look alike.
  synthesis = generate.generator(weights, None)
  same = synthesis.images(synthesis.styles(2), 0.0)['image']
  np.testing.assert_allclose(same[0], same[1], atol=1e-5)


def test_words_are_parsed():
  assert generate.seeds_of('3,7,20-22') == [3, 7, 20, 21, 22]
  assert generate.values_of('1,0.5') == [1.0, 0.5]
  for text in ('a', '3-', '5-2', '0-999'):
    with pytest.raises(UserError, match='--seeds'):
      generate.seeds_of(text)
  with pytest.raises(UserError, match='--truncation=x is not a list of numbers'):
    generate.values_of('x')
