import collections

import numpy as np
import pytest

from big_vision_like.data import rdfs
from big_vision_like.data.procedural import graphs
from big_vision_like.data.transforms import terms
from big_vision_like.errors import BadRecordError, UserError

SOURCE = graphs.RandomGraphs(examples=300, split='train')


def strings(example):
  """Returns the triples of an example as strings, and its query."""
  known = {number: name for name, number in graphs.RESERVED.items()}
  rows = [*example['facts'].tolist(), example['query'].tolist()]
  named = [tuple(known.get(i, str(i)) for i in row) for row in rows if any(row)]
  return named[:-1], named[-1]


def test_labels_and_depths_are_those_of_the_closure():
  for example in SOURCE:
    triples, query = strings(example)
    depth = rdfs.closure(triples)
    assert (query in depth) == (example['label'] == 0)
    assert depth.get(query, 0) == example['depth']
    assert query not in triples


def test_both_labels_have_the_same_forms():
  forms = collections.Counter()
  for example in SOURCE:
    forms[min(int(example['query'][1]), graphs.FIRST_TERM), int(example['label'])] += 1
  for predicate in {predicate for predicate, _ in forms}:
    right, wrong = forms[predicate, 0], forms[predicate, 1]
    assert abs(right - wrong) < 5 * (right + wrong) ** 0.5


def test_splits_differ_and_examples_repeat():
  other = graphs.RandomGraphs(examples=300, split='test')
  assert any(
    (a['facts'] != b['facts']).any() for a, b in zip(SOURCE, other, strict=True)
  )
  np.testing.assert_array_equal(SOURCE[5]['facts'], SOURCE[5]['facts'])
  with pytest.raises(IndexError):
    SOURCE[300]


@pytest.mark.parametrize(
  ('change', 'sentence'),
  [
    (dict(split='val'), 'split'),
    (dict(memory=10), 'memory=10 has no room for graphs of up to 25 triples'),
    (dict(classes=1), 'classes=1 must be at least 2'),
  ],
)
def test_bad_arguments_are_one_sentence(change, sentence):
  with pytest.raises(UserError, match=sentence):
    graphs.RandomGraphs(**dict(examples=2, split='train') | change)


def check_renamed(old, new):
  """Checks that terms have other names, each term one name, and RDFS its own."""
  pairs = {
    pair
    for name in ('facts', 'query')
    for pair in zip(old[name].ravel().tolist(), new[name].ravel().tolist(), strict=True)
  }
  assert len(pairs) == len(dict(pairs)) == len({b for _, b in pairs})
  assert all(a == b for a, b in pairs if min(a, b) < graphs.FIRST_TERM)


def test_names_of_terms():
  example = SOURCE[0]
  first, second = (
    terms.Rename(pool=40).random_map(example, np.random.default_rng(seed))
    for seed in range(2)
  )
  assert (first['facts'] != second['facts']).any()
  fixed = terms.NameByPlace(pool=40, first=12).map(example)
  by_id = terms.RenameById(pool=40, seed=3)
  np.testing.assert_array_equal(
    by_id.map(example)['query'], by_id.map(example)['query']
  )
  for new in (first, second, fixed, by_id.map(example)):
    check_renamed(example, new)
  assert fixed['facts'][fixed['facts'] >= graphs.FIRST_TERM].min() >= 18


def test_a_pool_that_is_too_small_names_the_example():
  for transform in (terms.RenameById(pool=9), terms.NameByPlace(pool=20, first=12)):
    with pytest.raises(BadRecordError, match='graph of example 0 has .* terms, more'):
      transform.map(SOURCE[0])
