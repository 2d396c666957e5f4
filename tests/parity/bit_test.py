"""Tests of our BiT and BiTv1 against timm's and transformers' with random weights.

timm's v1 gets the epsilon 1e-6 of the reference in its group norm and, in the variance,
1e-10 of StdConv; transformers has no arguments for them.
"""

import functools

import jax
import numpy as np
import pytest
import timm
import torch
import transformers
from timm.layers import GroupNormAct, StdConv2d, StdConv2dSame

from big_vision_like.models import bit
from big_vision_like.weights import bit as bit_weights
from big_vision_like.weights import files, published, timm_bit, transformers_bit, tree

DEPTHS = (2, 1)
MODELS = {1: bit.BiTv1, 2: bit.BiT}


def timm_model(version):
  conv = StdConv2dSame if version == 1 else StdConv2d
  epsilon = 1e-6 if version == 1 else 1e-5
  return timm.models.resnetv2.ResNetV2(
    layers=DEPTHS,
    channels=(256, 512),
    num_classes=7,
    preact=version == 2,
    stem_type='same' if version == 1 else 'fixed',
    conv_layer=functools.partial(conv, eps=1e-10),
    norm_layer=functools.partial(GroupNormAct, num_groups=32, eps=epsilon),
  )


def transformers_model(version):
  told = transformers_bit.config(DEPTHS, 1, version, num_classes=7)
  return transformers.BitForImageClassification(transformers.BitConfig(**told))


LIBRARIES = {
  'timm': (timm_model, timm_bit.from_timm, timm_bit.to_timm),
  'transformers': (
    transformers_model,
    transformers_bit.from_transformers,
    transformers_bit.to_transformers,
  ),
}


@pytest.mark.parametrize('library', LIBRARIES)
@pytest.mark.parametrize('version', [1, 2])
def test_logits_and_back(library, version):
  make, read, write = LIBRARIES[library]
  torch.manual_seed(0)
  theirs = make(version).eval()
  with torch.no_grad():
    for parameter in theirs.parameters():
      parameter.add_(0.1 * torch.randn_like(parameter))
  # An odd size distinguishes the kinds of padding.
  image_BHWC = np.random.default_rng(0).uniform(-1, 1, (2, 45, 32, 3)).astype('float32')
  want = theirs(torch.from_numpy(image_BHWC).permute(0, 3, 1, 2))
  want = (want if library == 'timm' else want.logits).detach()
  state = {name: value.numpy() for name, value in theirs.state_dict().items()}
  params = read(state, version)
  ours = MODELS[version](num_classes=7, depths=DEPTHS)
  got = ours.apply({'params': params}, image_BHWC)['logits']
  np.testing.assert_allclose(got, want, rtol=0, atol=1e-4)
  back = write(params, version)
  assert back.keys() == state.keys()
  for name in state:
    np.testing.assert_array_equal(back[name], state[name])


def test_a_folder_runs_in_timm(tmp_path, key):
  """Checks the smallest model that timm has a function for."""
  from tools import convert_weights as tool

  ours = bit.BiT(num_classes=3, **bit.variant('R50x1'))
  image_BHWC = np.random.default_rng(0).uniform(-1, 1, (1, 64, 64, 3)).astype('float32')
  shapes = jax.eval_shape(ours.init, key, image_BHWC)['params']
  rng = np.random.default_rng(1)
  params = jax.tree.map(
    lambda x: (0.5 + 0.1 * rng.normal(size=x.shape)).astype('float32'), shapes
  )
  file, out = tmp_path / 'r50x1.npz', tmp_path / 'out'
  files.write(file, bit_weights.BIG_TRANSFER.write(params))
  assert tool.main([str(file), str(out)]) == 0
  theirs = timm.create_model(f'local-dir:{out}', pretrained=True).eval()
  got = theirs(torch.from_numpy(image_BHWC).permute(0, 3, 1, 2)).detach()
  want = jax.jit(ours.apply)({'params': params}, image_BHWC)['logits']
  # The logits are some hundreds.
  np.testing.assert_allclose(got, want, rtol=1e-4, atol=1e-4)
  again = published.read(out).params
  flat, again = tree.flatten(params), tree.flatten(again)
  assert all(np.array_equal(flat[name], again[name]) for name in flat | again)
