"""Tests of crops and sizes against timm and torch, bit by bit for uint8."""

import random

import numpy as np
import pytest
import timm.data
import timm.data.transforms
import torch
from PIL import Image

from big_vision_like.data.transforms import cropping, image
from big_vision_like.ops import resampling


def picture(height, width):
  rng = np.random.default_rng(height * width)
  small = rng.integers(0, 256, (height // 6, width // 6, 3), dtype=np.uint8)
  smooth = Image.fromarray(small).resize((width, height), Image.Resampling.BICUBIC)
  noise = rng.integers(-9, 10, (height, width, 3))
  return np.clip(np.asarray(smooth) + noise, 0, 255).astype(np.uint8)


@pytest.mark.parametrize('share', [0.875, 0.9, 0.95, 1.0])
@pytest.mark.parametrize('method', ['bicubic', 'bilinear', 'lanczos'])
@pytest.mark.parametrize('height, width', [(75, 100), (101, 76), (224, 333), (90, 90)])
@pytest.mark.parametrize('size', [64, 96])
def test_evaluation(share, method, height, width, size):
  theirs = timm.data.create_transform(
    input_size=(3, size, size), interpolation=method, crop_pct=share, normalize=False
  )
  given = picture(height, width)
  want = theirs(Image.fromarray(given))
  assert want.dtype == torch.uint8
  example = {'image': given}
  for step in (
    image.ResizeSmall(int(size / share), f'pillow_{method}', rounding='down'),
    image.CentralCrop(size, rounding='nearest'),
  ):
    example = step.map(example)
  np.testing.assert_array_equal(example['image'], want.permute(1, 2, 0).numpy())


@pytest.mark.parametrize('method', ['bicubic', 'bilinear'])
@pytest.mark.parametrize('height, width', [(75, 100), (224, 333), (30, 160)])
def test_training_crops_of_the_same_boxes(method, height, width, monkeypatch):
  theirs = timm.data.transforms.RandomResizedCropAndInterpolation(
    64, interpolation=method
  )
  ours = image.RandomResizedCrop(64, method=f'pillow_{method}')
  given = picture(height, width)
  for seed in range(10):
    random.seed(seed)
    box = theirs.get_params(Image.fromarray(given), theirs.scale, theirs.ratio)
    random.seed(seed)
    want = np.asarray(theirs(Image.fromarray(given)))
    monkeypatch.setattr(cropping, 'torch_box', lambda *_, box=box: box)
    got = ours.random_map({'image': given}, None)['image']
    np.testing.assert_array_equal(got, want)


@pytest.mark.parametrize('height, width', [(100, 100), (60, 160), (300, 90)])
def test_boxes_are_distributed_as_in_timm(height, width):
  theirs = timm.data.transforms.RandomResizedCropAndInterpolation(64)
  given = Image.new('RGB', (width, height))
  random.seed(0)
  want = [theirs.get_params(given, theirs.scale, theirs.ratio) for _ in range(4000)]
  rng, ours = np.random.default_rng(0), image.RandomResizedCrop(64)
  got = [ours.box(height, width, rng) for _ in range(4000)]
  side = np.array([height, width, height, width])
  quantiles = [0.1, 0.3, 0.5, 0.7, 0.9]
  np.testing.assert_allclose(
    np.quantile(got / side, quantiles, axis=0),
    np.quantile(want / side, quantiles, axis=0),
    atol=0.03,
  )
  both = [np.prod(np.array(boxes)[:, 2:], axis=1).mean() for boxes in (got, want)]
  assert abs(both[0] - both[1]) < 0.02 * height * width


@pytest.mark.parametrize('height, width', [(50, 300), (300, 50), (60, 61)])
def test_the_box_where_none_fits(height, width):
  given = Image.new('RGB', (width, height))
  theirs = timm.data.transforms.RandomResizedCropAndInterpolation(64, scale=(1.5, 2))
  want = theirs.get_params(given, theirs.scale, theirs.ratio)
  ours = image.RandomResizedCrop(64, area=(1.5, 2))
  assert ours.box(height, width, np.random.default_rng(0)) == want


def test_reflections():
  given = picture(30, 40)
  there = torch.from_numpy(given).permute(2, 0, 1).float()
  want = torch.nn.functional.pad(there, (4, 4, 4, 4), mode='reflect')
  got = image.ReflectPad(4).map({'image': given})['image']
  np.testing.assert_array_equal(got, want.permute(1, 2, 0).numpy())


SIZES = [((7, 5), (3, 9)), ((4, 4), (16, 16)), ((1, 6), (5, 2)), ((9, 9), (9, 9))]


@pytest.mark.parametrize('method', resampling.MATRICES)
@pytest.mark.parametrize('size, new_size', SIZES)
def test_grids(method, size, new_size):
  x = np.random.default_rng(0).normal(size=(2, *size, 3)).astype(np.float32)
  there = torch.from_numpy(x).permute(0, 3, 1, 2)
  want = torch.nn.functional.interpolate(there, new_size, mode=method)
  got = resampling.resize(x, new_size, method)
  np.testing.assert_allclose(got, want.permute(0, 2, 3, 1).numpy(), rtol=0, atol=1e-5)


@pytest.mark.parametrize('size', [1, 2, 3, 6, 9])
@pytest.mark.parametrize('height, width', [(7, 5), (12, 9), (4, 11)])
def test_adaptive_averages(size, height, width):
  x = np.random.default_rng(0).normal(size=(2, height, width, 3)).astype(np.float32)
  there = torch.from_numpy(x).permute(0, 3, 1, 2)
  want = torch.nn.functional.adaptive_avg_pool2d(there, size).permute(0, 2, 3, 1)
  got = resampling.adaptive_average(x, size)
  np.testing.assert_allclose(got, want.numpy(), rtol=0, atol=1e-6)
