"""Axes: B batch, W words, N entities."""

import runpy

import jax
import numpy as np
import pytest
import shapes
from battery import relations as cases
from battery import variables

from big_vision_like.models import bert
from big_vision_like.ops import spans
from big_vision_like.run import init_from

MODEL, INPUTS, _ = cases.CASES['relations'][:3]
TEXT = INPUTS[:4]


@pytest.fixture(scope='module')
def known():
  return variables(MODEL, *INPUTS)


def test_given_entities_are_related_as_found_ones(known):
  found = jax.jit(MODEL.apply)(known, *TEXT)
  entities = spans.of_tags(found['tags'].argmax(axis=-1), TEXT[3], MODEL.max_entities)
  assert entities.mask_BN.any()
  given = jax.jit(MODEL.apply)(known, *TEXT, *entities[:2])
  np.testing.assert_allclose(found['relations'], given['relations'], atol=1e-6)
  np.testing.assert_array_equal(found['spans'], entities.spans_BN2)


def test_the_direction_of_a_pair_and_the_kinds_matter(known):
  apply = jax.jit(MODEL.apply)
  there = apply(known, *INPUTS)['relations']
  assert np.abs(there[:, 0, 1] - there[:, 1, 0]).max() > 1e-3
  other = apply(known, *INPUTS[:5], 1 - INPUTS[5])['relations']
  assert np.abs(there - other)[:, 0, 1].max() > 1e-3


def test_padding_changes_nothing(known):
  tokens, seen, *rest = TEXT
  longer = [np.pad(x, ((0, 0), (0, 2))) for x in (tokens, seen)]
  apply = jax.jit(MODEL.apply)
  before, after = (apply(known, *x, *rest) for x in ((tokens, seen), longer))
  for name in ('tags', 'relations'):
    np.testing.assert_allclose(before[name], after[name], atol=1e-5)


def test_names_of_axes():
  with shapes.checked('big_vision_like/models'):
    jax.eval_shape(MODEL.init, jax.random.key(0), *INPUTS)
    jax.eval_shape(MODEL.init, jax.random.key(0), *TEXT)


def test_a_published_encoder_fits_by_the_rules_of_the_config(known):
  node = runpy.run_path('configs/relations/published.py')['get_config']('scierc')
  rules = {
    name: node.init_from[name] for name in ('rename', 'allow_missing', 'allow_unused')
  }
  encoder = MODEL.encoder.clone(pooler=True, heads=bert.HEADS)
  theirs = variables(encoder, TEXT[0])
  start = init_from.InitFrom(weights=theirs, **rules)
  found = start.fit(known, {})
  for name in ('embeddings', 'encoder'):
    ours = found['params']['encoder'][name]
    jax.tree.map(np.testing.assert_array_equal, ours, theirs['params'][name])
  for name in ('tags', 'subject', 'relations'):
    jax.tree.map(
      np.testing.assert_array_equal, found['params'][name], known['params'][name]
    )
