"""Tests of images prepared by the JSON files of timm and transformers."""

import json

import numpy as np
import pytest
import timm
import transformers
from PIL import Image

from big_vision_like.inference import hub_json


@pytest.fixture
def picture():
  rng = np.random.default_rng(0)
  small = rng.integers(0, 256, (15, 20, 3), dtype=np.uint8)
  return Image.fromarray(small).resize((240, 180), Image.Resampling.BICUBIC)


@pytest.mark.parametrize(
  'told',
  [
    # The number of cropped pixels is even: for odd ones, theirs drops the other side.
    dict(crop_pct=0.75, crop_mode='center', interpolation='bicubic'),
    dict(crop_pct=1.0, crop_mode='squash', interpolation='bilinear'),
    dict(crop_pct=0.9, crop_mode='squash', interpolation='lanczos'),
  ],
)
def test_timm(picture, told):
  told |= dict(input_size=[3, 90, 90], mean=[0.5, 0.4, 0.3], std=[0.2, 0.3, 0.5])
  theirs = timm.data.create_transform(
    input_size=tuple(told['input_size']),
    interpolation=told['interpolation'],
    mean=told['mean'],
    std=told['std'],
    crop_pct=told['crop_pct'],
    crop_mode=told['crop_mode'],
  )
  want = theirs(picture).permute(1, 2, 0).numpy()
  ours = hub_json.from_timm({'pretrained_cfg': told})
  np.testing.assert_allclose(ours(picture), want, rtol=0, atol=1e-6)


@pytest.mark.parametrize(
  'make',
  [
    lambda: transformers.ViTImageProcessorPil(size={'height': 90, 'width': 100}),
    lambda: transformers.BitImageProcessorPil(
      size={'shortest_edge': 120}, crop_size={'height': 90, 'width': 90}
    ),
    lambda: transformers.ConvNextImageProcessorPil(
      size={'shortest_edge': 90}, crop_pct=0.8
    ),
    lambda: transformers.ConvNextImageProcessorPil(size={'shortest_edge': 384}),
  ],
)
def test_transformers(picture, make, tmp_path):
  theirs = make()
  theirs.save_pretrained(tmp_path)
  want = theirs(picture, return_tensors='np')['pixel_values'][0].transpose(1, 2, 0)
  told = json.loads((tmp_path / 'preprocessor_config.json').read_text())
  ours = hub_json.from_transformers(told, {})
  np.testing.assert_allclose(ours(picture), want, rtol=0, atol=1e-6)
