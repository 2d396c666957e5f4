"""Tests of attention between elements and latents (golden files: check_golden)."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from big_vision_like.errors import UserError
from big_vision_like.layers import bipartite

BATCH, ELEMENTS, WIDTH, POSITION = 2, 6, 8, 4


def drawn(latents=3):
  keys = jax.random.split(jax.random.key(0), 4)
  shapes = (
    (BATCH, ELEMENTS, WIDTH),
    (BATCH, latents, 5),
    (ELEMENTS, POSITION),
    (latents, POSITION),
  )
  return [jax.random.normal(k, s) for k, s in zip(keys, shapes, strict=True)]


def made(latents=3, **options):
  layer = bipartite.BipartiteAttention(WIDTH, **options)
  inputs = drawn(latents)
  return layer, layer.init(jax.random.key(1), *inputs)['params'], inputs


def test_one_component_is_a_constant_gain_of_each_channel():
  layer, params, inputs = made(latents=1, norm='none')
  found = layer.apply({'params': params}, *inputs)
  np.testing.assert_allclose(found['attention'], 1.0, rtol=1e-6)
  gain = found['elements'] / inputs[0]
  np.testing.assert_allclose(gain, np.broadcast_to(gain[:, :1], gain.shape), rtol=1e-4)
  assert np.ptp(gain[0, 0]) > 0.1 and np.abs(gain[0, 0] - gain[1, 0]).max() > 0.1


@pytest.mark.parametrize('iterations', [1, 2])
def test_duplex_attention_does_not_use_keys(iterations):
  layer, params, inputs = made(duplex=True, iterations=iterations)

  def total(params):
    found = layer.apply({'params': params}, *inputs)
    return (found['elements'] * jnp.arange(1.0, 1 + WIDTH)[None, None]).sum()

  grads = jax.grad(total)(params)
  for name in ('key', 'to_position'):
    for leaf in jax.tree.leaves(grads[name]):
      assert not np.any(leaf)
  assert np.any(grads['centroids']) and np.any(grads['value']['kernel'])


def test_simplex_attention_uses_keys():
  layer, params, inputs = made()
  grads = jax.grad(lambda p: layer.apply({'params': p}, *inputs)['elements'].sum())(
    params
  )
  assert np.any(grads['key']['kernel']) and 'centroids' not in params


def test_both_is_a_gain_and_a_shift():
  layer, params, inputs = made(integration='both', norm='none')
  found = layer.apply({'params': params}, *inputs)['elements']
  control = {
    'modulation': jax.tree.map(
      lambda x: x.at[..., :WIDTH].set(0.0), params['modulation']
    )
  }
  shifted = layer.apply({'params': {**params, **control}}, *inputs)['elements']
  only = bipartite.BipartiteAttention(WIDTH, integration='mul', norm='none')
  gain = {'modulation': jax.tree.map(lambda x: x[..., :WIDTH], params['modulation'])}
  scaled = only.apply({'params': {**params, **gain}}, *inputs)['elements']
  np.testing.assert_allclose(found, scaled + shifted - inputs[0], rtol=1e-4, atol=1e-5)


def test_carried_assignments_replace_centroids():
  layer, params, inputs = made(duplex=True)
  found = layer.apply({'params': params}, *inputs)
  told = {'params': {k: x for k, x in params.items() if k != 'centroids'}}
  again = layer.apply(told, *inputs, carried_BHKN=found['assignments'])
  twice = bipartite.BipartiteAttention(WIDTH, duplex=True, iterations=2)
  want = twice.apply({'params': params}, *inputs)
  np.testing.assert_allclose(again['attention'], want['attention'], atol=1e-5)


def test_whole_latents_are_dropped_too():
  layer, params, inputs = made(dropout=0.9)
  found = layer.apply(
    {'params': params}, *inputs, train=True, rngs={'dropout': jax.random.key(2)}
  )['attention']
  plain = layer.apply({'params': params}, *inputs)['attention']
  kept = np.asarray(found) > 0
  np.testing.assert_allclose(found[kept], plain[kept] / 0.55**2, rtol=1e-5)
  assert (~kept.any(axis=2)).any()  # of all elements


def test_bad_arguments_are_named():
  with pytest.raises(UserError, match="integration='times'"):
    made(integration='times')
  with pytest.raises(UserError, match='3 heads do not divide a width of 8'):
    made(num_heads=3)
