"""predict.py on tiny weights, a run, and pictures of all kinds."""

import re

import cv2
import numpy as np
import pages
import pytest
import random_weights
from PIL import Image

from big_vision_like import experiment
from big_vision_like.weights import bit, files, vision_transformer

[tool] = pages.load_tools('predict')


@pytest.fixture
def pictures(tmp_path):
  rng = np.random.default_rng(0)
  rgb = rng.integers(0, 256, (30, 40, 3), dtype=np.uint8)
  Image.fromarray(rgb).save(tmp_path / 'a.png')
  Image.fromarray(rgb).convert('CMYK').save(tmp_path / 'a.jpg')
  Image.fromarray(rgb).convert('L').save(tmp_path / 'grey.png')
  (tmp_path / 'broken.jpg').write_bytes(b'no image')
  return tmp_path


@pytest.fixture
def predict(capsys, monkeypatch):
  monkeypatch.setattr(experiment, 'set_up_jax', lambda: None)

  def call(*words):
    status = tool.main([*map(str, words)])
    told = capsys.readouterr()
    return status, told.out, told.err

  return call


@pytest.fixture
def weights(tmp_path):
  def write(**other):
    params = random_weights.small_vit(**other)
    files.write(tmp_path / 'w.npz', vision_transformer.to_npz(params))
    return f'--weights={tmp_path}/w.npz'

  return write


def test_pictures_are_named_and_shown(predict, pictures, weights, tmp_path):
  (tmp_path / 'names.txt').write_text('ape\nbee\ncat\ndog\nelk\n')
  images = [pictures / name for name in ('a.png', 'a.jpg', 'grey.png')]
  words = f'--labels={tmp_path}/names.txt', f'--out={tmp_path}/out', '--top=2'
  status, out, err = predict(weights(), *images, *words)
  assert (status, err) == (0, '')
  assert '24x24, whatever the aspect ratio, bilinear; mean 0.5, std 0.5' in out
  assert sum(out.count(name) for name in ('ape', 'bee', 'cat', 'dog', 'elk')) == 6
  for name in ('a', 'a-2', 'grey'):
    shown = cv2.imread(str(tmp_path / f'out/{name}.png'))
    assert shown.shape == (384, 3 * 384 + 2 * 8, 3)
  # The input, at the model's size, is the left one.
  seen = cv2.imread(str(tmp_path / 'out/a.png'))[8::16, 8:384:16]
  want = cv2.resize(cv2.imread(str(images[0])), (24, 24))
  np.testing.assert_array_equal(seen, want)


@pytest.mark.parametrize('other', [dict(pool='gap'), dict(pool='map')])
def test_another_size_and_other_pools(other, predict, pictures, weights, tmp_path):
  words = '--image-size=16x40', f'--out={tmp_path}/out'
  status, _, err = predict(weights(**other), pictures / 'a.png', *words)
  assert (status, err) == (0, '')
  shown = cv2.imread(str(tmp_path / 'out/a.png'))
  assert shown.shape == (9 * 16, 3 * 9 * 40 + 2 * 8, 3)


def test_what_cannot_be_read_does_not_stop_the_others(predict, pictures, weights):
  images = pictures / 'broken.jpg', pictures / 'a.png', pictures / 'gone.jpg'
  status, out, err = predict(weights(), *images)
  assert status == 1 and 'a.png' in out
  first, second = err.splitlines()
  assert first.endswith('broken.jpg is not a readable JPEG, PNG or WebP')
  assert second.endswith('gone.jpg cannot be read: No such file or directory')


def test_a_resnet_has_no_attention_to_draw(predict, pictures, tmp_path):
  params = random_weights.small_bit(depths=(1,))
  files.write(tmp_path / 'R_064.npz', bit.to_big_transfer(params))
  words = f'--weights={tmp_path}/R_064.npz', f'--out={tmp_path}/out'
  status, out, err = predict(*words, pictures / 'a.png')
  assert (status, err) == (0, '')
  assert 'none: a BiT has no attention to draw' in out and '64x64' in out
  assert not (tmp_path / 'out').exists()


@pytest.mark.parametrize(
  'words, message',
  [
    (['--top=0'], '--top=0 is not positive'),
    (['--image-size=8x8x8'], '--image-size=8x8x8 is neither 384 nor 384x512'),
    (['--labels=LABELS'], '--labels=.* has 1 lines, the model 5 classes'),
    (['--labels=gone.txt'], 'gone.txt is not a text file of names'),
    (['--out=LABELS'], '--out=.*names.txt is no folder: File exists'),
    (['--image-size=20'], 'images of 20x20 do not divide into patches of 8x8'),
  ],
)
def test_bad_words(words, message, predict, pictures, weights, tmp_path):
  (tmp_path / 'names.txt').write_text('ape\n')
  words = [word.replace('LABELS', f'{tmp_path}/names.txt') for word in words]
  status, _, err = predict(weights(), pictures / 'a.png', *words)
  assert status == 1
  assert re.search(message, err), err
