"""Tests of resizing against Pillow and torch, which DETR's published code uses."""

import numpy as np
import pytest
import torch
from PIL import Image

from big_vision_like.data.transforms import boxes


@pytest.mark.parametrize('height', [240, 256, 333, 480])
def test_masks(height):
  rng = np.random.default_rng(0)
  mask = torch.tensor(rng.integers(0, 2, (3, 1, 300, 400)))
  width = int(height * 4 / 3)
  want = torch.nn.functional.interpolate(mask.float(), (height, width), mode='nearest')
  image = np.zeros((300, 400, 3), np.uint8)
  given = dict(
    image=image, boxes=np.zeros((3, 4), np.float32), masks=mask[:, 0].numpy()
  )
  got = boxes.resize(given, height, width)['masks']
  np.testing.assert_array_equal(got, want[:, 0].numpy())


def test_masks_of_any_size():
  rng = np.random.default_rng(0)
  for old, new in rng.integers(20, 1400, (2000, 2)).tolist():
    places = torch.arange(old, dtype=torch.float32)[None, None]
    want = torch.nn.functional.interpolate(places, new, mode='nearest')[0, 0]
    np.testing.assert_array_equal(boxes.nearest(old, new), want.numpy())


@pytest.mark.parametrize('size', [(240, 320), (301, 401), (250, 500), (600, 800)])
def test_images(size):
  """Allows the last bit to differ where OpenCV enlarges."""
  rng = np.random.default_rng(0)
  picture = rng.integers(0, 256, (300, 400, 3), dtype=np.uint8)
  small = Image.fromarray(picture).resize(size[::-1], Image.Resampling.BILINEAR)
  given = dict(image=picture, boxes=np.zeros((0, 4), np.float32))
  got = boxes.resize(given, *size)['image'].astype(int)
  larger = size[0] >= 300 and size[1] >= 400
  assert np.abs(got - np.asarray(small)).max() <= larger
