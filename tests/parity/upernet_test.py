"""Tests of our UPerNet against transformers' with random weights.

Weights are read and written back. Runs under `make parity`, where torch and
transformers are installed.
"""

import json

import numpy as np
import pytest
import safetensors.numpy
import torch
import transformers

from big_vision_like.ops import label_maps
from big_vision_like.tasks import semantic_segmentation
from big_vision_like.weights import published
from tools import convert_weights as tool

SWIN = dict(embed_dim=8, depths=[1, 2, 1, 1], num_heads=[1, 2, 2, 4], window_size=4)


def segmenter(**options):
  torch.manual_seed(0)
  stages = [f'stage{i}' for i in range(1, 5)]
  backbone = transformers.SwinConfig(out_features=stages, **SWIN)
  config = transformers.UperNetConfig(
    backbone_config=backbone,
    **dict(hidden_size=12, num_labels=7, auxiliary_channels=6, auxiliary_in_channels=32)
    | options,
  )
  theirs = transformers.UperNetForSemanticSegmentation(config)
  with torch.no_grad():
    for name, array in theirs.state_dict().items():
      if array.is_floating_point() and 'running_var' not in name:
        array.add_(0.1 * torch.randn_like(array))
      elif 'running_var' in name:
        array.mul_(0.5 + torch.rand_like(array))
  return theirs.eval()


def images(*size):
  rng = np.random.default_rng(0)
  return rng.uniform(-1, 1, (2, *size, 3)).astype('float32')


def on_torch(image_BHWC):
  return torch.from_numpy(image_BHWC).permute(0, 3, 1, 2)


@pytest.mark.parametrize(
  ('options', 'size'),
  [
    ({}, (64, 96)),
    (dict(pool_scales=[1, 2, 4]), (70, 54)),
    (dict(use_auxiliary_head=False), (64, 64)),
  ],
)
def test_logits_and_loss(options, size, tmp_path):
  theirs = segmenter(**options)
  theirs.save_pretrained(tmp_path / 'theirs')
  weights = published.read(tmp_path / 'theirs')
  assert weights.source == 'transformers UPerNet' and weights.num_classes == 7
  image_BHWC = images(*size)
  label_BHW = np.random.default_rng(1).integers(0, 7, (2, *size))
  label_BHW[:, :9] = 255
  with torch.no_grad():
    want = theirs(on_torch(image_BHWC), labels=torch.from_numpy(label_BHW))
  got = weights.model.apply(weights.variables, image_BHWC)
  full = semantic_segmentation.at_labels(got['logits'], label_BHW)
  np.testing.assert_allclose(full, want.logits.permute(0, 2, 3, 1), rtol=0, atol=5e-5)
  loss, _ = label_maps.cross_entropy(full, label_BHW)
  if 'auxiliary_logits' in got:
    second = semantic_segmentation.at_labels(got['auxiliary_logits'], label_BHW)
    loss += 0.4 * label_maps.cross_entropy(second, label_BHW)[0]
  np.testing.assert_allclose(loss, want.loss, rtol=1e-5)
  words = [str(tmp_path / 'theirs'), str(tmp_path / 'back'), '--to=transformers']
  assert tool.main(words) == 0
  again = type(theirs).from_pretrained(tmp_path / 'back').eval()
  with torch.no_grad():
    np.testing.assert_array_equal(again(on_torch(image_BHWC)).logits, want.logits)


def test_names_of_mmsegmentation(tmp_path):
  theirs = segmenter()
  theirs.save_pretrained(tmp_path / 'theirs')
  file = tmp_path / 'upernet_640x640.safetensors'
  words = [str(tmp_path / 'theirs'), str(file), '--to=published']
  assert tool.main(words) == 0
  (tmp_path / 'upernet_640x640.json').unlink()
  names = safetensors.numpy.load_file(file)
  # As in checkpoints of mmsegmentation 0.11.
  assert {
    'backbone.patch_embed.proj.weight',
    'backbone.layers.1.blocks.1.attn.qkv.weight',
    'backbone.norm3.bias',
    'decode_head.conv_seg.weight',
    'decode_head.psp_modules.3.1.bn.running_var',
    'decode_head.lateral_convs.2.conv.weight',
    'auxiliary_head.convs.0.bn.weight',
    'auxiliary_head.conv_seg.bias',
  } <= names.keys()
  weights = published.read(file)
  assert weights.source == 'mmsegmentation UPerNet'
  assert weights.images(file.stem).shortest == 640
  image_BHWC = images(64, 64)
  with torch.no_grad():
    want = theirs(on_torch(image_BHWC)).logits
  got = weights.model.apply(weights.variables, image_BHWC)['logits']
  full = semantic_segmentation.at_labels(got, np.zeros((2, 64, 64)))
  np.testing.assert_allclose(full, want.permute(0, 2, 3, 1), rtol=0, atol=5e-5)


def test_other_options_are_refused(tmp_path):
  segmenter().save_pretrained(tmp_path)
  file = tmp_path / 'config.json'
  told = json.loads(file.read_text())
  file.write_text(json.dumps(told | {'auxiliary_concat_input': True}))
  with pytest.raises(ValueError, match='auxiliary_concat_input=True, but our UPerNet'):
    published.read(tmp_path)
