"""Tests of our hybrid ViT against timm's with random weights.

timm's group norm gets the epsilon 1e-6 of the reference and its StdConv 1e-10. The
latter is added to the variance, while the reference adds 1e-5 to the deviation: hence
the tolerance of 1e-4.
"""

import functools

import numpy as np
import pytest
import timm
import torch
from timm.layers import GELUTanh, GroupNormAct, HybridEmbed, StdConv2dSame
from timm.models import resnetv2

from big_vision_like.models import vit
from big_vision_like.weights import timm_vit, tree

CASES = {'stem': ((), 4), 'one stage': ((2,), 2), 'two stages': ((1, 2), 1)}


def trunk(depths):
  norm = functools.partial(GroupNormAct, num_groups=32, eps=1e-6)
  conv = functools.partial(StdConv2dSame, eps=1e-10)
  layers = dict(stem_type='same', preact=False, norm_layer=norm, conv_layer=conv)
  if not depths:
    return resnetv2.create_resnetv2_stem(3, **layers)
  return resnetv2.ResNetV2(
    depths, channels=(256, 512)[: len(depths)], num_classes=0, global_pool='', **layers
  )


@pytest.fixture(params=CASES)
def models(request):
  torch.manual_seed(0)
  depths, patch = CASES[request.param]
  theirs = timm.models.vision_transformer.VisionTransformer(
    img_size=(32, 48),
    patch_size=patch,
    embed_dim=36,
    depth=2,
    num_heads=3,
    mlp_ratio=2,
    num_classes=7,
    norm_layer=functools.partial(torch.nn.LayerNorm, eps=1e-6),
    act_layer=GELUTanh,
    embed_layer=functools.partial(HybridEmbed, backbone=trunk(depths)),
  ).eval()
  with torch.no_grad():
    for parameter in theirs.parameters():
      parameter.add_(0.1 * torch.randn_like(parameter))
  sizes = dict(patch=patch, width=36, depth=2, num_heads=3, mlp_dim=72)
  return theirs, vit.ViT(num_classes=7, resnet=depths, **sizes)


def test_logits_and_back(models):
  theirs, ours = models
  image_BHWC = np.random.default_rng(0).uniform(-1, 1, (2, 32, 48, 3)).astype('float32')
  want = theirs(torch.from_numpy(image_BHWC).permute(0, 3, 1, 2)).detach()
  state = {name: value.numpy() for name, value in theirs.state_dict().items()}
  params = timm_vit.from_timm(state, num_heads=3)
  got = ours.apply({'params': params}, image_BHWC)['logits']
  np.testing.assert_allclose(got, want, rtol=0, atol=1e-4)
  back = timm_vit.to_timm(tree.stack_blocks(params))
  assert back.keys() == state.keys()
  for name in state:
    np.testing.assert_array_equal(back[name], state[name])
