"""Tests of our ViT against timm's with random weights.

Ours is read from timm's state dict and written back. timm's models are built with the
tanh GELU and, where it has the argument, the epsilon 1e-6 of LayerNorm.

Runs under `make parity`, where torch and timm are installed.
"""

import functools

import jax
import numpy as np
import pytest
import timm
import torch

from big_vision_like.inference.classes import Preprocessing
from big_vision_like.models import vit
from big_vision_like.weights import published, timm_vit, tree

# Arguments of timm's model and of ours; sizes differ so that no two axes can be
# confused.
AVERAGE = dict(global_pool='avg', class_token=False, fc_norm=False)
CASES = {
  'token': (dict(global_pool='token'), {}),
  'gap': (AVERAGE, dict(pool='gap')),
  'map': (dict(global_pool='map', class_token=False), dict(pool='map')),
  'no positions': (dict(pos_embed='none'), dict(posemb='none')),
  'class without position': (dict(no_embed_class=True), {}),
  'registers': (dict(reg_tokens=4), dict(registers=4)),
  'registers without position': (
    dict(reg_tokens=4, no_embed_class=True),
    dict(registers=4),
  ),
  'registers and gap': (
    AVERAGE | dict(reg_tokens=2, no_embed_class=True),
    dict(pool='gap', registers=2),
  ),
}
SIZES = dict(img_size=(24, 40), patch_size=8, embed_dim=36, depth=2, num_heads=3)


def moved(theirs):
  """Returns a model in eval mode, its constant initial parameters changed, too."""
  with torch.no_grad():
    for parameter in theirs.parameters():
      parameter.add_(0.1 * torch.randn_like(parameter))
  return theirs.eval()


@pytest.fixture(params=CASES)
def models(request):
  torch.manual_seed(0)
  their_args, our_args = CASES[request.param]
  theirs = timm.models.vision_transformer.VisionTransformer(
    **SIZES,
    **their_args,
    mlp_ratio=2,
    num_classes=7,
    norm_layer=functools.partial(torch.nn.LayerNorm, eps=1e-6),
    act_layer=timm.layers.GELUTanh,
  )
  ours = dict(patch=8, width=36, depth=2, num_heads=3, mlp_dim=72) | our_args
  return moved(theirs), vit.ViT(num_classes=7, **ours), their_args


def arrays_of(theirs):
  return {name: value.numpy() for name, value in theirs.state_dict().items()}


def test_logits_and_tokens(models):
  theirs, ours, their_args = models
  image_BHWC = np.random.default_rng(0).uniform(-1, 1, (3, 24, 40, 3)).astype('float32')
  image = torch.from_numpy(image_BHWC).permute(0, 3, 1, 2)
  want = theirs(image)
  without = their_args.get('no_embed_class', False)
  params = timm_vit.from_timm(arrays_of(theirs), 3, without)
  got = ours.apply({'params': params}, image_BHWC)
  np.testing.assert_allclose(got['logits'], want.detach(), rtol=0, atol=1e-5)
  tokens = theirs.forward_features(image).detach()
  patches = 15  # after class token and registers
  np.testing.assert_allclose(
    got['tokens'][:, -patches:], tokens[:, -patches:], rtol=0, atol=1e-5
  )


def test_written_weights_give_the_same_function(models):
  theirs, _, their_args = models
  image = torch.rand(2, 3, 24, 40)
  want = theirs(image).detach()
  without = their_args.get('no_embed_class', False)
  params = timm_vit.from_timm(arrays_of(theirs), 3, without)
  back = timm_vit.to_timm(tree.stack_blocks(params))
  if without:  # the written rows are for all tokens
    theirs.no_embed_class = False
    theirs.pos_embed = torch.nn.Parameter(torch.zeros(back['pos_embed'].shape))
  theirs.load_state_dict({name: torch.from_numpy(a) for name, a in back.items()})
  np.testing.assert_allclose(theirs(image).detach(), want, rtol=0, atol=1e-5)
  again, flat = tree.flatten(timm_vit.from_timm(back, 3)), tree.flatten(params)
  assert flat.keys() == again.keys()
  for name in flat:
    np.testing.assert_array_equal(flat[name], again[name])


@pytest.mark.parametrize(
  'architecture',
  [
    dict(pool='token', registers=2),
    dict(pool='gap', mlp_dim=70),  # a ratio that is not exact in floating point
    dict(pool='map', posemb='none'),
    dict(pool='token', resnet=(), patch=4),
  ],
)
def test_a_folder_runs_in_timm(architecture, tmp_path, key):
  """Checks that `create_model` builds the written model, with timm's own epsilons."""
  from tools import convert_weights as tool

  sizes = dict(patch=8, width=48, depth=2, num_heads=4, mlp_dim=96) | architecture
  ours = vit.ViT(num_classes=5, **sizes)
  image_BHWC = np.random.default_rng(0).uniform(-1, 1, (2, 32, 32, 3)).astype('float32')
  params = random_like(ours, key, image_BHWC)
  weights = published.describe(params, 'vit')
  tool.write(weights, Preprocessing((32, 32)), tmp_path / 'out', 'timm', (32, 32))
  theirs = timm.create_model(f'local-dir:{tmp_path / "out"}', pretrained=True).eval()
  want = ours.apply({'params': params}, image_BHWC)['logits']
  got = theirs(torch.from_numpy(image_BHWC).permute(0, 3, 1, 2)).detach()
  np.testing.assert_allclose(
    got, want, rtol=0, atol=1e-4 if ours.resnet == () else 2e-5
  )


def random_like(model, key, image_BHWC):
  """Returns parameters without zeros and ones, as small as initial ones."""
  params = jax.jit(model.init)(key, image_BHWC)['params']
  rng = np.random.default_rng(1)
  return jax.tree.map(
    lambda x: np.asarray(x) + 0.1 * rng.normal(size=x.shape).astype('float32'), params
  )
