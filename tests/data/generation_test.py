"""Tests of the inputs of image generation."""

import numpy as np
import PIL.Image
import pytest

from big_vision_like import spec
from big_vision_like.data import generation

PUBLISHED = {
  'clevr': (0.75, False, 100_000),
  'bedrooms': (188 / 256, False, 3_033_042),
  'ffhq': (1.0, True, 70_000),
  'cityscapes': (0.5, True, 24_998),
}


@pytest.mark.parametrize('name', PUBLISHED)
def test_published_sets_have_the_paper_s_aspect_and_mirroring(name):
  ratio, mirror, examples = PUBLISHED[name]
  data = getattr(generation, name)()
  assert (data.ratio, data.mirror, data.size) == (ratio, mirror, 256)
  node = data.train_input(32)
  assert node.source.examples == examples
  names = [part['_fn'].rpartition(':')[2] for part in node.transforms]
  assert ('Flip' in names) == mirror
  evaluated = [
    p['_fn'].rpartition(':')[2] for p in data.eval_input(8, 'train').transforms
  ]
  assert evaluated == ['Decode', 'Keep', 'FitSquare']


def write(path, size, seed):
  path.parent.mkdir(parents=True, exist_ok=True)
  pixels = np.random.default_rng(seed).integers(0, 256, (*size, 3), np.uint8)
  PIL.Image.fromarray(pixels).save(path)


def test_clevr_s_folders_are_one_set(tmp_path, monkeypatch):
  monkeypatch.chdir(tmp_path)
  for number, split in enumerate(('train', 'val', 'test')):
    name = f'data/CLEVR_v1.0/images/{split}/CLEVR_{split}_000000.png'
    write(tmp_path / name, (32, 48), number)
  made = spec.build(generation.clevr(size=16).eval_input(8, 'train', workers=0))
  assert len(made.source) == 3
  (batch,) = made.epoch()
  assert batch['image'].shape == (8, 16, 16, 3) and batch['mask'].sum() == 3
  assert batch['image'][:, 0].max() < 4 and batch['image'][0, 8].max() > 100
  assert 'label' not in batch


def test_small_sets_keep_their_pixels(data_dir):
  made = spec.build(generation.digits16().eval_input(8, 'test', workers=0))
  batch = next(made.epoch())
  assert len(made.source) == 450
  assert batch['image'].shape == (8, 16, 16, 1)


def test_tars_replace_folders():
  data = generation.ffhq().at(generation.from_tars('data/ffhq/{000..069}.tar'))
  assert data.train_input(8).source['_fn'].endswith('tars:Tars')
