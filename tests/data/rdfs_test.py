import random

import pytest

from big_vision_like.data import rdfs
from big_vision_like.errors import UserError

DOG, CAT, PET, ANIMAL = 'Dog', 'Cat', 'Pet', 'Animal'
GRAPH = [
  ('Dog', rdfs.SUBCLASS, 'Pet'),
  ('Pet', rdfs.SUBCLASS, 'Animal'),
  ('hasDog', rdfs.SUBPROPERTY, 'hasPet'),
  ('hasPet', rdfs.SUBPROPERTY, 'knows'),
  ('hasPet', rdfs.DOMAIN, 'Owner'),
  ('hasDog', rdfs.RANGE, 'Dog'),
  ('ann', 'hasDog', 'rex'),
]
# Each triple that follows, with the rounds of reasoning that it takes.
FOLLOWS = {
  ('Dog', rdfs.SUBCLASS, 'Animal'): 1,
  ('hasDog', rdfs.SUBPROPERTY, 'knows'): 1,
  ('ann', 'hasPet', 'rex'): 1,
  ('rex', rdfs.TYPE, 'Dog'): 1,
  ('ann', 'knows', 'rex'): 2,
  ('ann', rdfs.TYPE, 'Owner'): 2,
  ('rex', rdfs.TYPE, 'Pet'): 2,
  ('rex', rdfs.TYPE, 'Animal'): 2,
}


def test_closure_of_a_graph_by_hand():
  depth = rdfs.closure(GRAPH)
  assert {triple: n for triple, n in depth.items() if n} == FOLLOWS
  assert {triple for triple, n in depth.items() if not n} == set(GRAPH)


def test_closure_is_idempotent_and_monotone():
  rng, terms = random.Random(0), 'abcdef'
  for _ in range(50):
    predicates = [*rdfs.PREDICATES, *terms]
    graph = [
      (rng.choice(terms), rng.choice(predicates), rng.choice(terms)) for _ in range(8)
    ]
    whole = rdfs.closure(graph)
    assert rdfs.closure(whole).keys() == whole.keys()
    assert rdfs.closure(graph[:5]).keys() <= whole.keys()
    # Rules as written in the specification, applied until nothing is new.
    assert whole.keys() == slow_closure(set(graph))


def slow_closure(graph):
  while True:
    new = set(graph)
    for s, p, o in graph:
      for s2, p2, o2 in graph:
        if p2 == rdfs.DOMAIN and s2 == p:
          new.add((s, rdfs.TYPE, o2))
        if p2 == rdfs.RANGE and s2 == p:
          new.add((o, rdfs.TYPE, o2))
        if p2 == rdfs.SUBPROPERTY and s2 == p:
          new.add((s, o2, o))
        if p == rdfs.TYPE and p2 == rdfs.SUBCLASS and s2 == o:
          new.add((s, rdfs.TYPE, o2))
        if p == p2 and p in (rdfs.SUBCLASS, rdfs.SUBPROPERTY) and o == s2:
          new.add((s, p, o2))
    if new == graph:
      return graph
    graph = new


def test_cyclic_axioms_terminate():
  cycle = [('a', rdfs.SUBCLASS, 'b'), ('b', rdfs.SUBCLASS, 'a'), ('x', rdfs.TYPE, 'a')]
  depth = rdfs.closure(cycle)
  assert ('x', rdfs.TYPE, 'b') in depth and ('a', rdfs.SUBCLASS, 'a') in depth
  # An axiom about the axioms themselves.
  rdfs.closure([*cycle, (rdfs.SUBCLASS, rdfs.SUBPROPERTY, 'p')])


def test_a_file_of_triples(tmp_path):
  path = tmp_path / 'graph.nt'
  path.write_text(
    '# A graph.\n\n'
    '<http://a/x> <http://www.w3.org/1999/02/22-rdf-syntax-ns#type> <http://a/C> .\n'
    '_:b0 <http://a/name> "full . stop \\" >"@en . # a comment\n'
    '<http://a/x> <http://www.w3.org/1999/02/22-rdf-syntax-ns#type> <http://a/C>.\n'
  )
  assert rdfs.read(path) == [
    ('http://a/x', rdfs.TYPE, 'http://a/C'),
    ('_:b0', 'http://a/name', '"full . stop \\" >"@en'),
  ]


@pytest.mark.parametrize(
  ('line', 'sentence'),
  [
    ('<a> <b> <c> <d> .', 'line 1 has 4 terms: a triple has three'),
    ('<a> <b> .', 'line 1 has 2 terms'),
    ('<a> <b> <c>', 'must end with one full stop'),
    ('<a> <b> <c> . .', 'must end with one full stop'),
    ('ex:a <b> <c> .', "'ex:a <b> <c> .' is neither"),
    ('"a" <b> <c> .', 'only objects may be literals'),
  ],
)
def test_bad_lines_are_one_sentence(line, sentence, tmp_path):
  path = tmp_path / 'graph.nt'
  path.write_text(line)
  with pytest.raises(UserError, match=f'graph.nt.*{sentence}'):
    rdfs.read(path)


def test_turtle(tmp_path):
  pytest.importorskip('rdflib')
  path = tmp_path / 'graph.ttl'
  path.write_text('@prefix a: <http://a/> .\na:x a a:C ; a:knows a:y, "z" .\n')
  assert rdfs.read(path) == [
    ('http://a/x', 'http://a/knows', '"z"'),
    ('http://a/x', 'http://a/knows', 'http://a/y'),
    ('http://a/x', rdfs.TYPE, 'http://a/C'),
  ]
  path.write_text('a:x a:knows a:y .\n')
  with pytest.raises(UserError, match='graph.ttl is not readable as Turtle: .*refix'):
    rdfs.read(path)


def test_other_files_are_refused(tmp_path):
  with pytest.raises(UserError, match=r'must end in \.nt or \.ttl'):
    rdfs.read(tmp_path / 'graph.owl')
