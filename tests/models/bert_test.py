"""BERT's own properties; `make parity` compares it with transformers."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import shapes
from battery import bert as cases
from battery import tokens, variables

from big_vision_like.cost import flops
from big_vision_like.errors import UserError
from big_vision_like.models import bert


@pytest.mark.parametrize(
  ('name', 'heads', 'count', 'gmacs'),
  [
    ('base', (), 109_482_240, 11.17),
    ('large', (), 335_141_888, 39.46),
    # The heads add a transform, a norm, a bias for each word, and two classes.
    ('base', bert.HEADS, 110_106_428, None),
  ],
)
def test_published_parameters_and_operations(name, heads, count, gmacs):
  model = bert.Bert(**bert.variant(name), heads=heads)
  tokens_BT = jax.ShapeDtypeStruct((1, 128), jnp.int32)
  found = jax.eval_shape(model.init, jax.random.key(0), tokens_BT)
  assert sum(leaf.size for leaf in jax.tree.leaves(found)) == count
  if gmacs is not None:
    counted = flops.count(model.apply, found, tokens_BT) / 2  # multiply and add
    np.testing.assert_allclose(counted / 1e9, gmacs, rtol=0.01)


@pytest.fixture(scope='module')
def small():
  model, inputs, *_ = cases.CASES['bert']
  found = variables(model, *inputs)
  return jax.jit(model.apply), found, inputs


def test_padding_changes_nothing(small):
  apply, found, (tokens_BT, types_BT, seen_BT) = small
  one = apply(found, tokens_BT, types_BT, seen_BT)
  other_BT = np.where(seen_BT, tokens_BT, (tokens_BT + 5) % 23)
  other = apply(found, other_BT, types_BT, seen_BT)
  longer = [np.pad(x, ((0, 0), (0, 3))) for x in (tokens_BT, types_BT, seen_BT)]
  more = apply(found, *longer)
  for name in ('words', 'text'):
    for changed in (other[name], more[name][:, :5]):
      np.testing.assert_allclose(one[name][seen_BT], changed[seen_BT], atol=1e-5)
  np.testing.assert_allclose(one['next_text'], more['next_text'], atol=1e-5)
  # Without a mask the padding is seen.
  unmasked = apply(found, tokens_BT, types_BT)
  assert np.abs(unmasked['text'][1] - one['text'][1]).max() > 1e-3


def test_shapes_are_as_named(key):
  model, inputs, *_ = cases.CASES['bert']
  with shapes.checked('big_vision_like/models', 'big_vision_like/layers') as seen:
    jax.eval_shape(model.init, key, *inputs)
  assert {'x_BTD', 'logits_BTV', 'embedding_VD', 'position_1T'} <= seen.keys()


@pytest.mark.parametrize(
  ('options', 'length', 'message'),
  [
    ({}, 10, r'tokens of shape \(1, 10\) are not \(batch, 1 to 9 tokens\)'),
    ({'heads': ('next',)}, 5, "heads='next' is not one of words, next_text"),
    ({'heads': ('next_text',), 'pooler': False}, 5, 'needs pooler=True'),
  ],
)
def test_mistakes_are_sentences(options, length, message, key):
  model = bert.Bert(**cases.SMALL, **options)
  with pytest.raises(UserError, match=message):
    jax.eval_shape(model.init, key, tokens(1, length, vocab_size=23))


def test_unknown_variants_are_named():
  with pytest.raises(
    UserError, match="unknown BERT 'small': choose one of base, large"
  ):
    bert.variant('small')
