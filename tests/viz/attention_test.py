import math

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from big_vision_like.models import vit
from big_vision_like.viz import attention

LAYERS, BATCH, HEADS, GRID, PATCH = 3, 2, 5, (2, 4), 7


def random_probs(tokens: int, seed: int = 0) -> np.ndarray:
  shape = (LAYERS, BATCH, HEADS, tokens, tokens)
  logits = 2 * np.random.default_rng(seed).normal(size=shape)
  return np.asarray(jax.nn.softmax(logits, axis=-1))


def plain_rollout(probs: np.ndarray, image: int) -> list[list[float]]:
  """Computes the rollout (N, N) of one image by its definition, only with loops."""
  size = probs.shape[-1]
  flow = [[float(i == j) for j in range(size)] for i in range(size)]
  for layer in range(LAYERS):
    mixed = []
    for i in range(size):
      row = [
        sum(probs[layer, image, head, i, j] for head in range(HEADS)) / HEADS + (i == j)
        for j in range(size)
      ]
      mixed.append([value / sum(row) for value in row])
    flow = [
      [sum(mixed[i][k] * flow[k][j] for k in range(size)) for j in range(size)]
      for i in range(size)
    ]
  return flow


def plain_distance(probs: np.ndarray, layer: int, head: int, first: int) -> float:
  rows, columns = GRID
  places = [(r, c) for r in range(rows) for c in range(columns)]
  per_image = []
  for image in range(BATCH):
    reach = 0.0
    for q, (q_row, q_column) in enumerate(places):
      for k, (k_row, k_column) in enumerate(places):
        pixels = PATCH * math.hypot(q_row - k_row, q_column - k_column)
        reach += probs[layer, image, head, first + q, first + k] * pixels
    per_image.append(reach / len(places))
  return sum(per_image) / BATCH


@pytest.mark.parametrize('num_prefix', [0, 1, 3])
def test_rollout_is_the_definition(num_prefix):
  tokens = math.prod(GRID) + num_prefix
  probs = random_probs(tokens)
  output = np.random.default_rng(1).dirichlet(np.ones(tokens), size=BATCH)
  found = attention.rollout(probs, output, num_prefix)
  assert found.shape == (BATCH, math.prod(GRID))
  for image in range(BATCH):
    expected = output[image] @ np.array(plain_rollout(probs, image))
    np.testing.assert_allclose(found[image], expected[num_prefix:], rtol=1e-6)


@pytest.mark.parametrize('num_prefix', [0, 1, 3])
def test_attention_distance_is_the_definition(num_prefix):
  probs = random_probs(tokens=math.prod(GRID) + num_prefix)
  found = attention.attention_distance(probs, GRID, PATCH, num_prefix)
  assert found.shape == (LAYERS, HEADS)
  for layer in range(LAYERS):
    for head in range(HEADS):
      expected = plain_distance(probs, layer, head, num_prefix)
      np.testing.assert_allclose(found[layer, head], expected, rtol=1e-6)


def test_rows_may_be_farther_apart_than_columns():
  swap = np.broadcast_to([[0.0, 1.0], [1.0, 0.0]], (LAYERS, BATCH, HEADS, 2, 2))
  for grid, pixels in ((2, 1), 10.0), ((1, 2), 2.0):
    found = attention.attention_distance(swap, grid, (10, 2), num_prefix=0)
    np.testing.assert_allclose(found, pixels)


def test_attention_distance_names_the_grid_that_does_not_fit():
  with pytest.raises(ValueError, match='9 patch tokens does not fit a grid of 2 x 4'):
    attention.attention_distance(random_probs(9), GRID, PATCH, num_prefix=0)
  with pytest.raises(ValueError, match='layers, images, heads'):
    attention.rollout(random_probs(9)[0], np.eye(9)[:BATCH], num_prefix=1)


@pytest.mark.parametrize(
  ('pool', 'registers', 'expected'),
  [
    ('token', 0, [1.0, 0.0, 0.0]),
    ('token', 2, [0.0, 0.0, 1.0, 0.0, 0.0]),
    ('gap', 0, [1 / 3, 1 / 3, 1 / 3]),
    ('gap', 1, [0.0, 1 / 3, 1 / 3, 1 / 3]),
  ],
)
def test_output_weights_select_the_pooled_tokens(pool, registers, expected):
  intermediates = {'with_position': (np.zeros((2, 3, 12)),)}
  found_BN = attention.output_weights(intermediates, pool, registers)
  np.testing.assert_allclose(found_BN, [expected, expected])


def test_output_weights_of_attention_pooling_are_the_mean_of_heads():
  sizes = dict(num_classes=3, patch=4, width=12, depth=1, num_heads=3, mlp_dim=5)
  model = vit.ViT(**sizes, pool='map', registers=2)
  image_BHWC = jax.random.normal(jax.random.key(0), (2, 8, 16, 1))
  variables = jax.jit(model.init)(jax.random.key(1), image_BHWC)
  _, state = model.apply(variables, image_BHWC, mutable=['intermediates'])
  intermediates = state['intermediates']
  assert attention.stack_attention(intermediates).shape == (1, 2, 3, 10, 10)
  found_BN = attention.output_weights(intermediates, 'map', 2)
  np.testing.assert_array_equal(found_BN[:, :2], 0.0)
  np.testing.assert_allclose(found_BN.sum(axis=1), 1.0, rtol=1e-6)
  [probs_BH1N] = intermediates['map_head']['attention']['probs']
  np.testing.assert_allclose(found_BN[1, 2:], probs_BH1N[1, :, 0].mean(0), rtol=1e-6)
  with pytest.raises(ValueError, match="pool='max' is not one of"):
    attention.output_weights(intermediates, 'max', 2)


def test_stack_attention_reads_blocks_in_numerical_order():
  blocks = {
    f'block_{i}': {'attention': {'probs': (np.full((2, 1, 3, 3), i),)}}
    for i in (10, 2, 0, 1, 3, 4, 5, 6, 7, 8, 9)
  }
  probs = attention.stack_attention({'encoder': blocks, 'with_position': ()})
  assert probs.shape == (11, 2, 1, 3, 3)
  np.testing.assert_array_equal(probs[:, 0, 0, 0, 0], range(11))


def test_stack_attention_reads_the_requested_module():
  decoder = {
    f'block_{i}': {
      'attention': {'probs': (np.zeros((2, 1, 3, 3)),)},
      'cross_attention': {'probs': (np.full((2, 1, 3, 5), i),)},
    }
    for i in range(2)
  }
  scanned = {'blocks': {'cross_attention': {'probs': (np.zeros((4, 2, 1, 3, 5)),)}}}
  probs = attention.stack_attention({'decoder': decoder}, 'decoder', 'cross_attention')
  assert probs.shape == (2, 2, 1, 3, 5) and list(probs[:, 0, 0, 0, 0]) == [0, 1]
  probs = attention.stack_attention({'decoder': scanned}, 'decoder', 'cross_attention')
  assert probs.shape == (4, 2, 1, 3, 5)


def test_stack_attention_names_missing_modules():
  with pytest.raises(ValueError, match='no `encoder` of blocks'):
    attention.stack_attention({'stem': {}})
  with pytest.raises(ValueError, match='encoder/block_0 has no sown'):
    attention.stack_attention({'encoder': {'block_0': {'mlp': {}}}})
  with pytest.raises(ValueError, match='decoder/block_0 has no sown `cross_attention'):
    blocks = {'block_0': {'attention': {}}}
    attention.stack_attention({'decoder': blocks}, 'decoder', 'cross_attention')


@pytest.mark.parametrize('pool', ['token', 'gap'])
def test_stack_attention_scanned_equals_unrolled(pool):
  model = vit.ViT(
    num_classes=3, patch=4, width=12, depth=2, num_heads=3, mlp_dim=5, pool=pool
  )
  image_BHWC = jax.random.normal(jax.random.key(0), (2, 8, 16, 1))
  params = model.init(jax.random.key(1), image_BHWC)['params']
  blocks = [params['encoder'][f'block_{i}'] for i in range(2)]
  scanned = dict(
    params,
    encoder={
      'norm': params['encoder']['norm'],
      'blocks': jax.tree.map(lambda *leaves: jnp.stack(leaves), *blocks),
    },
  )

  def probs(model: nn.Module, params: dict) -> np.ndarray:
    _, state = model.apply({'params': params}, image_BHWC, mutable=['intermediates'])
    return attention.stack_attention(state['intermediates'])

  unrolled_LBHNN = probs(model, params)
  assert unrolled_LBHNN.shape == (2, 2, 3, 8 + (pool == 'token'), 8 + (pool == 'token'))
  np.testing.assert_allclose(unrolled_LBHNN.sum(-1), 1.0, rtol=1e-6)
  np.testing.assert_allclose(
    probs(model.clone(scan=True), scanned), unrolled_LBHNN, atol=1e-6
  )
