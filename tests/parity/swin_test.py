"""Tests of our Swin against timm's and transformers' with random weights.

Weights are read and written back. Runs under `make parity`, where torch, timm and
transformers are installed.
"""

import numpy as np
import pytest
import timm
import torch
import transformers

from big_vision_like.inference.classes import Preprocessing
from big_vision_like.models import swin
from big_vision_like.weights import published, swin_names, tree
from tools import convert_weights as tool

SIZES = dict(embed_dim=24, depths=(2, 2, 2), num_heads=(2, 4, 8), window_size=4)
OURS = dict(width=24, depths=(2, 2, 2), num_heads=(2, 4, 8), window=4)


def moved(theirs):
  """Returns a model in eval mode, its constant initial parameters changed, too."""
  with torch.no_grad():
    for parameter in theirs.parameters():
      parameter.add_(0.1 * torch.randn_like(parameter))
  return theirs.eval()


def images(*size):
  rng = np.random.default_rng(0)
  return rng.uniform(-1, 1, (2, *size, 3)).astype('float32')


def on_torch(image_BHWC):
  return torch.from_numpy(image_BHWC).permute(0, 3, 1, 2)


def read(theirs, layout):
  state = {name: value.numpy() for name, value in theirs.state_dict().items()}
  unknown, missing = layout.differences(state)
  assert not unknown and not missing
  return tree.unflatten(layout.read(state))


@pytest.mark.parametrize(
  ('size', 'change'),
  [
    ((64, 64), {}),
    ((64, 96), dict(window=2)),
    ((48, 48), dict(window=3)),
    ((32, 32), {}),  # the last stage has 2x2 tokens, fewer than a window
    ((64, 64), dict(depths=(1, 3, 2), window=2)),
  ],
)
def test_timm(size, change):
  torch.manual_seed(0)
  ours = OURS | change
  theirs = moved(
    timm.models.swin_transformer.SwinTransformer(
      img_size=size,
      num_classes=10,
      **SIZES | dict(depths=ours['depths'], window_size=ours['window']),
    )
  )
  image_BHWC = images(*size)
  params = read(theirs, swin_names.TIMM)
  got = swin.Swin(num_classes=10, **ours).apply({'params': params}, image_BHWC)
  with torch.no_grad():
    tokens = theirs.forward_features(on_torch(image_BHWC))
    want = theirs.forward_head(tokens)
  np.testing.assert_allclose(got['logits'], want, rtol=0, atol=2e-5)
  tokens = tokens.reshape(got['tokens'].shape)
  np.testing.assert_allclose(got['tokens'], tokens, rtol=0, atol=2e-5)


@pytest.mark.parametrize('absolute', [False, True])
def test_transformers(absolute, tmp_path):
  torch.manual_seed(0)
  config = transformers.SwinConfig(
    image_size=64, num_labels=10, use_absolute_embeddings=absolute, **SIZES
  )
  theirs = moved(transformers.SwinForImageClassification(config))
  theirs.save_pretrained(tmp_path / 'theirs')
  weights = published.read(tmp_path / 'theirs')
  assert weights.source == 'transformers Swin'
  image_BHWC = images(64, 64)
  got = weights.model.apply(weights.variables, image_BHWC)['logits']
  with torch.no_grad():
    want = theirs(on_torch(image_BHWC)).logits
  np.testing.assert_allclose(got, want, rtol=0, atol=2e-5)
  words = [str(tmp_path / 'theirs'), str(tmp_path / 'back'), '--to=transformers']
  assert tool.main(words) == 0
  again = type(theirs).from_pretrained(tmp_path / 'back').eval()
  with torch.no_grad():
    np.testing.assert_array_equal(again(on_torch(image_BHWC)).logits, want)


def test_backbone_of_transformers_with_images_of_any_size(tmp_path):
  torch.manual_seed(0)
  config = transformers.SwinConfig(
    image_size=64, out_features=['stage1', 'stage2', 'stage3'], **SIZES
  )
  theirs = moved(transformers.SwinBackbone(config))
  theirs.save_pretrained(tmp_path / 'theirs')
  weights = published.read(tmp_path / 'theirs')
  assert weights.architecture['padding'] == 'dense'
  words = [str(tmp_path / 'theirs'), str(tmp_path / 'back'), '--to=transformers']
  assert tool.main(words) == 0
  again = transformers.SwinBackbone.from_pretrained(tmp_path / 'back').eval()
  for size in (64, 64), (50, 70), (37, 61):
    image_BHWC = images(*size)
    got = weights.model.apply(weights.variables, image_BHWC)
    with torch.no_grad():
      want, back = (
        model(on_torch(image_BHWC)).feature_maps for model in (theirs, again)
      )
    for i, (map_BDhw, other_BDhw) in enumerate(zip(want, back, strict=True), start=1):
      map_BhwD = map_BDhw.permute(0, 2, 3, 1)
      np.testing.assert_allclose(got[f'stage{i}'], map_BhwD, rtol=0, atol=5e-5)
      np.testing.assert_array_equal(map_BDhw, other_BDhw)


@pytest.mark.parametrize('to', ['timm', 'transformers'])
def test_a_folder_of_ours_runs_there(to, tmp_path, key):
  ours = swin.Swin(num_classes=5, **OURS | dict(mlp_ratio=3.0))
  image_BHWC = images(64, 64)
  rng = np.random.default_rng(1)
  params = ours.init(key, image_BHWC)['params']
  flat = {
    name: np.asarray(x) + 0.1 * rng.normal(size=x.shape).astype('float32')
    for name, x in tree.flatten(params).items()
  }
  weights = published.describe(tree.unflatten(flat), 'swin')
  tool.write(weights, Preprocessing((64, 64)), tmp_path / 'out', to, (64, 64))
  if to == 'timm':
    theirs = timm.create_model(f'local-dir:{tmp_path / "out"}', pretrained=True).eval()
  else:
    kind = transformers.SwinForImageClassification
    theirs = kind.from_pretrained(tmp_path / 'out').eval()
  with torch.no_grad():
    got = theirs(on_torch(image_BHWC))
  want = ours.apply({'params': tree.unflatten(flat)}, image_BHWC)['logits']
  got = got if to == 'timm' else got.logits
  np.testing.assert_allclose(got, want, rtol=0, atol=2e-5)
  weights = published.read(tmp_path / 'out')
  for name, array in tree.flatten(weights.params).items():
    np.testing.assert_array_equal(array, flat[name])
