"""Tests of predict.py on tiny weights, also of detectors, and on any pictures."""

import csv
import importlib.util
import json
import pathlib
import re

import cv2
import jax
import numpy as np
import pytest
import random_weights
from PIL import Image

from big_vision_like import cli
from big_vision_like.inference import imagenet_numbers, imagenet_words, loading
from big_vision_like.inference import predict as classes
from big_vision_like.inference import predict_detection as detection
from big_vision_like.inference.classes import Preprocessing
from big_vision_like.inference.objects import Found
from big_vision_like.models import vit
from big_vision_like.viz import captions
from big_vision_like.weights import bit, files, vision_transformer
from tools import predict as tool


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
  monkeypatch.setattr(cli, 'set_up_jax', lambda: None)

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
    assert shown.shape == (28 + 384, 3 * 384 + 2 * 8, 3)
    assert (shown[:28] < 100).any()  # text
  # The input, at the model's size, is on the left.
  seen = cv2.imread(str(tmp_path / 'out/a.png'))[28 + 8 :: 16, 8:384:16]
  want = cv2.resize(cv2.imread(str(images[0])), (24, 24))
  np.testing.assert_array_equal(seen, want)


def test_names_scores_and_paths_stay_whole(predict, pictures, weights, tmp_path):
  (tmp_path / 'names.txt').write_text('ape\nbee\ncat\ndog\n' + 'a long name ' * 9)
  folder = tmp_path / ('a long folder name/' * 5)
  folder.mkdir(parents=True)
  image = (pictures / 'a.png').rename(folder / 'a.png')
  words = f'--labels={tmp_path}/names.txt', f'--csv={tmp_path}/p.csv'
  status, out, err = predict(weights(), image, *words, f'--json={tmp_path}/p.json')
  assert (status, err) == (0, '')
  title, _, path, *lines, _, _ = out.splitlines()[-10:]
  assert title.split() == ['class', 'score'] and path == str(image)
  [found] = json.loads((tmp_path / 'p.json').read_text())
  assert found['image'] == str(image) and len(found['predictions']) == 5
  for line, one in zip(lines, found['predictions'], strict=True):
    name, score = re.fullmatch(r'  (.+?) {3,}([\d.]+) %', line).groups()
    assert name == one['class'].strip()
    assert float(score) == pytest.approx(100 * one['score'], abs=0.051)
  assert sum(one['score'] for one in found['predictions']) == pytest.approx(1)
  with (tmp_path / 'p.csv').open() as file:
    rows = list(csv.DictReader(file))
  assert [row['class'] for row in rows] == [x['class'] for x in found['predictions']]
  assert [int(row['label']) for row in rows] == [
    x['label'] for x in found['predictions']
  ]
  assert rows[0].keys() == {'image', 'label', 'class', 'score'}


@pytest.mark.parametrize('other', [dict(pool='gap'), dict(pool='map')])
def test_another_size_and_other_pools(other, predict, pictures, weights, tmp_path):
  words = '--image-size=16x40', f'--out={tmp_path}/out'
  status, _, err = predict(weights(**other), pictures / 'a.png', *words)
  assert (status, err) == (0, '')
  shown = cv2.imread(str(tmp_path / 'out/a.png'))
  assert shown.shape == (28 + 9 * 16, 3 * 9 * 40 + 2 * 8, 3)


def test_an_unreadable_file_does_not_stop_the_others(predict, pictures, weights):
  images = pictures / 'broken.jpg', pictures / 'a.png', pictures / 'gone.jpg'
  status, out, err = predict(weights(), *images)
  assert status == 1 and 'a.png' in out
  first, second = err.splitlines()
  assert first.endswith('broken.jpg is not a readable JPEG, PNG or WebP')
  assert second.endswith('gone.jpg cannot be read: No such file or directory')


def test_a_resnet_has_no_attention_to_draw(predict, pictures, tmp_path):
  params = random_weights.small_bit(depths=(1,))
  files.write(tmp_path / 'R_064.npz', bit.BIG_TRANSFER.write(params))
  words = f'--weights={tmp_path}/R_064.npz', f'--out={tmp_path}/out'
  status, out, err = predict(*words, pictures / 'a.png')
  assert (status, err) == (0, '')
  assert 'none: a BiT has no attention to draw' in out and '64x64' in out
  assert not (tmp_path / 'out').exists()


@pytest.mark.parametrize(
  'words, message',
  [
    (['--top=0'], '--top=0 is not positive'),
    (['--image-size=8x8x8'], '--image-size=8x8x8 is neither a side nor HEIGHTxWIDTH'),
    (['--labels=LABELS'], '--labels=.* has 1 line, the model 5 classes'),
    (['--labels=gone.txt'], 'gone.txt cannot be read: No such file or directory'),
    (['--out=LABELS'], '--out=.*names.txt is not a folder: File exists'),
    (['--image-size=32', '--source-grid=2x2'], 'not a grid of 2x2 with 0 to 2 leading'),
    (['--threshold=0.5'], '--threshold is for weights that find objects'),
    (['--image-size=20'], 'images of 20x20 do not divide into patches of 8x8'),
  ],
)
def test_bad_words(words, message, predict, pictures, weights, tmp_path):
  (tmp_path / 'names.txt').write_text('ape\n')
  words = [word.replace('LABELS', f'{tmp_path}/names.txt') for word in words]
  status, _, err = predict(weights(), pictures / 'a.png', *words)
  assert status == 1
  assert re.search(message, err), err


def test_objects_are_printed_and_drawn(predict, pictures, detector, tmp_path):
  path, *_ = detector
  (tmp_path / 'names.txt').write_text('ape\nbee\ncat\ndog\nelk\n')
  words = f'--weights={path}', f'--labels={tmp_path}/names.txt', '--image-size=64'
  images = pictures / 'a.png', pictures / 'broken.jpg', pictures / 'grey.png'
  more = f'--out={tmp_path}/out', '--threshold=0', f'--json={tmp_path}/p.json'
  status, out, err = predict(*words, *images, *more, f'--csv={tmp_path}/p.csv')
  assert status == 1 and 'broken.jpg is not a readable' in err
  assert 'shorter side 64, longer at most 107; mean 0.485' in out
  # All seven queries of both pictures, as found with load().
  _, _, preprocess = loading.load(path, image_size=64)
  found = of_first(detector, preprocess, images[0])
  assert len(found) == 7
  rows = [line for line in out.splitlines() if re.search(r'  0\.\d{4}  ', line)]
  assert len(rows) == 14
  for row, one in zip(rows[:7], found, strict=True):
    assert ('ape', 'bee', 'cat', 'dog', 'elk')[one.label] in row
    np.testing.assert_allclose([float(x) for x in row.split()[-4:]], one.box, atol=0.06)
  plain = json.loads((tmp_path / 'p.json').read_text())
  assert [one['image'] for one in plain] == [*map(str, images)]
  assert [x['box'] for x in plain[0]['predictions']] == [[*one.box] for one in found]
  assert plain[1]['error'].endswith('is not a readable JPEG, PNG or WebP')
  with (tmp_path / 'p.csv').open() as file:
    lines = list(csv.DictReader(file))
  assert len(lines) == 14
  sides = [float(lines[0][side]) for side in ('left', 'top', 'right', 'bottom')]
  np.testing.assert_allclose(sides, found[0].box)
  # Pictures are enlarged by whole factors; 8 pictures of attention are in rows of 4.
  shape = {
    name: cv2.imread(str(tmp_path / f'out/{name}.png')).shape
    for name in ('a', 'a-attention', 'grey', 'grey-segments')
  }
  assert shape['a'] == shape['grey'] == shape['grey-segments'] == (19 * 30, 19 * 40, 3)
  assert shape['a-attention'] == (2 * 3 * 64 + 2, 4 * 3 * 85 + 3 * 2, 3)


def of_first(detector, preprocess, path):
  _, model, variables = detector
  image_HWC, size, original_size = preprocess(path)
  outputs = jax.jit(model.apply)(variables, image_HWC[None], size[None])
  return preprocess.objects(outputs, original_size, threshold=-1.0)


def test_attention_belongs_to_the_query_that_found_the_object():
  one = Found('a', 0.9, (0.0, 0.0, 16.0, 16.0), label=0, query=1)
  example = {'image': np.full((16, 16, 3), 200, np.uint8)}
  example |= {'size': np.array([16, 16]), 'original_size': np.array([16, 16])}
  attention_Qhw = np.zeros((2, 1, 2), np.float32)
  attention_Qhw[0, 0, 0] = attention_Qhw[1, 0, 1] = 1.0
  sheet = detection.attention_picture(example, [one], attention_Qhw)
  whole, lit = sheet[200, : 16 * 20], sheet[200, -16 * 20 :]
  assert (whole[100] == 200).all() and (lit[-60] == 200).all() and (lit[60] == 0).all()


def test_pictures_without_objects(predict, pictures, detector, tmp_path):
  words = f'--weights={detector[0]}', '--image-size=64', '--threshold=0.9999'
  status, out, err = predict(*words, pictures / 'a.png', f'--out={tmp_path}/out')
  assert (status, err) == (0, '')
  assert 'none above 0.9999' in out
  assert re.search(r'best: [0-4] +0\.\d{4}', out)
  assert sorted(p.name for p in (tmp_path / 'out').iterdir()) == (
    ['a-segments.png', 'a.png']
  )


@pytest.mark.parametrize(
  'words, message',
  [
    (['--top=3'], '--top is for weights that name pictures'),
    (['--threshold=1.5'], r'--threshold=1.5 is not in \[0, 1\)'),
    (['--image-size=64x64'], r'instead of \(64, 64\) give one number'),
  ],
)
def test_bad_words_for_detectors(words, message, predict, pictures, detector):
  status, _, err = predict(f'--weights={detector[0]}', pictures / 'a.png', *words)
  assert status == 1
  assert re.search(message, err), err


def test_names_of_pictures_do_not_collide(tmp_path):
  taken = {'a': 1, 'a-attention': 2}
  ends = ['', '-attention']
  assert tool.free_names(tmp_path / 'a.jpg', ends, taken) == ['a-2', 'a-2-attention']
  assert tool.free_names(tmp_path / 'a-attention.jpg', [''], taken) == (
    ['a-attention-2']
  )
  assert tool.free_names(tmp_path / 'b.jpg', ends, taken) == ['b', 'b-attention']


def test_a_run_without_a_checkpoint(predict, pictures, tmp_path):
  folder = tmp_path / 'run'
  folder.mkdir()
  (folder / 'config.json').write_text('{"task": {}, "train_data": {}}')
  status, _, err = predict(f'--weights={folder}', pictures / 'a.png')
  assert status == 1
  assert f'{folder} is the folder of a run without a checkpoint' in err
  (folder / 'config.json').write_text('{"model_type": "vit"}')
  _, _, err = predict(f'--weights={folder}', pictures / 'a.png')
  assert 'has no model.safetensors' in err


def test_unknown_grids(predict, pictures, tmp_path):
  model = vit.ViT(num_classes=5, **random_weights.VIT)
  params = random_weights.params_of(model, (16, 24))
  files.write(tmp_path / 'w.npz', vision_transformer.to_npz(params))
  words = f'--weights={tmp_path}/w.npz', pictures / 'a.png'
  status, _, err = predict(*words)
  assert status == 1 and '(programs: --source-grid=ROWSxCOLUMNS)' in err
  status, out, _ = predict(*words, '--source-grid=2x3')
  assert status == 0 and 'images    16x24' in out and 'a square' not in out
  status, out, _ = predict(*words, '--source-grid=2x3', '--image-size=32x32')
  assert status == 0 and 'images    32x32' in out


def test_a_square_grid_is_reported(predict, pictures, weights):
  status, out, _ = predict(weights(), pictures / 'a.png')
  assert status == 0
  assert 'grid      3x3 tokens: a square, as no other grid is recorded' in out


def test_classes_of_imagenet_have_words():
  [folder] = importlib.util.find_spec('tensorflow_datasets').submodule_search_locations
  listed = pathlib.Path(folder) / 'datasets' / 'imagenet2012' / 'labels.txt'
  assert imagenet_numbers.NUMBERS == tuple(listed.read_text().split())
  assert len({*imagenet_words.WORDS}) == 998 and len(imagenet_words.WORDS) == 1000
  assert imagenet_words.in_words('n02113186') == 'Cardigan (n02113186)'
  assert imagenet_words.in_words('n15075141') == 'toilet tissue (n15075141)'
  assert imagenet_words.in_words('cat') == 'cat'
  named = Preprocessing((8, 8), label_names=imagenet_numbers.NUMBERS)
  [(best, _)] = named.top(np.eye(1000)[1], k=1)
  assert best == 'goldfish (n01443537)'


def test_alpha_is_not_drawn(predict, pictures, tmp_path):
  model = vit.ViT(num_classes=5, **random_weights.VIT)
  params = random_weights.params_of(model, (24, 24), channels=4)
  files.write(tmp_path / 'w.npz', vision_transformer.to_npz(params))
  rgba = np.dstack([np.asarray(Image.open(pictures / 'a.png')), np.zeros((30, 40, 1))])
  Image.fromarray(rgba.astype(np.uint8)).save(tmp_path / 'rgba.png')
  words = f'--weights={tmp_path}/w.npz', f'--out={tmp_path}/out'
  status, _, err = predict(*words, tmp_path / 'rgba.png', pictures / 'a.png')
  assert status == 1
  assert err.endswith(
    'a.png is not a readable JPEG, PNG or WebP: it is not RGBA, as 4 channels require\n'
  )
  assert cv2.imread(str(tmp_path / 'out/rgba.png')).shape[-1] == 3


@pytest.mark.parametrize(
  'name, drawn',
  [('été', 'été  12.3 %'), ('猫', 'class 4  12.3 %'), ('4', 'class 4  12.3 %')],
)
def test_captions(name, drawn):
  one = {'label': 4, 'class': name, 'score': 0.1234}
  assert classes.caption(one) == drawn
  picture = np.full((7, 160, 3), 9, np.uint8)
  shown = captions.captioned(picture, drawn)
  np.testing.assert_array_equal(shown[28:], picture)
  assert (shown[:28] < 100).any() and (shown[0] == 255).all()


def test_long_captions_are_cut():
  picture = np.zeros((1, 90, 3), np.uint8)
  shown = captions.captioned(picture, 'one word after the other')[:28]
  assert (shown < 100).any() and (shown[:, -4:] == 255).all()
  assert captions.captioned(picture[:, :2], 'a').shape == (29, 2, 3)
