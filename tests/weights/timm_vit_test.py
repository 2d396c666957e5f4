"""Tests against weights of timm (tests/golden/timm_vit)."""

import json
import pathlib

import ml_dtypes
import numpy as np
import pytest
import random_weights
import safetensors.numpy

from big_vision_like.weights import timm_vit, tree

GOLDEN = pathlib.Path(__file__).parents[1] / 'golden' / 'timm_vit'
CASES = {
  case['case']: case
  for case in json.loads(GOLDEN.with_suffix('.json').read_text())['config']
}

COMPUTED = dict(activation='gelu', epsilon=1e-6)


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
def test_file_to_parameters_and_back(case, tmp_path):
  heads, state = CASES[case]['num_heads'], arrays_of(f'param/{case}/')
  safetensors.numpy.save_file(state, tmp_path / 'vit.safetensors')
  params = timm_vit.read_safetensors(tmp_path / 'vit.safetensors', num_heads=heads)
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


def test_missing_joint_matrix_is_named_once(state):
  del state['blocks.0.attn.qkv.bias']
  with pytest.raises(ValueError, match=r'missing blocks\.0\.attn\.qkv\.bias$'):
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
  with pytest.raises(ValueError, match='no place for a layer before the head'):
    timm_vit.to_timm(params)


def test_registers_have_no_position_of_their_own():
  params = random_weights.small_vit(registers=2)
  state = timm_vit.to_timm(params)
  assert state['reg_token'].shape == (1, 2, 36)
  assert state['pos_embed'].shape == (1, 12, 36)  # class token, registers, 3x3 patches
  assert not state['pos_embed'][:, 1:3].any()
  random_weights.assert_same(timm_vit.from_timm(state, num_heads=3), params)

  # Rows of registers are added to them. Without rows for leading tokens, both layouts
  # agree.
  state['pos_embed'][:, 1:3] = 1
  got = timm_vit.from_timm(state, num_heads=3)
  np.testing.assert_array_equal(got['registers'], params['registers'] + 1)
  np.testing.assert_array_equal(got['pos_embedding'], params['pos_embedding'])
  state['pos_embed'] = state['pos_embed'][:, 3:]
  got = timm_vit.from_timm(state, num_heads=3, no_embed_class=True)
  np.testing.assert_array_equal(got['registers'], params['registers'])
  assert not got['pos_embedding'][:, 0].any()
  np.testing.assert_array_equal(
    got['pos_embedding'][:, 1:], params['pos_embedding'][:, 1:]
  )


@pytest.mark.parametrize(
  'tokens, rows, want',
  [
    ('cls_token', 17, False),
    ('cls_token', 16, True),
    ('cls_token', 19, None),  # 3x6 or 2x9
    ('cls_token', 1, True),  # 1x1 or 0
    ('reg_token', 20, False),
    ('reg_token', 16, True),
    ('none', 15, False),
  ],
)
def test_whether_tokens_have_positions(tokens, rows, want):
  state = {
    'pos_embed': np.ones((1, rows, 8)),
    tokens: np.ones((1, {'cls_token': 1}.get(tokens, 4), 8)),
  }
  assert timm_vit.positions_without_class(state) is want


@pytest.mark.parametrize(
  'sizes, want',
  [
    ([], True),  # 3x3, and no position of the class token
    ([(16, 32)], False),  # 2x4, and one
    ([(24, 24)], True),
    ([(64, 64), (8, 64)], False),  # positions are for the first size
    ([(64, 64)], True),
  ],
)
def test_known_sizes_decide_whether_tokens_have_positions(sizes, want):
  state = {'pos_embed': np.ones((1, 9, 8)), 'cls_token': np.ones((1, 1, 8))}
  state['patch_embed.proj.weight'] = np.ones((8, 3, 8, 8))
  assert timm_vit.positions_without_class(state, sizes) is want


@pytest.mark.parametrize('resnet, patch', [((), 2), ((2, 1), 1)])
def test_hybrids(resnet, patch):
  params = random_weights.small_vit(resnet=resnet, patch=patch)
  state = timm_vit.to_timm(params)
  stem = 'patch_embed.backbone.stem' if resnet else 'patch_embed.backbone'
  assert state[f'{stem}.conv.weight'].shape == (64, 3, 7, 7)
  if resnet:
    norm = 'patch_embed.backbone.stages.0.blocks.0.downsample.norm.weight'
    assert state[norm].shape == (256,)
  random_weights.assert_same(timm_vit.from_timm(state, num_heads=3), params)


@pytest.mark.parametrize('mlp_dim, width', [(6144, 1408), (8192, 1664), (70, 48)])
def test_the_ratio_gives_the_hidden_units(mlp_dim, width):
  sizes = dict(patch=8, width=width, depth=2, num_heads=4, mlp_dim=mlp_dim)
  more = dict(pool='gap', posemb='learned', resnet=None, registers=0) | COMPUTED
  told = timm_vit.config(sizes | more, num_classes=7, image_size=(32, 40))
  assert int(width * told['model_args']['mlp_ratio']) == mlp_dim


@pytest.mark.parametrize(
  'activation, named', [('gelu', 'gelu_tanh'), ('gelu_exact', 'gelu')]
)
def test_activation_and_epsilon(activation, named):
  sizes = dict(patch=8, width=48, depth=2, num_heads=4, mlp_dim=96)
  sizes |= dict(pool='gap', posemb='learned', resnet=None, registers=0)
  sizes |= dict(activation=activation, epsilon=1e-6)
  told = timm_vit.config(sizes, num_classes=7, image_size=(32, 40))
  assert told['model_args']['act_layer'] == named
  with pytest.raises(ValueError, match="cannot record that the norms' epsilon is 1e"):
    timm_vit.config(sizes | dict(epsilon=1e-12), 7, (32, 40))


def test_only_hybrids_of_timm_have_a_config():
  sizes = dict(patch=1, width=48, depth=2, num_heads=4, mlp_dim=96)
  more = dict(pool='token', posemb='learned', resnet=(3, 4, 9), registers=0) | COMPUTED
  told = timm_vit.config(sizes | more, num_classes=7, image_size=(32, 32))
  assert told['architecture'] == 'vit_base_r50_s16_224'
  with pytest.raises(
    ValueError, match=r'no hybrid whose ResNet has stages of \(2, 1\)'
  ):
    timm_vit.config(sizes | more | {'resnet': (2, 1)}, 7, (32, 32))
