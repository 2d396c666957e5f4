"""Tests of sampling clips against functions of torch, which TimeSformer's code uses."""

import numpy as np
import pytest
import torch

from big_vision_like.data.transforms import video


@pytest.mark.parametrize('frames', [1, 2, 5, 8, 16, 32, 96])
def test_frames_of_a_clip(frames):
  rng = np.random.default_rng(0)
  for _ in range(500):
    available = int(rng.integers(1, 1000))
    length = float(rng.choice([frames * 4, frames * 32, rng.uniform(1, 400)]))
    start = rng.uniform(0, max(available - length, 0))
    places = torch.linspace(start, start + length - 1, frames)
    want = torch.clamp(places, 0, available - 1).long().numpy()
    got = video.spread(start, length, frames, available)
    np.testing.assert_array_equal(got, want)


@pytest.mark.parametrize('side', [224, 256, 291, 320])
def test_scaled_frames(side):
  rng = np.random.default_rng(0)
  frame = rng.integers(0, 256, (240, 320, 3), dtype=np.uint8)
  got = video.with_short_side(frame, side)
  # The published code resizes normalized frames; the values are compared as uint8.
  normal = (torch.tensor(frame).float() / 255 - 0.45) / 0.225
  size = (side, int(np.floor(320 / 240 * side)))
  large = torch.nn.functional.interpolate(
    normal.permute(2, 0, 1)[None], size=size, mode='bilinear', align_corners=False
  )[0].permute(1, 2, 0)
  want = (large * 0.225 + 0.45).numpy() * 255
  assert got.shape == want.shape
  assert np.abs(got - want).max() < 1.5 and np.abs(got - want).mean() < 0.4
