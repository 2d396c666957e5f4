"""Tests of BiT with names of timm and transformers (the libraries: tests/parity)."""

import pytest
import random_weights
from random_weights import assert_same

from big_vision_like.errors import UserError
from big_vision_like.weights import timm_bit, transformers_bit

FAMILIES = {1: 'bit_v1', 2: 'bit'}
LIBRARIES = {
  'timm': (timm_bit.to_timm, timm_bit.from_timm),
  'transformers': (
    transformers_bit.to_transformers,
    transformers_bit.from_transformers,
  ),
}
# Names and shapes of a few arrays of both versions.
NAMES = {
  'timm': {
    'stem.conv.weight': (64, 3, 7, 7),
    'stages.0.blocks.1.conv2.weight': (64, 64, 3, 3),
    'stages.1.blocks.0.downsample.conv.weight': (512, 256, 1, 1),
    'head.fc.weight': (5, 512, 1, 1),
    'head.fc.bias': (5,),
  },
  'transformers': {
    'bit.embedder.convolution.weight': (64, 3, 7, 7),
    'bit.encoder.stages.0.layers.1.norm2.bias': (64,),
    'bit.encoder.stages.1.layers.0.downsample.conv.weight': (512, 256, 1, 1),
    'classifier.1.weight': (5, 512),
  },
}


@pytest.mark.parametrize('library', LIBRARIES)
@pytest.mark.parametrize('version', FAMILIES)
def test_round_trip(library, version):
  write, read = LIBRARIES[library]
  params = random_weights.small_bit(FAMILIES[version])
  state = write(params, version)
  for name, shape in NAMES[library].items():
    assert state[name].shape == shape
  assert ('norm.weight' in state) == (version == 2 and library == 'timm')
  assert all(array.flags.c_contiguous for array in state.values())
  assert_same(read(state, version), params)
  if library == 'timm':  # the head may be a matrix
    state['head.fc.weight'] = state['head.fc.weight'][:, :, 0, 0]
    assert_same(read(state, version), params)


@pytest.mark.parametrize('library', LIBRARIES)
def test_without_a_head(library):
  write, read = LIBRARIES[library]
  params = random_weights.small_bit()
  del params['head']
  state = write(params, 2)
  assert not any(name.startswith(('head', 'classifier', 'bit.')) for name in state)
  assert_same(read(state, 2), params)


def test_config_of_transformers_has_the_wide_sizes():
  told = transformers_bit.config((3, 4, 6, 3), 3, version=2, num_classes=21843)
  assert told['hidden_sizes'] == [768, 1536, 3072, 6144]
  assert (told['embedding_size'], told['width_factor']) == (192, 1)


def test_only_the_models_of_timm_have_a_config():
  assert timm_bit.config((3, 8, 36, 3), 4, 10)['architecture'] == ('resnetv2_152x4_bit')
  with pytest.raises(
    UserError, match=r'no BiT with stages of \(2, 1\) units and width 1'
  ):
    timm_bit.config((2, 1), 1, 10)
