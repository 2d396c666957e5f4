import pathlib

import jax
import numpy as np
import pages
import pytest

from big_vision_like.inference import loading
from big_vision_like.models import bit, vit
from big_vision_like.viz import images
from big_vision_like.weights import bit as bit_weights
from big_vision_like.weights import files, vision_transformer
from tools import report

HEADINGS = [
  'Summary',
  'Predictions and attention rollout',
  'Patch filters',
  'Position embeddings',
  'Attention distance',
]


@pytest.fixture(scope='module')
def folder(tmp_path_factory) -> pathlib.Path:
  """Writes two pictures and the weights of a ViT with 7 classes and a headless BiT."""
  folder, random = tmp_path_factory.mktemp('weights'), np.random.default_rng(0)
  models = {
    'vit': vit.ViT(
      num_classes=7, patch=8, width=24, depth=2, num_heads=3, mlp_dim=16, pool='token'
    ),
    'bit': bit.BiT(num_classes=1, depths=(1,)),
  }
  write = {'vit': vision_transformer.to_npz, 'bit': bit_weights.BIG_TRANSFER.write}
  for name, model in models.items():
    params = jax.jit(model.init)(jax.random.key(0), np.zeros((1, 32, 32, 3)))['params']
    kernel = params['head']['kernel']
    params['head']['kernel'] = random.normal(size=kernel.shape).astype(np.float32)
    files.write(folder / f'{name}.npz', write[name](jax.tree.map(np.asarray, params)))
  for name in ('a <b>.png', 'c.png'):
    image_HWC = random.integers(0, 256, (20, 30, 3)).astype(np.uint8)
    (folder / name).write_bytes(images.png(image_HWC))
  return folder


@pytest.fixture(scope='module')
def vit_page(folder) -> pathlib.Path:
  paths = [str(folder / name) for name in ('a <b>.png', 'c.png')]
  assert report.main([f'--weights={folder / "vit.npz"}', '--images', *paths]) == 0
  return folder / 'vit.html'


def test_a_vit_shows_everything(folder, vit_page):
  reader = pages.Reader(vit_page)
  assert reader.headings == HEADINGS and 'Not shown' not in reader.text
  model, variables, preprocess = loading.load(folder / 'vit.npz')
  count = sum(leaf.size for leaf in jax.tree.leaves(variables))
  for text in (f'{count:,}', 'patch=8', '32x32', '7, without names', '4 x 4 grid'):
    assert text in reader.text, text
  assert 'the class token' in reader.text and 'over 2 images' in reader.text
  # Input, lit input and attention of each image; 28 filters; positions in 3 pictures.
  assert len(reader.images) == 2 * 3 + 24 + 3
  lines, apply = reader.text.split(), jax.jit(model.apply)
  for name in ('a <b>.png', 'c.png'):
    logits = apply(variables, preprocess(folder / name)[None])['logits'][0]
    shown = lines[lines.index(name.split()[-1]) + 1 :][:15]
    expected = preprocess.top(logits)
    assert shown[::3] == [label for label, _ in expected]
    np.testing.assert_allclose(
      [float(share) for share in shown[1::3]],
      [100 * score for _, score in expected],
      atol=0.051,
    )


def test_without_images_the_rest_is_shown(folder, tmp_path):
  out = tmp_path / 'page.html'
  assert report.main([f'--weights={folder / "vit.npz"}', f'--out={out}']) == 0
  reader = pages.Reader(out)
  assert reader.headings == HEADINGS and len(reader.images) == 24 + 3
  assert 'Not shown: no images given: name them with --images' in reader.text
  assert 'Not shown: there are no images to compute attention for' in reader.text


def test_a_bit_has_predictions_and_filters(folder, tmp_path):
  out = tmp_path / 'page.html'
  arguments = [f'--weights={folder / "bit.npz"}', f'--out={out}', '--image-size']
  assert report.main([*arguments, '32', '40', '--images', str(folder / 'c.png')]) == 0
  reader = pages.Reader(out)
  assert reader.headings == HEADINGS and len(reader.images) == 1 + 28
  for text in (
    'BiT has no attention, so no rollout is shown',
    "64 filters of the ResNet's first convolution",
    'Not shown: the model has no position embedding',
    'Not shown: BiT has no patches that attend',
    '32x40',
    '100.0 %',
  ):
    assert text in reader.text, text


def test_a_file_that_is_not_a_picture_gives_one_sentence(folder, capsys):
  weights = str(folder / 'vit.npz')
  assert report.main([f'--weights={weights}', '--images', weights]) == 1
  error = capsys.readouterr().err
  assert 'vit.npz is not a readable JPEG' in error and 'Traceback' not in error


def test_detectors_have_no_such_report(detector, capsys):
  assert report.main([f'--weights={detector[0]}']) == 1
  assert 'detects objects, which reports on weights do not' in capsys.readouterr().err


def test_a_browser_shows_the_page(vit_page, tmp_path):
  found = pages.opened(vit_page, tmp_path)
  assert int(found['images']) == len(pages.Reader(vit_page).images)
