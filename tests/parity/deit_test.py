"""Tests of our DeiT and DeiT III against timm's and transformers' with random weights.

Weights are read from files of those libraries and by facebookresearch's names, and
weights that we write run in those libraries. Runs under `make parity`.
"""

import itertools
import json

import jax
import numpy as np
import pytest
import timm
import torch
import transformers
from random_weights import calm, params_of

import big_vision_like
from big_vision_like.inference.classes import Preprocessing
from big_vision_like.models import deit, vit
from big_vision_like.weights import files, published
from tools import convert_weights as tool

SIZES = dict(patch=8, width=36, depth=2, num_heads=3, mlp_dim=72)
THEIRS = dict(img_size=24, patch_size=8, embed_dim=36, depth=2, num_heads=3)
THEIRS |= dict(mlp_ratio=2, num_classes=5)
# Functions of timm, and the equivalent models of ours.
MODELS = {
  'deit_tiny_distilled_patch16_224': deit.DeiT,
  'deit3_small_patch16_224': deit.DeiT3,
  'deit_tiny_patch16_224': vit.ViT,
}
CLASSES = (
  transformers.DeiTForImageClassificationWithTeacher,
  transformers.DeiTForImageClassification,
)
IMAGENET = dict(mean=(0.485, 0.456, 0.406), std=(0.229, 0.224, 0.225))


def moved(theirs):
  """Returns a model in eval mode, its constant initial parameters changed, too."""
  torch.manual_seed(0)
  with torch.no_grad():
    for parameter in theirs.parameters():
      parameter.add_(0.1 * torch.randn_like(parameter))
  return theirs.eval()


def images(size=24):
  rng = np.random.default_rng(0)
  return rng.uniform(-1, 1, (3, size, size, 3)).astype('float32')


def theirs_of(theirs, image_BHWC):
  with torch.no_grad():
    return theirs(torch.from_numpy(image_BHWC).permute(0, 3, 1, 2))


def ours_of(weights, image_BHWC):
  return jax.jit(weights.model.apply)(weights.variables, image_BHWC)


@pytest.fixture(params=MODELS)
def made(request):
  return MODELS[request.param], moved(timm.create_model(request.param, **THEIRS))


def test_timm_to_ours(made, tmp_path):
  kind, theirs = made
  state = {name: value.numpy() for name, value in theirs.state_dict().items()}
  files.write(tmp_path / 'deit.safetensors', state)
  weights = published.read(tmp_path / 'deit.safetensors', num_heads=3)
  assert type(weights.model) is kind and weights.model.activation == 'gelu_exact'
  got = ours_of(weights, images())
  want = theirs_of(theirs, images())
  np.testing.assert_allclose(got['logits'], want, rtol=0, atol=2e-5)
  if kind is not deit.DeiT:
    return
  theirs.set_distilled_training(True)
  heads = theirs_of(theirs.train(), images())
  for name, want in zip(('class_logits', 'distilled_logits'), heads, strict=True):
    np.testing.assert_allclose(got[name], want, rtol=0, atol=2e-5)


def test_facebookresearch_to_ours(made, tmp_path):
  kind, theirs = made
  state = theirs.state_dict()
  for name in list(state):  # DeiT III has these names there
    state[name.replace('ls1.gamma', 'gamma_1').replace('ls2.gamma', 'gamma_2')] = (
      state.pop(name)
    )
  path = tmp_path / 'deit_tiny_patch16_24-0a1b2c3d.pth'
  torch.save({'model': state, 'epoch': 3}, path)
  weights = published.read(path, num_heads=3)
  assert type(weights.model) is kind
  got = ours_of(weights, images())['logits']
  np.testing.assert_allclose(got, theirs_of(theirs, images()), rtol=0, atol=2e-5)
  prepared = weights.images(path.stem, (24, 24))
  assert (prepared.mean, prepared.std) == tuple(IMAGENET.values())
  assert prepared.resize == (24 if kind is deit.DeiT3 else 27)
  assert prepared.interpolation == 'pillow_bicubic'


@pytest.mark.parametrize(
  'kind, arguments',
  [
    (deit.DeiT, {}),
    (deit.DeiT, dict(distilled=False)),
    (deit.DeiT3, {}),
    (deit.DeiT3, dict(scan=True, mlp_dim=70)),
  ],
)
def test_ours_to_timm_and_back(kind, arguments, tmp_path):
  """Checks that `create_model` builds the written model, with its image settings."""
  ours = kind(num_classes=5, **SIZES | arguments)
  params = calm(params_of(ours, (24, 24)))
  weights = published.describe(params, 'deit3' if kind is deit.DeiT3 else 'deit')
  out, prepared = tmp_path / 'out', Preprocessing((24, 24), **IMAGENET)
  tool.write(weights, prepared, out, 'timm', None)
  theirs = timm.create_model(f'local-dir:{out}', pretrained=True).eval()
  assert tuple(theirs.pretrained_cfg['mean']) == IMAGENET['mean']
  want = jax.jit(ours.apply)({'params': params}, images())['logits']
  np.testing.assert_allclose(theirs_of(theirs, images()), want, rtol=0, atol=2e-5)
  model, variables, prepare = big_vision_like.load(out)
  got = jax.jit(model.apply)(variables, images())['logits']
  np.testing.assert_allclose(got, want, rtol=0, atol=1e-6)
  assert prepare.mean == IMAGENET['mean']


@pytest.mark.parametrize(
  'made, whose',
  [*itertools.product(CLASSES, (('gelu', 1e-12), ('gelu_pytorch_tanh', 1e-6)))],
)
def test_transformers_both_ways(made, whose, tmp_path):
  activation, epsilon = whose
  config = transformers.DeiTConfig(
    hidden_size=36,
    num_hidden_layers=2,
    num_attention_heads=3,
    intermediate_size=72,
    image_size=24,
    patch_size=8,
    num_labels=5,
    hidden_act=activation,
    layer_norm_eps=epsilon,
  )
  theirs = moved(made(config))
  theirs.save_pretrained(tmp_path / 'theirs')
  weights = published.read(tmp_path / 'theirs')
  assert weights.assumed == ()
  want = theirs_of(theirs, images())
  got = ours_of(weights, images())
  np.testing.assert_allclose(got['logits'], want.logits, rtol=0, atol=2e-5)
  if made is transformers.DeiTForImageClassification:
    assert type(weights.model) is vit.ViT and weights.model.registers == 1
    return
  for name in ('cls_logits', 'distillation_logits'):
    ours = name.replace('cls', 'class').replace('distillation', 'distilled')
    np.testing.assert_allclose(got[ours], want[name], rtol=0, atol=2e-5)
  words = [str(tmp_path / 'theirs'), str(tmp_path / 'back'), '--to=transformers']
  assert tool.main(words) == 0
  told = json.loads((tmp_path / 'back' / 'config.json').read_text())
  assert told['architectures'] == [made.__name__]
  again = made.from_pretrained(tmp_path / 'back').eval()
  after = theirs_of(again, images())
  np.testing.assert_array_equal(after.logits, want.logits)


def test_a_larger_grid_as_in_facebookresearch(tmp_path):
  """Compares positions resized by `load` and by the published fine-tuning code."""
  one_head = THEIRS | dict(
    embed_dim=64, num_heads=1
  )  # the default without a config.json
  name = 'deit_tiny_distilled_patch16_224'
  theirs = moved(timm.create_model(name, **one_head))
  torch.save({'model': theirs.state_dict()}, tmp_path / f'{name}.pth')
  # The code of main.py --finetune in facebookresearch/deit.
  position = theirs.pos_embed.detach()
  extra, grid = position[:, :2], position[:, 2:]
  grid = grid.reshape(-1, 3, 3, 64).permute(0, 3, 1, 2)
  grid = torch.nn.functional.interpolate(
    grid, size=(5, 5), mode='bicubic', align_corners=False
  )
  want = torch.cat((extra, grid.permute(0, 2, 3, 1).flatten(1, 2)), dim=1)
  model, variables, prepare = big_vision_like.load(
    tmp_path / f'{name}.pth', image_size=40
  )
  got = variables['params']['pos_embedding']
  np.testing.assert_allclose(got, want, rtol=0, atol=1e-5)
  np.testing.assert_array_equal(got[:, :2], extra)
  larger = timm.create_model(name, **one_head | dict(img_size=40)).eval()
  larger.load_state_dict(theirs.state_dict() | {'pos_embed': want})
  got = jax.jit(model.apply)(variables, images(40))['logits']
  np.testing.assert_allclose(got, theirs_of(larger, images(40)), rtol=0, atol=2e-5)
  assert prepare.size == (40, 40) and prepare.resize == 45
