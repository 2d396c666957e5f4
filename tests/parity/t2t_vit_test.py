"""Tests of the benchmark's plain PyTorch T2T-ViT against golden files and our model."""

import json
import pathlib

import jax
import numpy as np
import pytest

from big_vision_like.models import t2t_vit as ours

torch = pytest.importorskip('torch')

GOLDEN = pathlib.Path(__file__).parents[1] / 'golden' / 't2t_vit_performer.npz'


@pytest.fixture(scope='module')
def theirs():
  from tools.benchmark.parts import torch_t2t_vit

  return torch_t2t_vit


def test_equations_give_the_golden_logits(theirs):
  config = json.loads(GOLDEN.with_suffix('.json').read_text())['config']
  arrays = np.load(GOLDEN)
  model = theirs.T2TViT(
    config['num_classes'],
    width=config['embed_dim'],
    depth=config['depth'],
    num_heads=config['num_heads'],
    mlp_dim=int(config['mlp_ratio'] * config['embed_dim']),
    image_size=config['img_size'],
    token_dim=config['token_dim'],
  )
  state = {
    name.removeprefix('param/'): torch.from_numpy(arrays[name])
    for name in arrays
    if name.startswith('param/')
  }
  model.load_state_dict(state, strict=True)
  with torch.inference_mode():
    logits_BC = model(torch.from_numpy(arrays['input/image'])).numpy()
  np.testing.assert_allclose(logits_BC, arrays['output/logits'], atol=1e-5)


def test_sizes_are_ours(theirs):
  model = theirs.make('14', 1000, 224)
  trained = sum(p.numel() for p in model.parameters() if p.requires_grad)
  shapes = jax.eval_shape(
    ours.T2TViT(num_classes=1000, **ours.variant('14')).init,
    jax.random.key(0),
    np.zeros((1, 224, 224, 3), np.float32),
  )
  assert trained == sum(leaf.size for leaf in jax.tree.leaves(shapes['params']))
  with pytest.raises(ValueError, match='does not have the Performer'):
    theirs.make('t_14', 1000, 224)
