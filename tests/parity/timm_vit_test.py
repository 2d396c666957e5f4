"""Our ViT against timm's at random weights, read from its state dict and written back.

Runs under `make parity`, where torch and timm are installed.
"""

import functools

import numpy as np
import pytest
import safetensors.torch
import timm
import torch

from big_vision_like.models import vit
from big_vision_like.weights import timm_vit, tree

# pool and arguments of timm's model; sizes differ so that no two axes can be confused.
POOLS = {
  'token': dict(global_pool='token', class_token=True),
  'gap': dict(global_pool='avg', class_token=False, fc_norm=False),
  'map': dict(global_pool='map', class_token=False),
}
SIZES = dict(img_size=(24, 40), patch_size=8, embed_dim=36, depth=2, num_heads=3)


@pytest.fixture(params=POOLS)
def models(request):
  torch.manual_seed(0)
  theirs = timm.models.vision_transformer.VisionTransformer(
    **SIZES,
    **POOLS[request.param],
    mlp_ratio=2,
    num_classes=7,
    norm_layer=functools.partial(torch.nn.LayerNorm, eps=1e-6),
    act_layer=timm.layers.GELUTanh,
  ).eval()
  with torch.no_grad():  # biases, tokens and norms start at constants: move them too
    for parameter in theirs.parameters():
      parameter.add_(0.1 * torch.randn_like(parameter))
  ours = vit.ViT(
    num_classes=7,
    patch=8,
    width=36,
    depth=2,
    num_heads=3,
    mlp_dim=72,
    pool=request.param,
  )
  return theirs, ours


def test_logits_and_tokens(models):
  theirs, ours = models
  image_BHWC = np.random.default_rng(0).uniform(-1, 1, (3, 24, 40, 3)).astype('float32')
  image = torch.from_numpy(image_BHWC).permute(0, 3, 1, 2)
  want = theirs(image)
  state = {name: value.numpy() for name, value in theirs.state_dict().items()}
  params = timm_vit.from_timm(state, num_heads=3)
  got = ours.apply({'params': params}, image_BHWC)
  np.testing.assert_allclose(got['logits'], want.detach(), rtol=0, atol=1e-5)
  tokens = theirs.forward_features(image).detach()
  np.testing.assert_allclose(got['tokens'], tokens, rtol=0, atol=1e-5)


def test_files_go_both_ways(models, tmp_path):
  theirs, _ = models
  safetensors.torch.save_file(theirs.state_dict(), tmp_path / 'timm.safetensors')
  params = timm_vit.read_safetensors(tmp_path / 'timm.safetensors', num_heads=3)
  back = timm_vit.to_timm(tree.stack_blocks(params))
  theirs.load_state_dict({name: torch.from_numpy(a) for name, a in back.items()})
  params_again = timm_vit.from_timm(
    {name: value.numpy() for name, value in theirs.state_dict().items()}, num_heads=3
  )
  flat, again = tree.flatten(params), tree.flatten(params_again)
  assert flat.keys() == again.keys()
  for name in flat:
    np.testing.assert_array_equal(flat[name], again[name])
