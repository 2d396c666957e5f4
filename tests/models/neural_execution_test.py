"""Axes: B batch, S states, L slots, Q queries, D features."""

import functools

import battery
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from big_vision_like.errors import UserError
from big_vision_like.models import neural_execution as models

RNG = np.random.default_rng(0)
MODEL = models.Subroutine(bits=6, width=8, depth=2, hidden=12, scan=True)
NUMBERS = RNG.integers(0, 64, (3, 2, 5)).astype(np.int32)
HIDDEN = np.arange(5)[None, None] < np.array([0, 1, 2])[:, None, None]
HIDDEN = np.broadcast_to(HIDDEN, NUMBERS.shape)
VARIABLES = battery.variables(MODEL, NUMBERS, HIDDEN)


@functools.cache
def compiled(model=MODEL):
  return jax.jit(model.apply)


def outputs(numbers_BSL=NUMBERS, hidden_BSL=HIDDEN):
  return compiled()(VARIABLES, numbers_BSL, hidden_BSL)


@pytest.mark.parametrize(
  ('bits', 'width', 'count'),
  [(10, 16, 66_315), (9, 24, 105_434), (9, 16, 66_282), (12, 28, 126_909)],
)
def test_published_parameter_counts(bits, width, count):
  model = models.Subroutine(bits, width)
  assert counted(model, NUMBERS, HIDDEN) == count


def test_other_parameter_counts():
  assert counted(models.MaskNetwork(), HIDDEN[0], NUMBERS[0, :, 0]) == 129
  small = models.Subroutine(10, 16, depth=2, hidden=64)
  assert counted(small, NUMBERS, HIDDEN) == 14_603


def counted(model, *inputs):
  shapes = jax.eval_shape(model.init, jax.random.key(0), *inputs)['params']
  return sum(leaf.size for leaf in jax.tree.leaves(shapes))


def test_the_order_of_slots_only_changes_the_pointer():
  order = np.array([3, 0, 4, 2, 1])
  one, other = outputs(), outputs(NUMBERS[..., order], HIDDEN[..., order])
  np.testing.assert_allclose(one['logits'], other['logits'], atol=1e-5)
  np.testing.assert_allclose(one['pointer'][..., order], other['pointer'], atol=1e-5)


def test_hidden_numbers_are_not_seen():
  other = np.where(HIDDEN, 63 - NUMBERS, NUMBERS)
  np.testing.assert_allclose(outputs()['logits'], outputs(other)['logits'], atol=1e-6)
  assert np.abs(outputs()['pointer'][HIDDEN]).max() == 0.0
  np.testing.assert_allclose(outputs()['pointer'].sum(axis=-1), 1.0, rtol=1e-5)


def test_slots_are_counted_with_positions():
  model = MODEL.clone(positions=True)
  swapped = NUMBERS[..., ::-1]
  one, other = (
    compiled(model)(VARIABLES, x, h)
    for x, h in ((NUMBERS, HIDDEN), (swapped, HIDDEN[..., ::-1]))
  )
  assert np.abs(one['logits'] - other['logits']).max() > 1e-3


def test_scores_are_those_of_an_mlp_on_both_orders_of_a_pair():
  weights = VARIABLES['params']['score']
  q_BSQD, k_BSLD = RNG.normal(size=(2, 1, 2, 3, 8)).astype(np.float32)

  def mlp(x, y):
    h = np.concatenate([x, y]) @ weights['first'] + weights['first_bias']
    return float((np.maximum(h, 0) @ weights['last'] + weights['last_bias'])[0])

  for keys in (k_BSLD, None):
    found = models.mlp_scores(weights, q_BSQD, keys)
    for s in range(2):
      for i in range(3):
        for j in range(3):
          q, k = q_BSQD[0, s, i], (q_BSQD if keys is None else keys)[0, s, j]
          np.testing.assert_allclose(
            found[0, s, i, j], mlp(q, k) + mlp(k, q), rtol=2e-5, atol=1e-6
          )


def test_controls():
  table = MODEL.clone(numbers='table', scores='dot')
  shapes = jax.eval_shape(table.init, jax.random.key(0), NUMBERS, HIDDEN)['params']
  assert 'score' not in shapes and shapes['embed']['embedding'].shape == (64, 8)
  scores = models.dot_scores(jnp.ones((1, 1, 2, 4)))
  assert scores.shape == (1, 1, 2, 2) and (scores == 2.0).all()


def test_the_decoder_reads_the_previous_number_if_there_is_one():
  previous_BS = np.array([[5, 9]] * 3, np.int32)
  logits_BSK = compiled()(VARIABLES, NUMBERS, HIDDEN, previous_BS)['logits']
  assert np.abs(logits_BSK - outputs()['logits']).max() > 1e-3
  zero_BSK = compiled()(VARIABLES, NUMBERS, HIDDEN, 0 * previous_BS)['logits']
  np.testing.assert_allclose(zero_BSK, outputs()['logits'], atol=1e-6)


def test_masks_depend_on_neighbours_only():
  model = models.MaskNetwork(filters=4)
  hidden_NL = np.zeros((1, 9), bool)
  variables = battery.variables(model, hidden_NL, np.array([4]))
  apply = jax.jit(model.apply)
  one, other = (apply(variables, hidden_NL, np.array([i]))['logits'] for i in (4, 7))
  changed = np.flatnonzero(np.abs(one - other)[0] > 1e-6)
  assert set(changed) <= {3, 4, 5, 6, 7, 8} and len(changed) >= 2


@pytest.mark.parametrize(
  ('change', 'sentence'),
  [
    (dict(scores='add'), 'scores'),
    (dict(numbers='onehot'), 'numbers'),
    (dict(bits=0), 'bits=0 must be from 1 to 16'),
    (dict(remat='some'), 'remat'),
  ],
)
def test_wrong_arguments_are_refused(change, sentence):
  with pytest.raises(UserError, match=sentence):
    MODEL.clone(**change)
