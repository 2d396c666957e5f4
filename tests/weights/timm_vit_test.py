"""Against weights, tokens and logits that timm computed (tests/golden/timm_vit)."""

import json
import pathlib

import ml_dtypes
import numpy as np
import pytest
import safetensors.numpy

from big_vision_like.models import vit
from big_vision_like.weights import timm_vit, tree

GOLDEN = pathlib.Path(__file__).parents[1] / 'golden' / 'timm_vit'
CASES = {
  case['case']: case
  for case in json.loads(GOLDEN.with_suffix('.json').read_text())['config']
}


def arrays_of(prefix):
  with np.load(GOLDEN.with_suffix('.npz')) as arrays:
    return {
      name.removeprefix(prefix): arrays[name]
      for name in arrays.files
      if name.startswith(prefix)
    }


@pytest.fixture
def state():
  return arrays_of('param/token/')


@pytest.mark.parametrize('case', CASES)
def test_file_to_logits_and_back(case, tmp_path):
  config, state = CASES[case], arrays_of(f'param/{case}/')
  heads = config['num_heads']
  safetensors.numpy.save_file(state, tmp_path / 'vit.safetensors')
  params = timm_vit.read_safetensors(tmp_path / 'vit.safetensors', num_heads=heads)
  model = vit.ViT(
    num_classes=config['num_classes'],
    patch=config['patch_size'],
    width=config['embed_dim'],
    depth=config['depth'],
    num_heads=heads,
    mlp_dim=int(config['embed_dim'] * config['mlp_ratio']),
    pool=case,
  )
  got = model.apply({'params': params}, arrays_of(f'input/{case}/')['image'])
  want = arrays_of(f'output/{case}/')
  np.testing.assert_allclose(got['logits'], want['logits'], rtol=0, atol=2e-5)
  np.testing.assert_allclose(got['tokens'], want['tokens'], rtol=0, atol=2e-5)

  back = timm_vit.to_timm(tree.stack_blocks(params))
  assert back.keys() == state.keys()
  safetensors.numpy.save_file(back, tmp_path / 'back.safetensors')
  back = safetensors.numpy.load_file(tmp_path / 'back.safetensors')
  for name in state:
    np.testing.assert_array_equal(back[name], state[name])


def test_class_token_without_a_position(state):
  pos = state['pos_embed']
  state['pos_embed'] = pos[:, 1:]
  params = timm_vit.from_timm(state, num_heads=3, no_embed_class=True)
  assert not params['pos_embedding'][:, 0].any()
  np.testing.assert_array_equal(params['pos_embedding'][:, 1:], pos[:, 1:])


def test_bfloat16_file(state, tmp_path):
  half = {name: array.astype(ml_dtypes.bfloat16) for name, array in state.items()}
  safetensors.numpy.save_file(half, tmp_path / 'half.safetensors')
  params = timm_vit.read_safetensors(tmp_path / 'half.safetensors', num_heads=3)
  np.testing.assert_array_equal(
    params['head']['bias'], half['head.bias'].astype(np.float32)
  )


def test_unknown_and_missing_names_are_listed(state):
  state['blocks.1.ls1.gamma'] = np.ones(24)
  state['fc_norm.weight'] = state.pop('norm.weight')
  state['head_bn.num_batches_tracked'] = np.array(3)
  with pytest.raises(
    ValueError,
    match='unknown blocks.1.ls1.gamma, fc_norm.weight, head_bn.num_batches_tracked; '
    'missing norm.weight',
  ):
    timm_vit.from_timm(state, num_heads=3)


def test_missing_joint_matrix_is_named_once(state):
  del state['blocks.0.attn.qkv.bias']
  with pytest.raises(ValueError, match=r'missing blocks\.0\.attn\.qkv\.bias\.$'):
    timm_vit.from_timm(state, num_heads=3)


def test_class_token_and_attention_pooling_exclude_each_other(state):
  both = arrays_of('param/map/') | {'cls_token': state['cls_token']}
  with pytest.raises(ValueError, match='class token as well as attention pooling'):
    timm_vit.from_timm(both, num_heads=2)


def test_wrong_number_of_heads(state):
  with pytest.raises(ValueError, match='24 does not divide into 5 heads'):
    timm_vit.from_timm(state, num_heads=5)


def test_representation_layer_has_no_place_in_timm(state):
  params = timm_vit.from_timm(state, num_heads=3)
  params['pre_logits'] = {'kernel': np.ones((24, 24)), 'bias': np.ones(24)}
  with pytest.raises(ValueError, match='unknown pre_logits/bias, pre_logits/kernel'):
    timm_vit.to_timm(params)


def test_not_a_safetensors_file(tmp_path):
  (tmp_path / 'bad.safetensors').write_bytes(b'abc' * 100)
  with pytest.raises(ValueError, match='bad.safetensors is not a .safetensors file'):
    timm_vit.read_safetensors(tmp_path / 'bad.safetensors', num_heads=3)
