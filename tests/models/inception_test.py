"""Tests of Inception: published sizes, names of arrays, small images.

Values are compared with torchvision's in tests/parity/inception_test.py.
"""

import jax
import jax.numpy as jnp
import pytest
import shapes

from big_vision_like.errors import UserError
from big_vision_like.models import inception


def test_the_published_network():
  # torchvision's has 23,834,568 parameters without the auxiliary head.
  model, image = inception.Inception(), jnp.zeros((1, 299, 299, 3))
  variables = jax.eval_shape(model.init, jax.random.key(0), image)
  counts = [sum(x.size for x in jax.tree.leaves(v)) for v in variables.values()]
  assert sorted(counts) == [2 * 17_216, 23_834_568 + 8 * 2049]
  outputs = jax.eval_shape(model.apply, variables, image)
  found = {name: outputs[name].shape[1:] for name in outputs}
  assert found['pool1'] == (73, 73, 64) and found['pool2'] == (35, 35, 192)
  assert found['mixed_6e'] == (17, 17, 768) and found['mixed_7c'] == (8, 8, 2048)
  assert found['pre_logits'] == (2048,)
  assert found['logits'] == found['logits_unbiased'] == (1008,)


def test_array_names():
  model, image = inception.Inception(7, width=0.125), jnp.zeros((3, 75, 107, 1))
  with shapes.checked('big_vision_like/models', 'big_vision_like/layers'):
    variables = jax.eval_shape(model.init, jax.random.key(0), image)
    train = jax.eval_shape(
      lambda v, x: model.apply(v, x, True, mutable=['batch_stats']), variables, image
    )
  assert train[0]['logits'].shape == (3, 7)


def test_images_whose_maps_would_vanish_are_refused():
  model = inception.Inception(width=0.125)
  with pytest.raises(UserError, match='images of 64x80 are too small for Inception'):
    jax.eval_shape(model.init, jax.random.key(0), jnp.zeros((1, 64, 80, 3)))
