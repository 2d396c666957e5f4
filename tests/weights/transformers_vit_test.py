"""Tests of ViT with the names of transformers (the library: tests/parity)."""

import numpy as np
import pytest
import random_weights
from random_weights import assert_same

from big_vision_like.errors import UserError
from big_vision_like.weights import transformers_vit, tree

CLASSIFIER = {
  'vit.embeddings.cls_token': (1, 1, 36),
  'vit.embeddings.position_embeddings': (1, 10, 36),
  'vit.embeddings.patch_embeddings.projection.weight': (36, 3, 8, 8),
  'vit.encoder.layer.1.attention.attention.query.weight': (36, 36),
  'vit.encoder.layer.1.attention.output.dense.bias': (36,),
  'vit.encoder.layer.0.intermediate.dense.weight': (72, 36),
  'vit.encoder.layer.0.output.dense.weight': (36, 72),
  'vit.encoder.layer.0.layernorm_before.weight': (36,),
  'vit.layernorm.bias': (36,),
  'classifier.weight': (5, 36),
}


def test_a_classifier_round_trip():
  params = random_weights.small_vit()
  state = transformers_vit.to_transformers(tree.stack_blocks(params))
  for name, shape in CLASSIFIER.items():
    assert state[name].shape == shape
  query = params['encoder']['block_1']['attention']['query']['kernel']
  name = 'vit.encoder.layer.1.attention.attention.query.weight'
  np.testing.assert_array_equal(state[name].T.reshape(36, 3, 12), query)
  assert_same(transformers_vit.from_transformers(state, num_heads=3), params)


def test_a_pooler_is_the_representation():
  params = random_weights.small_vit(rep_size=20)
  with pytest.raises(UserError, match='not one after the other'):
    transformers_vit.to_transformers(params)
  del params['head']
  state = transformers_vit.to_transformers(params)
  assert state['pooler.dense.weight'].shape == (20, 36)
  assert state['embeddings.cls_token'].shape == (1, 1, 36)
  assert_same(transformers_vit.from_transformers(state, num_heads=3), params)


@pytest.mark.parametrize(
  'other, words',
  [
    (dict(pool='gap'), 'has a class token and learned positions'),
    (dict(posemb='sincos2d'), 'has a class token and learned positions'),
    (dict(posemb_at='every'), 'has a class token and learned positions'),
    (dict(registers=2), 'unknown registers'),
    (dict(patch=1, resnet=(1,)), 'unknown resnet/'),
  ],
)
def test_models_without_a_class_of_transformers(other, words):
  with pytest.raises(UserError, match=words):
    transformers_vit.to_transformers(random_weights.small_vit(**other))
