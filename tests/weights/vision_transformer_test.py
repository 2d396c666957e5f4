import pathlib

import ml_dtypes
import numpy as np
import pytest
import random_weights
from random_weights import assert_same

from big_vision_like.weights import tree, vision_transformer

GOLDEN = pathlib.Path(__file__).parents[1] / 'golden'


def arrays_of(name, prefix):
  with np.load(GOLDEN / f'{name}.npz') as arrays:
    return {
      key.removeprefix(prefix): arrays[key]
      for key in arrays.files
      if key.startswith(prefix)
    }


@pytest.fixture
def published():
  return arrays_of('vit_published_npz', 'published/')


def test_published_file_to_the_converted_tree(published, tmp_path):
  np.savez(tmp_path / 'vit.npz', **published)
  params = vision_transformer.read_npz(tmp_path / 'vit.npz')
  assert set(params) == {
    'cls',
    'embed',
    'encoder',
    'head',
    'pos_embedding',
    'pre_logits',
  }
  want = arrays_of('vit_published_npz', 'converted/')
  assert_same(vision_transformer.to_big_vision(params), want)


def test_the_converted_tree_is_the_same_function(published):
  params = vision_transformer.from_npz(published)
  converted = vision_transformer.to_big_vision(params)
  again = vision_transformer.from_npz(converted)
  assert again['pos_embedding'].shape == params['pos_embedding'].shape
  assert not again['pos_embedding'][:, 0].any()
  np.testing.assert_array_equal(
    again['cls'] + again['pos_embedding'][:, :1],
    params['cls'] + params['pos_embedding'][:, :1],
  )
  assert_same(vision_transformer.to_big_vision(again), converted)


def test_old_and_new_names_and_written_ones(published):
  params = vision_transformer.from_npz(published)
  written = vision_transformer.to_npz(params)
  assert 'Transformer/encoderblock_1/MlpBlock_0/Dense_1/bias' in written
  assert 'Transformer/posembed_input/pos_embedding' in written
  again = vision_transformer.from_npz({f'params/{n}': a for n, a in written.items()})
  assert_same(again, params)
  assert_same(vision_transformer.to_npz(tree.stack_blocks(params)), written)


def test_positions_inside_the_encoder(published):
  moved = published.pop('Transformer/posembed_input/pos_embedding')
  published['Transformer/pos_embedding'] = moved  # big_vision before 2022
  params = vision_transformer.from_npz(published)
  np.testing.assert_array_equal(params['pos_embedding'], moved)


def test_stacked_blocks_and_bfloat16(published, tmp_path):
  params = vision_transformer.from_npz(published)
  flat = vision_transformer.to_big_vision(params, scan=True)
  assert flat['Transformer/encoderblock/LayerNorm_0/scale'].shape == (2, 24)
  half = {f'params/{n}': a.astype(ml_dtypes.bfloat16) for n, a in flat.items()}
  np.savez(tmp_path / 'scan.npz', **half)
  got = vision_transformer.read_npz(tmp_path / 'scan.npz')
  rounded = {n: a.astype(ml_dtypes.bfloat16).astype('float32') for n, a in flat.items()}
  assert_same(vision_transformer.to_big_vision(got, scan=True), rounded)
  assert 'block_1' in got['encoder']


def test_map_head_and_its_old_inlined_names():
  flat = arrays_of('vit_bv_map_learn', 'param/')
  params = vision_transformer.from_npz(flat)
  assert set(params['map_head']) == {'probe', 'attention', 'norm', 'mlp'}
  assert_same(vision_transformer.to_big_vision(params), flat)
  inlined = {name.removeprefix('MAPHead_0/'): array for name, array in flat.items()}
  assert_same(
    vision_transformer.to_npz(vision_transformer.from_npz(inlined)),
    vision_transformer.to_npz(params),
  )


def test_unknown_and_missing_names_are_listed(published):
  del published['embedding/bias']
  del published['head/bias']
  del published['Transformer/encoderblock_0/LayerNorm_2/scale']
  with pytest.raises(
    ValueError,
    match='my.npz: missing Transformer/encoderblock_0/LayerNorm_1/scale, '
    'embedding/bias, head/bias',
  ):
    vision_transformer.from_npz(published, source='my.npz')
  published['pos_rows'] = np.ones(3)
  with pytest.raises(ValueError, match='unknown pos_rows'):
    vision_transformer.from_npz(published)


def test_a_missing_block_is_noticed(published):
  shifted = {name.replace('block_1', 'block_2'): a for name, a in published.items()}
  with pytest.raises(ValueError, match='missing Transformer/encoderblock_1/'):
    vision_transformer.from_npz(shifted)


def test_one_array_under_two_names(published):
  published['params/cls'] = published['cls']
  with pytest.raises(ValueError, match='occurs twice'):
    vision_transformer.from_npz(published)


def test_parameters_that_are_not_a_vit():
  with pytest.raises(ValueError, match='unknown conv/kernel; missing'):
    vision_transformer.to_npz({'conv': {'kernel': np.ones(3)}})


@pytest.mark.parametrize('resnet, patch', [((), 2), ((2, 1), 1)])
def test_hybrids_have_a_resnet_too(resnet, patch):
  params = random_weights.small_vit(resnet=resnet, patch=patch)
  flat = vision_transformer.to_npz(params)
  assert flat['conv_root/kernel'].shape == (7, 7, 3, 64)
  assert ('block1/unit2/gn3/scale' in flat) == bool(resnet)
  assert ('block2/unit1/gn_proj/bias' in flat) == bool(resnet)
  assert vision_transformer.differences(flat) == (set(), set())
  assert_same(vision_transformer.from_npz(flat), params)
  # Group norms were saved like this once.
  old = {n: a[None, None, None] if 'gn' in n else a for n, a in flat.items()}
  assert old['gn_root/bias'].shape == (1, 1, 1, 64)
  assert_same(vision_transformer.from_npz(old), params)
  del flat['gn_root/bias']
  with pytest.raises(ValueError, match='missing gn_root/bias$'):
    vision_transformer.from_npz(flat)


@pytest.mark.parametrize(
  'other, words',
  [
    (dict(registers=2), 'no name for registers$'),
    (dict(posemb='learned2d'), 'no name for pos_rows, pos_columns$'),
    (dict(posemb='relative', posemb_at='shared'), 'no name for relative_keys$'),
    (dict(posemb_at='every'), 'no name for pos_embedding of every block$'),
  ],
)
def test_models_without_a_published_format_are_not_written(other, words):
  with pytest.raises(ValueError, match=words):
    vision_transformer.to_npz(random_weights.small_vit(**other))


def test_differences_are_reported_by_name_only(published):
  assert vision_transformer.differences(published) == (set(), set())
  stacked = vision_transformer.to_big_vision(
    vision_transformer.from_npz(published), scan=True
  )
  assert vision_transformer.differences(stacked) == (set(), set())
  names = (published.keys() - {'head/bias'}) | {'opt/step'}
  assert vision_transformer.differences(names) == ({'opt/step'}, {'head/bias'})
