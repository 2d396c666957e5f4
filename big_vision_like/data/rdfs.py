"""RDF graphs: reading triples, and what follows from them under RDFS.

A triple is (subject, predicate, object), each a string. Terms of RDF(S) are written
with their prefixes: `rdf:type`, `rdfs:subClassOf` and so on.
"""

import collections
import os
import re
from collections.abc import Iterable, Iterator

from big_vision_like.errors import UserError

Triple = tuple[str, str, str]

TYPE = 'rdf:type'
SUBCLASS, SUBPROPERTY = 'rdfs:subClassOf', 'rdfs:subPropertyOf'
DOMAIN, RANGE = 'rdfs:domain', 'rdfs:range'
# The predicates that rules are about, in the order of their ids.
PREDICATES = (TYPE, SUBCLASS, SUBPROPERTY, DOMAIN, RANGE)
NAMESPACES = {
  'http://www.w3.org/1999/02/22-rdf-syntax-ns#': 'rdf:',
  'http://www.w3.org/2000/01/rdf-schema#': 'rdfs:',
}
# A term of N-Triples: an IRI, a blank node, or a literal with its language or type.
TERM = re.compile(
  r'<([^<>"{}|^`\\\s]*)>'
  r'|(_:[\w.·-]*[\w-])'
  r'|("(?:[^"\\\n]|\\.)*"(?:@[A-Za-z0-9-]+|\^\^<[^<>\s]*>)?)'
)


def closure(triples: Iterable[Triple]) -> dict[Triple, int]:
  """Returns all triples that follow from a graph, with the depth of their reasoning.

  Rules are rdfs2, 3, 5, 7, 9 and 11 of RDF Semantics (W3C 2014, section 9.2.1): domain,
  range, and the transitivity and inheritance of subproperties and subclasses. Given
  triples have depth 0. The depth of others is the number of rounds of forward chaining
  after which they are found, where all rules apply to all triples of earlier rounds.
  Cyclic axioms terminate, since no rule makes new terms.
  """
  depth: dict[Triple, int] = {}
  by_predicate = collections.defaultdict(set)
  by_ends = collections.defaultdict(set), collections.defaultdict(set)
  new, rounds = set(triples), 0
  while new:
    for triple in new:
      depth[triple] = rounds
      subject, predicate, value = triple
      by_predicate[predicate].add(triple)
      by_ends[0][predicate, subject].add(value)
      by_ends[1][predicate, value].add(subject)
    found = {t for triple in new for t in _derived(triple, by_predicate, *by_ends)}
    new = found - depth.keys()
    rounds += 1
  return depth


def _derived(triple: Triple, by_predicate, objects, subjects) -> Iterator[Triple]:
  """Yields what follows from a triple together with one other of the graph."""
  s, p, o = triple
  # The triple as a fact, other triples as axioms.
  for wider in objects[SUBPROPERTY, p]:
    yield s, wider, o  # rdfs7
  for kind in objects[DOMAIN, p]:
    yield s, TYPE, kind  # rdfs2
  for kind in objects[RANGE, p]:
    yield o, TYPE, kind  # rdfs3
  if p == TYPE:
    for kind in objects[SUBCLASS, o]:
      yield s, TYPE, kind  # rdfs9
  # The triple as an axiom, other triples as facts.
  if p == SUBCLASS:
    for one in subjects[TYPE, s]:
      yield one, TYPE, o  # rdfs9
  if p in (SUBCLASS, SUBPROPERTY):
    for wider in objects[p, o]:
      yield s, p, wider  # rdfs11, rdfs5
    for narrower in subjects[p, s]:
      yield narrower, p, o
  if p == SUBPROPERTY:
    for subject, _, value in by_predicate[s]:
      yield subject, o, value  # rdfs7
  if p in (DOMAIN, RANGE):
    for subject, _, value in by_predicate[s]:
      yield (subject if p == DOMAIN else value), TYPE, o  # rdfs2, rdfs3


def read(path: str | os.PathLike) -> list[Triple]:
  """Reads a graph from an N-Triples (.nt) or a Turtle (.ttl) file, in its order.

  A triple that occurs twice is returned once. Turtle needs the package rdflib.
  """
  ending = os.path.splitext(os.fspath(path))[1]
  if ending == '.ttl':
    return _turtle(path)
  if ending != '.nt':
    raise UserError(f'{path} is no graph: its name must end in .nt or .ttl')
  found: dict[Triple, None] = {}
  with open(path, encoding='utf-8') as lines:
    for number, line in enumerate(lines, 1):
      text = line.strip()
      if text and not text.startswith('#'):
        found[parse(text, f'{path}, line {number}')] = None
  return list(found)


def parse(line: str, place: str = 'the triple') -> Triple:
  """Returns the triple of a line of N-Triples; `place` names the line in messages."""
  terms, at = [], 0
  while at < len(line) and line[at] != '.':
    match = TERM.match(line, at)
    if match is None:
      raise UserError(
        f'{place}: {line[at : at + 40]!r} is neither an <IRI>, a _:node nor a "literal"'
        ' of N-Triples; names with prefixes belong in Turtle files (.ttl)'
      )
    terms.append(short(match[1]) if match[1] is not None else match[0])
    at = match.end()
    at += len(line[at:]) - len(line[at:].lstrip())
  if len(terms) != 3:
    raise UserError(f'{place} has {len(terms)} terms: a triple has three')
  rest = line[at + 1 :].strip()
  if line[at : at + 1] != '.' or (rest and not rest.startswith('#')):
    raise UserError(f'{place} must end with one full stop')
  if terms[0].startswith('"') or terms[1].startswith(('"', '_:')):
    raise UserError(f'{place}: only objects may be literals, and predicates are IRIs')
  return tuple(terms)


def line(triple: Triple) -> str:
  """Returns a triple as a line of N-Triples, which `parse` reads."""
  return ' '.join([*map(_long, triple), '.'])


def _long(term: str) -> str:
  if term.startswith(('_:', '"')):
    return term
  for namespace, prefix in NAMESPACES.items():
    if term.startswith(prefix):
      return f'<{namespace}{term.removeprefix(prefix)}>'
  return f'<{term}>'


def short(iri: str) -> str:
  """Returns a term of RDF(S) with its prefix, and other IRIs unchanged."""
  for namespace, prefix in NAMESPACES.items():
    if iri.startswith(namespace):
      return prefix + iri.removeprefix(namespace)
  return iri


def _turtle(path: str | os.PathLike) -> list[Triple]:
  try:
    import rdflib
  except ImportError as error:
    raise UserError(
      f"{path} is Turtle, which the package rdflib reads: pip install '.[graphs]'"
    ) from error
  graph = rdflib.Graph()
  try:
    graph.parse(path, format='turtle')
  except Exception as error:  # rdflib has many kinds of errors, with long messages
    raise UserError(f'{path} is not readable as Turtle: {_sentence(error)}') from error
  named = ((_named(term, rdflib) for term in triple) for triple in graph)
  return sorted(tuple(triple) for triple in named)


def _named(term, rdflib) -> str:
  return short(str(term)) if isinstance(term, rdflib.URIRef) else term.n3()


def _sentence(error: Exception) -> str:
  return ' '.join(str(error).split())[:200]
