"""Axes: B batch, F facts, W words."""

import jax
import numpy as np
import pytest

from big_vision_like.errors import UserError
from big_vision_like.models import memory_network
from big_vision_like.weights import memory_network as names
from big_vision_like.weights import tree

MODEL = memory_network.MemoryNetwork(
  num_classes=2, vocab_size=20, width=6, hops=2, positions='matrices', masked=True
)
RNG = np.random.default_rng(0)
FACTS_BFW = RNG.integers(1, 20, (3, 5, 3)).astype(np.int32)
QUERY_BW = RNG.integers(1, 20, (3, 3)).astype(np.int32)
VARIABLES = jax.jit(MODEL.init)(jax.random.key(0), FACTS_BFW, QUERY_BW)


def logits(facts_BFW, model=MODEL, variables=VARIABLES):
  return np.asarray(model.apply(variables, facts_BFW, QUERY_BW)['logits'])


@pytest.mark.parametrize('positions', memory_network.POSITIONS)
def test_the_order_of_facts_changes_nothing(positions):
  model = MODEL.clone(positions=positions)
  found = jax.jit(model.init)(jax.random.key(0), FACTS_BFW, QUERY_BW)
  order = RNG.permutation(FACTS_BFW.shape[1])
  np.testing.assert_allclose(
    logits(FACTS_BFW, model, found),
    logits(FACTS_BFW[:, order], model, found),
    atol=1e-6,
  )


def test_scores_and_sums_of_words_are_those_of_whole_facts():
  _, sown = MODEL.apply(VARIABLES, FACTS_BFW, QUERY_BW, mutable='intermediates')
  params = VARIABLES['params']

  def encoded(hop, ids):
    vectors = np.asarray(params[f'words_{hop}'])[ids]
    return np.einsum('...WK,WKL->...L', vectors, np.asarray(params['places']))

  state_BK = encoded(0, QUERY_BW)
  for hop, weight_BF in enumerate(sown['intermediates']['attention']):
    scores_BF = np.einsum('BFK,BK->BF', encoded(hop, FACTS_BFW), state_BK)
    wanted_BF = np.exp(scores_BF) / np.exp(scores_BF).sum(axis=1, keepdims=True)
    np.testing.assert_allclose(weight_BF, wanted_BF, rtol=1e-4)
    state_BK += np.einsum('BF,BFK->BK', wanted_BF, encoded(hop + 1, FACTS_BFW))


def test_the_order_of_words_changes_answers():
  assert np.abs(logits(FACTS_BFW) - logits(FACTS_BFW[..., ::-1])).max() > 1e-4


def test_masked_rows_change_nothing_and_others_do():
  more_BFW = np.pad(FACTS_BFW, ((0, 0), (0, 4), (0, 0)))
  np.testing.assert_allclose(logits(FACTS_BFW), logits(more_BFW), atol=1e-6)
  published = MODEL.clone(masked=False)
  assert np.abs(logits(FACTS_BFW, published) - logits(more_BFW, published)).max() > 1e-5


def test_graphs_without_facts_have_an_answer():
  assert np.isfinite(logits(np.zeros_like(FACTS_BFW))).all()


def test_linear_start_has_no_softmax():
  model = MODEL.clone(linear=True)
  _, sown = model.apply(VARIABLES, FACTS_BFW, QUERY_BW, mutable='intermediates')
  weight_BF = sown['intermediates']['attention'][0]
  assert np.abs(weight_BF.sum(axis=1) - 1).max() > 1e-3


def test_published_names_both_ways():
  model = MODEL.clone(positions='encoded')
  flat = tree.flatten(
    jax.jit(model.init)(jax.random.key(0), FACTS_BFW, QUERY_BW)['params']
  )
  published = names.to_published(flat)
  assert published['embed_2'].shape == published['to_vocab'].shape == (6, 20)
  again, hops = names.from_published(published)
  assert hops == 2 and again.keys() == flat.keys()
  for name, array in flat.items():
    np.testing.assert_array_equal(array, again[name])
  with pytest.raises(UserError, match='embed_1'):
    names.from_published({k: v for k, v in published.items() if k != 'embed_1'})


def test_unknown_positions_are_refused():
  with pytest.raises(UserError, match='positions'):
    MODEL.clone(positions='learned')
